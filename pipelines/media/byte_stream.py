"""Bytes as they come: a file, something to read from, or chunks; made ready for FFmpeg."""

import itertools
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, cast, runtime_checkable

from pipelines.errors import MediaError

SPOOL_MAX_BYTES = 4 << 30
_CHUNK_BYTES = 256 << 10
_PEEK_BYTES = 64 << 10
AHEAD_MAX_BYTES = 16 << 20
"""FFmpeg looks at 2 MiB of packets when it opens a stream; cover art and tables may stand before them."""


class Readable(Protocol):
    """Anything with a blocking `read`; it ends with empty bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer when that is all there is by now."""


@runtime_checkable
class Seekable(Readable, Protocol):
    """A reader that may be able to seek, as files and spooled uploads are."""

    def seekable(self) -> bool:
        """Whether it is."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a byte."""

    def tell(self) -> int:
        """The byte it stands at."""


Source = Path | Readable | Iterable[bytes]
"""A file; a blocking reader (a socket's file, an upload); or chunks of any size in order."""


class ByteStream:
    """Bytes that can be read once and looked ahead at, never sought."""

    def __init__(self, source: Readable | Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(source) if isinstance(source, Iterable) else _chunks(source)
        self._held = b""
        self._ahead: list[bytes] | None = None
        self._ahead_bytes = 0

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """At most `size` bytes as soon as there are any; empty at the end."""
        if not self._held:
            self._held = next((chunk for chunk in self._chunks if chunk), b"")
        taken, self._held = self._held[:size], self._held[size:]
        if self._ahead is not None:
            self._ahead.append(taken)
            self._ahead_bytes += len(taken)
            if self._ahead_bytes > AHEAD_MAX_BYTES:
                raise MediaError(
                    f"the stream does not begin within {AHEAD_MAX_BYTES} bytes; leave out what stands before its sound and pictures"
                )
        return taken

    @contextmanager
    def looked_ahead(self) -> Iterator[None]:
        """What is read within the block is read again after it.

        Raises:
            MediaError: by `read`, more than `AHEAD_MAX_BYTES` are read within it.
        """
        self._ahead, self._ahead_bytes = [], 0
        try:
            yield
        finally:
            self._chunks = itertools.chain(self._ahead, [self._held], self._chunks)
            self._held, self._ahead = b"", None

    def peek(self, size: int) -> bytes:
        """The next `size` bytes without taking them; fewer only at the end."""
        while len(self._held) < size:
            chunk = next((chunk for chunk in self._chunks if chunk), b"")
            if not chunk:
                break
            self._held += chunk
        return self._held[:size]


def _chunks(source: Readable) -> Iterator[bytes]:
    """A reader as chunks; a read may return fewer bytes than asked for, as sockets do."""
    read = getattr(source, "read1", source.read)
    while chunk := read(_CHUNK_BYTES):
        yield chunk


@contextmanager
def opened(source: Source, spool_max_bytes: int = SPOOL_MAX_BYTES) -> Iterator[IO[bytes] | ByteStream]:
    """Yields what FFmpeg may read: the file itself, the stream, or an MP4 stream spooled to disk, as it cannot be read in order.

    Raises:
        MediaError: the source is empty or no file, or there is no room to spool it.
    """
    if isinstance(source, Path):
        if not source.is_file():
            raise MediaError(f"{source} is not a file")
        if source.stat().st_size == 0:
            raise MediaError(f"{source} is empty")
        with source.open("rb") as file:
            yield file
        return
    if isinstance(source, Seekable) and source.seekable():
        at = source.tell()
        if not source.read(1):
            raise MediaError("the stream is empty: it ended before its first byte")
        source.seek(at)
        yield cast(IO[bytes], source)
        return
    stream = ByteStream(source)
    if not stream.peek(1):
        raise MediaError("the stream is empty: it ended before its first byte")
    if not _needs_seeking(stream):
        yield stream
        return
    with tempfile.TemporaryFile(prefix="undertone-") as file:
        _spool(stream, file, spool_max_bytes)
        yield file


def _needs_seeking(stream: ByteStream) -> bool:
    """Whether this is an ISO base media file (ISO/IEC 14496-12 §4.2) that is not made of movie fragments.

    Its index may be last, and where it is first the sound may still lie far behind its pictures.
    """
    at = 0
    if stream.peek(8)[4:8] not in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return False
    while at < _PEEK_BYTES:
        head = stream.peek(at + 8)[at : at + 8]
        if len(head) < 8:
            return True
        size, kind = struct.unpack(">I4s", head)
        if kind in {b"moof", b"sidx", b"styp"}:
            return False
        if kind == b"mdat" or size < 8:
            return True
        at += size
    return True


def _spool(stream: ByteStream, file: IO[bytes], spool_max_bytes: int) -> None:
    """Copies the rest of the stream into `file` and rewinds it."""
    advice = "send it as movie fragments (ffmpeg -c copy -movflags frag_keyframe+empty_moov) or as Matroska"
    try:
        while chunk := stream.read():
            if file.tell() + len(chunk) > spool_max_bytes:
                raise MediaError(
                    f"this MP4 cannot be read in order and has more than {spool_max_bytes} bytes; {advice}"
                )
            file.write(chunk)
        file.flush()
    except OSError as error:
        free_bytes = shutil.disk_usage(tempfile.gettempdir()).free
        raise MediaError(
            f"no room to spool this MP4, which cannot be read in order: {tempfile.gettempdir()} has {free_bytes} bytes left "
            f"({error.strerror}); free some, set TMPDIR, or {advice}"
        ) from error
    file.seek(0)
