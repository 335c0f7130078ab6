"""Files that were joined end to end, told apart where FFmpeg would read the first one only; and what of a file was not read.

A joined Matroska, Ogg, transport stream, MP3 or FLAC is read by FFmpeg to its end, and `SourceClock` finds where each begins. A WAV ends
for FFmpeg where its header says so, and an MP4 has one index.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, Any, Final

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream

UNREAD_MAX_BYTES: Final = 64 << 20
"""A stream that goes on behind the end of its media is read so far, to say how much that is."""
_COPY_BYTES: Final = 256 << 10
_UNKNOWN_BYTES: Final = (0, 0x7FFFF000, 0xFFFFFFFF)
"""What programs that write to a pipe say for the length of the sound: ffmpeg, arecord, sox."""
_CHUNK_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_ ]{3}")
_CHUNK_MAX_BYTES: Final = 16 << 20
"""Of a chunk before or after the sound (Multimedia Programming Interface and Data Specifications 1.0, "RIFF")."""
FILES_MAX: Final = 64
"""Each is held open until the whole is cut."""
_BOX_MAX: Final = 100_000

File = IO[bytes] | ByteStream


def joined_files(file: File) -> Iterator[File]:
    """The files of which `file` is made, one after the other; mostly one. Each is read before the next is asked for.

    A WAV is read to its end, also where its header says less. Joined WAVs of one format are given as one.

    Raises:
        MediaError: there are more than `FILES_MAX`.
    """
    head = file.peek(12) if isinstance(file, ByteStream) else _peeked(file, 12)
    if _is_wav(head):
        parts = _wavs(file if isinstance(file, ByteStream) else ByteStream(file))
    elif head[4:8] == b"ftyp" and not isinstance(file, ByteStream):
        parts = _mp4s(file)
    else:
        parts = iter([file])
    for count, part in enumerate(parts, 1):
        if count > FILES_MAX:
            raise MediaError(f"more than {FILES_MAX} files of other formats joined to one; send them one by one")
        yield part


def unread_bytes(file: File) -> int:
    """How many bytes of `file` its reader has left, or `UNREAD_MAX_BYTES` where there are more."""
    if not isinstance(file, ByteStream):
        at = file.tell()
        return max(file.seek(0, os.SEEK_END) - at, 0)
    count = 0
    while count < UNREAD_MAX_BYTES and (chunk := file.read()):
        count += len(chunk)
    return min(count, UNREAD_MAX_BYTES)


def _peeked(file: IO[bytes], size: int) -> bytes:
    at = file.tell()
    head = file.read(size)
    file.seek(at)
    return head


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _wavs(whole: ByteStream) -> Iterator[File]:
    while _is_wav(whole.peek(12)):
        part = ByteStream(_wav(whole))
        yield part
        while part.read():  # what its reader left
            continue


def _wav(whole: ByteStream) -> Iterator[bytes]:
    """WAVs of one format as one, with the length of its sound taken out of its header, for it may be wrong."""
    kind = _wav_format(whole)
    yield whole.read(12)
    yield from _chunks_before_sound(whole)
    if not whole.peek(1):
        return
    length_bytes = _length(whole.read(8))
    yield b"data\xff\xff\xff\xff"
    while length_bytes not in _UNKNOWN_BYTES:
        yield from _copied(whole, length_bytes)
        _skip_chunks(whole, padding=length_bytes % 2)
        if not whole.peek(1) or (_is_wav(whole.peek(12)) and _wav_format(whole) != kind):
            return
        if not _is_wav(whole.peek(12)):
            break  # the sound goes on behind the length that was written down
        whole.read(12)
        for _ in _chunks_before_sound(whole):
            continue
        length_bytes = _length(whole.read(8))
    yield from _copied(whole, None)


def _wav_format(whole: ByteStream) -> bytes:
    """The format chunk, where it comes first, as it nearly always does."""
    head = whole.peek(20)
    return whole.peek(20 + min(_length(head[12:20]), 64))[12:] if head[12:16] == b"fmt " else b""


def _chunks_before_sound(whole: ByteStream) -> Iterator[bytes]:
    while (head := whole.peek(8)) and head[:4] != b"data":
        yield from _copied(whole, 8 + _padded(head))


def _skip_chunks(whole: ByteStream, padding: int) -> None:
    """Passes over what may stand behind the sound: a byte that makes it even, and chunks of other things than sound."""
    if padding and whole.peek(1) == b"\0":
        whole.read(1)
    while (head := whole.peek(12)) and not _is_wav(head):
        if len(head) < 8 or not _CHUNK_NAME.fullmatch(head[:4]) or _padded(head) > _CHUNK_MAX_BYTES:
            return
        for _ in _copied(whole, 8 + _padded(head)):
            continue


def _length(head: bytes) -> int:
    """What a chunk with this head says of its length; 0 where that is cut off."""
    return int(struct.unpack("<4xI", head)[0]) if len(head) == 8 else 0


def _padded(head: bytes) -> int:
    """The bytes of the chunk with this head; the next one begins at an even place."""
    size = _length(head[:8])
    return size + size % 2


def _copied(whole: ByteStream, count: int | None) -> Iterator[bytes]:
    """The next `count` bytes; all there are where that is None."""
    while count is None or count > 0:
        chunk = whole.read(_COPY_BYTES if count is None else min(_COPY_BYTES, count))
        if not chunk:
            return
        count = None if count is None else count - len(chunk)
        yield chunk


def _mp4s(file: IO[bytes]) -> Iterator[File]:
    """MP4s joined end to end: a file type box (ISO/IEC 14496-12 §4.3) behind an index begins the next."""
    begin, begins = file.tell(), _mp4_begins(file)
    file.seek(begin)
    if not begins:
        yield file
        return
    for start, end in pairwise([begin, *begins, file.seek(0, os.SEEK_END)]):
        yield io.BufferedReader(_Window(file, start, end))


def _mp4_begins(file: IO[bytes]) -> list[int]:
    """Where files behind the first begin."""
    at, has_index, begins = file.tell(), False, list[int]()
    for _ in range(_BOX_MAX):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        size, kind = struct.unpack(">I4s", head[:8])
        if kind == b"ftyp" and has_index:
            begins.append(at)
            has_index = False
        has_index |= kind == b"moov"
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">8xQ", head)
        if size < 8:
            break
        at += size
    return begins


class _Window(io.RawIOBase):
    """The bytes of a file from `start` to `end`, as a file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file, self._start, self._end, self._at = file, start, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end - self._start}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        self._file.seek(self._start + self._at)
        chunk = self._file.read(max(min(len(view), self._end - self._start - self._at), 0))
        view[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)
