"""From piece to piece: what reaches beyond the end, what is none, and how many there may be."""

import io
import struct
import time

import pytest

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.joined import File, joined_files
from pipelines.media.pieces import SMALL_MAX, kind_of
from pipelines.media.stated import Ends


def box(name: bytes, size: int, *, has: int | None = None) -> bytes:
    return struct.pack(">I4s", size, name) + b"x" * ((size if has is None else has) - 8)


def ends_of(whole: bytes, *, as_stream: bool) -> Ends:
    file: File = ByteStream([whole]) if as_stream else io.BytesIO(whole)
    ends = Ends()
    for part in joined_files(file, ends):
        while part.read(1000):
            continue
    return ends


MOVIE = box(b"ftyp", 16) + box(b"moov", 200) + box(b"mdat", 300)
AVI = struct.pack("<4sI4s", b"RIFF", 104, b"AVI ") + bytes(100)


@pytest.mark.parametrize("as_stream", [True, False])
@pytest.mark.parametrize(
    ("whole", "right"),
    [
        (MOVIE, Ends()),
        (MOVIE + box(b"free", 8), Ends()),
        (MOVIE + box(b"what", 40), Ends()),
        (MOVIE + struct.pack(">I4s", 0, b"mdat") + bytes(500), Ends()),
        (MOVIE + box(b"mdat", 500, has=499), Ends(missing_bytes=1)),
        (MOVIE[:-30], Ends(missing_bytes=30)),
        (MOVIE + b"What else is here?", Ends(junk_from=516, junk_bytes=18)),
        (MOVIE + bytes(100), Ends(junk_from=516, junk_bytes=100)),
        (MOVIE + b"\n", Ends(junk_from=516, junk_bytes=1)),
        (AVI, Ends()),
        (AVI + AVI[:8] + b"AVIX" + AVI[12:], Ends()),
        (AVI[:-64], Ends()),
        (AVI[:-65], Ends(missing_bytes=65)),
        (b"RIFF\0\0\0\0" + AVI[8:-65], Ends()),
        (AVI + b"what else is here?", Ends(junk_from=112, junk_bytes=18)),
    ],
)
def test_the_end_of_a_file_of_pieces(whole: bytes, right: Ends, *, as_stream: bool) -> None:
    assert ends_of(whole, as_stream=as_stream) == right


def page(flags: int, size: int = 20) -> bytes:
    return b"OggS\0" + bytes([flags]) + bytes(20) + bytes([1, size]) + b"x" * size


@pytest.mark.parametrize("as_stream", [True, False])
def test_a_stream_of_ogg_has_a_last_page(*, as_stream: bool) -> None:
    whole = page(2) + page(2) + page(0) + page(4) + page(4)
    assert not ends_of(whole, as_stream=as_stream).ends_unmarked
    assert ends_of(whole[: -len(page(4))], as_stream=as_stream).ends_unmarked
    assert ends_of(page(2) + page(0) + page(0)[:-3], as_stream=as_stream).ends_unmarked
    # Readers find their way again behind damage, and what comes there nobody has looked at.
    assert ends_of(page(2) + b"damage" + page(4), as_stream=as_stream) == Ends()


@pytest.mark.parametrize("as_stream", [True, False])
def test_boxes_of_nothing_are_refused_before_they_cost_time(*, as_stream: bool) -> None:
    boxes = box(b"ftyp", 16) + box(b"free", 8) * 2_000_000
    began_s = time.process_time()
    with pytest.raises(MediaError, match=f"more than {SMALL_MAX} boxes"):
        ends_of(boxes, as_stream=as_stream)
    assert time.process_time() - began_s < 5
    assert kind_of(boxes[:24]) is not None
    assert kind_of(b"fLaC" + bytes(20)) is None
