"""Sound of any rate at 16 kHz, every sample at its exact place in the call."""

import itertools

import numpy as np
import pytest

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.resample import AudioBlock, Sound, Timeline, mixed
from pipelines.types import Participant
from tests.pipelines.media_files import AGENT, BOTH, CUSTOMER, sound


def joined(blocks: list[AudioBlock], participant: Participant = CUSTOMER) -> tuple[int, FloatArray]:
    """Where the participant's sound starts, and all of it; fails on a gap."""
    own = [block for block in blocks if block.participant is participant]
    for earlier, later in itertools.pairwise(own):
        assert later.start_sample == earlier.start_sample + len(earlier.samples)
    return own[0].start_sample, np.concatenate([block.samples for block in own])


def placed(timeline: Timeline, whole: FloatArray, rate_hz: int, lengths_ms: list[int]) -> list[AudioBlock]:
    blocks, at = list[AudioBlock](), 0
    for length_ms in lengths_ms:
        piece = whole[:, at * rate_hz // 1000 : (at + length_ms) * rate_hz // 1000]
        blocks += timeline.place(Sound(rate_hz, piece), (CUSTOMER,), at)
        at += length_ms
    return blocks + timeline.finish()


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_the_cuts_do_not_change_a_sample(rate_hz: int) -> None:
    whole = sound(3, rate_hz)
    reference = joined(placed(Timeline(), whole, rate_hz, [3000]))
    start_sample, samples = joined(placed(Timeline(), whole, rate_hz, [20, 1000, 980, 1000]))
    assert (start_sample, len(samples)) == (0, 48_000)
    assert np.array_equal(samples, reference[1])


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_a_run_that_begins_later_is_on_the_grid_of_the_whole(rate_hz: int) -> None:
    whole = sound(3, rate_hz)
    _, reference = joined(placed(Timeline(), whole, rate_hz, [3000]))
    index = rate_hz + 7  # no place where an input and an output sample meet
    start_sample = -(-index * 16_000 // rate_hz)
    late = Timeline(start_sample)
    blocks = late.place(Sound(rate_hz, whole[:, index:], index), (CUSTOMER,), start_sample // 16)
    found_at, samples = joined(blocks + late.finish())
    assert found_at == start_sample
    assert len(samples) == 48_000 - start_sample
    assert np.abs(samples - reference[start_sample:])[200:].max() < 1e-6


def test_each_participant_has_a_channel_or_all_share_their_mean() -> None:
    whole = sound(1, 16_000, 2)
    blocks = Timeline().place(Sound(16_000, whole), BOTH, 0)
    assert np.array_equal(joined(blocks, AGENT)[1], whole[0])
    assert np.array_equal(joined(blocks, CUSTOMER)[1], whole[1])
    blocks = Timeline().place(Sound(16_000, whole), (CUSTOMER,), 0)
    assert np.allclose(joined(blocks)[1], whole.mean(axis=0), atol=1e-6)
    with pytest.raises(MediaError, match="2 participants on 1 channel"):
        Timeline().place(Sound(16_000, whole[:1]), BOTH, 0)


@pytest.mark.parametrize(("said_ms", "start_sample"), [(1100, 16_000), (1101, 17_616), (900, 16_000)])
def test_a_fragments_own_time_counts_only_from_100_ms_on(said_ms: int, start_sample: int) -> None:
    timeline = Timeline()
    timeline.place(Sound(16_000, sound(1, 16_000)), (CUSTOMER,), 0)
    assert timeline.next_sample(said_ms) == start_sample
    assert timeline.place(Sound(16_000, sound(1, 16_000)), (CUSTOMER,), said_ms)[-1].start_sample == start_sample


def test_sound_that_overlaps_is_dropped_where_there_is_some() -> None:
    timeline = Timeline()
    timeline.place(Sound(16_000, sound(1, 16_000)), (CUSTOMER,), 0)
    (block,) = timeline.place(Sound(16_000, sound(1, 16_000)), (CUSTOMER,), 600)
    assert (block.start_sample, len(block.samples)) == (16_000, 9_600)


def test_sound_that_follows_may_have_another_rate() -> None:
    timeline = Timeline()
    blocks = timeline.place(Sound(8000, sound(1, 8000)), (CUSTOMER,), 250)
    blocks += timeline.follow(Sound(48_000, sound(1, 48_000)), (CUSTOMER,))
    start_sample, samples = joined(blocks + timeline.finish())
    assert (start_sample, len(samples)) == (4000, 32_000)


def test_nothing_gives_nothing_and_what_is_too_loud_is_clipped() -> None:
    timeline = Timeline()
    assert timeline.finish() == []
    assert timeline.place(Sound(8000, np.zeros((1, 0), np.float32)), (CUSTOMER,), 0) == []
    (block,) = timeline.place(Sound(16_000, np.full((1, 100), 3, np.float32)), (CUSTOMER,), 0)
    assert block.samples.max() == 1


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_channels_that_are_left_out_are_not_there(rate_hz: int) -> None:
    whole = sound(1, rate_hz, 4)
    timeline = Timeline()
    blocks = timeline.place(Sound(rate_hz, whole), (None, CUSTOMER, None, AGENT), 0) + timeline.finish()
    assert {block.participant for block in blocks} == {CUSTOMER, AGENT}
    alone = Timeline()
    expected = alone.place(Sound(rate_hz, whole[1:2]), (CUSTOMER,), 0) + alone.finish()
    found = [block for block in blocks if block.participant is CUSTOMER]
    assert np.array_equal(joined(found)[1], joined(expected)[1])


def test_channels_that_cancel_each_other_out_are_heard() -> None:
    (voice,) = sound(1, 16_000)
    for others in ((-1,), (-0.8,), (-1, 0, 0), (-0.5, -0.5)):
        assert np.allclose(mixed(np.stack([voice, *(by * voice for by in others)])), voice, atol=1e-6), others
    assert np.allclose(mixed(np.stack([voice + 0.1, 0.1 - voice])), voice + 0.1, atol=1e-6)


def test_channels_that_do_not_are_mixed() -> None:
    (voice,) = sound(1, 16_000)
    for others in ((1,), (0,), (0, 0, 0), (-0.4,)):
        every = np.stack([voice, *(by * voice for by in others)])
        assert np.allclose(mixed(every), every.mean(axis=0), atol=1e-6), others
    both = sound(1, 16_000, 2)
    assert np.allclose(mixed(both), both.mean(axis=0), atol=1e-6)
    assert np.allclose(mixed(np.zeros((2, 100), np.float32)), 0)
    assert mixed(np.zeros((2, 0), np.float32)).size == 0


def test_another_recording_starts_a_run_of_its_own_where_it_says() -> None:
    timeline = Timeline()
    timeline.place(Sound(44_100, sound(1, 44_100), 0), (CUSTOMER,), 0)
    (tail, first) = timeline.place(Sound(44_100, sound(1, 44_100), 0), (CUSTOMER,), 1050)
    assert tail.start_sample + len(tail.samples) == 16_000
    assert first.start_sample == 1050 * 16
