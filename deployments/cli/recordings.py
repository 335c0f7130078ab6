"""Recordings on disk: who is on which channel, one file per party as one stream, cut into fragments and sent."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from deployments.cli.console import EXIT_NOT_FOUND, EXIT_USAGE, CommandError, stderr
from pipelines.consent import parse_consent
from pipelines.errors import BadFragmentError
from pipelines.log.producer import Producer
from pipelines.log.records import fragment_headers, parse_participants
from pipelines.media.byte_stream import head_of
from pipelines.media.container import open_media
from pipelines.media.fragment import fragments
from pipelines.media.raw_audio import RawAudio, content_type_of, is_container, raw_audio
from pipelines.settings import MediaLimits
from pipelines.types import TOPIC_MEDIA, Channels, Consent, MediaFragment, Participant

FLUSH_FRAGMENTS = 16
"""Acknowledgements are waited for after so many fragments; in real time after each."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Files and what the command line says of them; `participants` and `consent` as written there, `customer` as a keyed hash."""

    paths: tuple[Path, ...]
    participants: str | None = None
    consent: str | None = None
    stream: str = "main"
    tenant: str = "default"
    customer: str | None = None


def fragments_of(recording: Recording, call_id: str, *, recorded: bool = True) -> Iterator[MediaFragment]:
    """The fragments of the recording: one file as it is, or one file per participant put together to one stream.

    `recorded`: nobody waits for what comes of it, as somebody does where it is sent in real time.

    Raises:
        CommandError: a file is missing, or participants or consent do not fit.
        MediaError: no media.
    """
    paths = recording.paths
    participants, consent = participants_of(paths, recording.participants), consent_of(recording.consent)
    if recording.participants is None:
        stderr().print(_hint(paths[0]), markup=False, highlight=False)
    return fragments(
        paths[0],
        call_id=call_id,
        tenant=recording.tenant,
        stream=recording.stream,
        participants=participants,
        consent=consent,
        besides=paths[1:],
        recorded=recorded,
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


def participants_of(paths: Sequence[Path], text: str | None) -> Channels:
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
            raise CommandError(f"no such file: {path}", EXIT_NOT_FOUND)
        if path.stat().st_size == 0:
            raise CommandError(f"{path} is empty")
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
    return named


def length_s(paths: Sequence[Path]) -> float | None:
    """Seconds of the longest of the recordings; None where a file does not say."""
    longest = 0.0
    for path in paths:
        if (raw := _raw_of(path)) is not None:
            longest = max(longest, float(path.stat().st_size // raw.frame_bytes * raw.frame_s))
            continue
        with path.open("rb") as file, open_media(file, str(path), MediaLimits().picture_max_pixels) as container:
            if container.duration is None:
                return None
            longest = max(longest, container.duration / av.time_base)
    return longest


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
    """How many channels the sound has, of all tracks; 1 where there is none."""
    if (raw := _raw_of(path)) is not None:
        return raw.channels
    with path.open("rb") as file, open_media(file, str(path), MediaLimits().picture_max_pixels) as container:
        return sum(stream.codec_context.channels for stream in container.streams.audio) or 1


def _raw_of(path: Path) -> RawAudio | None:
    """How a file of raw sound is read, which its extension says; None for what FFmpeg opens by itself."""
    content_type = content_type_of(path.name)
    with path.open("rb") as file:
        return None if content_type is None or is_container(head_of(file)) else raw_audio(content_type)
