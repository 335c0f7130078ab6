from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.media.segment import Segment, Segmenter, SpeechState
from pipelines.media.vad import WINDOW_SAMPLES
from pipelines.settings import SegmentSettings

DEFAULT = SegmentSettings()
PAD = 1600
W = WINDOW_SAMPLES

Window = tuple[float, float]
"""Probability of speech and energy."""


def seconds(length: float, probability: float, energy: float = 1.0) -> list[Window]:
    return [(probability, energy)] * round(length * 16_000 / W)


def run(windows: list[Window], settings: SegmentSettings = DEFAULT, start: int = 0) -> tuple[list[Segment], Segment]:
    """All segments of the windows, and what `close` adds; feeds again from each cut, as the contract asks."""
    segmenter, position, segments = Segmenter(settings, start * W), start, []
    while position < len(windows):
        segment = segmenter.push(*windows[position])
        position += 1
        if segment is not None:
            segments.append(segment)
            assert segment.cut_sample % W == 0
            position = segment.cut_sample // W
    return segments, segmenter.close(len(windows) * W)


def spoken(segments: list[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.end_sample > segment.start_sample]


def test_speech_between_silences_is_one_utterance_with_padding() -> None:
    segments, _ = run(seconds(2, 0.0) + seconds(1.6, 0.9) + seconds(2, 0.0))
    (only,) = spoken(segments)
    assert only.start_sample == 62 * W - PAD
    assert only.end_sample == 112 * W + PAD
    # The end is known 600 ms after the last speech; the cut leaves the next utterance its padding.
    assert only.cut_sample == (112 + 19 - 4) * W


def test_the_four_states_follow_each_other() -> None:
    segmenter = Segmenter(DEFAULT, 0)
    states = [segmenter.state]
    for window in seconds(0.5, 0.0) + seconds(1, 0.9) + seconds(1, 0.0):
        segmenter.push(*window)
        states.append(segmenter.state)
    changes = [after for before, after in pairwise(states) if before != after]
    assert changes == [SpeechState.STARTING, SpeechState.SPEAKING, SpeechState.ENDING, SpeechState.SILENCE]


@pytest.mark.parametrize(("windows", "utterances"), [(7, 0), (8, 1)])
def test_speech_shorter_than_250_ms_is_no_utterance(windows: int, utterances: int) -> None:
    segments, _ = run(seconds(1, 0.0) + [(0.9, 1.0)] * windows + seconds(1, 0.0))
    assert len(spoken(segments)) == utterances


def test_a_burst_does_not_lengthen_the_utterance_that_follows_later() -> None:
    segments, _ = run(seconds(0.1, 0.9) + seconds(1, 0.0) + seconds(1, 0.9) + seconds(1, 0.0))
    (only,) = spoken(segments)
    assert only.start_sample == (3 + 31) * W - PAD


@pytest.mark.parametrize(("pause_windows", "utterances"), [(18, 1), (19, 2)])
def test_a_pause_of_600_ms_parts_two_utterances(pause_windows: int, utterances: int) -> None:
    segments, _ = run(seconds(1, 0.9) + [(0.0, 1.0)] * pause_windows + seconds(1, 0.9) + seconds(1, 0.0))
    assert len(spoken(segments)) == utterances


def test_speech_that_starts_right_after_an_end_keeps_its_padding() -> None:
    segments, _ = run(seconds(1, 0.9) + [(0.0, 1.0)] * 19 + seconds(1, 0.9) + seconds(1, 0.0))
    first, second = spoken(segments)
    assert second.start_sample == (31 + 19) * W - PAD
    assert second.start_sample >= first.end_sample


def test_hysteresis_keeps_faint_speech_but_does_not_start_on_it() -> None:
    assert not spoken(run(seconds(3, 0.4))[0])
    segments, _ = run(seconds(0.5, 0.9) + seconds(3, 0.4) + seconds(1, 0.0))
    (only,) = spoken(segments)
    assert only.end_sample == (16 + 94) * W + PAD


def test_long_speech_is_cut_where_the_last_3_s_are_quietest() -> None:
    windows = seconds(30, 0.9)
    windows[400] = windows[401] = (0.9, 0.1)
    windows[200] = windows[201] = (0.9, 0.01)
    segments, rest = run(windows)
    assert segments[0].cut_sample == 401 * W
    assert all(a.end_sample == b.start_sample for a, b in pairwise([*segments, rest]))


def test_no_utterance_is_longer_than_the_limit() -> None:
    segments, rest = run(seconds(60, 0.9))
    assert max(s.end_sample - s.start_sample for s in [*segments, rest]) <= 15 * 16_000
    assert rest.end_sample == len(seconds(60, 0.9)) * W


def test_silence_moves_the_cut_without_an_utterance() -> None:
    segments, rest = run(seconds(25, 0.0))
    assert [s.cut_sample for s in segments] == [(313 - 4) * W, 2 * (313 - 4) * W]
    assert not spoken([*segments, rest])
    assert rest.cut_sample == len(seconds(25, 0.0)) * W


def test_the_end_of_the_stream_ends_open_speech() -> None:
    windows = seconds(1, 0.0) + seconds(1, 0.9)
    segmenter = Segmenter(DEFAULT, 0)
    for window in windows:
        assert segmenter.push(*window) is None
    end = len(windows) * W + 300
    assert segmenter.close(end) == Segment(31 * W - PAD, end, end)


def test_a_stream_may_start_anywhere_in_the_call() -> None:
    segmenter = Segmenter(DEFAULT, 12_345)
    found = [s for window in seconds(1, 0.9) + seconds(1, 0.0) if (s := segmenter.push(*window))]
    assert [(s.start_sample, s.end_sample) for s in found] == [(12_345, 12_345 + 31 * W + PAD)]


def test_what_may_be_forgotten_never_holds_a_later_utterance() -> None:
    segmenter, needed, position = Segmenter(DEFAULT, 0), [0], 0
    windows = seconds(3, 0.0) + seconds(1, 0.9) + seconds(3, 0.0) + seconds(20, 0.9) + seconds(1, 0.0)
    while position < len(windows):
        segment = segmenter.push(*windows[position])
        position += 1
        if segment is not None:
            assert segment.start_sample >= needed[-1]
            position = segment.cut_sample // W
        assert segmenter.needed_from_sample >= needed[-1]
        assert position * W - segmenter.needed_from_sample <= 15 * 16_000
        needed.append(segmenter.needed_from_sample)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding_ms": 700},
        {"quiet_search_ms": 15_000},
        {"silence_cut_ms": 600},
        {"speech_threshold": 1.0},
        {"speech_min_ms": -1},
        {"silence": 600},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SegmentSettings.model_validate(settings)


@st.composite
def speechlike(draw: st.DrawFn) -> list[Window]:
    runs = draw(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.3, 0.4, 0.6, 1.0])), max_size=25))
    windows = [probability for count, probability in runs for _ in range(count)]
    energies = draw(st.randoms(use_true_random=False))
    return [(probability, energies.random()) for probability in windows]


@st.composite
def any_settings(draw: st.DrawFn) -> SegmentSettings:
    padding = draw(st.integers(0, 300))
    silence_end = draw(st.integers(padding, 900))
    speech_min, search = draw(st.integers(0, 400)), draw(st.integers(0, 1500))
    return SegmentSettings(
        padding_ms=padding,
        silence_end_ms=silence_end,
        speech_min_ms=speech_min,
        quiet_search_ms=search,
        utterance_max_ms=search + speech_min + draw(st.integers(0, 2000)),
        silence_cut_ms=silence_end + padding + draw(st.integers(0, 2000)),
    )


@hypothesis_settings(deadline=None, max_examples=80)
@given(windows=speechlike(), settings=any_settings())
def test_a_run_resumed_at_any_cut_finds_what_the_undisturbed_run_found(
    windows: list[Window], settings: SegmentSettings
) -> None:
    segments, rest = run(windows, settings)
    for count, segment in enumerate(segments, 1):
        assert run(windows, settings, segment.cut_sample // W) == (segments[count:], rest)


@hypothesis_settings(deadline=None, max_examples=80)
@given(windows=speechlike(), settings=any_settings())
def test_utterances_are_in_order_disjoint_and_settled_by_their_cut(
    windows: list[Window], settings: SegmentSettings
) -> None:
    segments, rest = run(windows, settings)
    cut = 0
    for segment in [*segments, rest]:
        assert cut <= segment.start_sample <= segment.end_sample <= segment.cut_sample
        assert segment is rest or segment.cut_sample > cut
        cut = segment.cut_sample
    assert cut == len(windows) * W


def lost(parts: list[tuple[float, str]]) -> list[int]:
    """Where utterances end, s; of each part its length in s and what it is: speech, quiet, or lost."""
    segmenter, ends = Segmenter(DEFAULT, 0), []
    for length, kind in parts:
        for _ in range(round(length * 16_000 / W)):
            segment = segmenter.push(float(kind == "speech"), 1.0, lost=kind == "lost")
            if segment is not None and segment.end_sample > segment.start_sample:
                ends.append(segment.end_sample)
    return ends


@pytest.mark.parametrize(
    ("parts", "utterances"),
    [
        ([(1, "speech"), (0.55, "lost"), (0.3, "quiet"), (1, "speech")], 1),  # what was lost may have been speech
        ([(1, "speech"), (0.3, "quiet"), (0.4, "lost"), (0.2, "quiet"), (1, "speech")], 2),  # silence on both sides
        ([(1, "speech"), (0.3, "quiet"), (0.55, "lost"), (1, "speech")], 1),  # speech on one side
        ([(1, "speech"), (0.5, "lost"), (0.65, "quiet"), (1, "speech")], 2),  # silence enough behind it
        ([(1, "speech"), (1.3, "lost"), (1, "speech")], 2),  # nobody waits for ever
    ],
)
def test_what_was_lost_is_silence_where_silence_is_on_both_sides(
    parts: list[tuple[float, str]], utterances: int
) -> None:
    ends = lost([*parts, (1, "quiet")])

    assert len(ends) == utterances
    assert abs(ends[0] / 16_000 - (sum(length for length, _ in parts) if utterances == 1 else 1)) < 0.15
