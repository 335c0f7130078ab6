"""Checkpoints: weights and how to read them, in one safetensors file, never a pickle.

The file is plain safetensors. Its metadata (`models.metadata`) holds the name of the network's family, its architecture
(the fields of the frozen dataclass beside the network) and what the card says of it. Tensors of two or more dimensions are stored as float16, or as int8 with one float32 scale per output row (`<key>.scale`); vectors
(biases, norms) stay float32, because they are small and half precision rounds running variances to zero. `load` always
returns float32.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from models.errors import CheckpointError
from models.hashing import sha256_of
from models.metadata import FORMAT, Metadata, parse

FILE_MAX_BYTES = 2 << 30
SCALE_SUFFIX = ".scale"

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ConfigT = TypeVar("ConfigT")


class Config(Protocol):
    """An architecture: any dataclass whose fields are JSON values (numbers, texts, flags, tuples of them)."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def save(
    path: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    *,
    name: str,
    about: Mapping[str, Any] | None = None,
    int8_keys: frozenset[str] = frozenset(),
) -> str:
    """Write a checkpoint in one step (a reader sees the old file or the whole new one).

    Args:
        path: Where to; parent folders are made.
        weights: A state dict.
        config: The architecture, a dataclass of JSON values.
        name: The family's name, see `models.families`.
        about: JSON values for the card.
        int8_keys: Matrices stored in 8 bits per value, one scale per output row.

    Returns:
        The SHA-256 of the file.

    Raises:
        CheckpointError: A weight is not finite, or too large for float16.
    """
    stored: dict[str, Tensor] = {}
    for key, value in weights.items():
        stored.update(_pack(key, value.detach().cpu(), int8=key in int8_keys))
    text = json.dumps({"format": FORMAT, "name": name, "config": asdict(config), "about": dict(about or {})})
    content = save_tensors(stored, metadata={"undertone": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return sha256_of(content)


def load(path: Path, expected_sha256: str | None = None) -> tuple[dict[str, Tensor], Metadata]:
    """Read a checkpoint; nothing in it is executed.

    Returns:
        The state dict on the CPU, floating-point values as float32, and the metadata.

    Raises:
        CheckpointError: Missing, oversized, damaged or foreign file, a wrong hash, or a weight that is not finite.
    """
    content = _read(path)
    sha256 = sha256_of(content)
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        raise CheckpointError(
            f"{path} has SHA-256 {sha256}, expected {expected_sha256}: the file was changed or cut off. "
            "Fetch it again (`git checkout -- FILE` for the embedded bundle), or train it anew."
        )
    metadata = parse(path, content, sha256)
    try:
        stored = load_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): fetch it again or train it anew.") from error
    weights = {key: _unpack(path, key, stored) for key in stored if not _is_scale(key, stored)}
    return weights, metadata


def config_from(cls: type[ConfigT], metadata: Metadata) -> ConfigT:
    """Build the architecture dataclass `cls` from a checkpoint; its `__post_init__` may refuse with ValueError.

    Raises:
        CheckpointError: Fields missing, unknown or out of range.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata.config.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {metadata.version} does not describe a {cls.__name__} ({error}): "
            "was it written by another version of Undertone, or does it belong to another modality?"
        ) from error


def restore(build: Callable[[], ModuleT], weights: Mapping[str, Tensor]) -> ModuleT:
    """Build a network and give it `weights`, in `eval` mode.

    The network is built on the `meta` device first, so that a checkpoint whose architecture is absurd is refused
    before memory is taken. A module must therefore not make non-persistent buffers with values.

    Raises:
        CheckpointError: Keys missing or unknown, or a shape differs.
    """
    with torch.device("meta"):
        module = build()
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: {len(wrong)} tensors differ, the first is {key!r} "
            f"(network: {wanted.get(key, 'absent')}, file: {given.get(key, 'absent')}). "
            "Train it anew with this version, or use the version that wrote it."
        )
    module.load_state_dict(weights, assign=True)
    return module.eval()


def _pack(key: str, value: Tensor, *, int8: bool) -> dict[str, Tensor]:
    if not value.is_floating_point():
        return {key: value.contiguous().clone()}
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{key} holds values that are not finite: the training diverged, lower its rate.")
    if int8:
        # Symmetric: the row's largest magnitude becomes 127.
        scale = value.float().flatten(1).abs().amax(dim=1).clamp_min(1e-12) / 127
        shaped = scale.reshape(-1, *[1] * (value.dim() - 1))
        return {key: (value / shaped).round().to(torch.int8).contiguous(), key + SCALE_SUFFIX: scale}
    packed = value.to(torch.float16 if value.dim() > 1 else torch.float32).contiguous().clone()
    if not bool(torch.isfinite(packed).all()):
        raise CheckpointError(f"{key} holds values above 65504, too large for float16: the training diverged.")
    return {key: packed}


def _unpack(path: Path, key: str, stored: Mapping[str, Tensor]) -> Tensor:
    value = stored[key]
    scale = stored.get(key + SCALE_SUFFIX)
    if value.dtype == torch.int8 and scale is not None:
        if value.dim() < 1 or scale.shape != value.shape[:1]:
            raise CheckpointError(f"{path}: {key} and its scale differ in length: fetch the file again.")
        value = value.float() * scale.float().reshape(-1, *[1] * (value.dim() - 1))
    elif value.is_floating_point():
        value = value.float()
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{path}: {key} holds values that are not finite: fetch the file again.")
    return value


def _is_scale(key: str, stored: Mapping[str, Tensor]) -> bool:
    owner = stored.get(key.removesuffix(SCALE_SUFFIX)) if key.endswith(SCALE_SUFFIX) else None
    return owner is not None and owner.dtype == torch.int8


def _read(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > FILE_MAX_BYTES:
            raise CheckpointError(
                f"{path} has {size_bytes} bytes, more than the {FILE_MAX_BYTES} a checkpoint may have."
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}): name a file, or train it first.") from error
