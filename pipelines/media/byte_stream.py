"""Bytes as they come: a file, something to read from, or chunks; made ready for FFmpeg."""

import itertools
import logging
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol, cast, runtime_checkable

from pipelines.errors import BusyError, MediaError

SPOOL_MAX_BYTES = 4 << 30
_CHUNK_BYTES = 256 << 10
_PEEK_BYTES = 64 << 10
_HEAD_BYTES = 16
AHEAD_MAX_BYTES = 16 << 20
"""FFmpeg looks at 2 MiB of packets when it opens a stream; cover art and tables may stand before them."""
_ADVICE = "send it as movie fragments (ffmpeg -c copy -movflags frag_keyframe+empty_moov) or as Matroska"

logger = logging.getLogger(__name__)


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


class ByteBudget:
    """How many bytes all that is held at once may have together; for any number of threads."""

    def __init__(self, max_bytes: int, when_spent: str) -> None:
        """`when_spent` says why more is refused."""
        self._free_bytes, self._when_spent = max_bytes, when_spent
        self._lock = threading.Lock()

    @contextmanager
    def reservation(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that reserves so many bytes more, until the block ends; it raises `BusyError` when they are not free."""
        reserved_bytes = 0

        def reserve(count: int) -> None:
            nonlocal reserved_bytes
            with self._lock:
                if count > self._free_bytes:
                    raise BusyError(f"{self._when_spent}; try again in a few seconds")
                self._free_bytes -= count
            reserved_bytes += count

        try:
            yield reserve
        finally:
            with self._lock:
                self._free_bytes += reserved_bytes


class SpoolBudget(ByteBudget):
    """Of the streams that are spooled to disk at once."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is for all of them together."""
        super().__init__(
            max_bytes, f"as many MP4s that cannot be read in order are here as there is room for; {_ADVICE}"
        )


class ByteStream:
    """Bytes that can be read once and looked ahead at, never sought."""

    def __init__(self, source: Readable | Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(source) if isinstance(source, Iterable) else _chunks(source)
        self._held, self._at = b"", 0
        """What is here, and where of it the next byte stands: small pieces of a large chunk are taken without copying the rest."""
        self._ahead: list[bytes] | None = None
        self._ahead_bytes = 0

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """At most `size` bytes as soon as there are any; empty at the end."""
        if self._at == len(self._held):
            self._held, self._at = next((chunk for chunk in self._chunks if chunk), b""), 0
        taken = self._held[self._at : self._at + size]
        self._at += len(taken)
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
            self._chunks = itertools.chain(self._ahead, [self.held()], self._chunks)
            self._held, self._at, self._ahead = b"", 0, None

    def put_back(self, chunks: list[bytes]) -> None:
        """These are read next, before what would have been."""
        self._chunks = itertools.chain(chunks, [self.held()], self._chunks)
        self._held, self._at = b"", 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes without taking them; fewer only at the end."""
        while len(self._held) - self._at < size:
            chunk = next((chunk for chunk in self._chunks if chunk), b"")
            if not chunk:
                break
            self._held, self._at = self.held() + chunk, 0
        return self._held[self._at : self._at + size]

    def held(self) -> bytes:
        """All bytes that are here and not taken yet."""
        return self._held[self._at :]


def _chunks(source: Readable) -> Iterator[bytes]:
    """A reader as chunks; a read may return fewer bytes than asked for, as sockets do."""
    read = getattr(source, "read1", source.read)
    while chunk := read(_CHUNK_BYTES):
        yield chunk


@contextmanager
def opened(
    source: Source, spool_max_bytes: int = SPOOL_MAX_BYTES, spool: SpoolBudget | None = None
) -> Iterator[IO[bytes] | ByteStream]:
    """Yields what FFmpeg may read: the file itself, the stream, or an MP4 stream spooled to disk, as it cannot be read in order.

    What is spooled has at most `spool_max_bytes`, and its part of `spool` until the block ends.

    Raises:
        MediaError: the source is empty or no file, or it is too long to be spooled.
        BusyError: there is no room to spool it, in `spool` or on the disk.
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
    with (
        (spool or SpoolBudget(spool_max_bytes)).reservation() as reserve,
        tempfile.TemporaryFile(prefix="undertone-") as file,
    ):
        _spool(stream, file, spool_max_bytes, reserve)
        yield file


def head_of(file: IO[bytes] | ByteStream) -> bytes:
    """The next few bytes of what `opened` yields, which leave its place as it is."""
    if isinstance(file, ByteStream):
        return file.peek(_HEAD_BYTES)
    at = file.tell()
    head = file.read(_HEAD_BYTES)
    file.seek(at)
    return head


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


def _spool(stream: ByteStream, file: IO[bytes], spool_max_bytes: int, reserve: Callable[[int], None]) -> None:
    """Copies the rest of the stream into `file` and rewinds it."""
    try:
        while chunk := stream.read():
            if file.tell() + len(chunk) > spool_max_bytes:
                raise MediaError(
                    f"this MP4 cannot be read in order and has more than {spool_max_bytes} bytes; {_ADVICE}"
                )
            reserve(len(chunk))
            file.write(chunk)
        file.flush()
    except OSError as error:
        with suppress(OSError):
            file.close()  # which tries once more to write what did not fit
        folder = tempfile.gettempdir()
        logger.error(  # noqa: TRY400  # where it failed says nothing more
            "no room to spool an MP4: %s has %d bytes left (%s); free some, or set TMPDIR",
            *(folder, shutil.disk_usage(folder).free, error.strerror),
        )
        raise BusyError(f"there is no room now for this MP4, which cannot be read in order; {_ADVICE}") from error
    file.seek(0)
