"""What serves together: a folder with one checkpoint per encoder, one of the fusion, and `bundle.json` that seals them.

`bundle.json` holds `format`, `name`, `version` and, per part (`audio`, `video`, `text`, `fusion`), where its files are and
their SHA-256, see `models.bundles.parts`. Importing this module imports no torch; the loaders do.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from models import families, metadata
from models.bundles.parts import CHECKPOINT_SUFFIX, Part, find
from models.errors import BundleError, ModelError
from models.families import FUSION, Family, family_of
from models.hashing import sha256_of
from models.types import Encoder, Fuser, Modality

EMBEDDED = Path(__file__).parent / "embedded"
"""The bundle in the repository: small, trained here, needs no network."""

FORMATS = (1, 2)
"""1: every part is a file of the folder. 2: parts may lie elsewhere."""
INDEX = "bundle.json"
INDEX_MAX_BYTES = 1 << 16
PARTS = (*(modality.value for modality in Modality), FUSION, "fusion_mosi", "fusion_ravdess_av")
"""The first four serve; the fusions of the published tables are for the evaluation, and a bundle may lack them."""


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

    def part(self, name: str) -> Part:
        """The part of that name.

        Raises:
            BundleError: The bundle has none.
        """
        if name not in self.parts:
            raise BundleError(f"bundle {self.label} has no {name}: it holds {', '.join(sorted(self.parts))}.")
        return self.parts[name]

    def family(self, name: str) -> Family:
        """The family of a part.

        Raises:
            BundleError: The bundle has no such part.
            CheckpointError: It is of a family that cannot serve as that part.
        """
        return family_of(self.part(name).family, name)

    @property
    def languages(self) -> tuple[str, ...]:
        """Whose words the text network has learned, as its checkpoint says; empty where it does not say.

        Raises:
            BundleError: The bundle has no text network.
            CheckpointError: Its file can no longer be read.
        """
        part = self.part(Modality.TEXT)
        if self.family(Modality.TEXT).reads:
            return ()
        path, sha256 = part.checkpoint
        found = metadata.read(path, sha256).config.get("languages", ())
        if isinstance(found, str):
            raise BundleError(f"{path} names its languages as one word, {found!r}: write a list of them.")
        return tuple(map(str, found))


def bundle_folder(name: str) -> Path:
    """The folder that `name` stands for: `embedded`, or a path."""
    return EMBEDDED if name == "embedded" else Path(name)


def require_bundle(name: str) -> None:
    """Return if `name` stands for a bundle that has an index; nothing of it is verified.

    Raises:
        BundleError: it does not, and which bundles there are here.
    """
    try:
        _index(bundle_folder(name) / INDEX)
    except BundleError as error:
        here = sorted(str(index.parent) for index in Path().glob(f"*/{INDEX}"))
        raise BundleError(f"{error} Bundles that are here: {', '.join(['embedded', *here])}.") from error


def load_bundle(path: Path) -> Bundle:
    """Read `path/bundle.json` and verify every file it names.

    Raises:
        BundleError: The index is missing, damaged or of another format, or a part is not what it says, see
            `models.bundles.parts.find`.
        CheckpointError: A part is no checkpoint of a known family.
    """
    index = _index(path / INDEX)
    try:
        if index["format"] not in FORMATS:
            raise BundleError(f"{path / INDEX} has format {index['format']!r}, this version reads 1 and 2.")
        name, version = str(index["name"]), str(index["version"])
        parts = {str(part): _find(path, str(part), dict(entry)) for part, entry in dict(index["parts"]).items()}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise BundleError(
            f"{path / INDEX} lacks or garbles {error}: write it with `python -m models.bundles`."
        ) from error
    if not parts:
        raise BundleError(f"{path} holds no checkpoint: train one, put it there as PART.safetensors, and seal it.")
    return Bundle(name, version, MappingProxyType(parts))


def load_encoder(bundle: Bundle, modality: Modality, device: str = "cpu") -> Encoder:
    """Build the encoder of one modality.

    Raises:
        BundleError: The bundle has none.
        CheckpointError: The file does not fit this version, or was changed since the bundle was verified.
    """
    return cast("Encoder", _load(bundle, modality.value, device))


def load_fusion(bundle: Bundle, device: str = "cpu") -> Fuser:
    """Build the fusion.

    Raises:
        BundleError: The bundle has none.
        CheckpointError: The file does not fit this version, or was changed since the bundle was verified.
    """
    return cast("Fuser", _load(bundle, FUSION, device))


def seal(path: Path, name: str, version: str) -> Bundle:
    """Write `bundle.json` for the checkpoints `PART.safetensors` that lie in `path`, and load the bundle.

    Parts that lie elsewhere are written into `bundle.json` by hand, and stay in it.

    Raises:
        BundleError: None is there.
    """
    files = {part: path / f"{part}{CHECKPOINT_SUFFIX}" for part in PARTS}
    here = {part: {"file": file.name, "sha256": sha256_of(file)} for part, file in files.items() if file.is_file()}
    elsewhere = _elsewhere(path)
    index = {"format": 2 if elsewhere else 1, "name": name, "version": version, "parts": elsewhere | here}
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


def _elsewhere(folder: Path) -> dict[str, Any]:
    """The entries of an index that was there before whose files lie in no place that `seal` looks at."""
    try:
        parts = _index(folder / INDEX)["parts"]
        return {part: entry for part, entry in parts.items() if isinstance(entry, dict) and "file" not in entry}
    except (BundleError, KeyError, AttributeError):
        return {}


def _find(folder: Path, part: str, entry: Mapping[str, Any]) -> Part:
    if part not in PARTS:
        raise BundleError(f"{folder / INDEX} names an unknown part {part!r}: choose from {', '.join(PARTS)}.")
    return find(folder, part, entry)


def _load(bundle: Bundle, name: str, device: str) -> Any:
    family, part = bundle.family(name), bundle.part(name)
    if family.reads:
        return families.imported(family.reads)(part.files, f"{part.family}@{part.sha256[:8]}", device)
    path, sha256 = part.checkpoint
    return families.load(path, device=device, expected_sha256=sha256)
