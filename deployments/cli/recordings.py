"""Recordings on disk: who is on which channel, one file per party as one stream, cut into fragments and sent."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from deployments.cli.console import EXIT_USAGE, CommandError, stderr
from models.types import SAMPLE_RATE_HZ
from pipelines.consent import parse_consent
from pipelines.errors import BadFragmentError, MediaError
from pipelines.log.producer import Producer
from pipelines.log.records import fragment_headers, parse_participants
from pipelines.media.container import open_media, sound_and_picture
from pipelines.media.fragment import fragments
from pipelines.settings import MediaLimits
from pipelines.types import TOPIC_MEDIA, Consent, MediaFragment, Participant

BLOCK_SAMPLES = SAMPLE_RATE_HZ
"""Samples per channel in a merged block: a second."""
FLUSH_FRAGMENTS = 16
"""Acknowledgements are waited for after so many fragments; in real time after each."""

Pcm = np.ndarray[tuple[int], np.dtype[np.int16]]


@dataclass(frozen=True, slots=True)
class Recording:
    """Files and what the command line says of them; `participants` and `consent` as written there, `customer` as a keyed hash."""

    paths: tuple[Path, ...]
    participants: str | None = None
    consent: str | None = None
    stream: str = "main"
    tenant: str = "default"
    customer: str | None = None


def fragments_of(recording: Recording, call_id: str) -> Iterator[MediaFragment]:
    """The fragments of the recording: one file as it is, or one file per participant merged into one stream.

    Raises:
        CommandError: a file is missing, or participants or consent do not fit.
        MediaError: no media.
    """
    paths = recording.paths
    participants, consent = participants_of(paths, recording.participants), consent_of(recording.consent)
    merged = len(paths) > 1
    if recording.participants is None:
        stderr().print(_hint(paths[0]), markup=False, highlight=False)
    return fragments(
        merged_l16(paths) if merged else paths[0],
        call_id=call_id,
        tenant=recording.tenant,
        stream=recording.stream,
        participants=participants,
        consent=consent,
        content_type=merged_content_type(len(paths)) if merged else None,
    )


def send_fragments(
    producer: Producer,
    cut: Iterable[MediaFragment],
    seal_fragment: Callable[[MediaFragment], MediaFragment],
    *,
    realtime: bool,
    first_seq: int = 0,
) -> Iterator[MediaFragment]:
    """Send from `first_seq` on, as `seal_fragment` makes them; yields a fragment when the log has acknowledged it and everything before.

    Raises:
        SourceUnavailableError: the log is away; what was yielded stands in it.
    """
    queued = 0
    started_s = time.monotonic()
    wanted = (fragment for fragment in cut if fragment.seq >= first_seq)
    for due_s, fragment in due(wanted):
        if realtime:
            time.sleep(max(0.0, started_s + due_s - time.monotonic()))
        sent = seal_fragment(fragment)
        producer.send(TOPIC_MEDIA, sent.call_id, sent.media, fragment_headers(sent))
        queued += 1
        if realtime or fragment.final or queued >= FLUSH_FRAGMENTS:
            producer.flush()
            queued = 0
            yield fragment


def due(cut: Iterable[MediaFragment]) -> Iterator[tuple[float, MediaFragment]]:
    """Each fragment with the seconds after the first one's start at which its media has been spoken.

    That is when the next one starts; the last is taken to be as long as the one before it.
    """
    waiting: MediaFragment | None = None
    first_ms = length_ms = 0
    for fragment in cut:
        if waiting is None:
            first_ms = fragment.start_ms
        else:
            length_ms = fragment.start_ms - waiting.start_ms
            yield (fragment.start_ms - first_ms) / 1000, waiting
        waiting = fragment
    if waiting is not None:
        yield (waiting.start_ms + length_ms - first_ms) / 1000, waiting


def consent_of(text: str | None) -> Consent | None:
    """The policy that the command line names; None leaves it to the tenant's.

    Raises:
        CommandError: it is not written like `customer=audio+video+text;agent=text`.
    """
    try:
        return None if text is None else parse_consent(text)
    except BadFragmentError as error:
        raise CommandError(error.message_for("--consent"), EXIT_USAGE) from error


def participants_of(paths: Sequence[Path], text: str | None) -> tuple[Participant, ...]:
    """Who is on which channel (one file) or in which file (several).

    Where `text` is None, one recording is `mixed`, whatever its channels: whoever is taken for the customer is judged by
    voice and face. Of several files each is a party's own, and who is in which is never guessed at.

    Raises:
        CommandError: a file is missing, `text` is though there are several files, or it does not fit.
        MediaError: FFmpeg cannot open the file.
    """
    for path in paths:
        if path.is_dir():
            raise CommandError(f"{path} is a folder: name the files in it", EXIT_USAGE)
        if not path.is_file():
            raise CommandError(f"no such file: {path}", EXIT_USAGE)
    if text is None and len(paths) == 1:
        return (Participant.MIXED,)
    if text is None:
        raise CommandError(f"{len(paths)} files: say who is in which, with --participants agent,customer", EXIT_USAGE)
    try:
        named = parse_participants(text)
    except BadFragmentError as error:
        raise CommandError(error.message_for("--participants"), EXIT_USAGE) from error
    if len(paths) > 1 and len(named) != len(paths):
        raise CommandError(f"{len(paths)} files, but --participants names {len(named)}: one for each file", EXIT_USAGE)
    channels = _channels(paths[0])
    if len(paths) == 1 and len(named) not in (1, channels):
        raise CommandError(f"{paths[0]} has {channels} channel(s), but --participants names {len(named)}", EXIT_USAGE)
    return named


def length_s(paths: Sequence[Path]) -> float | None:
    """Seconds of the longest of the recordings; None where a file does not say."""
    longest = 0.0
    for path in paths:
        with path.open("rb") as file, open_media(file, str(path), MediaLimits().picture_max_pixels) as container:
            if container.duration is None:
                return None
            longest = max(longest, container.duration / av.time_base)
    return longest


def merged_l16(paths: Sequence[Path]) -> Iterator[bytes]:
    """The first sound track of each file as one channel, in order: 16 kHz, 16 bit, big-endian (RFC 2586 §2).

    Yields a second at a time; a party that ends early is silent from there on.

    Raises:
        MediaError: a file cannot be opened, is damaged, or holds no sound.
    """
    with ExitStack() as opened:
        channels = [_blocks(path, opened) for path in paths]
        while True:
            blocks = [next(channel, None) for channel in channels]
            length = max((len(block) for block in blocks if block is not None), default=0)
            if not length:
                return
            mixed = np.zeros((length, len(paths)), dtype=">i2")
            for column, block in enumerate(blocks):
                if block is not None:
                    mixed[: len(block), column] = block
            yield mixed.tobytes()


def merged_content_type(channels: int) -> str:
    """What `merged_l16` yields."""
    return f"audio/L16;rate={SAMPLE_RATE_HZ};channels={channels}"


def _hint(path: Path) -> str:
    """How to say who is heard in a recording of which nobody has."""
    channels = _channels(path)
    named = "--participants agent,customer" if channels == 2 else "--participants with a name for each channel"
    each = f"its {channels} channels are one party each: {named}; if " if channels > 1 else ""
    return (
        f"{path.name} is taken as `mixed`: agent and customer may both be heard, so that only words are judged. "
        f"If {each}only the customer is heard and seen: --participants customer"
    )


def _channels(path: Path) -> int:
    """How many channels the sound has, 1 where there is none."""
    with path.open("rb") as file, open_media(file, str(path), MediaLimits().picture_max_pixels) as container:
        sound, _ = sound_and_picture(container, str(path))
        return 1 if sound is None else sound.codec_context.channels


def _blocks(path: Path, opened: ExitStack) -> Iterator[Pcm]:
    file = opened.enter_context(path.open("rb"))
    container = opened.enter_context(open_media(file, str(path), MediaLimits().picture_max_pixels))
    if not container.streams.audio:
        raise MediaError(f"{path} holds no sound; files are merged by their sound only, so send it by itself")
    return _resampled(path, container)


def _resampled(path: Path, container: InputContainer) -> Iterator[Pcm]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    waiting: Pcm = np.zeros(0, np.int16)
    try:
        for frame in chain(container.decode(audio=0), (None,)):
            waiting = np.concatenate([waiting, *(part.to_ndarray()[0] for part in resampler.resample(frame))])
            while len(waiting) >= BLOCK_SAMPLES:
                yield waiting[:BLOCK_SAMPLES]
                waiting = waiting[BLOCK_SAMPLES:]
    except av.FFmpegError as error:
        raise MediaError(f"{path} is damaged: {error}") from error
    if len(waiting):
        yield waiting
