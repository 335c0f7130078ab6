from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.types import FloatArray, Modality
from pipelines.errors import MediaError
from pipelines.fragment import fragments as cut_into_fragments
from pipelines.settings import MediaLimits, SegmentSettings, StreamSettings
from pipelines.stream import PRE_ROLL_MS, CallStream, TrackEvent
from pipelines.types import (
    DEFAULT_CONSENT,
    Checkpoint,
    Coordinates,
    MediaFragment,
    Participant,
    ResumePoint,
    TrackCut,
    Utterance,
)

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER
NEW = Checkpoint(tracks={}, resume_at=None, resume_seq=None, resume_sample=None, final=False)
SETTINGS = StreamSettings()
RATE = 8000

Voice = Callable[[float, int], FloatArray]


def fragment(seq: int, start_ms: int, sound: FloatArray, *, final: bool = False) -> MediaFragment:
    """Sound (channels, N) at 8 kHz as a raw fragment; its offset in the log is 100 + seq."""
    return MediaFragment(
        call_id="call",
        tenant="default",
        stream="phone",
        seq=seq,
        start_ms=start_ms,
        content_type=f"audio/L16;rate={RATE};channels={sound.shape[0]}",
        participants=(AGENT, CUSTOMER)[-sound.shape[0] :],
        consent=DEFAULT_CONSENT,
        final=final,
        media=np.rint(sound.T * 32767).astype(">i2").tobytes(),
        at=Coordinates(0, 100 + seq),
    )


def fragments(sound: FloatArray, lengths: list[int], start_ms: int = 0) -> list[MediaFragment]:
    """The whole sound in fragments of these lengths in ms, repeated; the last is final."""
    total = sound.shape[1] * 1000 // RATE
    ends = [0]
    while ends[-1] < total:
        ends.append(min(total, ends[-1] + lengths[(len(ends) - 1) % len(lengths)]))
    return [
        fragment(seq, start_ms + begin, sound[:, begin * 8 : end * 8], final=end == total)
        for seq, (begin, end) in enumerate(pairwise(ends))
    ]


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.fixture(scope="session")
def call(vowels: Voice) -> FloatArray:
    """Agent and customer in turn, then both at once: (2, N) at 8 kHz."""
    one, two, three = vowels(1.2, 2)[::2], vowels(2.0, 3)[::2], vowels(2.0, 1)[::2]
    agent = np.concatenate([silence(0.5), two, silence(3.2), two, silence(0.8), one, silence(1)])
    customer = np.concatenate([silence(3.0), two, three, silence(1), two])
    return np.stack([np.pad(track, (0, 90_000 - track.size)) for track in (agent, customer)]).astype(np.float32)


def run(stream: CallStream, media: list[MediaFragment]) -> list[TrackEvent]:
    events = [event for one in media for event in stream.feed(one).events]
    return events + stream.finish()


def seen(utterance: Utterance) -> tuple[object, ...]:
    return (
        utterance.utterance_id,
        utterance.end_ms,
        utterance.consent,
        utterance.samples.tobytes(),
        tuple((frame.time_ms, frame.pixels.tobytes()) for frame in utterance.frames),
    )


def utterances(events: list[TrackEvent]) -> list[Utterance]:
    return [event.utterance for event in events if event.utterance is not None]


def by_participant(events: list[TrackEvent]) -> dict[Participant, list[tuple[object, ...]]]:
    return {
        who: [seen(event.utterance) for event in events if event.participant is who and event.utterance]
        for who in (AGENT, CUSTOMER)
    }


def stored(checkpoint: Checkpoint, event: TrackEvent, resume: ResumePoint) -> Checkpoint:
    """What the store makes of an event; refuses it like the store when the cut is not where it was believed."""
    cut = checkpoint.tracks.get(event.participant, TrackCut(0, 0))
    assert cut.cut_sample == event.believed_cut_sample
    new = TrackCut(event.cut_sample, cut.utterances + (event.utterance is not None))
    tracks: Mapping[Participant, TrackCut] = {**checkpoint.tracks, event.participant: new}
    return Checkpoint(tracks, resume.offset, resume.seq, resume.start_sample, final=False)


def resumed_everywhere(
    media: list[MediaFragment], settings: StreamSettings
) -> list[tuple[list[TrackEvent], list[TrackEvent]]]:
    """For every checkpoint an undisturbed run stores: what was stored before, and what a new owner then finds."""
    stream, checkpoint, done, runs = CallStream(settings, NEW), NEW, [], []
    for one in [*media, None]:
        for event in stream.finish() if one is None else stream.feed(one).events:
            checkpoint = stored(checkpoint, event, stream.resume_point(event.participant, event.cut_sample))
            done.append(event)
            runs.append((list(done), run(CallStream(settings, checkpoint), media)))
    return runs


def test_two_parties_on_one_stream_give_utterances_of_both(call: FloatArray) -> None:
    events = run(CallStream(SETTINGS, NEW), fragments(call, [1000]))
    spoken = by_participant(events)
    assert len(spoken[AGENT]) >= 2
    assert len(spoken[CUSTOMER]) >= 2
    for one in utterances(events):
        assert one.consent == DEFAULT_CONSENT[one.participant]
        assert (one.call_id, one.tenant, one.stream) == ("call", "default", "phone")
        assert abs(one.samples.size - 16 * (one.end_ms - one.start_ms)) < 32
    # Both cuts end where the sound ends.
    cuts = {event.participant: event.cut_sample for event in events}
    assert cuts == {AGENT: 180_000, CUSTOMER: 180_000}


@pytest.mark.parametrize("start_ms", [0, 61_234])
def test_any_fragments_give_the_same_utterances(call: FloatArray, start_ms: int) -> None:
    undisturbed = by_participant(run(CallStream(SETTINGS, NEW), fragments(call, [1000], start_ms)))

    @hypothesis_settings(deadline=None, max_examples=8)
    @given(lengths=st.lists(st.integers(20, 3000), min_size=1, max_size=8))
    def split(lengths: list[int]) -> None:
        events = run(CallStream(SETTINGS, NEW), fragments(call, lengths, start_ms))
        assert by_participant(events) == undisturbed

    split()


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


def test_repeats_and_what_follows_the_end_are_skipped_with_their_reason(call: FloatArray) -> None:
    media = fragments(call, [1000])
    stream = CallStream(SETTINGS, NEW)
    skipped = [stream.feed(one).skipped for one in [*media[:3], media[1], media[2], *media[3:], media[-1]]]
    assert [reason for reason in skipped if reason] == ["duplicate"] * 3
    assert {event.cut_sample for event in stream.finish()} == {180_000}
    after = replace(media[-1], seq=len(media))
    assert stream.feed(after).skipped == "after_final"
    assert stream.feed(replace(after, final=False)).skipped == "after_final"


def test_a_new_owner_skips_what_lies_before_its_resume_point_and_a_stored_stream(call: FloatArray) -> None:
    media = fragments(call, [1000])
    checkpoint = Checkpoint({CUSTOMER: TrackCut(80_000, 1)}, 103, 3, 48_000, final=False)
    stream = CallStream(SETTINGS, checkpoint)
    assert [stream.feed(one).skipped for one in media[:4]] == ["already_stored"] * 3 + [None]
    ended = CallStream(SETTINGS, replace(checkpoint, final=True))
    assert {ended.feed(one).skipped for one in media} == {"already_stored"}


def test_missing_fragments_end_open_speech(vowels: Voice) -> None:
    media = fragments(vowels(8.0, 11)[np.newaxis, ::2], [1000])
    stream = CallStream(SETTINGS, NEW)
    assert not any(stream.feed(one).events for one in media[:3])
    (event,) = stream.feed(media[5]).events
    assert event.utterance is not None
    assert (event.utterance.end_ms, event.cut_sample) == (3000, 48_000)
    (rest,) = utterances(stream.finish())
    assert 5000 <= rest.start_ms < rest.end_ms <= 6000


def test_a_fragment_that_cannot_be_opened_loses_nothing_else(vowels: Voice) -> None:
    media = fragments(vowels(8.0, 11)[np.newaxis, ::2], [1000])
    stream, other = CallStream(SETTINGS, NEW), CallStream(SETTINGS, NEW)
    events = []
    for one in media:
        if one.seq in {0, 4}:
            with pytest.raises(MediaError):
                stream.feed(replace(one, content_type="video/mp4", media=b"no film"))
        else:
            events += stream.feed(one).events
    without = [one for one in media if one.seq not in {0, 4}]
    assert by_participant(events + stream.finish()) == by_participant(run(other, without))
    assert len(utterances(events)) >= 1


def test_speech_before_a_gap_survives_a_bad_fragment_right_after_it(vowels: Voice) -> None:
    media = fragments(vowels(8.0, 11)[np.newaxis, ::2], [1000])
    stream = CallStream(SETTINGS, NEW)
    for one in media[:3]:
        stream.feed(one)
    with pytest.raises(MediaError):
        stream.feed(replace(media[5], content_type="video/mp4", media=b"no film"))
    (event,) = stream.feed(media[6]).events
    assert event.utterance is not None
    assert event.utterance.end_ms == 3000


def test_who_gave_no_consent_is_not_heard_and_holds_nothing_back(call: FloatArray) -> None:
    media = [replace(one, consent={CUSTOMER: frozenset(Modality)}) for one in fragments(call, [500])]
    stream = CallStream(SETTINGS, NEW)
    events = [event for one in media for event in stream.feed(one).events]
    last = stream.resume_point(CUSTOMER, events[-1].cut_sample)
    assert {event.participant for event in events + stream.finish()} == {CUSTOMER}
    assert events[-1].cut_sample - last.start_sample < 16 * 2600


def test_consent_for_the_face_alone_keeps_the_sound_here(call: FloatArray) -> None:
    media = [replace(one, consent={CUSTOMER: frozenset({Modality.VIDEO})}) for one in fragments(call, [500])]
    spoken = utterances(run(CallStream(SETTINGS, NEW), media))
    assert spoken
    assert not any(one.samples.size for one in spoken)


def test_consent_withdrawn_and_given_again_parts_utterances_and_leaves_the_time_between_out(vowels: Voice) -> None:
    media = [
        replace(one, consent={} if 3 <= one.seq < 6 else DEFAULT_CONSENT)
        for one in fragments(vowels(10.0, 11)[np.newaxis, ::2], [1000])
    ]
    events = run(CallStream(SETTINGS, NEW), media)
    spoken = utterances(events)
    assert all(one.end_ms <= 3000 or one.start_ms >= 6000 for one in spoken)
    assert spoken[0].end_ms <= 3000
    assert spoken[-1].start_ms >= 6000
    for before, after in resumed_everywhere(media, SETTINGS):
        assert by_participant(before + after) == by_participant(events)


@pytest.mark.parametrize("spoken", [False, True])
def test_a_stream_that_never_ends_holds_bounded_memory(vowels: Voice, *, spoken: bool) -> None:
    second = vowels(1.0, 3)[np.newaxis, ::2] if spoken else silence(1)[np.newaxis]
    stream, held, cuts = CallStream(SETTINGS, NEW), [], []
    for seq in range(90):
        events = stream.feed(fragment(seq, 1000 * seq, second)).events
        cuts += [stream.resume_point(event.participant, event.cut_sample) for event in events]
        held.append(stream.held_bytes)
    assert max(held) < 17 * 64_000
    assert len(stream._places) < 20
    assert cuts[-1].seq > 60


def test_many_short_fragments_cost_few_resume_points(call: FloatArray) -> None:
    stream = CallStream(SETTINGS, NEW)
    for one in fragments(call, [20]):
        stream.feed(one)
    assert len(stream._places) <= 25


def test_the_counts_of_a_fragment(call: FloatArray) -> None:
    stream = CallStream(SETTINGS, NEW)
    heard = [stream.feed(one).media_ms for one in fragments(call, [1000])]
    assert list(accumulate(heard))[-1] == pytest.approx(11_250, abs=10)
    with pytest.raises(MediaError):
        CallStream(StreamSettings(limits=MediaLimits(fragment_max_bytes=1024)), NEW).feed(fragments(call, [1000])[0])


def test_nothing_to_resume_from_before_the_first_fragment() -> None:
    checkpoint = Checkpoint({CUSTOMER: TrackCut(80_000, 1)}, 103, 3, 48_000, final=False)
    with pytest.raises(LookupError):
        CallStream(SETTINGS, checkpoint).resume_point(CUSTOMER, 80_000)


def flac(path: Path) -> FloatArray:
    with av.open(path) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    sound: FloatArray = np.concatenate(frames, axis=1)[0].astype(np.float32) / np.float32(32768)
    return sound


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


def film(path: Path, sound: FloatArray | None, seconds: int, *, key_every: int) -> Path:
    """A Matroska file of grey pictures at 10 per s that grow lighter, with mono sound at 16 kHz, or without."""
    with av.open(path, "w", format="matroska") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 64, 48, "yuv420p", key_every
        voice = None if sound is None else container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for index in range(10 * seconds):
            shade = np.full((48, 64, 3), 2 * index % 250, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            if voice is not None and sound is not None:
                heard = av.AudioFrame.from_ndarray(sound[np.newaxis, 1600 * index :][:, :1600], "flt", "mono")
                heard.sample_rate, heard.pts = 16_000, 1600 * index
                container.mux(voice.encode(heard))
        container.mux(picture.encode())
        if voice is not None:
            container.mux(voice.encode())
    return path


def filmed(path: Path, fragment_ms: int = 1000) -> list[MediaFragment]:
    with path.open("rb") as file:
        cut = cut_into_fragments(
            file,
            call_id="call",
            tenant="default",
            stream="webcam",
            participants=(CUSTOMER,),
            consent=DEFAULT_CONSENT,
            fragment_ms=fragment_ms,
        )
        return [replace(one, at=Coordinates(0, 100 + one.seq)) for one in cut]


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


def test_without_consent_for_the_face_no_picture_is_kept(vowels: Voice, tmp_path: Path) -> None:
    media = filmed(film(tmp_path / "a.mkv", vowels(8.0, 11), 8, key_every=10))
    only_voice = [replace(one, consent={CUSTOMER: frozenset({Modality.AUDIO})}) for one in media]
    stream = CallStream(SETTINGS, NEW)
    spoken = utterances(run(stream, only_voice))
    assert spoken
    assert not any(one.frames for one in spoken)
    silent = [
        replace(one, consent=only_voice[0].consent) for one in filmed(film(tmp_path / "b.mkv", None, 6, key_every=5))
    ]
    assert not run(CallStream(SETTINGS, NEW), silent)


def test_samples_that_are_no_numbers_do_not_stop_the_stream(vowels: Voice, tmp_path: Path) -> None:
    sound = vowels(8.0, 11).copy()
    sound[40_000:40_100] = np.nan
    sound[60_000:60_010] = np.inf
    events = run(CallStream(SETTINGS, NEW), filmed(film(tmp_path / "a.mkv", sound, 8, key_every=10)))
    assert all(np.isfinite(one.samples).all() for one in utterances(events))
    assert sum(one.end_ms - one.start_ms for one in utterances(events)) > 6000
