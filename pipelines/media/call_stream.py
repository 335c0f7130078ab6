"""One stream of a call, from fragments to utterances: order, gaps, consent, and where a new owner resumes.

Values in, values out: no Kafka, no Redis, no clock. The same fragments give the same utterances, however fast they
come, and however often another `CallStream` takes over from a stored checkpoint
(docs/architecture.md#nothing-lost-nothing-twice).
"""

from dataclasses import dataclass, replace
from threading import Lock
from typing import Literal

import numpy as np

from models.types import Modality
from pipelines.checkpoints import Checkpoint, ResumePoint
from pipelines.consent import granted
from pipelines.media.demux import Demuxed, Demuxer
from pipelines.media.echo import EchoSuppressor
from pipelines.media.pictures import PicturePacket
from pipelines.media.resample import AudioBlock
from pipelines.media.resume import ResumePoints
from pipelines.media.track import NOTHING, ConsentedTrack, Track, TrackSegment
from pipelines.settings import StreamSettings
from pipelines.types import DEFAULT_CONSENT, SAMPLES_PER_MS, Consent, MediaFragment, Participant, Utterance

SkipReason = Literal["already_stored", "duplicate", "after_final", "not_consented"]


@dataclass(frozen=True, slots=True)
class TrackEvent:
    """One step of a track: its cut moves from `expected_cut_sample` to `cut_sample`, over an utterance or silence."""

    participant: Participant
    cut_sample: int
    expected_cut_sample: int
    utterance: Utterance | None


@dataclass(frozen=True, slots=True)
class FeedResult:
    """What came of one fragment.

    `skipped` says why the fragment was not analysed, None when it was (one without consent may still end an utterance
    begun before); `damaged` counts packets that could not be decoded; `media_ms` is the length of its sound, or of its
    pictures when it has no sound; `missing` counts the sequence numbers left out between it and the one before, or the
    stream's start: never sent, lost in the log, or refused before their stream was known.
    """

    events: list[TrackEvent]
    skipped: SkipReason | None
    damaged: int
    media_ms: int
    missing: int = 0


class CallStream:
    """Demuxes the fragments of one stream and finds the utterances of every participant in it.

    Events of a track come in order, and each one's `expected_cut_sample` is the `cut_sample` of the one before.
    `feed`, `finish` and `open_speech` belong to one thread; `resume_point` may be called from another meanwhile.
    """

    def __init__(self, settings: StreamSettings, checkpoint: Checkpoint, policy: Consent = DEFAULT_CONSENT) -> None:
        """`checkpoint` is what the store knows of the stream; tracks it does not name start at the call's start.

        `policy` is the tenant's: the most that may be analysed, and all of it where a fragment does not ask for less.
        """
        self._settings, self._policy = settings, policy
        self._checkpoint = checkpoint
        self._demuxer: Demuxer | None = None
        self._echo = EchoSuppressor()
        self._participants: tuple[Participant, ...] = ()
        """Of the last fragment that was decoded."""
        self._expected_seq = checkpoint.resume_seq
        self._unseen_seq = checkpoint.resume_seq or 0
        """One past the highest sequence number that has come, decodable or not."""
        self._missing = 0
        self._after_gap = self._ended = False
        self._identity, self._recorded = ("", "", ""), False
        self._events: list[TrackEvent] = []
        """Emitted, and not returned by a call yet."""
        self._tracks = {
            participant: ConsentedTrack(Track(settings, cut.cut_sample), cut.cut_sample)
            for participant, cut in checkpoint.tracks.items()
        }
        self._resume_points = ResumePoints()
        self._lock = Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of sound and pictures held in memory; bounded, however long the stream."""
        return self._echo.held_bytes + sum(own.track.held_bytes for own in self._tracks.values())

    @property
    def nothing_pending(self) -> bool:
        """Whether no participant may be analysed now and all that was found before is stored: no fragment is needed again."""
        return all(own.nothing_pending for own in self._tracks.values())

    def feed(self, fragment: MediaFragment) -> FeedResult:
        """Takes the stream's next fragment.

        Raises:
            MediaError: its media cannot be opened; the stream goes on with the next fragment as after a gap.
        """
        skipped = self._skip_reason(fragment)
        if skipped is not None:
            return FeedResult([], skipped, 0, 0)
        self._identity, self._recorded = (fragment.call_id, fragment.tenant, fragment.stream), fragment.recorded
        self._see(fragment)
        if self._after_gap or (self._expected_seq is not None and fragment.seq > self._expected_seq):
            self._end_open_speech()
        if fragment.withheld:
            return self._pass_over(fragment)
        if self._demuxer is None:
            self._demuxer = self._new_demuxer(fragment)
        self._after_gap = True
        demuxed = self._demuxer.feed(fragment)
        self._after_gap = False
        self._expected_seq = fragment.seq + 1
        self._ended = fragment.final
        start_sample = demuxed.start_sample
        if start_sample is None:
            start_sample = fragment.start_ms * SAMPLES_PER_MS
        self._remember(fragment, start_sample, starts_at_key_frame=demuxed.starts_at_key_frame)
        self._apply_consent(fragment, start_sample)
        self._participants = fragment.heard
        self._analyse(demuxed)
        self._advance_past_silence(start_sample)
        skipped = None if any(own.consent for own in self._tracks.values()) else "not_consented"
        damaged = demuxed.damaged + sum(own.track.take_damaged() for own in self._tracks.values())
        return FeedResult(self._drain(), skipped, damaged, demuxed.media_ms, self.take_missing())

    def _pass_over(self, fragment: MediaFragment) -> FeedResult:
        """A fragment whose media was left out: whatever its tenant allows by now, there is nothing to analyse."""
        self._end_open_speech()
        self._expected_seq = fragment.seq + 1
        self._ended = fragment.final
        start_sample = fragment.start_ms * SAMPLES_PER_MS
        self._remember(fragment, start_sample, starts_at_key_frame=True)
        self._apply_consent(replace(fragment, consent={}), start_sample)
        return FeedResult(self._drain(), "not_consented", 0, 0, self.take_missing())

    def leave_gap(self, fragment: MediaFragment) -> None:
        """Passes over a fragment that cannot be decoded: what follows it is taken as after a gap, as where `feed` raises."""
        if self._skip_reason(fragment) is None:
            self._see(fragment)
            self._after_gap = True

    def take_missing(self) -> int:
        """How many sequence numbers were left out before the last fragment, and not returned yet."""
        missing, self._missing = self._missing, 0
        return missing

    def _see(self, fragment: MediaFragment) -> None:
        """It has come, so that it does not count as missing, whether or not it can be decoded."""
        if fragment.at is None or fragment.at.offset >= self._checkpoint.account.counted_to:  # else counted long ago
            self._missing += max(0, fragment.seq - self._unseen_seq)
        self._unseen_seq = max(self._unseen_seq, fragment.seq + 1)

    def finish(self) -> list[TrackEvent]:
        """The stream has ended: open speech becomes a last utterance, and every cut moves to the end of the sound."""
        self._ended = True
        self._flush_demuxer()
        for participant, own in self._tracks.items():
            if own.consent:
                self._emit(participant, own, own.track.finish())
        return self._drain()

    def open_speech(self) -> list[Utterance]:
        """The utterances that go on, as far as they have come, of whose words may be analysed (see `Track.open_speech`)."""
        heard = [(who, own) for who, own in self._tracks.items() if Modality.TEXT in (own.consent or NOTHING)]
        found = [self._utterance(who, own, own.track.open_speech()) for who, own in heard]
        return [utterance for utterance in found if utterance is not None]

    def resume_point(self, participant: Participant, cut_sample: int) -> ResumePoint:
        """Where a new owner must read from once the event that moved `participant`'s cut to `cut_sample` is stored.

        That is one pre-roll before the lowest cut that is then stored; a track of which nothing is stored counts
        from its first fragment, one that may not be analysed any more does not count.

        Raises:
            LookupError: no fragment has been fed yet.
        """
        with self._lock:
            self._tracks[participant].needed_sample = cut_sample
            needed = [own.needed_sample for own in self._tracks.values() if not own.nothing_pending]
            return self._resume_points.before(min(needed, default=cut_sample))

    def _skip_reason(self, fragment: MediaFragment) -> SkipReason | None:
        first_seq = self._checkpoint.resume_seq
        if self._checkpoint.final or (first_seq is not None and fragment.seq < first_seq):
            return "already_stored"
        if self._expected_seq is not None and fragment.seq < self._expected_seq:
            return "duplicate"
        return "after_final" if self._ended else None

    def _end_open_speech(self) -> None:
        """Fragments are missing: what comes next does not continue what came before."""
        self._flush_demuxer()
        for participant, own in self._tracks.items():
            if own.consent:
                self._emit(participant, own, own.track.interrupt())

    def _flush_demuxer(self) -> None:
        if self._demuxer is not None:
            self._analyse(self._demuxer.finish())
            self._demuxer = None
            self._feed(self._echo.finish(), [])

    def _new_demuxer(self, fragment: MediaFragment) -> Demuxer:
        exact = self._checkpoint.resume_sample
        if fragment.seq != self._checkpoint.resume_seq or exact == fragment.start_ms * SAMPLES_PER_MS:
            # Nothing is known better than the fragment's own time, and without sound nothing could be.
            exact = None
        return Demuxer(self._settings, exact)

    def _remember(self, fragment: MediaFragment, start_sample: int, *, starts_at_key_frame: bool) -> None:
        # A fragment that never was in a log is known by its sequence number.
        offset = fragment.seq if fragment.at is None else fragment.at.offset
        with self._lock:
            point = ResumePoint(offset, fragment.seq, start_sample)
            self._resume_points.add(point, starts_at_key_frame=starts_at_key_frame)

    def _apply_consent(self, fragment: MediaFragment, start_sample: int) -> None:
        """What may be analysed holds from the first sample of a fragment; an utterance never straddles a change."""
        policy = granted(fragment.consent, self._policy)
        for participant in fragment.heard:
            if participant not in self._tracks and policy.get(participant):
                with self._lock:
                    self._tracks[participant] = ConsentedTrack(Track(self._settings, 0), start_sample, NOTHING)
        for participant, own in self._tracks.items():
            allowed = policy.get(participant, NOTHING) if participant in fragment.participants else NOTHING
            if allowed == own.consent:
                continue
            if own.consent:
                self._feed(self._echo.finish(), [])
                self._emit(participant, own, own.track.interrupt())
            if own.consent is not None:
                own.track.skip_to(start_sample)
            with self._lock:
                if own.nothing_pending:
                    own.needed_sample = max(own.needed_sample, start_sample)
                own.consent = allowed

    def _analyse(self, demuxed: Demuxed) -> None:
        # Sound of whom nothing may be analysed is compared with the others', so that it is not taken for theirs.
        self._feed(self._echo.feed(demuxed.blocks, self._participants), demuxed.pictures, ended=demuxed.ended)

    def _feed(self, blocks: list[AudioBlock], pictures: list[PicturePacket], *, ended: bool = False) -> None:
        for participant, own in self._tracks.items():
            if not own.consent:
                continue
            heard = [block for block in blocks if block.participant is participant]
            seen = [one for one in pictures if one.participant is participant and Modality.VIDEO in own.consent]
            self._emit(participant, own, own.track.feed(heard, seen, ended=ended))

    def _advance_past_silence(self, start_sample: int) -> None:
        """Moves the cuts of tracks without sound or pictures: nothing of them before this fragment is needed again."""
        for participant, own in self._tracks.items():
            if own.consent:
                self._emit(participant, own, own.track.advance_past_silence(start_sample))

    def _emit(self, participant: Participant, own: ConsentedTrack, found: list[TrackSegment]) -> None:
        # Kept until a call returns: when `feed` raises, what its gap has ended is returned by the next call.
        for one in found:
            utterance = self._utterance(participant, own, one)
            event = TrackEvent(participant, one.segment.cut_sample, one.expected_cut_sample, utterance)
            self._events.append(event)

    def _drain(self) -> list[TrackEvent]:
        events, self._events = self._events, []
        return events

    def _utterance(self, participant: Participant, own: ConsentedTrack, found: TrackSegment) -> Utterance | None:
        segment, consent = found.segment, own.consent or NOTHING
        if segment.start_sample == segment.end_sample:
            return None
        call_id, tenant, stream = self._identity
        return Utterance(
            call_id=call_id,
            tenant=tenant,
            stream=stream,
            participant=participant,
            start_ms=segment.start_sample // SAMPLES_PER_MS,
            end_ms=segment.end_sample // SAMPLES_PER_MS,
            consent=consent,
            # The words are found in the sound, so a text needs it too.
            samples=found.samples if consent & {Modality.AUDIO, Modality.TEXT} else np.zeros(0, np.float32),
            frames=found.frames,
            recorded=self._recorded,
        )
