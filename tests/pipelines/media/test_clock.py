"""Packets of real files, their times changed as recorders and networks change them, on one time line."""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from av.packet import Packet
from av.stream import Stream

from pipelines.media.clock import SourceClock, TimedPacket, opus_delay_s
from pipelines.media.container import open_media, packets, tracks_of
from tests.pipelines import media_files as media
from tests.pipelines.media_files import CUSTOMER

Change = Callable[["Packet[Stream]", Fraction], Fraction]


def placed(whole: bytes, change: Change = lambda _, at_s: at_s, files: int = 1) -> list[tuple[str, TimedPacket]]:
    """The packets of a file, or of as many equal ones after each other, `change`d in when they say to be; with what they are of."""
    found: list[tuple[str, TimedPacket]] = []
    clock = SourceClock()
    for _ in range(files):
        with open_media(io.BytesIO(whole), "it", 10_000) as container:
            tracks = tracks_of(container, (CUSTOMER,), "it")
            read = list(packets(container, *tracks.streams))
            for packet in read:
                at = packet.dts if packet.dts is not None else packet.pts
                assert at is not None
                by = round(change(packet, at * packet.time_base) / packet.time_base) - at
                packet.pts = None if packet.pts is None else packet.pts + by
                packet.dts = None if packet.dts is None else packet.dts + by
            # PyAV's streams live as long as their container.
            found += [(one.packet.stream.type, one) for one in clock.place(read, tracks)]
    return found


def film(container: str = "matroska", seconds: float = 3, **more: Any) -> bytes:
    return media.film(
        container,
        picture_codec="libx264",
        sound_codec="flac" if container == "matroska" else "aac",
        samples=media.sound(3, 48_000),
        rate_hz=48_000,
        seconds=seconds,
        **more,
    )


def shown(timed: list[tuple[str, TimedPacket]], kind: str) -> list[int]:
    return [one.shown_ms for of, one in timed if of == kind]


def test_times_stay_as_they_are() -> None:
    timed = placed(film())
    assert shown(timed, "video")[:3] == [0, 160, 80]  # as they are stored: x264 has B-frames
    assert sorted(shown(timed, "video")) == list(range(0, 3000, 40))
    assert shown(timed, "audio")[:2] == [0, 96]
    assert not any(one.starts_anew for _, one in timed)


def test_pictures_that_are_shown_seconds_after_they_are_stored_are_no_other_recording() -> None:
    slow = placed(film("mp4", seconds=12, pictures_per_s=1, picture_options={"bf": "3", "b-adapt": "0"}))
    assert sorted(shown(slow, "video")) == list(range(0, 12_000, 1000))
    assert not any(one.starts_anew for _, one in slow)


def test_a_gap_stays_a_gap() -> None:
    timed = placed(film(), lambda _, at_s: at_s + 1200 if at_s > 1 else at_s)
    assert max(shown(timed, "audio")) > 1_200_000
    assert max(shown(timed, "video")) == 2960 + 1_200_000
    assert not any(one.starts_anew for _, one in timed)


@pytest.mark.parametrize("step_s", [-1, Fraction(-1, 2), -100, 36_000, 95_443], ids=str)
def test_a_clock_that_was_set_anew_is_gone_on_with(step_s: Fraction) -> None:
    timed = placed(film(), lambda _, at_s: at_s + (1000 + step_s if at_s >= 1 else 1000))
    sound, pictures = shown(timed, "audio"), sorted(shown(timed, "video"))
    assert sound[-1] - sound[0] == pytest.approx(2880, abs=260)  # packets of 96 ms, and B-frames beside them
    assert pictures[-1] - pictures[0] == pytest.approx(2960, abs=400)
    assert abs((sound[-1] - sound[0]) - (pictures[-1] - pictures[0])) < 300
    assert sum(one.starts_anew for _, one in timed) == 1  # the sound


def test_sound_alone_may_lose_its_clock() -> None:
    timed = placed(film(), lambda packet, at_s: at_s + 36_000 if packet.stream.type == "audio" and at_s > 1 else at_s)
    assert sorted(shown(timed, "video")) == list(range(0, 3000, 40))
    assert max(shown(timed, "audio")) < 3300


def test_jitter_moves_nothing() -> None:
    timed = placed(film(), lambda packet, at_s: at_s + Fraction(packet.size % 7 - 3, 100))
    assert not any(one.starts_anew for _, one in timed)
    assert max(abs(at - due) for at, due in zip(shown(timed, "audio"), range(0, 3000, 96), strict=False)) <= 30


def test_joined_recordings_follow_each_other_and_their_pictures_go_with_their_sound() -> None:
    timed = placed(film(seconds=2), files=3)
    begins = [shown(timed, "video").index(at) for at in (0, 3000, 6000)]
    assert begins == [0, 50, 100]
    assert [at for at in shown(timed, "audio") if at % 3000 == 0] == [0, 3000, 6000]
    assert [one.index for _, one in timed if one.index == 0] == [0, 0, 0]


def test_the_encoders_delay_is_that_of_opus_own_header() -> None:
    whole = media.film("webm", sound_codec="libopus", samples=media.sound(1, 48_000), rate_hz=48_000)
    with open_media(io.BytesIO(whole), "it", 10_000) as container:
        assert opus_delay_s(container.streams.audio[0]) == Fraction(312, 48_000)
    timed = placed(whole, files=3)
    firsts = [one for _, one in timed if one.index is not None and one.index < 0]
    assert [one.index for one in firsts] == [-312, -312, -312]
    assert [one.shown_ms - firsts[0].shown_ms for one in firsts] == pytest.approx([0, 1000, 2000], abs=3)


def test_bare_frames_are_counted_whatever_rate_they_go_on_with() -> None:
    parts = [
        media.film("adts", sound_codec="aac", samples=media.sound(2, rate_hz), rate_hz=rate_hz)
        for rate_hz in (48_000, 16_000, 44_100)
    ]
    with open_media(io.BytesIO(b"".join(parts)), "it", 10_000) as container:
        tracks = tracks_of(container, (CUSTOMER,), "it")
        timed = list(SourceClock().place(packets(container, *tracks.streams), tracks, counts=True))
    anew = [one.shown_ms for one in timed if one.starts_anew]
    assert anew == pytest.approx([2000, 4000], abs=200)
    assert timed[-1].shown_ms == pytest.approx(6100, abs=250)
