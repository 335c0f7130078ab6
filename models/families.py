"""The families of networks: how a checkpoint becomes a network, and how raw input becomes what the network takes.

A checkpoint's JSON names its family; everything else looks it up here. Importing this module imports no torch: the
table holds `module:name`, which is imported when it is asked for.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from models import metadata
from models.errors import CheckpointError
from models.types import Modality

T = TypeVar("T")

FUSION = "fusion"
"""The part of a bundle that puts the modalities together; the others are called as their `Modality`."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        module: Where the three classes are.
        config: The dataclass of the architecture.
        network: The `nn.Module` that is built from it.
        encoder: What serves the network, an `Encoder` or a `Fuser`, made as `(network, config, name=..., device=...)`.
            Empty: the bare network is evaluated, and is not served.
        modality: Which modality it encodes; None of a fusion.
        prepare: `module:function` from raw input to what `encode` takes; it runs where the raw input is, so its module
            should import no torch. Raw are mono float32 samples (N,) at 16 kHz (audio); pairs of ms from the start of the
            utterance and `Picture` (video); a `Spoken` (text). A `ModelError` refuses the input.
        prepare_timed: The same, to `Timed` input; empty: this encoder gives no sequence.
        pads: Whether a batch is padded to its longest input, so that inputs of like `len` should share one.
        wants_sequences: Of a fusion: whether `fuse` reads `Features.sequence`.
        reads: `module:function` for weights that Undertone did not write, `(files, name, device)` to an `Encoder` or `Fuser`:
            verified paths by the name that the bundle gives them. Empty: the part is an Undertone checkpoint.
        renamed: Ends of keys in older checkpoints, and what they are called now.
    """

    module: str
    config: str
    network: str
    encoder: str = ""
    modality: Modality | None = None
    prepare: str = ""
    prepare_timed: str = ""
    pads: bool = False
    wants_sequences: bool = False
    reads: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Any:
        """Import the class `name` of `module`."""
        return imported(f"{self.module}:{name}")


_FUSION_KEYS = {"mass.weight": "weight.weight", "mass.bias": "weight.bias", "lean": "bias"}
_TABLES = Family("models.fusion.tables", "TableConfig", "TableNetwork", renamed=_FUSION_KEYS)

FAMILIES: dict[str, Family] = {
    "audio": Family(
        "models.encoders.audio",
        "AudioConfig",
        "VoiceNetwork",
        "AudioEncoder",
        Modality.AUDIO,
        prepare="models.encoders.mel:prepare",
        prepare_timed="models.encoders.mel:prepare_timed",
        pads=True,
    ),
    "video": Family(
        "models.encoders.video",
        "VideoConfig",
        "FaceNetwork",
        "VideoEncoder",
        Modality.VIDEO,
        prepare="models.encoders.faces:prepare",
        prepare_timed="models.encoders.faces:prepare_timed",
    ),
    "text": Family(
        "models.encoders.text",
        "TextConfig",
        "TextNetwork",
        "TextEncoder",
        Modality.TEXT,
        prepare="models.encoders.words:prepare_spoken",
        prepare_timed="models.encoders.words:prepare_timed",
        pads=True,
    ),
    "fusion": Family(
        "models.fusion.attention", "FusionConfig", "FusionNetwork", "AttentionFusion", renamed=_FUSION_KEYS
    ),
    "fusion_mosi": _TABLES,
    "fusion_ravdess_av": _TABLES,
}
"""By the name in the checkpoint."""


def imported(place: str) -> Any:
    """What `module:name` names; imports the module."""
    return pkgutil.resolve_name(place)


def family_of(name: str, part: str | None = None) -> Family:
    """The family that a checkpoint names.

    Args:
        name: The family's.
        part: Which part of a bundle it is to be: a `Modality` or `fusion`; None asks for nothing.

    Raises:
        CheckpointError: There is none, or it cannot serve as that part.
    """
    if name not in FAMILIES:
        raise CheckpointError(
            f"no family of networks is called {name!r} (known: {', '.join(FAMILIES)}): "
            "use the version of Undertone that wrote the checkpoint, or add the family to models/families.py."
        )
    family = FAMILIES[name]
    if part in (*Modality, FUSION) and (family.modality or FUSION, bool(family.encoder)) != (part, True):
        raise CheckpointError(
            f"a network of family {name!r} cannot serve as {part}: name a checkpoint of another family."
        )
    return family


def family_in(path: Path, part: str) -> Family:
    """The family of a checkpoint file.

    Raises:
        CheckpointError: As `family_of`, or the file is missing or foreign.
    """
    return family_of(metadata.read(path, "").name, part)


def load(path: Path, *, device: str = "cpu", expected_sha256: str | None = None) -> Any:
    """Build what a checkpoint holds, by its family: an `Encoder`, a `Fuser`, or a bare network in `eval` mode.

    Raises:
        CheckpointError: The file is damaged, foreign, of no known family, or has another hash.
    """
    from models import checkpoint  # noqa: PLC0415  # torch only where a network is built

    weights, described = checkpoint.load(path, expected_sha256)
    family = family_of(described.name)
    config = checkpoint.config_from(family.named(family.config), described)
    build = family.named(family.network)
    network = checkpoint.restore(lambda: build(config), _with_new_keys(weights, family.renamed))
    if not family.encoder:
        return network.to(device)
    return family.named(family.encoder)(network, config, name=described.version, device=device)


def load_as(kind: type[T], path: Path, *, device: str = "cpu", expected_sha256: str | None = None) -> T:
    """`load` for code that works with one class only.

    Raises:
        CheckpointError: As `load`, or the checkpoint is of another family.
    """
    found = load(path, device=device, expected_sha256=expected_sha256)
    if not isinstance(found, kind):
        raise CheckpointError(
            f"{path} holds {type(found).__name__}, and {kind.__name__} is needed here: name that one."
        )
    return found


def _with_new_keys(weights: Mapping[str, T], renamed: Mapping[str, str]) -> dict[str, T]:
    def now(key: str) -> str:
        for old, new in renamed.items():
            if key == old or key.endswith(f".{old}"):
                return key.removesuffix(old) + new
        return key

    return {now(key): value for key, value in weights.items()}
