import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import DataError, fer2013
from models.data.labels import FER2013_LABELS


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for split, size in (("train", 48), ("public_test", 96)):
        for row, label in enumerate(FER2013_LABELS):
            folder = tmp_path / "fer2013" / split / label
            folder.mkdir(parents=True)
            Image.new("L", (size, size), 10 * row).save(folder / "one.png")
    return tmp_path


def test_class_folders_become_pictures_and_labels(faces: Path) -> None:
    read = fer2013.read(faces, "train")

    assert read.pictures.shape == (7, 48, 48)
    assert read.pictures.dtype == np.uint8
    assert [int(p[0, 0]) // 10 for p in read.pictures] == list(read.labels) == list(range(7))
    assert read.skipped == 0


def test_pictures_of_another_size_are_brought_to_48_pixels_and_all_means_every_split(faces: Path) -> None:
    assert fer2013.read(faces, "all").pictures.shape == (14, 48, 48)


def test_the_archive_reads_like_the_folder(faces: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "fer2013.tar.xz", "w:xz") as tar:
        tar.add(faces / "fer2013" / "train", "train")
        tar.add(faces / "fer2013" / "public_test", "public_test")
    folder = fer2013.read(faces, "public_test")

    archive = fer2013.read(tmp_path / "fer2013.tar.xz", "public_test")

    assert sorted(archive.labels) == sorted(folder.labels)
    assert archive.skipped == 0


def test_broken_pictures_and_unknown_classes_are_skipped_and_counted(faces: Path) -> None:
    (faces / "fer2013" / "train" / "angry" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (faces / "fer2013" / "train" / "angry" / "empty.jpg").touch()
    (faces / "fer2013" / "train" / "bored").mkdir()
    Image.new("L", (48, 48)).save(faces / "fer2013" / "train" / "bored" / "one.png")

    read = fer2013.read(faces, "train")

    assert (len(read.labels), read.skipped) == (7, 3)


@pytest.mark.parametrize("split", ["nowhere", ""])
def test_a_split_without_pictures_is_named(faces: Path, split: str) -> None:
    with pytest.raises(DataError, match="no picture of split"):
        fer2013.read(faces, split)


def test_no_data_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fer2013\.tar\.xz"):
        fer2013.read(tmp_path / "nothing", "train")


def test_augmentation_repeats_with_its_seed_and_stays_a_picture() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (16, 48, 48), dtype=np.uint8)

    once = fer2013.augment(pictures, np.random.default_rng(1))

    assert once.shape == (16, fer2013.CROP_PX, fer2013.CROP_PX)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 255
    torch.testing.assert_close(once, fer2013.augment(pictures, np.random.default_rng(1)))
    assert not torch.equal(once, fer2013.augment(pictures, np.random.default_rng(2)))


def test_the_real_set_has_its_published_validation_split(data_dir: Path) -> None:
    read = fer2013.read(data_dir, "public_test")

    assert (len(read.labels), read.skipped) == (3589, 0)
    assert np.bincount(read.labels).tolist() == [467, 56, 496, 895, 607, 653, 415]
