"""Pictures are chosen by their times, decoded only where they are taken, and the same as if all had been decoded."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.media.container import open_media, packets
from pipelines.media.picture_buffer import HELD_MAX_BYTES, PictureBuffer, decoded
from pipelines.media.pictures import PicturePacket, PictureReader
from pipelines.settings import MediaLimits, StreamSettings, VideoSettings
from pipelines.types import Participant, VideoFrame
from tests.pipelines.media_files import film, picture_number

SETTINGS = StreamSettings()
EACH = StreamSettings(video=VideoSettings(frames_per_s=60))
FILMS: dict[str, tuple[str, int, dict[str, str]]] = {
    "h264, three B-frames": ("libx264", 25, {"bf": "3"}),
    "h264, sixteen B-frames, rare key frames": ("libx264", 110, {"bf": "16", "x264-params": "keyint=110:b-adapt=0"}),
    "h264, no B-frames": ("libx264", 50, {"bf": "0"}),
    "h264, open groups": ("libx264", 25, {"bf": "3", "x264-params": "keyint=25:open-gop=1:scenecut=0"}),
    "mpeg4": ("mpeg4", 20, {"bf": "2", "qmin": "2", "qmax": "2"}),
    "vp8": ("libvpx", 30, {"deadline": "realtime", "auto-alt-ref": "0"}),
    "intra": ("mjpeg", 1, {}),
}


@cache
def read(codec: str, key_every: int, options: tuple[tuple[str, str], ...], seconds: float = 4) -> list[PicturePacket]:
    container = "webm" if codec == "libvpx" else "matroska"
    whole = film(container, picture_codec=codec, seconds=seconds, key_every=key_every, picture_options=dict(options))
    return opened(whole)


def opened(whole: bytes) -> list[PicturePacket]:
    with open_media(io.BytesIO(whole), "a test's film", 1 << 24) as container:
        stream = container.streams.video[0]
        chosen = list(packets(container, stream))
        times_ms = [round((packet.pts or 0) * packet.time_base * 1000) for packet in chosen]
        return PictureReader().read(stream, chosen, times_ms, Participant.CUSTOMER, MediaLimits())


def anew(pictures: Sequence[PicturePacket]) -> list[PicturePacket]:
    """The same for a decoder that has not seen them."""
    first = pictures[0].codec
    codec: Any = av.CodecContext.create(first.name, "r")
    codec.extradata, codec.width, codec.height = first.extradata, first.width, first.height
    codec.thread_count, codec.options = 1, first.options
    if first.format is not None:
        codec.pix_fmt = first.format.name
    return [replace(one, codec=codec) for one in pictures]


def film_of(name: str) -> list[PicturePacket]:
    codec, key_every, options = FILMS[name]
    return anew(read(codec, key_every, tuple(options.items())))


def every_picture(pictures: Sequence[PicturePacket]) -> dict[int, bytes]:
    """What a decoder gives that is asked for all, scaled as they are."""
    found, damaged = decoded(anew(pictures), EACH)
    assert damaged == 0
    return {frame.time_ms: frame.pixels.tobytes() for frame in found}


def chosen(times_ms: Sequence[int]) -> list[int]:
    slots = {at // 200: at for at in sorted(times_ms, reverse=True)}
    return sorted(slots.values())


def spoilt(picture: PicturePacket, size_bytes: int | None = None) -> PicturePacket:
    noise = np.random.default_rng(1).bytes(size_bytes or picture.packet.size)
    packet: Any = av.Packet(len(noise))
    packet.update(noise)
    packet.pts = packet.dts = picture.time_ms
    packet.time_base, packet.is_keyframe = picture.packet.time_base, picture.packet.is_keyframe
    return replace(picture, packet=packet)


def told(frames: Sequence[VideoFrame]) -> list[int]:
    for frame in frames:
        assert picture_number(frame.pixels) == frame.time_ms // 40 % 16
    return [frame.time_ms for frame in frames]


@pytest.mark.parametrize("name", FILMS)
def test_all_pictures_come_at_their_times(name: str) -> None:
    found, damaged = decoded(film_of(name), EACH)
    assert told(found) == list(range(0, 4000, 40))
    assert damaged == 0


@pytest.mark.parametrize("name", FILMS)
def test_what_is_taken_is_what_all_pictures_decoded_give_however_it_was_cut(name: str) -> None:
    whole = film_of(name)
    truth = every_picture(whole)

    @hypothesis_settings(deadline=None, max_examples=8)
    @given(
        st.lists(st.integers(1, len(whole) - 1), max_size=8, unique=True),
        st.lists(st.integers(0, 3000), min_size=2, max_size=6, unique=True),
        st.booleans(),
    )
    def taken(cuts: list[int], edges: list[int], ahead: bool) -> None:  # noqa: FBT001
        edges.sort()
        ranges = list(zip(edges[::2], edges[1::2], strict=False))
        buffer, got, pieces = PictureBuffer(SETTINGS, cell_ms=1), list[VideoFrame](), anew(whole)
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(whole)], strict=True):
            buffer.add(pieces[begin:end], ended=end == len(whole))
            while ranges and (buffer.settled_ms >= ranges[0][1] + 600 or end == len(whole)):
                got += buffer.take(*ranges.pop(0), 80)
            if ranges and ahead:
                buffer.decode_until(*ranges[0])
            buffer.forget_before(ranges[0][0] if ranges else edges[-1])
        spans = list(zip(edges[::2], edges[1::2], strict=False))
        expected = [at for start, end in spans for at in chosen(list(truth)) if start <= at < end]
        assert [frame.time_ms for frame in got] == expected, (cuts, edges, ahead)
        assert all(truth[frame.time_ms] == frame.pixels.tobytes() for frame in got)
        assert buffer.take_damaged() == 0

    taken()


def test_only_the_groups_of_pictures_that_are_looked_at_are_decoded() -> None:
    """Every other packet is noise, and nobody notices."""
    whole = film_of("h264, three B-frames")
    noisy = [one if 1000 <= one.time_ms < 2000 else spoilt(one) for one in whole]
    buffer = PictureBuffer(SETTINGS, cell_ms=1)
    buffer.add(noisy[:60])
    buffer.forget_before(1300)
    assert told(buffer.take(1300, 1650, 80)) == [1400, 1600]
    buffer.add(noisy[60:], ended=True)
    buffer.forget_before(3990)
    assert buffer.take_damaged() == 0
    found, damaged = decoded(anew(noisy), SETTINGS)
    assert damaged > 20
    assert len(found) < 20


def test_pictures_between_two_chosen_ones_that_need_each_other_are_left_out() -> None:
    whole = film_of("intra")
    noisy = [one if one.time_ms % 200 == 0 else spoilt(one) for one in whole]
    found, damaged = decoded(noisy[:-4], SETTINGS)
    assert (told(found), damaged) == (list(range(0, 4000, 200)), 0)


def test_a_hole_costs_pictures_up_to_the_next_key_frame_and_none_before_it() -> None:
    whole = film_of("h264, three B-frames")
    found, damaged = decoded([*whole[:35], *whole[38:]], EACH)
    lost = {one.time_ms for one in whole[35:50]}
    assert told(found) == [at for at in range(0, 4000, 40) if at not in lost]
    assert damaged == 0
    assert told(decoded(film_of("h264, three B-frames")[3:], EACH)[0])[0] == 1000


def test_a_chosen_picture_that_does_not_come_gives_its_slot_to_the_next() -> None:
    whole = film_of("h264, no B-frames")
    found, damaged = decoded([spoilt(one) if one.time_ms == 3600 else one for one in whole], SETTINGS)
    assert damaged == 1
    assert [frame.time_ms for frame in found] == [*range(0, 3600, 200), 3640, 3800]


def test_pictures_that_take_too_long_are_left_out_counted_and_return_at_a_key_frame() -> None:
    whole = film_of("h264, three B-frames")
    buffer = PictureBuffer(StreamSettings(limits=MediaLimits(decode_max_s=1e-6)), cell_ms=1)
    buffer.add(whole[:60])
    assert len(buffer.take(0, 2000, 80)) <= 1
    assert buffer.take_damaged() == 60
    assert buffer.held_bytes <= 96 * 64 * 3
    buffer.add(whole[60:80])
    assert not buffer.take(2000, 3000, 80)
    assert buffer.take_damaged() == 0  # none of them waits


def test_pictures_larger_than_declared_are_left_out() -> None:
    grown = [replace(one, pixels=1) for one in film_of("h264, three B-frames")]
    found, damaged = decoded(grown, StreamSettings(limits=MediaLimits(pixels_per_fragment_max=10 * 96 * 64)))
    assert len(found) < 10
    assert damaged > 50


def test_a_decoder_that_cannot_be_opened_gives_no_picture_and_is_counted() -> None:
    codec: Any = av.CodecContext.create("rawvideo", "r")  # of which nobody says how wide its pictures are
    nothing = [replace(one, codec=codec) for one in film_of("h264, three B-frames")[:4]]
    assert decoded(nothing, EACH) == ([], 4)


def held(pictures: Sequence[PicturePacket], limits: MediaLimits) -> Iterator[tuple[PictureBuffer, int]]:
    buffer = PictureBuffer(StreamSettings(limits=limits), cell_ms=1)
    for one in pictures:
        buffer.add([one])
        buffer.forget_before(one.time_ms - 200)
        yield buffer, buffer.held_bytes


def test_without_key_frames_the_oldest_are_decoded_when_too_many_wait() -> None:
    whole = anew(read("libx264", 1000, (("bf", "2"),), 8))
    limits = MediaLimits(pixels_per_fragment_max=60 * 96 * 64)
    sizes = [(buffer, size) for buffer, size in held(whole, limits)]
    waiting = max(sum(one.packet.size + 1024 for one in whole[begin : begin + 30]) for begin in range(170))
    assert max(size for _, size in sizes) <= waiting + 4 * 96 * 64 * 3
    buffer = sizes[-1][0]
    buffer.add([], ended=True)
    assert told(buffer.take(7800, 8000, 80)) == [7800]
    assert buffer.take_damaged() == 0


def test_packets_that_wait_are_bounded_in_bytes() -> None:
    """Noise of a megabyte each, which is decoded, in vain, when the next one comes."""
    first, *others = film_of("h264, no B-frames")[:40]
    whole = [first, *(spoilt(one, 1 << 20) for one in others)]
    sizes = [size for _, size in held(whole, MediaLimits())]
    assert HELD_MAX_BYTES - (2 << 20) < max(sizes) <= HELD_MAX_BYTES + 2 * 96 * 64 * 3


def test_no_picture_before_is_to_come_is_told_by_the_order_of_those_that_came() -> None:
    whole = film_of("h264, three B-frames")
    buffer = PictureBuffer(SETTINGS, cell_ms=1)
    assert buffer.settled_ms == -1
    for n, one in enumerate(whole):
        buffer.add([one])
        later = [other.time_ms for other in whole[n + 1 :]]
        if n > 6 and later:
            assert buffer.settled_ms <= min(later)
            assert buffer.settled_ms >= one.time_ms - 400


def test_what_is_decoded_ahead_waits_for_pictures_that_are_shown_before_those_that_came() -> None:
    whole = film_of("mpeg4")
    buffer = PictureBuffer(SETTINGS, cell_ms=1)
    for begin, end in ((0, 1), (1, 2), (2, 5), (5, 20)):
        buffer.add(whole[begin:end])
        if end < 20:
            buffer.decode_until(0, 241)
            buffer.forget_before(0)
    assert told(buffer.take(0, 241, 80)) == [0, 200]


def later(picture: PicturePacket, by_ms: int) -> PicturePacket:
    packet: Any = av.Packet(picture.packet.size)
    packet.update(bytes(picture.packet))
    packet.pts = packet.dts = picture.time_ms + by_ms
    packet.time_base, packet.is_keyframe = picture.packet.time_base, picture.packet.is_keyframe
    return replace(picture, packet=packet, time_ms=picture.time_ms + by_ms)


def test_what_a_decoder_holds_back_comes_where_another_one_goes_on() -> None:
    second = [later(one, 4000) for one in film_of("h264, no B-frames")]
    found, damaged = decoded([*film_of("h264, three B-frames"), *second], EACH)
    assert [frame.time_ms for frame in found] == list(range(0, 8000, 40))
    assert damaged == 0
