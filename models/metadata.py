"""What stands in a checkpoint beside the weights; reading it imports no torch.

A checkpoint is plain safetensors: eight bytes with the length of a JSON header, little endian, the header, the tensors.
The header's metadata holds one JSON text under `undertone`, which `models.checkpoint` writes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import CheckpointError

FORMAT = 1
HEADER_MAX_BYTES = 4 << 20
LENGTH_BYTES = 8
TENSORS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a checkpoint says of itself.

    `name` is the family's (`models.families`); `config` the fields of its architecture; `about` what the card says (data,
    split, seed, validation figures, temperatures); `sha256` the file's own hash.
    """

    name: str
    config: dict[str, Any]
    about: dict[str, Any]
    sha256: str

    @property
    def version(self) -> str:
        """Name and the first eight hex digits of the hash, as in `audio@1a2b3c4d`."""
        return f"{self.name}@{self.sha256[:8]}"


def read(path: Path, sha256: str) -> Metadata:
    """Read the header alone; `sha256` is what the caller knows of the file.

    Raises:
        CheckpointError: The file is missing or not an Undertone checkpoint.
    """
    try:
        with path.open("rb") as file:
            head = file.read(LENGTH_BYTES)
            head += file.read(min(int.from_bytes(head, "little"), HEADER_MAX_BYTES))
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}): name a file, or train it first.") from error
    return parse(path, head, sha256)


def parse(path: Path, content: bytes, sha256: str) -> Metadata:
    """Parse the header at the beginning of a checkpoint's content; `path` is for the error.

    Raises:
        CheckpointError: No Undertone checkpoint, one of another format, or one of absurdly many tensors.
    """
    foreign = f"{path} is not an Undertone checkpoint: name a .safetensors file that `undertone train` wrote."
    header_bytes = int.from_bytes(content[:LENGTH_BYTES], "little")
    if len(content) < LENGTH_BYTES or header_bytes > min(HEADER_MAX_BYTES, len(content) - LENGTH_BYTES):
        raise CheckpointError(foreign)
    try:
        header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + header_bytes])
        written = json.loads(header["__metadata__"]["undertone"])
        metadata = Metadata(str(written["name"]), dict(written["config"]), dict(written["about"]), sha256)
        tensors, version = len(header) - 1, written["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(foreign) from error
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version!r}, this version reads {FORMAT}: upgrade Undertone.")
    if tensors > TENSORS_MAX:
        raise CheckpointError(f"{path} holds {tensors} tensors, more than {TENSORS_MAX}: it is no checkpoint of ours.")
    return metadata
