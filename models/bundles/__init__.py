"""What serves together: a folder with one checkpoint per encoder, one of the fusion, and `bundle.json` that seals them.

`bundle.json` holds `format`, `name`, `version` and, per part (`audio`, `video`, `text`, `fusion`), the file's name and
SHA-256. Importing this module imports no torch; the loaders do.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.errors import BundleError
from models.types import Encoder, Fuser, Modality

EMBEDDED = Path(__file__).parent / "embedded"
"""The bundle in the repository: small, trained here, needs no network."""

FORMAT = 1
INDEX = "bundle.json"
INDEX_MAX_BYTES = 1 << 16
PARTS = (*(modality.value for modality in Modality), "fusion", "fusion_mosi", "fusion_ravdess_av")
"""The first four serve; the fusions of the published tables are for the evaluation, and a bundle may lack them."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint of a bundle: where it lies, and the SHA-256 it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are all there and unchanged; `parts` by name, see `PARTS`."""

    name: str
    version: str
    parts: Mapping[str, Part]

    @property
    def label(self) -> str:
        """Name and version, as every result reports them: `embedded@1`."""
        return f"{self.name}@{self.version}"


def bundle_folder(name: str) -> Path:
    """The folder that `name` stands for: `embedded`, or a path."""
    return EMBEDDED if name == "embedded" else Path(name)


def load_bundle(path: Path) -> Bundle:
    """Read `path/bundle.json` and verify every file it names.

    Raises:
        BundleError: The index is missing, damaged or of another format, names a file outside the folder or that is
            not there, or a hash differs.
    """
    index = _index(path / INDEX)
    try:
        if index["format"] != FORMAT:
            raise BundleError(f"{path / INDEX} has format {index['format']!r}, this version reads {FORMAT}.")
        name, version = str(index["name"]), str(index["version"])
        parts = {str(key): _part(path, str(key), value) for key, value in dict(index["parts"]).items()}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(
            f"{path / INDEX} lacks or garbles {error}: write it with `python -m models.bundles`."
        ) from error
    if not parts:
        raise BundleError(f"{path} holds no checkpoint: train one, put it there as PART.safetensors, and seal it.")
    for part in parts.values():
        _verify(part)
    return Bundle(name, version, MappingProxyType(parts))


def load_encoder(bundle: Bundle, modality: Modality, device: str = "cpu") -> Encoder[Any]:
    """Build the encoder of one modality.

    Raises:
        BundleError: The bundle has none.
        CheckpointError: The file does not fit this version, or was changed since the bundle was verified.
    """
    part = _wanted(bundle, modality.value)
    match modality:
        case Modality.AUDIO:
            from models.encoders.audio import AudioEncoder  # noqa: PLC0415  # torch only where a network is built

            return AudioEncoder.load(part.path, device=device, expected_sha256=part.sha256)
        case Modality.VIDEO:
            from models.encoders.video import VideoEncoder  # noqa: PLC0415  # torch only where a network is built

            return VideoEncoder.load(part.path, device=device, expected_sha256=part.sha256)
        case Modality.TEXT:
            from models.encoders.text import TextEncoder  # noqa: PLC0415  # torch only where a network is built

            return TextEncoder.load(part.path, device=device, expected_sha256=part.sha256)


def load_fusion(bundle: Bundle, device: str = "cpu") -> Fuser:
    """Build the fusion.

    Raises:
        BundleError: The bundle has none.
        CheckpointError: The file does not fit this version, or was changed since the bundle was verified.
    """
    from models.fusion.attention import AttentionFusion  # noqa: PLC0415  # torch only where a network is built

    part = _wanted(bundle, "fusion")
    return AttentionFusion.load(part.path, device=device, expected_sha256=part.sha256)


def seal(path: Path, name: str, version: str) -> Bundle:
    """Write `bundle.json` for the checkpoints `PART.safetensors` that lie in `path`, and load the bundle.

    Raises:
        BundleError: None is there.
    """
    files = {part: path / f"{part}.safetensors" for part in PARTS}
    parts = {part: {"file": file.name, "sha256": _sha256(file)} for part, file in files.items() if file.is_file()}
    index = {"format": FORMAT, "name": name, "version": version, "parts": parts}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return load_bundle(path)


def _index(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > INDEX_MAX_BYTES:
            raise BundleError(f"{path} is larger than {INDEX_MAX_BYTES} bytes: it is no bundle index.")
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"no bundle in {path.parent} ({INDEX}: {error.strerror}): name `embedded` or a folder."
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is not JSON ({error}): fetch the bundle again.") from error
    if not isinstance(index, dict):
        raise BundleError(f"{path} is not a JSON object: fetch the bundle again.")
    return index


def _part(folder: Path, part: str, value: Mapping[str, Any]) -> Part:
    file, sha256 = str(value["file"]), str(value["sha256"])
    if part not in PARTS:
        raise BundleError(f"{folder / INDEX} names an unknown part {part!r}: choose from {', '.join(PARTS)}.")
    # A plain file name: nothing that could lead out of the folder.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", file) or (folder / file).is_symlink():
        raise BundleError(f"{folder / INDEX} names {file!r}: a part must be a file in the bundle's own folder.")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise BundleError(f"{folder / INDEX} gives {sha256!r} as SHA-256 of {part}: 64 hex digits are wanted.")
    return Part(folder / file, sha256)


def _verify(part: Part) -> None:
    try:
        sha256 = _sha256(part.path)
    except OSError as error:
        raise BundleError(f"cannot read {part.path} ({error.strerror}): fetch the bundle again.") from error
    if sha256 != part.sha256:
        raise BundleError(
            f"{part.path} has SHA-256 {sha256}, the bundle says {part.sha256}: the file was changed or cut off. "
            "Fetch it again, or seal the bundle anew if you trained it."
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _wanted(bundle: Bundle, part: str) -> Part:
    if part not in bundle.parts:
        raise BundleError(f"bundle {bundle.label} has no {part}: it holds {', '.join(sorted(bundle.parts))}.")
    return bundle.parts[part]
