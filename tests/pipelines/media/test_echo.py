"""Echoes of one participant on another's channel: what is silenced, and what never is."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.types import FloatArray, Modality
from pipelines.checkpoints import NEW_STREAM
from pipelines.media.call_stream import CallStream
from pipelines.media.echo import LOOK_BACK_CELLS, EchoSuppressor
from pipelines.media.echo_voice import CELL_SAMPLES
from pipelines.media.resample import AudioBlock
from pipelines.media.resume import PRE_ROLL_MS
from pipelines.settings import StreamSettings
from pipelines.types import SAMPLES_PER_MS, Participant
from tests.pipelines.conftest import vowels_of
from tests.pipelines.streams import AGENT, CUSTOMER, SETTINGS, by_participant, fragments, resumed_everywhere, run

RATE = 16_000
BOTH = (AGENT, CUSTOMER)
Spans = list[tuple[float, float]]


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * RATE), np.float32)


def customers(seconds: float, seed: int) -> FloatArray:
    """A higher voice than the agent's, which speaks on other pitches."""
    slow = vowels_of(seconds * 1.7, seed)
    fast: FloatArray = np.interp(np.arange(round(seconds * RATE)) * 1.7, np.arange(slow.size), slow).astype(np.float32)
    return fast


def parties() -> FloatArray:
    """(2, N) at 16 kHz: the agent at 0.5-2.5 and 5.5-8.5 s, the customer at 3.2-4.7 and, over the agent, 7.5-9.5 s."""
    agent = np.concatenate([silence(0.5), vowels_of(2.0, 3), silence(3.0), vowels_of(3.0, 4), silence(1.5)])
    customer = np.concatenate([silence(3.2), customers(1.5, 5), silence(2.8), customers(2.0, 6), silence(0.5)])
    return np.stack([agent, customer])


def with_echo(
    call: FloatArray, delay_ms: float, level_db: float, *, to: int = 1, noise_db: float = -66, inverted: bool = False
) -> FloatArray:
    """The other party's voice on the channel `to`, later and lower, over the noise of the line; in steps of 16 bits."""
    late = round(delay_ms * SAMPLES_PER_MS)
    out = call.copy()
    out[to, late:] += (-1 if inverted else 1) * 10 ** (level_db / 20) * call[1 - to, : call.shape[1] - late]
    noise = np.random.default_rng(7).standard_normal(call.shape) * 10 ** (noise_db / 20)
    steps: FloatArray = (np.rint((out + noise) * 32767) / 32768).astype(np.float32)
    return steps


def blocks(
    call: FloatArray, lengths: list[int], participants: tuple[Participant, ...] = BOTH
) -> list[list[AudioBlock]]:
    """The sound in pieces of these lengths in samples, repeated."""
    out: list[list[AudioBlock]] = []
    at = 0
    while at < call.shape[1]:
        length = lengths[len(out) % len(lengths)]
        out.append(
            [AudioBlock(who, at, sound[at : at + length]) for who, sound in zip(participants, call, strict=True)]
        )
        at += length
    return out


def suppressed(call: FloatArray, lengths: list[int] | None = None) -> FloatArray:
    suppressor = EchoSuppressor()
    out = [block for piece in blocks(call, lengths or [RATE]) for block in suppressor.feed(piece, BOTH)]
    return joined(out + suppressor.finish())


def joined(out: list[AudioBlock]) -> FloatArray:
    """Everybody's sound, of which no sample may be missing, doubled or out of place."""
    sound = []
    for who in BOTH:
        own = [block for block in out if block.participant is who]
        ends = np.cumsum([0] + [block.samples.size for block in own])
        assert [block.start_sample for block in own] == ends[:-1].tolist()
        sound.append(np.concatenate([block.samples for block in own]))
    return np.stack(sound)


def spans(call: FloatArray) -> tuple[Spans, Spans]:
    """When agent and customer speak, in seconds."""
    found = by_participant(run(CallStream(SETTINGS, NEW_STREAM), fragments(call[:, ::2], [1000])))
    times = {
        who: [(int(str(one[0]).split("/")[-1]) / 1000, float(str(one[1])) / 1000) for one in found[who]] for who in BOTH
    }
    return times[AGENT], times[CUSTOMER]


def near(found: Spans, wanted: Spans) -> bool:
    return np.shape(found) == np.shape(wanted) and bool(np.allclose(found, wanted, atol=0.25))


@pytest.mark.parametrize("level_db", [-12, -20, -30, -40])
@pytest.mark.parametrize("delay_ms", [0, 25.3, 120, 300])
@pytest.mark.parametrize("to", [0, 1], ids=["on the agent's channel", "on the customer's channel"])
def test_the_echo_of_the_other_is_nobodys_words(delay_ms: float, level_db: float, to: int) -> None:
    clean = spans(with_echo(parties(), 0, -200))
    assert [len(own) for own in clean] == [2, 2]
    assert all(
        near(found, own)
        for found, own in zip(spans(with_echo(parties(), delay_ms, level_db, to=to)), clean, strict=True)
    )


def test_without_an_echo_every_sample_is_passed_on_as_it_is() -> None:
    call = with_echo(parties(), 0, -200)
    assert np.array_equal(suppressed(call), call)


@pytest.mark.parametrize("level_db", [0, -6])
def test_two_who_say_the_same_at_similar_levels_are_both_kept(level_db: float) -> None:
    voice = np.concatenate([silence(0.5), vowels_of(3.0, 8), silence(1)])
    call = np.stack([voice, np.roll(voice, 1600) * np.float32(10 ** (level_db / 20))])
    assert np.array_equal(suppressed(call), call)


def test_a_quiet_speaker_under_a_loud_one_is_no_echo() -> None:
    call = np.stack([vowels_of(6.0, 9), customers(6.0, 10) * np.float32(0.1)])
    assert np.array_equal(suppressed(call), call)


def test_in_double_talk_the_speakers_own_words_are_kept() -> None:
    call = with_echo(parties(), 100, -20)
    kept = suppressed(call)
    own = slice(round(7.6 * RATE), round(9.4 * RATE))
    assert np.square(kept[1, own] - call[1, own]).sum() < 1e-3 * np.square(call[1, own]).sum()
    alone = slice(round(0.7 * RATE), round(2.5 * RATE))
    assert np.count_nonzero(kept[1, alone]) < 0.1 * kept[1, alone].size


def test_an_echo_with_its_sign_turned_and_one_through_a_room_are_found() -> None:
    assert near(spans(with_echo(parties(), 80, -20, inverted=True))[1], spans(with_echo(parties(), 0, -200))[1])
    decay = np.random.default_rng(1).standard_normal(320) * np.exp(-np.arange(320) / 60)
    call = parties()
    room = np.convolve(call[0], decay / np.linalg.norm(decay))[: call.shape[1]].astype(np.float32)
    heard = with_echo(np.stack([room, call[1]]), 60, -20)
    assert near(spans(np.stack([with_echo(call, 0, -200)[0], heard[1]]))[1], spans(with_echo(call, 0, -200))[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) >= 500))
def test_how_the_sound_was_cut_changes_nothing(lengths: list[int]) -> None:
    call = with_echo(parties(), 90, -18)
    assert np.array_equal(suppressed(call, lengths), suppressed(call))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60_000))
def test_who_begins_a_pre_roll_before_a_cut_decides_the_same_from_the_cut_on(start: int) -> None:
    call = with_echo(parties(), 250, -18)
    suppressor = EchoSuppressor()
    later = [replaced for piece in blocks(call[:, start:], [RATE]) for replaced in _moved(piece, start)]
    out = suppressor.feed(later, BOTH) + suppressor.finish()
    cut = start + PRE_ROLL_MS * SAMPLES_PER_MS
    whole = suppressed(call)
    for at, who in enumerate(BOTH):
        tail = np.concatenate([block.samples for block in out if block.participant is who])
        assert np.array_equal(tail[cut - start :], whole[at, cut:])


def _moved(piece: list[AudioBlock], by: int) -> list[AudioBlock]:
    return [AudioBlock(block.participant, block.start_sample + by, block.samples) for block in piece]


Gaps = list[tuple[int, int]]
lost = st.lists(st.tuples(st.integers(0, 140_000), st.sampled_from([1, 700, 9000, 17_000, 40_000])), max_size=3)


def with_gaps(call: FloatArray, gaps: tuple[Gaps, Gaps], lengths: list[int], start: int = 0) -> list[list[AudioBlock]]:
    """From `start` on, the sound of each participant, which lacks these stretches (begin, length), in pieces of these lengths."""
    out: list[list[AudioBlock]] = []
    while start < call.shape[1]:
        end = start + lengths[len(out) % len(lengths)]
        piece: list[AudioBlock] = []
        for who, sound, own in zip(BOTH, call, gaps, strict=True):
            there = np.ones(sound[start:end].size + 2, np.bool_)
            there[[0, -1]] = False
            for begin, length in own:
                there[max(begin - start + 1, 0) : max(begin - start + 1 + length, 0)] = False
            edges = np.flatnonzero(np.diff(there)) + start
            piece += [AudioBlock(who, int(a), sound[a:b]) for a, b in edges.reshape(-1, 2)]
        out.append(piece)
        start = end
    return out


def placed(pieces: list[list[AudioBlock]], size: int) -> FloatArray:
    """(2, size) of what the suppressor passes on, NaN where no sound came."""
    suppressor = EchoSuppressor()
    out = [block for piece in pieces for block in suppressor.feed(piece, BOTH)] + suppressor.finish()
    sound = np.full((2, size), np.nan, np.float32)
    for block in out:
        own = sound[BOTH.index(block.participant), block.start_sample :][: block.samples.size]
        assert np.isnan(own).all()
        own[:] = block.samples
    return sound


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.tuples(lost, lost),
    lengths=st.lists(st.integers(1500, 20_000), min_size=1, max_size=4),
    start=st.integers(0, 100_000),
)
def test_with_any_gaps_any_cutting_and_any_resume_give_the_same_samples(
    gaps: tuple[Gaps, Gaps], lengths: list[int], start: int
) -> None:
    call = with_echo(parties(), 250, -18)
    size = call.shape[1]
    whole = placed(with_gaps(call, gaps, [size]), size)
    assert np.array_equal(placed(with_gaps(call, gaps, lengths), size), whole, equal_nan=True)
    came = placed([], size)
    for block in with_gaps(call, gaps, [size])[0]:
        came[BOTH.index(block.participant), block.start_sample :][: block.samples.size] = block.samples
    assert np.array_equal(np.isnan(whole), np.isnan(came))
    cut = start + PRE_ROLL_MS * SAMPLES_PER_MS
    resumed = placed(with_gaps(call, gaps, lengths, start), size)
    assert np.array_equal(resumed[:, cut:], whole[:, cut:], equal_nan=True)


def test_a_gap_of_one_leaves_the_echo_of_the_other_suppressed() -> None:
    call = with_echo(parties(), 120, -20)
    lost_at = 20_000
    kept = placed(with_gaps(call, ([], [(lost_at, 3200)]), [1600]), call.shape[1])[1]
    assert np.isnan(kept[lost_at : lost_at + 3200]).all()
    around = np.concatenate([kept[lost_at - 6400 : lost_at], kept[lost_at + 3200 : lost_at + 9600]])
    assert np.count_nonzero(around) < 0.15 * around.size


def test_sound_that_comes_late_is_passed_on_as_it_is_and_in_order() -> None:
    call = with_echo(parties(), 120, -20)
    suppressor = EchoSuppressor()
    out = suppressor.feed([AudioBlock(AGENT, 0, call[0]), AudioBlock(CUSTOMER, 0, call[1, :RATE])], BOTH)
    out += suppressor.feed([AudioBlock(CUSTOMER, RATE, call[1, RATE:])], BOTH) + suppressor.finish()
    sound = joined(out)
    assert sound.shape == call.shape
    late = slice(RATE, call.shape[1] - 3 * RATE)
    assert np.array_equal(sound[1, late], call[1, late])


def test_short_sounds_far_apart_hold_no_more_than_others() -> None:
    suppressor, held = EchoSuppressor(), []
    for far in (0.5, 1.9, 3600.0):
        sound = [AudioBlock(who, round(n * far * RATE), vowels_of(0.1, 3)) for n in range(200) for who in BOTH]
        suppressor.feed(sound, BOTH)
        held.append(suppressor.held_bytes)
        suppressor.finish()
    assert max(held) <= 2 * 4 * 4 * RATE


def test_the_look_back_leaves_decoders_of_a_new_owner_200_ms_to_converge() -> None:
    assert (LOOK_BACK_CELLS + 1) * CELL_SAMPLES / SAMPLES_PER_MS <= PRE_ROLL_MS - 200


def test_a_new_owner_at_any_checkpoint_finds_the_same_utterances_without_the_echo() -> None:
    media = fragments(with_echo(parties(), 150, -20)[:, ::2], [700, 400])
    undisturbed = by_participant(run(CallStream(SETTINGS, NEW_STREAM), media))
    assert [len(undisturbed[who]) for who in BOTH] == [2, 2]
    runs = resumed_everywhere(media, SETTINGS)
    assert len(runs) >= 4
    for before, after in runs:
        assert by_participant(before + after) == undisturbed
    again = fragments(with_echo(parties(), 150, -20)[:, ::2], [330, 20, 1900])
    assert by_participant(run(CallStream(SETTINGS, NEW_STREAM), again)) == undisturbed


def test_of_whom_nothing_may_be_analysed_is_still_not_taken_for_another() -> None:
    only_customer = {CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}
    stream = CallStream(SETTINGS, NEW_STREAM, only_customer)
    found = by_participant(run(stream, fragments(with_echo(parties(), 120, -20)[:, ::2], [1000])))
    assert [len(found[who]) for who in BOTH] == [0, 2]


def test_sound_before_a_change_of_consent_and_before_a_gap_is_passed_on_in_time() -> None:
    call = with_echo(parties(), 120, -20)
    suppressor = EchoSuppressor()
    first = suppressor.feed([AudioBlock(who, 0, sound[:RATE]) for who, sound in zip(BOTH, call, strict=True)], BOTH)
    behind = [AudioBlock(who, 2 * RATE, sound[2 * RATE :]) for who, sound in zip(BOTH, call, strict=True)]
    out = first + suppressor.feed(behind, BOTH) + suppressor.finish()
    for who in BOTH:
        own = [block for block in out if block.participant is who]
        assert sum(block.samples.size for block in own) == call.shape[1] - RATE
        assert all(a.start_sample + a.samples.size in (b.start_sample, RATE) for a, b in pairwise(own))


def test_one_participant_alone_is_never_held() -> None:
    suppressor = EchoSuppressor()
    block = AudioBlock(CUSTOMER, 0, vowels_of(1.0, 3)[:1000])
    assert suppressor.feed([block], (CUSTOMER,)) == [block]
    assert suppressor.held_bytes == 0


def test_what_is_held_is_bounded() -> None:
    suppressor, sound = EchoSuppressor(), vowels_of(1.0, 3)
    for second in range(60):
        pair = [AudioBlock(AGENT, second * RATE, sound), AudioBlock(CUSTOMER, second * RATE, sound * np.float32(0.1))]
        suppressor.feed(pair, BOTH)
        assert suppressor.held_bytes <= 2 * 4 * 2 * RATE
    suppressor.feed([AudioBlock(AGENT, second * RATE, sound) for second in range(60, 90)], BOTH)
    assert suppressor.held_bytes <= 2 * 4 * 3 * RATE


def _decoded(path: Path) -> FloatArray:
    with av.open(path) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        channels = container.streams.audio[0].codec_context.channels
    assert channels == 2
    flat: FloatArray = sound.reshape(-1, 2).T.astype(np.float32) / np.float32(32768)
    return flat


def test_the_agents_voice_on_the_customers_channel_of_a_recording(data_dir: Path) -> None:
    clean, bleed = (_decoded(data_dir / "media_cases" / name) for name in ("x_clean_stereo.flac", "y_bleed-20dB.flac"))
    assert np.array_equal(suppressed(clean), clean)
    agent, customer = spans(bleed)
    assert near(customer, [(1.12, 4.32), (5.12, 7.97), (9.12, 12.0)])
    assert [start for start, _ in agent] == pytest.approx([3.9, 8.0, 11.0], abs=0.25)
    assert near(agent, spans(clean)[0])


def test_a_real_call_keeps_its_utterances(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for name in ("agent", "caller"):
        with av.open(data_dir / "calls" / f"auto_repairs_40_{name}.flac") as container:
            parts.append(np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]))
    sound = np.stack([part[: 60 * 8000] for part in parts]).astype(np.float32) / np.float32(32768)
    media = fragments(sound, [1000])
    found = by_participant(run(CallStream(StreamSettings(), NEW_STREAM), media))
    monkeypatch.setattr(EchoSuppressor, "feed", lambda _self, blocks, _participants: list(blocks))
    assert found == by_participant(run(CallStream(StreamSettings(), NEW_STREAM), media))
    assert min(map(len, found.values())) >= 3
