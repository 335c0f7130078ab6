from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import emodb
from models.errors import DataError
from models.labels import EMODB_LABELS


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    folder = tmp_path / "emodb" / "wav"
    folder.mkdir(parents=True)
    for speaker in (3, 14, 15, 16):
        for letter in "WLEAFTN":
            soundfile.write(folder / f"{speaker:02}a01{letter}a.wav", np.full(1_600, 0.1), 16_000)
    return tmp_path


def test_the_letter_is_the_emotion_and_the_first_digits_the_speaker(voices: Path) -> None:
    read = emodb.read(voices, "all")

    assert read.label_names == EMODB_LABELS
    assert np.bincount(read.labels).tolist() == [4] * 7
    assert np.unique(read.speakers).tolist() == [3, 14, 15, 16]
    assert read.skipped == 0


@pytest.mark.parametrize(("split", "speakers"), [("train", [3, 14]), ("validation", [15, 16])])
def test_splits_share_no_speaker(voices: Path, split: str, speakers: list[int]) -> None:
    assert np.unique(emodb.read(voices, split).speakers).tolist() == speakers


def test_any_folder_of_such_files_will_do(voices: Path) -> None:
    for folder in (voices / "emodb", voices / "emodb" / "wav"):
        assert len(emodb.read(folder, "all").clips) == 28


def test_other_names_and_broken_files_are_skipped_and_counted(voices: Path) -> None:
    folder = voices / "emodb" / "wav"
    (folder / "03a02Xa.wav").write_bytes(b"")
    (folder / "03a02Wb.wav").write_text("text")
    (folder / "speech.wav").write_bytes(b"")

    read = emodb.read(voices, "all")

    assert (len(read.clips), read.skipped) == (28, 3)


def test_the_letter_is_read_as_published(voices: Path) -> None:
    folder = voices / "emodb" / "wav"
    for path in folder.glob("*"):
        if not path.name.startswith("03a01W"):
            path.unlink()

    read = emodb.read(voices, "all")

    assert [read.label_names[label] for label in read.labels] == ["anger"]


def test_an_unknown_split_and_an_empty_folder_are_named(voices: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of train, validation, all"):
        emodb.read(voices, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"named like 03a01Wa\.wav"):
        emodb.read(tmp_path / "empty", "all")
