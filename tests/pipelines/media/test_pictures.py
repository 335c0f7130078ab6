"""Packets of pictures are placed on the call's time line, checked without being decoded, and need nothing of their container."""

import gc
import io
import weakref
from dataclasses import replace
from itertools import pairwise

import av
import pytest

from pipelines.errors import MediaError
from pipelines.media.container import open_media, packets
from pipelines.media.pictures import PicturePacket, PictureReader, fit_within
from pipelines.settings import MediaLimits
from pipelines.types import Participant
from tests.fuzz import bombs
from tests.pipelines.hostile_pictures import film_of, jpeg_of_empty_scans
from tests.pipelines.media_files import film

LIMITS = MediaLimits()
CUSTOMER, MIXED = Participant.CUSTOMER, Participant.MIXED


def read(
    reader: PictureReader,
    whole: bytes,
    first: int = 0,
    until: int | None = None,
    *,
    limits: MediaLimits = LIMITS,
    who: Participant = CUSTOMER,
) -> list[PicturePacket]:
    """The packets `[first, until)` of a film, as those of a fragment of its own; its container is closed then."""
    with open_media(io.BytesIO(whole), "a test's film", LIMITS.picture_max_pixels) as container:
        stream = container.streams.video[0]
        chosen = list(packets(container, stream))[first:until]
        times_ms = [round((packet.pts or 0) * packet.time_base * 1000) for packet in chosen]
        return reader.read(stream, chosen, times_ms, who, limits)


@pytest.fixture(scope="module")
def pictures() -> bytes:
    return film("matroska", picture_codec="libx264", seconds=4, key_every=25, picture_options={"bf": "2"})


def test_packets_stand_in_decoding_order_at_the_time_at_which_they_are_shown(pictures: bytes) -> None:
    found = read(PictureReader(), pictures)
    assert sorted(one.time_ms for one in found) == list(range(0, 4000, 40))
    assert [one.time_ms for one in found] != sorted(one.time_ms for one in found)
    assert [one.time_ms for one in found if one.is_key] == [0, 1000, 2000, 3000]
    assert {one.pixels for one in found} == {96 * 64}
    assert all(after.follows(before) for before, after in pairwise(found))
    assert not found[0].follows(None)


def test_a_packet_is_decoded_after_its_container_is_gone_and_keeps_nothing_of_it(pictures: bytes) -> None:
    class File(io.BytesIO):
        pass

    file = File(pictures)
    gone = weakref.ref(file)
    with open_media(file, "a test's film", LIMITS.picture_max_pixels) as container:
        stream = container.streams.video[0]
        first = [next(packets(container, stream))]
        (found,) = PictureReader().read(stream, first, [70], CUSTOMER, LIMITS)
    del file, container, stream, first
    gc.collect()
    assert gone() is None
    (shown,) = [*found.codec.decode(found.packet), *found.codec.decode(None)]
    assert (shown.pts, shown.width) == (70, 96)


def test_a_decoder_goes_on_from_fragment_to_fragment_while_parameters_and_face_stay_the_same(pictures: bytes) -> None:
    reader = PictureReader()
    first, second = read(reader, pictures, 0, 30), read(reader, pictures, 30, 60)
    assert second[0].follows(first[-1])
    other = film("matroska", picture_codec="libx264", seconds=1, size=(64, 96))
    assert not read(reader, other)[0].follows(second[-1])
    again = read(reader, pictures, 60, 80)
    assert again[0].codec is not first[0].codec
    assert read(reader, pictures, 80, None, who=MIXED)[0].codec is not again[0].codec


@pytest.mark.parametrize("refused", [False, True])
def test_what_follows_a_missing_or_refused_fragment_does_not_go_on_from_what_came_before(
    pictures: bytes, *, refused: bool
) -> None:
    reader = PictureReader()
    before = read(reader, pictures, 0, 30)
    if refused:
        with pytest.raises(MediaError):
            read(reader, pictures, 30, 50, limits=MediaLimits(fragment_max_s=0.01))
    else:
        reader.skip_to_key_frame()
    assert not read(reader, pictures, 50)[0].follows(before[-1])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(picture_max_pixels=96 * 64 - 1), "96x64"),
        (MediaLimits(pixels_per_fragment_max=50 * 96 * 64), "pixels_per_fragment_max"),
        (MediaLimits(fragment_max_s=0.1), "100 pictures in one fragment"),
    ],
)
def test_pictures_beyond_a_limit_are_refused(pictures: bytes, limits: MediaLimits, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read(PictureReader(), pictures, limits=limits)


def test_pictures_that_say_to_be_deep_or_to_cost_much_are_refused_before_any_is_decoded() -> None:
    deep = bombs.pictures("ffv1", "yuv444p16le", (96, 64), 3, "matroska")
    with pytest.raises(MediaError, match="yuv444p16le"):
        read(PictureReader(), deep, limits=MediaLimits(picture_max_pixels=96 * 64))
    with pytest.raises(MediaError, match="scans"):
        read(PictureReader(), film_of("mjpeg", [jpeg_of_empty_scans(640, 480, 100)], 640, 480))


def test_a_picture_that_is_only_referred_to_is_not_shown() -> None:
    options = {"deadline": "realtime", "auto-alt-ref": "0"}
    shown = read(PictureReader(), film("webm", picture_codec="libvpx", seconds=1, picture_options=options))[1]
    first, *others = bytes(shown.packet)
    hidden = replace(shown, packet=av.Packet(bytes([first & ~0x10, *others])))
    assert shown.is_shown
    assert not hidden.is_shown


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((640, 360), (480, 270)),
        ((360, 640), (270, 480)),
        ((480, 480), (480, 480)),
        ((96, 64), (96, 64)),
        ((10_000, 1), (480, 1)),
    ],
)
def test_pictures_are_scaled_down_to_their_longer_side_and_never_up(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fit_within(*size, 480) == fitted
