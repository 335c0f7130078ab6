"""What lies in a data set's folder: regular files of bounded size and number, and nothing outside the folder."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError

FILES_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in a fixed order, and how many were left out: too large, no regular file, or a link out of the folder."""

    paths: tuple[Path, ...]
    skipped: int


def set_folder(data: Path, *names: str) -> Path:
    """The folder under `data` that has one of these names (in lower case), whatever its case; else `data` itself.

    This folder may itself be a link, which the owner of `data` made. Links inside came with the data set and are not trusted.

    Raises:
        DataError: `data` is neither a file nor a folder.
    """
    if data.is_file():
        return data
    try:
        children = sorted(data.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot read {data} ({error.strerror}): give the folder that holds {names[0]}/, see docs/data.md."
        ) from error
    return next((child for name in names for child in children if child.name.lower() == name and child.is_dir()), data)


def files_below(folder: Path, suffixes: frozenset[str], max_bytes: int) -> Files:
    """Every file below `folder` that ends in one of `suffixes` (lower case; empty: any), hidden ones left out.

    Folders that are links are not entered; a linked file counts when it lies in `folder` too.

    Raises:
        DataError: More than `FILES_MAX` files.
    """
    root, paths, skipped, seen = folder.resolve(), list[Path](), 0, 0
    for parent, folders, names in os.walk(folder):
        skipped += sum((Path(parent) / name).is_symlink() for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(names) + len(folders)
        if seen > FILES_MAX:
            raise DataError(f"more than {FILES_MAX} files in {folder}: give the data set's own folder.")
        for name in sorted(names):
            path = Path(parent) / name
            if name.startswith(".") or (suffixes and path.suffix.lower() not in suffixes):
                continue
            if is_usable(path, root, max_bytes):
                paths.append(path)
            else:
                skipped += 1
    return Files(tuple(paths), skipped)


def is_usable(path: Path, root: Path, max_bytes: int) -> bool:
    """Whether it is a regular file of at most `max_bytes` inside `root` (resolved), where its links are followed."""
    try:
        found = path.stat()
        inside = path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return False
    return inside and stat.S_ISREG(found.st_mode) and found.st_size <= max_bytes


def is_drawn(key: str, one_in: int) -> bool:
    """Whether `key` (a speaker, a text) is one of the `one_in`-th part that its hash draws: the same on every machine."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[0] % one_in == 0
