"""Files that were joined end to end, told apart where FFmpeg would read the first one only; and what of a file was not read.

FFmpeg reads a WAV to where its header says, an MP4 by one index, a Matroska that knows its length up to there, loses frames of FLAC around a header,
and takes whatever joined files hold for what the first one said. Joined transport streams and bare frames it reads to their end, and `SourceClock`
finds where each begins.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import IO, Any, Final

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.pieces import Kind, Walk, kind_of
from pipelines.media.sound_length import HEAD_BYTES as SOUND_HEAD_BYTES
from pipelines.media.sound_length import says_sound_length, sound_to_its_end
from pipelines.media.stated import CAF_HEAD_BYTES, HEAD_BYTES, Ends, measure, stated_bytes
from pipelines.media.wav import copied, is_wav, wav_to_its_end

UNREAD_MAX_BYTES: Final = 4 << 20
"""A stream that goes on behind the end of its media is read so far, to say how much that is, or to find another file in it."""
_COPY_BYTES: Final = 256 << 10
FILES_MAX: Final = 10_000
_MAGIC_BYTES: Final = 24
"""No magic is longer."""

File = IO[bytes] | ByteStream


def joined_files(file: File, ends: Ends | None = None) -> Iterator[File]:
    """The files of which `file` is made, one after the other; mostly one. Each is read before the next is asked for.

    The sound of a WAV, AIFF, RF64 or W64 is read to its end, also where its header says less. Joined WAVs of one format are given as one. `ends` is that of the one
    that was given last.

    Raises:
        MediaError: there are more than `FILES_MAX`.
    """
    ends = ends or Ends()
    head = peeked(file, _MAGIC_BYTES)
    kind = kind_of(head)
    magic = next((magic for magic in _MAGICS if magic.match(head)), None)
    if is_wav(head):
        whole = file if isinstance(file, ByteStream) else ByteStream(file)
        parts = _each(whole, partial(wav_to_its_end, ends=ends), ends)
    elif kind is not None:
        parts = _walked(file, kind, ends)
    elif magic is not None:
        parts = _scanned(file, magic, ends)
    else:
        parts = iter([_alone(file, ends)])
    for count, part in enumerate(parts, 1):
        if count > FILES_MAX:
            raise MediaError(f"more than {FILES_MAX} files joined to one; send them as several")
        yield _to_its_end(part)


def _to_its_end(part: File) -> File:
    """The file; as a stream where its header may say less of its sound than there is."""
    if not says_sound_length(peeked(part, _MAGIC_BYTES)):
        return part
    head = peeked(part, SOUND_HEAD_BYTES)
    return sound_to_its_end(lambda: part if isinstance(part, ByteStream) else ByteStream(part), head) or part


def unread_bytes(file: File) -> int:
    """How many bytes of `file` its reader has left, or `UNREAD_MAX_BYTES` where there are more."""
    if not isinstance(file, ByteStream):
        at = file.tell()
        return max(file.seek(0, os.SEEK_END) - at, 0)
    count = 0
    while count < UNREAD_MAX_BYTES and (chunk := file.read()):
        count += len(chunk)
    return min(count, UNREAD_MAX_BYTES)


def peeked(file: File, size: int) -> bytes:
    """The next `size` bytes, without taking them."""
    if isinstance(file, ByteStream):
        return file.peek(size)
    at = file.tell()
    head = file.read(size)
    file.seek(at)
    return head


def _each(whole: ByteStream, cut: Callable[[ByteStream], Iterator[bytes]], ends: Ends) -> Iterator[File]:
    """Each file that `cut` takes from the front of what is left of `whole`, and whose `ends` it tells."""
    while whole.peek(1):
        ends.begin()
        part = ByteStream(cut(whole))
        yield part
        left_bytes = 0
        while chunk := part.read():  # what its reader left
            left_bytes += len(chunk)
            if left_bytes > UNREAD_MAX_BYTES:
                return


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


def _walked(file: File, kind: Kind, ends: Ends) -> Iterator[File]:
    if isinstance(file, ByteStream):
        yield from _each(file, partial(_pieces, kind=kind, ends=ends), ends)
        return
    at = start = begin = file.tell()
    end = file.seek(0, os.SEEK_END)
    found: list[int] = []
    closed: list[Ends] = []
    walk = Walk(kind)
    while at < end:
        file.seek(at)
        head = file.read(HEAD_BYTES)
        if walk.begins_other(head):
            found.append(at)
            closed.append(walk.close())
            begin = at
        length = walk.length(head)
        if length is None or at + length > end:
            walk.end_in(head, at - begin, end - at, length)
            break
        if len(found) > FILES_MAX:
            break
        at += length
    closed.append(walk.close())
    for part, its in zip(_windows(file, start, found), closed, strict=True):
        ends.become(its)
        yield part


def _pieces(whole: ByteStream, kind: Kind, ends: Ends) -> Iterator[bytes]:
    """One file, up to where another of its kind begins."""
    walk, at, head = Walk(kind), 0, whole.peek(HEAD_BYTES)
    while head:
        got, length = 0, walk.length(head)
        for chunk in copied(whole, length):
            got += len(chunk)
            yield chunk
        if length is None or got < length:
            walk.end_in(head, at, got, length)
        at += got
        head = whole.peek(HEAD_BYTES)
        if walk.begins_other(head):
            break
    ends.become(walk.close())


def _scanned(file: File, magic: re.Pattern[bytes], ends: Ends) -> Iterator[File]:
    if isinstance(file, ByteStream):
        yield from _each(file, partial(_up_to, magic=magic, ends=ends), ends)
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
    for part in _windows(file, start, sorted(set(found))):
        ends.begin()
        yield _measured(part, ends)


def _up_to(whole: ByteStream, magic: re.Pattern[bytes], ends: Ends) -> Iterator[bytes]:
    """The next bytes, up to where `magic` stands again."""
    return _counted(_unmeasured(whole, magic), whole.peek(_head_bytes(whole.peek(_MAGIC_BYTES))), ends)


def _unmeasured(whole: ByteStream, magic: re.Pattern[bytes]) -> Iterator[bytes]:
    yield whole.read(1)
    while window := whole.peek(_MAGIC_BYTES):
        window = whole.held()
        if match := magic.search(window):
            if match.start():
                yield whole.read(match.start())
            return
        yield whole.read(max(len(window) - _MAGIC_BYTES, 1) if len(window) >= _MAGIC_BYTES else len(window))


def _alone(file: File, ends: Ends) -> File:
    """A file of a kind that is not looked through for others."""
    if not isinstance(file, ByteStream):
        return _measured(file, ends)
    head = file.peek(HEAD_BYTES)
    return file if stated_bytes(head) is None else ByteStream(_counted(copied(file, None), head, ends))


def _measured(file: IO[bytes], ends: Ends) -> IO[bytes]:
    at = file.tell()
    length = file.seek(0, os.SEEK_END) - at
    file.seek(at)
    measure(peeked(file, _head_bytes(peeked(file, _MAGIC_BYTES))), length, ends)
    return file


def _counted(chunks: Iterator[bytes], head: bytes, ends: Ends) -> Iterator[bytes]:
    count = 0
    for chunk in chunks:
        count += len(chunk)
        yield chunk
    measure(head, count, ends)


def _head_bytes(magic: bytes) -> int:
    return CAF_HEAD_BYTES if magic[:4] == b"caff" else HEAD_BYTES


def _windows(file: IO[bytes], start: int, begins: list[int]) -> Iterator[IO[bytes]]:
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
