"""One party's media, a file or a byte stream: its packets on one time line, and what of it is not heard."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.clock import STEP_BACK_S, STEP_MAX_S, SourceClock, TimedPacket
from pipelines.media.container import Tracks, open_media, packets, tracks_of
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.joined import UNREAD_MAX_BYTES, File, joined_files, unread_bytes
from pipelines.media.raw_audio import RATE_MIN_HZ
from pipelines.types import Channels

PICTURE_MAX_PIXELS: Final = 5120 * 2880
"""FFmpeg looks at up to ten pictures when it opens a file; larger ones, 10 bits deep, would take a gigabyte."""
OPEN_MAX_S: Final = 5.0
"""Processor time that opening may take where it is bounded; twenty pictures of 10 bits and that size take one second."""
_BARE_FRAMES: Final = {"aac", "mp3"}
"""FFmpeg's names of containers that hold frames and no times."""
_FROM_ZERO: Final = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}
"""Containers whose zero is the beginning of the recording, so that the file of one party says when they joined."""
_TELL_LENGTH: Final = _FROM_ZERO | {"flac", "asf", "flv"}
_SHORT_S: Final = 1.0
_IN_ORDER: Final = {
    "aac",
    "flac",
    "gsm",
    "matroska,webm",
    "mp3",
    "mpegts",
    "ogg",
    "wav",
    "aiff",
    "caf",
    "w64",
    "flv",
    "amr",
    "au",
}
"""Containers of which FFmpeg reads the end last."""
_HEAD_S: Final = 1
_HEAD_PACKETS_MAX: Final = 1024

Warn = Callable[[str], None]

logger = logging.getLogger(__name__)


def source_packets(
    file: File,
    participants: Channels,
    opened: ExitStack,
    *,
    decoders: DecoderProcesses | None = None,
    warn: Warn = logger.warning,
) -> Iterator[TimedPacket]:
    """The packets of `participants`' tracks, from where the source begins: at 0, or as late as its own zero says.

    Args:
        file: of one recording, or of several that were joined to one.
        participants: who is on which channel or sound track.
        opened: keeps the containers open, for as long as their packets are needed.
        decoders: open the media there before it is opened here, which bounds what FFmpeg decodes when it opens something.
        warn: is told, in a sentence each, what is not heard.

    Raises:
        MediaError: see `pipelines.media.fragment.fragments`.
    """
    what = _name(file)
    head: list[TimedPacket] = []
    timed = _read(file, participants, opened, decoders, warn)
    for packet in timed:
        head.append(packet)
        # Neither the first packet of a file nor that of a track need be the earliest.
        is_enough = packet.dts_ms - head[0].dts_ms >= _HEAD_S * 1000 or len(head) == _HEAD_PACKETS_MAX
        if is_enough or packet.tracks is not head[0].tracks:
            break
    if not head:
        raise MediaError(f"{what} opens, but holds no packet of sound or picture")
    start_ms = min(packet.shown_ms for packet in head)
    # By decoding times: an MP4 that begins with B-frames shows its first picture late, and is not.
    is_late = min(packet.dts_ms for packet in head) > STEP_BACK_S * 1000 and start_ms <= STEP_MAX_S * 1000
    if is_late and head[0].packet.stream.container.format.name in _FROM_ZERO:
        start_ms = 0
    for packet in chain(head, timed):
        yield packet.moved(-start_ms)


def _read(
    file: File,
    participants: Channels,
    opened: ExitStack,
    decoders: DecoderProcesses | None,
    warn: Warn,
) -> Iterator[TimedPacket]:
    clock, what = SourceClock(), _name(file)
    for part in joined_files(file):
        if decoders is not None:
            decoders.check_opening(part, what, PICTURE_MAX_PIXELS, cpu_max_s=OPEN_MAX_S)
        container = opened.enter_context(open_media(part, what, PICTURE_MAX_PIXELS))
        tracks = tracks_of(container, participants, what)
        _check_rates(tracks, what)
        for name in tracks.left_out:
            warn(f"{what}: sound track {name} is not heard, because nobody is said to be on it")
        of = container.format.name
        read = _packets(container, tracks, what, warn)
        yield from clock.place(read, tracks, counts=of in _BARE_FRAMES, from_zero=of in _FROM_ZERO)
        _warn_of_end(container, clock, what, warn)
        in_order = isinstance(part, ByteStream) or container.format.name in _IN_ORDER
        if in_order and (left_bytes := unread_bytes(part)):
            more = "or more " if left_bytes == UNREAD_MAX_BYTES else ""
            warn(f"{what}: {left_bytes} bytes {more}behind the last packet were not read; what came before is heard")


def _name(file: File) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "the stream"


def _packets(container: InputContainer, tracks: Tracks, what: str, warn: Warn) -> "Iterator[Packet[Stream]]":
    try:
        yield from packets(container, *tracks.streams)
    except av.error.InvalidDataError:
        # What came before is good. The bytes that follow are not, so the call ends here, as with a torn connection.
        warn(f"{what} is damaged in the middle: the call ends there")
    except av.FFmpegError as error:
        raise MediaError(f"{what}: reading stopped ({error.strerror})") from error


def _check_rates(tracks: Tracks, what: str) -> None:
    for sound in tracks.sounds:
        if 0 < (rate_hz := sound.stream.codec_context.sample_rate) < RATE_MIN_HZ:
            # At 1 Hz a megabyte would be ten days, in as many fragments as seconds.
            raise MediaError(f"{what} holds sound at {rate_hz} Hz; at least {RATE_MIN_HZ} Hz are allowed")


def _warn_of_end(container: InputContainer, clock: SourceClock, what: str, warn: Warn) -> None:
    if container.duration is None or container.format.name not in _TELL_LENGTH or clock.was_set_anew:
        return
    told_s = container.duration / av.time_base
    if told_s - clock.end_s > _SHORT_S:
        warn(f"{what} says to last {told_s:.1f} s, and ends after {float(clock.end_s):.1f} s: the rest is missing")
