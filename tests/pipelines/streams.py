"""Streams for tests: calls and films made here, runs over them, and what the store would make of their events."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from models.types import FloatArray
from pipelines.checkpoints import NEW_STREAM, Checkpoint, ResumePoint, TrackCut
from pipelines.media.call_stream import CallStream, TrackEvent
from pipelines.media.fragment import fragments as cut_into_fragments
from pipelines.settings import StreamSettings
from pipelines.types import DEFAULT_CONSENT, Coordinates, MediaFragment, Participant, Utterance

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER
NEW = NEW_STREAM
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


@cache
def two_parties(vowels: Voice) -> FloatArray:
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
    """What the store makes of an event; refuses it like the store when the cut is not the expected one."""
    cut = checkpoint.tracks.get(event.participant, TrackCut(0, 0))
    assert cut.cut_sample == event.expected_cut_sample
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


def flac(path: Path) -> FloatArray:
    with av.open(path) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    sound: FloatArray = np.concatenate(frames, axis=1)[0].astype(np.float32) / np.float32(32768)
    return sound


def film(path: Path, sound: FloatArray | None, seconds: int, *, key_every: int, late_s: int = 0) -> Path:
    """A Matroska file of grey pictures at 10 per s that grow lighter, with mono sound at 16 kHz from `late_s` on, or without."""
    with av.open(path, "w", format="matroska") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 64, 48, "yuv420p", key_every
        voice = None if sound is None else container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for index in range(10 * seconds):
            shade = np.full((48, 64, 3), 2 * index % 250, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            if voice is not None and sound is not None and index >= 10 * late_s:
                at = 1600 * (index - 10 * late_s)
                heard = av.AudioFrame.from_ndarray(sound[np.newaxis, at : at + 1600], "flt", "mono")
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
