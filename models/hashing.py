"""The SHA-256 of files, by which checkpoints, parts of bundles and Whisper's weights are told from changed ones."""

import hashlib
from pathlib import Path


def sha256_of(source: Path | bytes) -> str:
    """Hex digits of a file's SHA-256, read in pieces, or of its content where that is in memory already.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
