import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import fer2013
from models.data.faces import Faces
from models.errors import DataError
from models.labels import FER2013_LABELS


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
    with pytest.raises(DataError, match=r"fer2013/, see docs/data\.md"):
        fer2013.read(tmp_path / "nothing", "train")


def test_classes_without_a_split_above_are_the_folders_own_split(faces: Path) -> None:
    folder = faces / "fer2013" / "public_test"

    assert len(fer2013.read(folder, "all").labels) == len(fer2013.read(folder, "public_test").labels) == 7


@pytest.mark.parametrize(
    ("folder", "split"),
    [("public_test", "validation"), ("public_test", "PublicTest"), ("Training", "train"), ("private_test", "test"),
     ("test", "private_test"), ("holdout", "holdout")],
)  # fmt: skip
def test_splits_go_by_several_names(tmp_path: Path, folder: str, split: str) -> None:
    (tmp_path / "FER2013" / folder / "happy").mkdir(parents=True)
    Image.new("L", (48, 48)).save(tmp_path / "FER2013" / folder / "happy" / "one.jpg")

    assert len(fer2013.read(tmp_path, split).labels) == 1


def test_classes_go_by_several_names(tmp_path: Path) -> None:
    for name in ("Anger", "HAPPINESS", "surprised", "fearful", "sadness", "Neutral", "disgust"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (48, 48)).save(tmp_path / "train" / name / "one.jpg")

    read = fer2013.read(tmp_path, "train")

    assert sorted(read.labels.tolist()) == list(range(7))
    assert read.label_names == FER2013_LABELS


def original_csv(path: Path, header: str = "emotion,pixels,Usage") -> None:
    """One row a class, of as many different greys; then rows that are broken in as many ways."""
    usages = ["Training"] * 5 + ["PublicTest", "PrivateTest"]
    pixels = " ".join(["7"] * 2304)
    columns = [name.strip() for name in header.split(",")]
    rows = [{"emotion": str(n), "pixels": pixels, "Usage": usage} for n, usage in enumerate(usages)]
    rows += [
        {"emotion": "7", "pixels": pixels, "Usage": "Training"},
        {"emotion": "x", "pixels": pixels, "Usage": "Training"},
        {"emotion": "1", "pixels": pixels + " 7", "Usage": "Training"},
        {"emotion": "1", "pixels": pixels.replace("7", "256", 1), "Usage": "Training"},
        {"emotion": "1", "pixels": pixels.replace("7", "a", 1), "Usage": "Training"},
        {"emotion": "1", "pixels": "7 " * 100_000, "Usage": "Training"},
    ]
    lines = [",".join(row[name] for name in columns) for row in rows]
    path.write_text("\n".join([header, *lines, "1"]) + "\n")


@pytest.mark.parametrize(
    ("name", "header"), [("fer2013.csv", "emotion,pixels,Usage"), ("icml_face_data.csv", "emotion, Usage, pixels")]
)
def test_the_original_csv_is_read_in_its_own_order_of_classes(tmp_path: Path, name: str, header: str) -> None:
    original_csv(tmp_path / name, header)

    train, public = fer2013.read(tmp_path, "train"), fer2013.read(tmp_path / name, "validation")

    assert [FER2013_LABELS[label] for label in train.labels] == ["angry", "disgust", "fear", "happy", "sad"]
    assert train.pictures.shape == (5, 48, 48)
    assert train.pictures.dtype == np.uint8
    assert (train.pictures == 7).all()
    assert train.skipped == 7  # the last row has no usage: it may belong to any split
    assert [FER2013_LABELS[label] for label in public.labels] == ["surprise"]
    assert [FER2013_LABELS[label] for label in fer2013.read(tmp_path, "private_test").labels] == ["neutral"]
    assert len(fer2013.read(tmp_path, "all").labels) == 7


@pytest.mark.parametrize("number", ["-1", "-7", "7"])
def test_a_number_that_no_class_has_is_skipped_and_counted(tmp_path: Path, number: str) -> None:
    pixels = " ".join(["7"] * 2304)
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{pixels},Training\n{number},{pixels},Training\n")

    read = fer2013.read(tmp_path, "all")

    assert (len(read.labels), read.skipped) == (1, 1)


@pytest.mark.parametrize("name", ["FER2013/test.csv", "fer2013/fer2013/fer2013.csv", "held_out.csv"])
def test_the_original_csv_is_found_under_any_name_among_foreign_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    original_csv(tmp_path / name)
    (tmp_path / name).with_name("a.csv").write_text("a,b\n1,2\n")

    assert len(fer2013.read(tmp_path, "all").labels) == 7
    assert len(fer2013.read((tmp_path / name).parent, "all").labels) == 7


def test_a_csv_or_archive_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    original_csv(tmp_path / "outside.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fer2013.csv").symlink_to(tmp_path / "outside.csv")

    with pytest.raises(DataError, match="no picture of split"):
        fer2013.read(tmp_path / "data", "all")


def test_links_out_of_the_folder_are_skipped_and_counted(faces: Path) -> None:
    Image.new("L", (48, 48)).save(faces / "secret.png")
    (faces / "fer2013" / "train" / "happy" / "two.png").symlink_to(faces / "secret.png")

    assert (len(fer2013.read(faces, "train").labels), fer2013.read(faces, "train").skipped) == (7, 1)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
        link = tarfile.TarInfo("train/happy/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_a_hostile_archive_stays_in_memory_and_in_bounds(faces: Path, tmp_path: Path) -> None:
    picture = (faces / "fer2013" / "train" / "sad" / "one.png").read_bytes()
    path = archive(
        tmp_path / "hostile.tar.xz",
        {"../../../train/happy/one.png": picture, "train/sad/two.png": bytes(2 << 20), "/train/fear/../x.png": picture},
    )
    before = sorted(tmp_path.rglob("*"))

    read = fer2013.read(path, "train")

    assert (len(read.labels), read.skipped) == (1, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_unpacks_to_too_much_or_is_cut_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "bomb.tar.xz", {f"train/happy/{n}.png": bytes(100_000) for n in range(30)})
    (tmp_path / "cut.tar.xz").write_bytes(path.read_bytes()[:-60])
    (tmp_path / "text.tar.xz").write_text("no archive")

    for name in ("cut", "text"):
        with pytest.raises(DataError, match="fetch it again"):
            fer2013.read(tmp_path / f"{name}.tar.xz", "train")
    monkeypatch.setattr(fer2013, "UNPACKED_MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than"):
        fer2013.read(path, "train")


def test_the_archive_in_a_data_folder_counts_before_other_sets_folders(faces: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "fer2013.tar.xz", "w:xz") as tar:
        tar.add(faces / "fer2013" / "train", "train")
    (faces / "fer2013").rename(tmp_path / "other")

    assert len(fer2013.read(tmp_path, "all").labels) == 7


def test_augmentation_repeats_with_its_seed_and_stays_a_picture() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (16, 48, 48), dtype=np.uint8)

    once = fer2013.augment(pictures, np.random.default_rng(1))

    assert once.shape == (16, fer2013.CROP_PX, fer2013.CROP_PX)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 255
    torch.testing.assert_close(once, fer2013.augment(pictures, np.random.default_rng(1)))
    assert not torch.equal(once, fer2013.augment(pictures, np.random.default_rng(2)))


def test_faces_of_one_label_become_utterances_of_which_half_is_spoilt() -> None:
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (30, 48, 48), dtype=np.uint8), np.repeat([0, 1, 3], [8, 5, 17])

    found, truth = fer2013.utterances(Faces(pictures, labels, FER2013_LABELS, 0), rng)

    assert truth.tolist() == [0, 3, 3]
    for one, label in zip(found, truth, strict=True):
        whole = [next((n for n, own in enumerate(pictures) if np.array_equal(own, face)), None) for face in one]
        assert whole[:4] == [None] * 4
        assert {labels[n] for n in whole[4:] if n is not None} == {label}
        assert None not in whole[4:]


def test_the_real_set_has_its_published_validation_split(data_dir: Path) -> None:
    read = fer2013.read(data_dir, "public_test")

    assert (len(read.labels), read.skipped) == (3589, 0)
    assert np.bincount(read.labels).tolist() == [467, 56, 496, 895, 607, 653, 415]
