from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.types import FloatArray, Modality
from pipelines.checkpoints import Checkpoint
from pipelines.errors import MediaError, MediaTooLongError
from pipelines.media.call_stream import CallStream
from pipelines.media.utterances import utterances_of
from pipelines.settings import MediaLimits, StreamSettings
from pipelines.types import DEFAULT_CONSENT, Participant
from tests.pipelines.streams import (
    AGENT,
    CUSTOMER,
    NEW,
    SETTINGS,
    Voice,
    by_participant,
    film,
    filmed,
    fragment,
    fragments,
    resumed_everywhere,
    run,
    seen,
    silence,
    two_parties,
    utterances,
)


@pytest.fixture(scope="session")
def call(vowels: Voice) -> FloatArray:
    return two_parties(vowels)


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


def test_without_a_log_a_stream_gives_the_same_utterances_up_to_its_limit(call: FloatArray) -> None:
    media = fragments(call, [1000])
    events = run(CallStream(SETTINGS, NEW), media)

    found = list(utterances_of((replace(one, at=None) for one in media), SETTINGS, media_max_ms=12_000))

    assert [seen(one) for one in found] == [seen(one) for one in utterances(events)]
    with pytest.raises(MediaTooLongError, match="longer than 11 s"):
        list(utterances_of(media, SETTINGS, media_max_ms=11_000))
    with pytest.raises(MediaError, match="processor time"):
        list(utterances_of(media, SETTINGS, decode_max_s=1e-9))


@pytest.mark.parametrize("start_ms", [0, 61_234])
def test_any_fragments_give_the_same_utterances(call: FloatArray, start_ms: int) -> None:
    undisturbed = by_participant(run(CallStream(SETTINGS, NEW), fragments(call, [1000], start_ms)))

    @hypothesis_settings(deadline=None, max_examples=8)
    @given(lengths=st.lists(st.integers(20, 3000), min_size=1, max_size=8))
    def split(lengths: list[int]) -> None:
        events = run(CallStream(SETTINGS, NEW), fragments(call, lengths, start_ms))
        assert by_participant(events) == undisturbed

    split()


def test_repeats_and_what_follows_the_end_are_skipped_with_their_reason(call: FloatArray) -> None:
    media = fragments(call, [1000])
    stream = CallStream(SETTINGS, NEW)
    skipped = [stream.feed(one).skipped for one in [*media[:3], media[1], media[2], *media[3:], media[-1]]]
    assert [reason for reason in skipped if reason] == ["duplicate"] * 3
    assert {event.cut_sample for event in stream.finish()} == {180_000}
    after = replace(media[-1], seq=len(media))
    assert stream.feed(after).skipped == "after_final"
    assert stream.feed(replace(after, final=False)).skipped == "after_final"


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


def test_the_numbers_left_out_between_fragments_are_counted_once_and_a_damaged_fragment_is_not_one(
    call: FloatArray,
) -> None:
    media = fragments(call, [500])
    stream = CallStream(SETTINGS, NEW)
    damaged = replace(media[6], media=b"noise", content_type="audio/x-matroska")

    assert [stream.feed(media[seq]).missing for seq in (2, 3, 5, 5)] == [2, 0, 1, 0]
    with pytest.raises(MediaError):
        stream.feed(damaged)
    assert stream.feed(media[7]).missing == 0
    with pytest.raises(MediaError):
        stream.feed(replace(damaged, seq=10))
    assert [stream.feed(media[seq]).missing for seq in (11, 12)] == [2, 0]


def test_a_successor_counts_what_is_missing_from_where_it_resumes(call: FloatArray) -> None:
    media = fragments(call, [500])
    resumed = CallStream(SETTINGS, Checkpoint({}, 104, 4, 4 * 8000, final=False))

    assert [resumed.feed(media[seq]).missing for seq in (6, 7)] == [2, 0]


def test_a_final_fragment_without_media_changes_nothing(call: FloatArray, tmp_path: Path) -> None:
    media = fragments(call, [500])
    film_fragments = filmed(film(tmp_path / "a.mkv", None, 6, key_every=5))
    for pieces in (media, film_fragments):
        last = pieces[-1]
        end = replace(last, seq=last.seq + 1, start_ms=last.start_ms + 500, media=b"", final=True)
        closed = run(CallStream(SETTINGS, NEW), [*pieces[:-1], replace(last, final=False), end])
        assert by_participant(closed) == by_participant(run(CallStream(SETTINGS, NEW), pieces))


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
    assert len(stream._resume_points) < 20
    assert cuts[-1].seq > 60


def test_the_counts_of_a_fragment(call: FloatArray) -> None:
    stream = CallStream(SETTINGS, NEW)
    heard = [stream.feed(one).media_ms for one in fragments(call, [1000])]
    assert list(accumulate(heard))[-1] == pytest.approx(11_250, abs=10)
    with pytest.raises(MediaError):
        CallStream(StreamSettings(limits=MediaLimits(fragment_max_bytes=1024)), NEW).feed(fragments(call, [1000])[0])


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


def test_a_camera_that_may_not_be_seen_holds_nothing_back(vowels: Voice, tmp_path: Path) -> None:
    """The microphone is off for 30 s, and a new owner need not decode them again."""
    unseen = {CUSTOMER: frozenset({Modality.AUDIO})}
    path = film(tmp_path / "a.mkv", vowels(6.0, 11), 36, key_every=10, late_s=30)
    camera = [replace(one, consent=unseen) for one in filmed(path)]
    stream, resumes, spoken = CallStream(SETTINGS, NEW), [0], []
    for one in camera:
        events = stream.feed(one).events
        resumes += [stream.resume_point(event.participant, event.cut_sample).seq for event in events]
        assert one.seq - resumes[-1] < 20
        spoken += utterances(events)
    spoken += utterances(stream.finish())
    assert [one.start_ms // 1000 for one in spoken] == [30]
    assert 5_000 < sum(one.end_ms - one.start_ms for one in spoken) <= 6_000
    undisturbed = by_participant(run(CallStream(SETTINGS, NEW), camera))
    for before, after in resumed_everywhere(camera, SETTINGS):
        assert by_participant(before + after) == undisturbed


def test_samples_that_are_no_numbers_do_not_stop_the_stream(vowels: Voice, tmp_path: Path) -> None:
    sound = vowels(8.0, 11).copy()
    sound[40_000:40_100] = np.nan
    sound[60_000:60_010] = np.inf
    events = run(CallStream(SETTINGS, NEW), filmed(film(tmp_path / "a.mkv", sound, 8, key_every=10)))
    assert all(np.isfinite(one.samples).all() for one in utterances(events))
    assert sum(one.end_ms - one.start_ms for one in utterances(events)) > 6000


def test_speech_that_goes_on_is_shown_of_those_whose_words_may_be_analysed(call: FloatArray) -> None:
    heard = frozenset({Modality.AUDIO})
    policies = {"both": DEFAULT_CONSENT, "customer": {CUSTOMER: DEFAULT_CONSENT[CUSTOMER], AGENT: heard}, "nobody": {}}
    shown = {name: set[Participant]() for name in policies}
    for name, policy in policies.items():
        stream = CallStream(SETTINGS, NEW)
        for one in fragments(call, [500]):
            stream.feed(replace(one, consent=policy))
            for utterance in stream.open_speech():
                shown[name].add(utterance.participant)
                assert (utterance.call_id, utterance.tenant, utterance.stream) == ("call", "default", "phone")
                assert Modality.TEXT in utterance.consent
                assert utterance.samples.size in {0, 16 * (utterance.end_ms - utterance.start_ms)}
                assert utterance.frames == ()
        stream.finish()
        assert stream.open_speech() == []

    assert shown == {"both": {AGENT, CUSTOMER}, "customer": {CUSTOMER}, "nobody": set()}


def test_fragments_whose_media_was_left_out_are_passed_over_whatever_is_allowed_by_now(call: FloatArray) -> None:
    whole = fragments(call, [500])
    media = [replace(one, media=b"", withheld=True) if one.seq < 8 else one for one in whole]
    stream = CallStream(SETTINGS, NEW)
    fed = [stream.feed(one) for one in media]
    assert [one.skipped for one in fed[:8]] == 8 * ["not_consented"]
    assert not [one for one in fed if one.missing]
    spoken = utterances([*(event for one in fed for event in one.events), *stream.finish()])
    assert spoken
    assert min(one.start_ms for one in spoken) >= 8 * 500 - SETTINGS.segment.padding_ms
    nothing = CallStream(SETTINGS, NEW)
    left_out = [replace(one, media=b"", withheld=True) for one in whole]
    assert {nothing.feed(one).skipped for one in left_out} == {"not_consented"}
    assert nothing.finish() == []
    assert nothing.nothing_pending
