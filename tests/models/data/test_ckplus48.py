from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import ckplus48
from models.data.faces import Faces
from models.errors import DataError
from models.labels import CKPLUS48_LABELS, emotion_matrix, polarity_of


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Forty subjects, each with one picture of every class."""
    for row, label in enumerate(CKPLUS48_LABELS):
        folder = tmp_path / "CK+48" / label
        folder.mkdir(parents=True)
        for subject in range(40):
            Image.new("L", (48, 48), subject + row).save(folder / f"S{subject:03}_001_00000017.png")
    return tmp_path


def test_class_folders_become_pictures_and_labels(faces: Path) -> None:
    read = ckplus48.read(faces, "all")

    assert read.pictures.shape == (280, 48, 48)
    assert np.bincount(read.labels).tolist() == [40] * 7
    assert read.label_names == CKPLUS48_LABELS
    assert read.skipped == 0


def test_subjects_are_on_one_side_of_the_split(faces: Path) -> None:
    train, validation = ckplus48.read(faces, "train"), ckplus48.read(faces, "validation")

    def subjects(read: Faces) -> set[int]:
        return {int(picture[0, 0]) - int(label) for picture, label in zip(read.pictures, read.labels, strict=True)}

    assert not subjects(train) & subjects(validation)
    assert subjects(train) | subjects(validation) == set(range(40))
    assert 3 <= len(subjects(validation)) <= 16


def test_the_folder_itself_other_cases_and_synonyms_are_understood(faces: Path, tmp_path: Path) -> None:
    root = faces / "CK+48"
    (root / "happy").rename(root / "Happiness")
    (root / "anger").rename(root / "ANGRY")

    assert np.bincount(ckplus48.read(root, "all").labels).tolist() == [40] * 7
    root.rename(tmp_path / "ckplus48")
    assert np.bincount(ckplus48.read(faces, "all").labels).tolist() == [40] * 7


def test_unknown_classes_and_broken_files_are_skipped_and_counted(faces: Path) -> None:
    root = faces / "CK+48"
    (root / "neutral").mkdir()
    Image.new("L", (48, 48)).save(root / "neutral" / "S001_001_1.png")
    (root / "fear" / "S001_001_1.png").write_bytes(b"no picture")
    (root / "readme.txt").write_text("no part of the set")

    read = ckplus48.read(faces, "all")

    assert (len(read.labels), read.skipped) == (280, 2)


def test_another_sets_faces_in_the_data_folder_are_not_taken_for_these(tmp_path: Path) -> None:
    for folder in ("fer2013/train/happy", "FER2013/happy"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (48, 48)).save(tmp_path / folder / "one.png")

    with pytest.raises(DataError, match=r"expected CK\+48/CLASS"):
        ckplus48.read(tmp_path, "all")


@pytest.mark.parametrize("name", ["CK+48", "anything"])
def test_folders_above_the_classes_may_be_called_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "test" / "anger").mkdir(parents=True)
    Image.new("L", (48, 48)).save(tmp_path / name / "test" / "anger" / "S001_001_1.png")

    assert len(ckplus48.read(tmp_path / name, "all").labels) == 1
    (tmp_path / name).rename(tmp_path / "CK+48")
    assert len(ckplus48.read(tmp_path, "all").labels) == 1


def test_an_unknown_split_is_named(faces: Path) -> None:
    with pytest.raises(DataError, match="choose one of train, validation, all"):
        ckplus48.read(faces, "public_test")


def test_contempt_has_no_emotion_of_the_seven_and_is_negative() -> None:
    place = CKPLUS48_LABELS.index("contempt")

    assert not emotion_matrix(CKPLUS48_LABELS)[place].any()
    assert polarity_of("contempt") == "negative"
