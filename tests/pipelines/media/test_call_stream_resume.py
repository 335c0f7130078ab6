from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.types import FloatArray
from pipelines.checkpoints import Checkpoint, ResumePoint, TrackCut
from pipelines.media.call_stream import CallStream, TrackEvent
from pipelines.media.resume import PRE_ROLL_MS
from pipelines.settings import SegmentSettings, StreamSettings
from tests.pipelines.streams import (
    AGENT,
    CUSTOMER,
    NEW,
    SETTINGS,
    Voice,
    by_participant,
    film,
    filmed,
    flac,
    fragments,
    resumed_everywhere,
    run,
    stored,
    two_parties,
    utterances,
)


@pytest.fixture(scope="session")
def call(vowels: Voice) -> FloatArray:
    return two_parties(vowels)


@pytest.mark.parametrize(
    "segment",
    [SegmentSettings(), SegmentSettings(utterance_max_ms=1500, quiet_search_ms=500, silence_cut_ms=1000)],
    ids=["default", "many forced cuts"],
)
@pytest.mark.parametrize("gap", [False, True])
def test_a_new_owner_at_any_checkpoint_finds_what_the_undisturbed_run_finds(
    call: FloatArray, segment: SegmentSettings, *, gap: bool
) -> None:
    settings = StreamSettings(segment=segment)
    media = fragments(call, [700, 400])
    if gap:
        del media[4:6], media[-5]
    undisturbed = by_participant(run(CallStream(settings, NEW), media))
    runs = resumed_everywhere(media, settings)
    assert len(runs) >= 6
    for before, after in runs:
        assert by_participant(before + after) == undisturbed


def test_a_resume_reads_no_more_than_it_needs(call: FloatArray) -> None:
    media = fragments(call, [250])
    stream = CallStream(SETTINGS, NEW)
    cuts = {AGENT: 0, CUSTOMER: 0}
    for event in (event for one in media for event in stream.feed(one).events):
        point = stream.resume_point(event.participant, event.cut_sample)
        cuts[event.participant] = event.cut_sample
        behind = min(cuts.values()) - point.start_sample
        assert point.offset == 100 + point.seq
        assert point.start_sample == 16 * media[point.seq].start_ms
        assert point.seq == 0 or 16 * PRE_ROLL_MS <= behind < 16 * (PRE_ROLL_MS + 750)
    assert point.seq > 0


def test_a_party_that_has_nothing_stored_yet_is_not_forgotten(vowels: Voice) -> None:
    long, short = vowels(8.0, 11)[::2], vowels(1.2, 2)[::2]
    sound = np.stack([long, np.pad(short, (0, long.size - short.size))])
    stream = CallStream(SETTINGS, NEW)
    events = [event for one in fragments(sound, [1000])[:6] for event in stream.feed(one).events]
    assert {event.participant for event in events} == {CUSTOMER}
    assert stream.resume_point(CUSTOMER, events[-1].cut_sample) == ResumePoint(100, 0, 0)


def test_a_new_owner_skips_what_lies_before_its_resume_point_and_a_stored_stream(call: FloatArray) -> None:
    media = fragments(call, [1000])
    checkpoint = Checkpoint({CUSTOMER: TrackCut(80_000, 1)}, 103, 3, 48_000, final=False)
    stream = CallStream(SETTINGS, checkpoint)
    assert [stream.feed(one).skipped for one in media[:4]] == ["already_stored"] * 3 + [None]
    ended = CallStream(SETTINGS, replace(checkpoint, final=True))
    assert {ended.feed(one).skipped for one in media} == {"already_stored"}


def test_many_short_fragments_cost_few_resume_points(call: FloatArray) -> None:
    stream = CallStream(SETTINGS, NEW)
    for one in fragments(call, [20]):
        stream.feed(one)
    assert len(stream._resume_points) <= 25


def test_nothing_to_resume_from_before_the_first_fragment() -> None:
    checkpoint = Checkpoint({CUSTOMER: TrackCut(80_000, 1)}, 103, 3, 48_000, final=False)
    with pytest.raises(LookupError):
        CallStream(SETTINGS, checkpoint).resume_point(CUSTOMER, 80_000)


def test_a_real_call_has_the_same_utterances_in_any_fragments_and_after_any_resume(data_dir: Path) -> None:
    parties = [flac(data_dir / "calls" / f"auto_repairs_40_{name}.flac") for name in ("agent", "caller")]
    size = min(party.size for party in parties) // 8 * 8
    sound = np.stack([party[:size] for party in parties])
    media = fragments(sound, [1000])
    stream, checkpoint, events, checkpoints = CallStream(SETTINGS, NEW), NEW, [], []
    for one in media:
        for event in stream.feed(one).events:
            checkpoint = stored(checkpoint, event, stream.resume_point(event.participant, event.cut_sample))
            events.append(event)
            checkpoints.append((len(events), checkpoint))
    events += stream.finish()
    undisturbed = by_participant(events)
    assert min(map(len, undisturbed.values())) >= 10
    assert by_participant(run(CallStream(SETTINGS, NEW), fragments(sound, [330, 20, 1900]))) == undisturbed
    for count, at in checkpoints[:: len(checkpoints) // 4]:
        assert by_participant(events[:count] + run(CallStream(SETTINGS, at), media)) == undisturbed


@pytest.mark.parametrize("key_every", [10, 300])
def test_a_new_owner_finds_the_same_pictures_too(vowels: Voice, tmp_path: Path, key_every: int) -> None:
    settings = StreamSettings(segment=SegmentSettings(utterance_max_ms=1500, quiet_search_ms=500))
    media = filmed(film(tmp_path / "a.mkv", vowels(8.0, 11), 8, key_every=key_every), 500)
    undisturbed = run(CallStream(settings, NEW), media)
    assert sum(len(one.frames) for one in utterances(undisturbed)) >= 35
    runs = resumed_everywhere(media, settings)
    assert len(runs) >= 5
    for before, after in runs:
        assert by_participant(before + after) == by_participant(undisturbed)


def test_a_webcam_without_sound_is_judged_in_stretches_and_resumes(tmp_path: Path) -> None:
    media = filmed(film(tmp_path / "a.mkv", None, 12, key_every=10))
    events = run(CallStream(SETTINGS, NEW), media)
    spans = [(one.start_ms, one.end_ms, len(one.frames), one.samples.size) for one in utterances(events)]
    assert spans == [(0, 5000, 25, 0), (5000, 10_000, 25, 0), (10_000, 12_000, 10, 0)]
    for before, after in resumed_everywhere(media, SETTINGS):
        assert by_participant(before + after) == by_participant(events)


def test_sound_that_starts_late_is_heard_at_its_place_after_a_resume_too(vowels: Voice, tmp_path: Path) -> None:
    settings = StreamSettings(segment=SegmentSettings(picture_window_ms=1000))
    media = filmed(film(tmp_path / "a.mkv", vowels(3.0, 11), 8, key_every=5, late_s=5), 500)
    events = run(CallStream(settings, NEW), media)
    spoken = [one for one in utterances(events) if one.samples.size]
    assert spoken[0].start_ms >= 5000
    runs = resumed_everywhere(media, settings)
    assert len(runs) >= 5
    for before, after in runs:
        assert by_participant(before + after) == by_participant(events)


def test_a_new_owner_knows_as_well_as_the_first_what_nobody_waits_for(call: FloatArray) -> None:
    """Also of a stream that was sent in real time and went on at once."""
    media = fragments(call, [700, 400])
    media = [replace(one, recorded=number >= len(media) // 2) for number, one in enumerate(media)]
    undisturbed = said_of(run(CallStream(SETTINGS, NEW), media))
    assert {recorded for _, recorded in undisturbed} == {False, True}
    for before, after in resumed_everywhere(media, SETTINGS):
        assert said_of(before + after) == undisturbed


def said_of(events: list[TrackEvent]) -> list[tuple[str, bool]]:
    found = [event.utterance for event in events if event.utterance is not None]
    return sorted((one.utterance_id, one.recorded) for one in found)
