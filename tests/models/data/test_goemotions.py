from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from models.data import goemotions, sentences
from models.errors import DataError
from models.types import EMOTIONS

EKMAN = "anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise"
ROWS = "I love this, but why\t3,6\tabc\nOh\t6\tdef\nbad label\t9\tghi\nno label\nminus\t-1\tx\n\nJust so\t4\tjkl\r\n"


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def ekman(tmp_path: Path) -> Path:
    folder = tmp_path / "goemotions" / "ekman"
    write(folder / "labels.txt", EKMAN)
    write(folder / "dev.tsv", ROWS)
    return tmp_path


def test_a_rows_weight_is_shared_between_its_labels(ekman: Path) -> None:
    found = goemotions.read(ekman, "dev")

    assert found.texts == ("I love this, but why", "Oh", "Just so")
    assert found.skipped == 3
    assert dict(zip(EMOTIONS, found.emotion[0].tolist(), strict=True))["surprise"] == 0.5
    # Surprise says nothing about polarity: joy decides the first row, and nobody the second.
    assert found.polarity.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_validation_is_dev_and_any_file_is_a_split_and_all_is_all_of_them(ekman: Path) -> None:
    write(ekman / "goemotions" / "ekman" / "test.tsv", "Thanks\t3\tx\n")

    assert goemotions.read(ekman, "validation").texts == goemotions.read(ekman, "dev").texts
    assert goemotions.read(ekman, "test").texts == ("Thanks",)
    assert len(goemotions.read(ekman, "all")) == 4


def test_folders_and_files_may_be_given_themselves(ekman: Path) -> None:
    folder = ekman / "goemotions" / "ekman"
    for data in (ekman / "goemotions", folder, folder / "dev.tsv"):
        assert len(goemotions.read(data, "dev")) == 3
    (folder / "labels.txt").rename(ekman / "goemotions" / "labels.txt")
    assert len(goemotions.read(ekman, "dev")) == 3


def test_the_28_labels_are_grouped_as_in_the_paper_when_only_they_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "goemotions" / "original"
    write(folder / "labels.txt", "admiration\nlove\nannoyance\ncuriosity")
    write(folder / "dev.tsv", "a\t0,1,2\tx\nb\t3\ty\n")

    found = goemotions.read(tmp_path, "dev")

    # Two labels of one group count once, as in the published ekman files.
    assert dict(zip(EMOTIONS, found.emotion[0].tolist(), strict=True)) == {
        **dict.fromkeys(EMOTIONS, 0.0),
        "joy": 0.5,
        "anger": 0.5,
    }
    assert found.polarity.tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


def test_bytes_that_are_no_text_do_not_stop_the_reading(ekman: Path) -> None:
    write(ekman / "goemotions" / "ekman" / "dev.tsv", b"caf\xe9\t3\tx\nnul\0\t3\tx\n")

    found = goemotions.read(ekman, "dev")

    assert (found.texts, found.skipped) == (("caf\ufffd",), 1)


def test_a_file_that_is_too_large_is_refused_and_not_replaced_by_others(
    ekman: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = ekman / "goemotions" / "ekman" / "large.tsv"
    write(large, "x" * 1000)
    monkeypatch.setattr(goemotions, "CSV_MAX_BYTES", 999)

    with pytest.raises(DataError, match=r"large\.tsv is larger than 999 bytes"):
        goemotions.read(large, "all")


def test_the_rows_of_all_files_together_are_bounded(ekman: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "ROWS_MAX", 6)
    assert len(goemotions.read(ekman, "all")) == 3
    write(ekman / "goemotions" / "ekman" / "test.tsv", "Thanks\t3\tx\n")

    with pytest.raises(DataError, match="more than 6 rows"):
        goemotions.read(ekman, "all")


def test_what_can_no_longer_be_read_is_counted_and_without_its_labels_nothing_is(
    ekman: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ekman / "goemotions" / "ekman"
    write(folder / "test.tsv", "Thanks\t3\tx\n")
    gone = {folder / "test.tsv"}
    opened: Callable[..., IO[Any]] = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> IO[Any]:
        if path in gone:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)

    assert goemotions.read(ekman, "all").skipped == goemotions.read(ekman, "dev").skipped + 1
    gone.add(folder / "labels.txt")
    with pytest.raises(DataError, match=r"cannot read .*labels\.txt \(Permission denied\)"):
        goemotions.read(ekman, "all")


@pytest.mark.parametrize(
    ("labels", "rows", "said"),
    [
        (None, ROWS, "no labels.txt"),
        ("hungry", ROWS, "hungry"),
        (EKMAN, None, r"see docs/data\.md"),
        (EKMAN, "", "no usable row"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, labels: str | None, rows: str | None, said: str) -> None:
    folder = tmp_path / "goemotions" / "ekman"
    folder.mkdir(parents=True)
    for name, content in (("labels.txt", labels), ("dev.tsv", rows)):
        if content is not None:
            write(folder / name, content)

    with pytest.raises(DataError, match=said):
        goemotions.read(tmp_path, "dev")


def test_the_papers_grouping_gives_the_published_ekman_files(data_dir: Path) -> None:
    ekman = goemotions.read(data_dir, "dev")
    original = goemotions.read(data_dir / "goemotions" / "original", "dev")

    assert (len(ekman), ekman.skipped) == (5426, 0)
    assert original.texts == ekman.texts
    np.testing.assert_array_equal(original.emotion, ekman.emotion)
