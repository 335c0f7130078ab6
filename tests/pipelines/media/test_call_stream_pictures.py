"""Pictures of a call are decoded where somebody speaks whose face may be judged, and nowhere else."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from models.types import Modality
from pipelines.media.call_stream import CallStream
from pipelines.settings import SegmentSettings, StreamSettings
from pipelines.types import Coordinates, MediaFragment, Utterance
from tests.pipelines import media_files as media
from tests.pipelines.streams import (
    CUSTOMER,
    NEW,
    SETTINGS,
    Voice,
    by_participant,
    film,
    filmed,
    resumed_everywhere,
    run,
    utterances,
)

UNSEEN = {CUSTOMER: frozenset({Modality.AUDIO})}


def spoilt(fragment: MediaFragment) -> MediaFragment:
    """The same with noise for its pictures."""
    whole, rng = bytearray(fragment.media), np.random.default_rng(0)
    with av.open(io.BytesIO(fragment.media), "r") as container:
        for packet in container.demux(video=0):
            if packet.size:
                at = whole.index(bytes(packet))
                whole[at : at + packet.size] = rng.bytes(packet.size)
    return replace(fragment, media=bytes(whole))


def heard(media: list[MediaFragment]) -> tuple[list[Utterance], int]:
    """The utterances, and how many packets were damaged."""
    stream, found, damaged = CallStream(SETTINGS, NEW), list[Utterance](), 0
    for one in media:
        fed = stream.feed(one)
        found, damaged = found + utterances(fed.events), damaged + fed.damaged
    return found + utterances(stream.finish()), damaged


def judged(found: list[Utterance]) -> list[tuple[int, list[tuple[int, bytes]]]]:
    return [(one.start_ms, [(frame.time_ms, frame.pixels.tobytes()) for frame in one.frames]) for one in found]


@pytest.fixture(scope="module")
def late(vowels: Voice, tmp_path_factory: pytest.TempPathFactory) -> list[MediaFragment]:
    """Four seconds of silence, then four of speech, with a key frame every second."""
    sound = np.concatenate([np.zeros(64_000, np.float32), vowels(4.0, 3)])
    return filmed(film(tmp_path_factory.mktemp("late") / "a.mkv", sound, 8, key_every=10))


def test_pictures_in_silence_are_not_decoded(late: list[MediaFragment]) -> None:
    found, damaged = heard(late)
    assert damaged == 0
    assert min(frame.time_ms for one in found for frame in one.frames) >= 3900
    noisy = [spoilt(one) if one.start_ms < 2500 else one for one in late]
    assert any(one.media != other.media for one, other in zip(noisy, late, strict=True))
    again, damaged = heard(noisy)
    assert (judged(again), damaged) == (judged(found), 0)


def test_pictures_that_cannot_be_decoded_are_counted_and_the_speech_is_heard(late: list[MediaFragment]) -> None:
    found, _ = heard(late)
    again, damaged = heard([spoilt(one) if one.start_ms > 5500 else one for one in late])
    assert damaged > 5
    assert [(one.start_ms, one.samples.tobytes()) for one in again] == [
        (one.start_ms, one.samples.tobytes()) for one in found
    ]
    assert 0 < sum(len(one.frames) for one in again) < sum(len(one.frames) for one in found)


def test_pictures_that_may_not_be_seen_are_not_held_and_return_at_a_key_frame(vowels: Voice, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", vowels(8.0, 11), 8, key_every=25)
    whole = filmed(path, 500)
    turned_ms = next(one.start_ms for one in whole if one.start_ms >= 3000)
    turned = [replace(one, consent=UNSEEN) if one.start_ms < turned_ms else one for one in whole]
    stream, blind = CallStream(SETTINGS, NEW), CallStream(SETTINGS, NEW)
    for one in turned:
        if one.start_ms < turned_ms:
            stream.feed(one)
            blind.feed(replace(one, consent=UNSEEN))
            assert stream.held_bytes == blind.held_bytes
    found, damaged = heard(turned)
    seen = [frame.time_ms for one in found for frame in one.frames]
    with av.open(path, "r") as container:
        keys_ms = [round((one.pts or 0) * one.time_base * 1000) for one in container.demux(video=0) if one.is_keyframe]
    assert (min(seen), damaged) == (next(at for at in keys_ms if at >= turned_ms), 0)
    truth = {time_ms: pixels for _, frames in judged(heard(whole)[0]) for time_ms, pixels in frames}
    again = [frame for _, frames in judged(found) for frame in frames if frame[0] > min(seen)]
    assert all(truth[time_ms] == pixels for time_ms, pixels in again)


@pytest.mark.parametrize("key_every", [12, 60, 1000])
def test_reordered_pictures_are_the_same_in_any_fragments_and_after_any_resume(vowels: Voice, key_every: int) -> None:
    settings = StreamSettings(segment=SegmentSettings(utterance_max_ms=1500, quiet_search_ms=500))
    sound = np.concatenate([np.zeros(24_000, np.float32), vowels(4.0, 11), np.zeros(24_000, np.float32)])
    whole = media.film(
        "matroska",
        picture_codec="libx264",
        sound_codec="flac",
        samples=sound[np.newaxis],
        seconds=7,
        key_every=key_every,
        picture_options={"bf": "3"},
    )

    def cut(fragment_ms: int) -> list[MediaFragment]:
        made = media.cut(io.BytesIO(whole), fragment_ms=fragment_ms)
        return [replace(one, at=Coordinates(0, 100 + one.seq)) for one in made]

    undisturbed = run(CallStream(settings, NEW), cut(1000))
    found = utterances(undisturbed)
    assert len(found) >= 3
    for one in found:
        expected = [at for at in range(0, 7000, 200) if one.start_ms <= at < one.end_ms]
        assert [frame.time_ms for frame in one.frames] == expected
        assert [media.picture_number(frame.pixels) for frame in one.frames] == [at // 40 % 16 for at in expected]
    for fragment_ms in (300, 2500):
        assert by_participant(run(CallStream(settings, NEW), cut(fragment_ms))) == by_participant(undisturbed)
    for before, after in resumed_everywhere(cut(1000), settings):
        assert by_participant(before + after) == by_participant(undisturbed)
