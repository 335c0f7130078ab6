from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.types import FloatArray
from pipelines.media.resample import AudioBlock
from pipelines.media.track import FRAMES_MAX, Track, TrackSegment
from pipelines.settings import SegmentSettings, StreamSettings, VideoSettings
from pipelines.types import Participant
from tests.pipelines.media_files import picture_packet

SETTINGS = StreamSettings()
SHORT = StreamSettings(segment=SegmentSettings(utterance_max_ms=1500, quiet_search_ms=500, silence_cut_ms=1000))
WHO = Participant.CUSTOMER
RATE = 16_000

Voice = Callable[[float, int], FloatArray]


def block(start: int, samples: FloatArray) -> AudioBlock:
    return AudioBlock(WHO, start, samples)


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * RATE), np.float32)


def conversation(vowels: Voice) -> FloatArray:
    return np.concatenate(
        [silence(0.5), vowels(1.2, 2), silence(1.5), vowels(2.0, 3), silence(0.3), vowels(1.0, 2), silence(0.4)]
    )


def key(found: TrackSegment) -> tuple[object, ...]:
    return (found.segment, found.samples.tobytes(), tuple(frame.time_ms for frame in found.frames))


def speech(found: list[TrackSegment]) -> list[TrackSegment]:
    return [one for one in found if one.samples.size]


def test_an_utterance_brings_its_samples_and_the_pictures_of_its_time(vowels: Voice) -> None:
    sound = conversation(vowels)
    frames = [picture_packet(time_ms) for time_ms in range(0, sound.size // 16, 200)]
    track = Track(SETTINGS, 0)
    found = speech(track.feed([block(0, sound)], frames) + track.finish())
    assert len(found) == 2
    for one in found:
        segment = one.segment
        np.testing.assert_array_equal(one.samples, sound[segment.start_sample : segment.end_sample])
        times = [t for t in range(0, sound.size // 16, 200) if segment.start_sample <= 16 * t < segment.end_sample]
        assert [f.time_ms for f in one.frames] == times


@pytest.mark.parametrize("settings", [SETTINGS, SHORT], ids=["default", "many forced cuts"])
def test_any_blocks_and_a_new_track_at_any_cut_find_the_same(vowels: Voice, settings: StreamSettings) -> None:
    sound = conversation(vowels)
    frames = [picture_packet(time_ms) for time_ms in range(0, sound.size // 16, 200)]

    def run(cuts: list[int], start: int = 0) -> list[TrackSegment]:
        track, found, seen = Track(settings, start), [], 0
        for begin, end in pairwise([0, *sorted(cuts), sound.size]):
            now = [f for f in frames[seen:] if f.time_ms * 16 < end]
            seen += len(now)
            found += track.feed([block(begin, sound[begin:end])], now)
        return found + track.finish()

    undisturbed = run([])
    assert len(speech(undisturbed)) >= 2
    for count, one in enumerate(undisturbed, 1):
        resumed = run([], one.segment.cut_sample)
        assert [key(found) for found in resumed] == [key(found) for found in undisturbed[count:]]

    @hypothesis_settings(deadline=None, max_examples=10)
    @given(cuts=st.lists(st.integers(0, sound.size), max_size=30))
    def split(cuts: list[int]) -> None:
        assert [key(found) for found in run(cuts)] == [key(found) for found in undisturbed]

    split()


def test_each_event_starts_at_the_cut_of_the_one_before(vowels: Voice) -> None:
    track = Track(SHORT, 0)
    found = track.feed([block(0, conversation(vowels))], []) + track.finish()
    assert [one.expected_cut_sample for one in found] == [0, *(one.segment.cut_sample for one in found[:-1])]


def test_sound_before_the_cut_is_dropped_and_overlap_is_heard_once(vowels: Voice) -> None:
    sound = conversation(vowels)
    once, twice = Track(SETTINGS, 16_000), Track(SETTINGS, 16_000)
    expected = once.feed([block(0, sound)], []) + once.finish()
    found = twice.feed([block(0, sound[:40_000]), block(20_000, sound[20_000:])], []) + twice.finish()
    assert [key(one) for one in found] == [key(one) for one in expected]


def test_a_gap_ends_open_speech_and_what_follows_is_heard_afresh(vowels: Voice) -> None:
    voice = vowels(2.0, 3)
    track = Track(SETTINGS, 0)
    assert track.feed([block(0, voice)], []) == []
    (first,) = track.feed([block(10 * RATE, voice)], [])
    assert first.segment.end_sample == first.segment.cut_sample == voice.size
    (second,) = track.finish()
    assert second.segment.start_sample - 10 * RATE == first.segment.start_sample
    np.testing.assert_array_equal(second.samples, first.samples)


def test_pictures_without_sound_are_utterances_of_5_s() -> None:
    track = Track(SETTINGS, 0)
    found = [one for t in range(60_000, 71_000, 200) for one in track.feed([], [picture_packet(t)])]
    found += track.finish()
    spans = [(one.segment.start_sample // 16, one.segment.end_sample // 16, len(one.frames)) for one in found]
    assert spans == [(60_000, 65_000, 25), (65_000, 70_000, 25), (70_000, 71_000, 5)]
    assert not any(one.samples.size for one in found)


def test_pictures_that_go_on_after_the_sound_stopped_are_not_lost(vowels: Voice) -> None:
    track = Track(SETTINGS, 0)
    found = track.feed([block(0, vowels(2.0, 3))], [picture_packet(t) for t in range(0, 2000, 200)])
    found += [one for t in range(2000, 8000, 200) for one in track.feed([], [picture_packet(t)])]
    voice, pictures = found
    assert voice.segment.cut_sample == 2 * RATE
    assert (pictures.segment.start_sample, len(pictures.frames)) == (2 * RATE, 25)


def test_silence_is_settled_a_window_at_a_time_and_leaves_a_track_like_a_new_one(vowels: Voice) -> None:
    track = Track(SETTINGS, 0)
    track.feed([block(0, vowels(2.0, 3))], [])
    assert track.advance_past_silence(11 * RATE) == []
    voice, quiet = track.advance_past_silence(1000 * RATE)
    assert (voice.samples.size, quiet.segment.cut_sample) == (2 * RATE, 7 * RATE)
    seen, new = [picture_packet(t) for t in range(8000, 11_000, 200)], Track(SETTINGS, 7 * RATE)
    assert [*map(key, track.feed([], seen) + track.finish())] == [*map(key, new.feed([], seen) + new.finish())]


def test_pictures_soon_after_the_last_sound_are_no_utterance(vowels: Voice) -> None:
    track = Track(SETTINGS, 0)
    found = track.feed([block(0, vowels(2.0, 3))], [picture_packet(t) for t in range(0, 4000, 200)]) + track.finish()
    assert len(found) == 1


def test_a_fast_camera_gives_at_most_80_pictures_spread_evenly() -> None:
    settings = StreamSettings(video=VideoSettings(frames_per_s=60), segment=SegmentSettings(picture_window_ms=20_000))
    track = Track(settings, 0)
    (one,) = track.feed([], [picture_packet(t) for t in range(0, 20_020, 17)])
    assert FRAMES_MAX - 2 <= len(one.frames) <= FRAMES_MAX
    steps = [after.time_ms - before.time_ms for before, after in pairwise(one.frames)]
    assert max(steps) <= 2 * min(steps)


def test_silence_and_endless_speech_hold_bounded_memory(vowels: Voice) -> None:
    voice = vowels(2.0, 3)
    for sound, limit in ((silence(1), 0.2 * RATE * 4), (np.concatenate([voice] * 10), 36 * RATE * 4)):
        track, held, position = Track(SETTINGS, 0), [], 0
        for _ in range(10):
            frames = [picture_packet(t) for t in range(position // 16, (position + sound.size) // 16, 200)]
            track.feed([block(position, sound)], frames)
            held.append(track.held_bytes)
            position += sound.size
        assert max(held) < limit


def test_settings_without_bound_are_refused() -> None:
    with pytest.raises(ValueError, match="utterance_max_ms"):
        SegmentSettings(utterance_max_ms=86_400_000)
    with pytest.raises(ValueError, match="picture_window_ms"):
        SegmentSettings(picture_window_ms=0)


def test_an_utterance_that_goes_on_is_shown_as_far_as_it_has_come_and_looking_changes_nothing(vowels: Voice) -> None:
    sound = conversation(vowels)
    watched, unwatched = Track(SETTINGS, 0), Track(SETTINGS, 0)
    seen: list[TrackSegment] = []
    found: list[list[TrackSegment]] = [[], []]
    for start in range(0, sound.size, 1600):
        piece = [block(start, sound[start : start + 1600])]
        found[0] += watched.feed(piece, [])
        found[1] += unwatched.feed(piece, [])
        seen.append(watched.open_speech())
    found[0] += watched.finish()
    found[1] += unwatched.finish()

    assert [(one.segment, one.samples.tobytes()) for one in found[0]] == [
        (one.segment, one.samples.tobytes()) for one in found[1]
    ]
    spoken = {one.segment.start_sample: one for one in found[0] if one.samples.size}
    shown = [one for one in seen if one.samples.size]
    assert {one.segment.start_sample for one in shown} == set(spoken)
    for one in shown:
        whole = spoken[one.segment.start_sample]
        both = min(one.samples.size, whole.samples.size)
        assert np.array_equal(one.samples[:both], whole.samples[:both])
        assert one.segment.end_sample - one.segment.start_sample == one.samples.size
    silent = [one for one in seen if one.segment.start_sample == one.segment.end_sample]
    pauses = [one for one in seen if one.segment.start_sample < one.segment.end_sample and not one.samples.size]
    assert silent
    assert pauses
    assert {one.segment.start_sample for one in pauses} <= set(spoken)
    assert not any(one.samples.size for one in silent)


@pytest.mark.parametrize("lost_ms", [1, 20, 140, 599])
def test_what_is_lost_in_speech_does_not_end_it(vowels: Voice, lost_ms: int) -> None:
    sound = np.concatenate([silence(0.5), vowels(3.0, 2), silence(1.0)])
    lost = slice(2 * RATE, 2 * RATE + 16 * lost_ms)
    track = Track(SETTINGS, 0)
    found = speech(
        track.feed([block(0, sound[: lost.start]), block(lost.stop, sound[lost.stop :])], []) + track.finish()
    )
    (one,) = found
    assert not one.samples[lost.start - one.segment.start_sample : lost.stop - one.segment.start_sample].any()
    (whole,) = speech(Track(SETTINGS, 0).feed([block(0, sound)], []))
    assert abs(one.segment.start_sample - whole.segment.start_sample) < RATE // 10
    assert abs(one.segment.end_sample - whole.segment.end_sample) < RATE // 10


def test_a_loss_as_long_as_the_silence_that_ends_speech_ends_it(vowels: Voice) -> None:
    sound = np.concatenate([silence(0.5), vowels(4.0, 2), silence(1.0)])
    track = Track(SETTINGS, 0)
    found = speech(track.feed([block(0, sound[: 2 * RATE]), block(int(2.6 * RATE), sound[int(2.6 * RATE) :])], []))
    assert found[0].segment.end_sample == 2 * RATE
    assert min(one.segment.start_sample for one in found[1:]) >= 2.6 * RATE
