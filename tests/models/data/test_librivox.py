from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import librivox
from models.errors import DataError
from tests.films import tone


@pytest.fixture
def read_aloud(tmp_path: Path) -> Path:
    folder = tmp_path / "speech" / "librivox"
    folder.mkdir(parents=True)
    for name, words in (("b", "he was\nnot ill\n"), ("a", " and mister john ")):
        soundfile.write(folder / f"{name}.wav", tone(16_000), 16_000)
        (folder / f"{name}.txt").write_text(words)
    return tmp_path


def test_a_sound_has_the_words_beside_it(read_aloud: Path) -> None:
    for place in (read_aloud, read_aloud / "speech", read_aloud / "speech" / "librivox"):
        read = librivox.read(place, "all")

        assert read.names == ("a", "b")
        assert [read.label_names[label] for label in read.labels] == ["and mister john", "he was not ill"]
        assert read.skipped == 0


def test_what_has_no_words_or_no_sound_is_skipped_and_counted(read_aloud: Path) -> None:
    folder = read_aloud / "speech" / "librivox"
    (read_aloud / "secret.txt").write_text("secret")
    for name in ("alone", "empty", "binary", "large", "linked"):
        soundfile.write(folder / f"{name}.flac", tone(16_000), 16_000)
    (folder / "empty.txt").write_text(" \n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "large.txt").write_text("word " * librivox.TEXT_MAX_BYTES)
    (folder / "linked.txt").symlink_to(read_aloud / "secret.txt")
    (folder / "broken.flac").write_bytes(b"no sound")
    (folder / "broken.txt").write_text("words")

    read = librivox.read(read_aloud, "validation")

    assert (read.names, read.skipped) == (("a", "b"), 6)


def test_a_recording_is_read_whole_or_not_at_all(read_aloud: Path) -> None:
    folder = read_aloud / "speech" / "librivox"
    for name, seconds in (("long", 70), ("endless", librivox.LENGTH_MAX_S + 1)):
        soundfile.write(folder / f"{name}.flac", np.zeros(int(8_000 * seconds), dtype=np.int16), 8_000)
        (folder / f"{name}.txt").write_text("words")

    read = librivox.read(read_aloud, "all")

    assert (read.names, read.skipped) == (("a", "b", "long"), 1)
    assert len(read.clips[2]) == 70 * 16_000


def test_an_unknown_split_and_a_folder_without_words_are_named(read_aloud: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose validation or all"):
        librivox.read(read_aloud, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"\.txt of the same name"):
        librivox.read(tmp_path / "empty", "all")


def test_the_real_set_has_71_words(data_dir: Path) -> None:
    read = librivox.read(data_dir, "validation")

    assert sum(len(text.split()) for text in read.label_names) == 71
    assert (len(read.clips), read.skipped) == (5, 0)
