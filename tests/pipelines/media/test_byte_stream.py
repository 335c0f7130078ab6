"""Bytes as they come, made ready for FFmpeg: looked ahead at, and spooled to disk only where they must be sought."""

import io
import struct
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import BusyError, MediaError
from pipelines.media import byte_stream
from pipelines.media.byte_stream import ByteBudget, ByteStream, Source, SpoolBudget, opened
from tests.pipelines.media_files import Pipe


def box(kind: bytes, size: int = 16) -> bytes:
    """A box of an ISO base media file (ISO/IEC 14496-12 §4.2)."""
    return struct.pack(">I4s", size, kind) + bytes(size - 8)


def test_looking_ahead_takes_nothing() -> None:
    stream = ByteStream(iter([b"ab", b"", b"cdef"]))
    assert stream.peek(3) == b"abc"
    assert stream.peek(100) == b"abcdef"
    assert [stream.read(4), stream.read(4), stream.read(4)] == [b"abcd", b"ef", b""]


def test_what_was_looked_ahead_at_is_read_again() -> None:
    stream = ByteStream(iter([b"ab", b"cdef", b"gh"]))
    assert stream.read(1) == b"a"
    with stream.looked_ahead():
        assert [stream.read(4), stream.read(2)] == [b"b", b"cd"]
    assert b"".join(iter(stream.read, b"")) == b"bcdefgh"
    with stream.looked_ahead():
        assert stream.read() == b""
    assert stream.read() == b""


def test_looking_ahead_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_stream, "AHEAD_MAX_BYTES", 10)
    stream = ByteStream(iter([b"123456"] * 3))
    with pytest.raises(MediaError, match="does not begin within 10 bytes"), stream.looked_ahead():
        deque(iter(stream.read, b""), 0)
    assert b"".join(iter(stream.read, b"")) == b"123456" * 3


def test_a_read_gives_what_has_come_and_waits_for_no_more() -> None:
    def endless() -> Iterator[bytes]:
        yield b"first"
        raise AssertionError("read on")

    assert ByteStream(endless()).read(1000) == b"first"


@pytest.mark.parametrize("source", [io.BytesIO(b""), iter([b"", b""]), Pipe(b"")], ids=["file", "chunks", "reader"])
def test_an_empty_source_is_named(source: Source) -> None:
    with pytest.raises(MediaError, match="empty"), opened(source):
        pass


def test_a_path_must_be_a_file_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, message in (
        (tmp_path, "not a file"),
        (tmp_path / "none", "not a file"),
        (tmp_path / "empty", "is empty"),
    ):
        with pytest.raises(MediaError, match=message), opened(path):
            pass


def test_what_can_be_sought_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"before" + b"media")
    file.seek(6)
    with opened(file) as ready:
        assert ready.read(100) == b"media"


@pytest.mark.parametrize(
    ("media", "spooled"),
    [
        (b"RIFF" + bytes(100), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat"), True),
        (box(b"ftyp") + box(b"mdat"), True),
        (box(b"ftyp") + box(b"moov") + box(b"moof"), False),
        (box(b"ftyp") + box(b"sidx"), False),
        (box(b"ftyp") + b"cut", True),
    ],
    ids=["no MP4", "index first", "index last", "movie fragments", "segment index", "cut off"],
)
def test_only_an_mp4_that_is_not_made_of_fragments_is_spooled(media: bytes, spooled: bool) -> None:  # noqa: FBT001
    with opened(Pipe(media)) as ready:
        assert isinstance(ready, ByteStream) is not spooled
        read = b""
        while chunk := ready.read(1 << 16):
            read += chunk
        assert read == media


def test_an_mp4_that_is_too_long_to_spool_says_what_to_do() -> None:
    whole = box(b"ftyp") + box(b"mdat", 50_000)
    with pytest.raises(MediaError, match="more than 10000 bytes; send it as movie fragments"):  # noqa: SIM117
        with opened(Pipe(whole), spool_max_bytes=10_000):
            pass


def test_what_is_held_shares_a_budget_and_frees_what_it_reserved() -> None:
    budget = ByteBudget(100, "all is taken")
    with budget.reservation() as first, budget.reservation() as second:
        first(60)
        with pytest.raises(BusyError, match="all is taken"):
            second(41)
        second(40)
    with budget.reservation() as third:
        third(100)


def test_mp4s_on_the_disk_share_a_budget_until_they_end_or_fail() -> None:
    def whole() -> Pipe:
        return Pipe(box(b"ftyp") + box(b"mdat", 50_000))

    spool = SpoolBudget(80_000)
    for _ in range(3):
        with opened(whole(), spool=spool), pytest.raises(BusyError, match="movie fragments"):  # noqa: SIM117
            with opened(whole(), spool=spool):
                pass
        with pytest.raises(MediaError, match="10000 bytes"), opened(whole(), spool_max_bytes=10_000, spool=spool):
            pass
    with opened(Pipe(b"RIFF" + bytes(100_000)), spool=spool) as ready:  # which takes nothing of it
        assert isinstance(ready, ByteStream)


@pytest.mark.parametrize("size", [100, 50_000])
def test_a_full_disk_is_told_to_the_operator_and_its_place_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b"))  # noqa: SIM115  # `opened` closes it
    whole = box(b"ftyp") + box(b"mdat", size)
    with pytest.raises(BusyError, match="no room now") as refused, opened(Pipe(whole)):
        pass
    for word in (tempfile.gettempdir(), "bytes left", "No space left"):
        assert word not in str(refused.value)
        assert word in caplog.text
