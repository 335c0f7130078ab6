"""A WAV's sound to its end, whatever its header says of the length (Multimedia Programming Interface and Data Specifications 1.0, "RIFF")."""

import re
import struct
from collections.abc import Iterator
from typing import Final

from pipelines.media.byte_stream import ByteStream
from pipelines.media.stated import Ends, is_unknown

_COPY_BYTES: Final = 256 << 10
_CHUNK_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_ ]{3}")
_CHUNK_MAX_BYTES: Final = 16 << 20
"""Of a chunk before or after the sound (Multimedia Programming Interface and Data Specifications 1.0, "RIFF")."""


def is_wav(head: bytes) -> bool:
    """Whether a file with this head, 12 bytes at least, is one."""
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def wav_to_its_end(whole: ByteStream, ends: Ends) -> Iterator[bytes]:
    """WAVs of one format as one, with the length of its sound taken out of its header, for it may be wrong."""
    kind = _wav_format(whole)
    block_bytes = int.from_bytes(kind[20:22], "little") or 1
    ends.bytes_per_s = int.from_bytes(kind[16:20], "little")
    yield whole.read(12)
    yield from _chunks_before_sound(whole)
    if not whole.peek(1):
        return
    length_bytes = _length(whole.read(8))
    yield b"data\xff\xff\xff\xff"
    # A length that is no whole number of samples says nothing of where the next file begins.
    while not is_unknown(length_bytes) and length_bytes % block_bytes == 0:
        yield from copied(whole, length_bytes, ends)
        _skip_chunks(whole, padding=length_bytes % 2)
        if not whole.peek(1) or (is_wav(whole.peek(12)) and (not kind or _wav_format(whole) != kind)):
            return
        if not is_wav(whole.peek(12)):
            length_bytes = 0  # the sound goes on behind the length that was written down
            break
        whole.read(12)
        for _ in _chunks_before_sound(whole):
            continue
        length_bytes = _length(whole.read(8))
    if not is_unknown(length_bytes):
        yield from copied(whole, length_bytes, ends)
    yield from copied(whole, None)


def _wav_format(whole: ByteStream) -> bytes:
    """The format chunk, where it comes first, as it nearly always does."""
    head = whole.peek(20)
    return whole.peek(20 + min(_length(head[12:20]), 64))[12:] if head[12:16] == b"fmt " else b""


def _chunks_before_sound(whole: ByteStream) -> Iterator[bytes]:
    while (head := whole.peek(8)) and head[:4] != b"data":
        yield from copied(whole, 8 + _padded(head))


def _skip_chunks(whole: ByteStream, padding: int) -> None:
    """Passes over what may stand behind the sound: a byte that makes it even, and chunks of other things than sound."""
    if padding and whole.peek(1) == b"\0":
        whole.read(1)
    while (head := whole.peek(12)) and not is_wav(head):
        if len(head) < 8 or not _CHUNK_NAME.fullmatch(head[:4]) or _padded(head) > _CHUNK_MAX_BYTES:
            return
        for _ in copied(whole, 8 + _padded(head)):
            continue


def _length(head: bytes) -> int:
    """What a chunk with this head says of its length; 0 where that is cut off."""
    return int(struct.unpack("<4xI", head)[0]) if len(head) == 8 else 0


def _padded(head: bytes) -> int:
    """The bytes of the chunk with this head; the next one begins at an even place."""
    size = _length(head[:8])
    return size + size % 2


def copied(whole: ByteStream, count: int | None, ends: Ends | None = None) -> Iterator[bytes]:
    """The next `count` bytes; all there are where that is None. `ends` is told how many are missing."""
    while count is None or count > 0:
        chunk = whole.read(_COPY_BYTES if count is None else min(_COPY_BYTES, count))
        if not chunk:
            break
        count = None if count is None else count - len(chunk)
        yield chunk
    if ends is not None:
        ends.fall_short(count or 0)
