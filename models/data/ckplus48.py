"""CK+ at 48x48 pixels: posed faces of seven emotions (Lucey et al. 2010, doi:10.1109/CVPRW.2010.5543262).

A name as `S010_004_00000017.png` is subject, session and frame; a subject has several frames of one expression.
"""

from pathlib import Path

from models.data.faces import PICTURE_MAX_BYTES, Faces, collect, in_class_folders
from models.data.files import files_below, is_drawn, set_folder
from models.errors import DataError
from models.labels import CKPLUS48_LABELS

FOLDERS = ("ckplus48", "ck+48", "ckplus", "ck+")

VALIDATION_SHARE = 5
"""One subject in so many, by the hash of the number, is validation: the set has no split of its own."""


def read(data: Path, split: str) -> Faces:
    """Read `CLASS/*.png` and `ANY/CLASS/*.png` below `CK+48/` or `ckplus48/`.

    Names of classes may be in any case, or a synonym of `models.labels`; how the folders above them are called
    does not matter.

    Args:
        data: The data folder, or the folder of CK+48 itself, whatever it is called.
        split: `train`, `validation` (a fifth of the subjects, by hash) or `all`.

    Raises:
        DataError: No such split, no such folder, or no readable picture.
    """
    if split not in {"train", "validation", "all"}:
        raise DataError(f"CK+48 has no split {split!r}: choose one of train, validation, all.")
    folder = set_folder(data, *FOLDERS)
    files = files_below(folder, frozenset(), PICTURE_MAX_BYTES)
    paths = [path for path in files.paths if split in {"all", _split(path)}]
    if folder == data and data.resolve().name.lower() not in FOLDERS:
        paths = [path for path in paths if not _of_another_set(path.relative_to(data))]
    found = in_class_folders(paths, folder, CKPLUS48_LABELS, lambda _: True)
    expected = f"no picture of split {split!r} in {data}: expected CK+48/CLASS/*.png"
    return collect(found, CKPLUS48_LABELS, files.skipped, expected)


def _of_another_set(path: Path) -> bool:
    """Whether it lies deeper in the data folder than `ANY/CLASS/*`, or in the folder of the other set of faces."""
    return len(path.parts) > 3 or path.parts[0].lower() == "fer2013"


def _split(path: Path) -> str:
    subject = path.stem.split("_")[0].lower()
    return "validation" if is_drawn(subject, VALIDATION_SHARE) else "train"
