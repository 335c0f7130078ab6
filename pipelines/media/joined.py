"""Files that were joined end to end, told apart where FFmpeg would read the first one only; and what of a file was not read.

FFmpeg reads a WAV to where its header says, an MP4 by one index, a Matroska that knows its length up to there, loses frames of FLAC around a header,
and takes whatever joined files hold for what the first one said. Joined transport streams and bare frames it reads to their end, and `SourceClock`
finds where each begins.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import IO, Any, Final

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.wav import copied, is_wav, wav_to_its_end

UNREAD_MAX_BYTES: Final = 4 << 20
"""A stream that goes on behind the end of its media is read so far, to say how much that is, or to find another file in it."""
_COPY_BYTES: Final = 256 << 10
FILES_MAX: Final = 10_000
_PIECES_MAX: Final = 2_000_000
"""Boxes, pages or chunks of a file: eleven hours of Ogg with a page for each packet."""
_HEAD_BYTES: Final = 300
"""Of a page of Ogg 282 bytes tell its length; of other pieces 16."""
_MAGIC_BYTES: Final = 24
"""No magic is longer."""

File = IO[bytes] | ByteStream


def joined_files(file: File) -> Iterator[File]:
    """The files of which `file` is made, one after the other; mostly one. Each is read before the next is asked for.

    A WAV is read to its end, also where its header says less. Joined WAVs of one format are given as one.

    Raises:
        MediaError: there are more than `FILES_MAX`.
    """
    head = file.peek(_MAGIC_BYTES) if isinstance(file, ByteStream) else _peeked(file, _MAGIC_BYTES)
    kind = next((kind for kind in _KINDS if kind.begins.match(head)), None)
    magic = next((magic for magic in _MAGICS if magic.match(head)), None)
    if is_wav(head):
        parts = _each(file if isinstance(file, ByteStream) else ByteStream(file), wav_to_its_end)
    elif kind is not None:
        parts = _walked(file, kind)
    elif magic is not None:
        parts = _scanned(file, magic)
    else:
        parts = iter([file])
    for count, part in enumerate(parts, 1):
        if count > FILES_MAX:
            raise MediaError(f"more than {FILES_MAX} files joined to one; send them as several")
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


def _each(whole: ByteStream, cut: Callable[[ByteStream], Iterator[bytes]]) -> Iterator[File]:
    """Each file that `cut` takes from the front of what is left of `whole`."""
    while whole.peek(1):
        part = ByteStream(cut(whole))
        yield part
        left_bytes = 0
        while chunk := part.read():  # what its reader left
            left_bytes += len(chunk)
            if left_bytes > UNREAD_MAX_BYTES:
                return


def _box(head: bytes) -> int | None:
    """The length of a box of ISO base media (ISO/IEC 14496-12 §4.2); None where it ends with the file, or is none."""
    size = int.from_bytes(head[:4], "big")
    if size == 1:
        size = int.from_bytes(head[8:16], "big")
    return size if size >= 8 else None


def _page(head: bytes) -> int | None:
    """The length of a page of Ogg (RFC 3533 §6); None of what is none."""
    segments = head[27 : 27 + head[26]] if len(head) > 26 and head[:4] == b"OggS" else b""
    return 27 + len(segments) + sum(segments) if segments else None


def _chunk(head: bytes) -> int | None:
    """The length of a chunk of IFF, as of AIFF, or of RIFF, as of AVI; likewise."""
    size = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
    return 8 + size + size % 2 if size else None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Files that say how long each of their pieces is: behind a piece another file may begin."""

    begins: re.Pattern[bytes]
    length: Callable[[bytes], int | None]
    begins_once: bool = True
    """False: several pieces in a row may look like the first, of one file."""

    def is_next(self, head: bytes, before: bytes) -> bool:
        """Whether a piece with this `head` behind the one `before` begins another file."""
        return self.begins.match(head) is not None and (self.begins_once or not self.begins.match(before))


_KINDS: Final = (
    _Kind(re.compile(rb"....ftyp", re.DOTALL), _box),
    _Kind(re.compile(rb"FORM....AIF[FC]|RIFF....AVI ", re.DOTALL), _chunk),
    _Kind(re.compile(rb"OggS\x00[\x02\x06]"), _page, begins_once=False),
)
_MAGICS: Final = (
    re.compile(rb"\x1aE\xdf\xa3(?:[\x80-\xfe]|\x01.{7})\x42\x86\x81\x01", re.DOTALL),
    re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    re.compile(rb"#!AMR(?:-WB)?\n"),
    re.compile(rb"ID3[\x02-\x04]\x00[\x00-\xff][\x00-\x7f]{4}", re.DOTALL),
    re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09"),
    re.compile(rb"caff\x00\x01\x00\x00"),
    re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"),
)
"""How other files begin (Matroska, FLAC, AMR, MP3 with a tag, FLV, CAF, W64): at nothing that is found in sound or pictures by chance."""


def _walked(file: File, kind: _Kind) -> Iterator[File]:
    if isinstance(file, ByteStream):
        yield from _each(file, partial(_pieces, kind=kind))
        return
    at = start = file.tell()
    end = file.seek(0, os.SEEK_END)
    found: list[int] = []
    head = b""
    for _ in range(_PIECES_MAX):
        file.seek(at)
        before, head = head, file.read(_HEAD_BYTES)
        if before and kind.is_next(head, before):
            found.append(at)
        length = kind.length(head) if len(head) >= 8 else None
        if length is None or len(found) > FILES_MAX or at + length >= end:
            break
        at += length
    else:
        raise MediaError(f"more than {_PIECES_MAX} pieces in one file; re-encode it")
    yield from _windows(file, start, found)


def _pieces(whole: ByteStream, kind: _Kind) -> Iterator[bytes]:
    """One file, up to where another of its kind begins."""
    head, count = whole.peek(_HEAD_BYTES), 0
    while (length := kind.length(head)) is not None:
        count += 1
        if count > _PIECES_MAX:
            raise MediaError(f"more than {_PIECES_MAX} pieces in one file; re-encode it")
        yield from copied(whole, length)
        before, head = head, whole.peek(_HEAD_BYTES)
        if not head or kind.is_next(head, before):
            return
    yield from copied(whole, None)


def _scanned(file: File, magic: re.Pattern[bytes]) -> Iterator[File]:
    if isinstance(file, ByteStream):
        yield from _each(file, partial(_up_to, magic=magic))
        return
    start = file.tell()
    found: list[int] = []
    at, tail = start, b""
    while chunk := file.read(_COPY_BYTES):
        window = tail + chunk
        base = at - len(tail)
        found += [base + match.start() for match in magic.finditer(window) if base + match.start() > start]
        if len(found) > FILES_MAX:
            break
        at += len(chunk)
        tail = window[-_MAGIC_BYTES:]
    yield from _windows(file, start, sorted(set(found)))


def _up_to(whole: ByteStream, magic: re.Pattern[bytes]) -> Iterator[bytes]:
    """The next bytes, up to where `magic` stands again."""
    yield whole.read(1)
    while window := whole.peek(_MAGIC_BYTES):
        window = whole.held()
        if match := magic.search(window):
            if match.start():
                yield whole.read(match.start())
            return
        yield whole.read(max(len(window) - _MAGIC_BYTES, 1) if len(window) >= _MAGIC_BYTES else len(window))


def _windows(file: IO[bytes], start: int, begins: list[int]) -> Iterator[File]:
    """The file itself, or each of those that begin in it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    if not begins:
        yield file
        return
    for first, behind in pairwise([start, *begins, end]):
        yield io.BufferedReader(_Window(file, first, behind))


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
