"""One party's media, a file or a byte stream: its packets on one time line, and what of it is not heard."""

import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.clock import STEP_BACK_S, STEP_MAX_S, SourceClock, TimedPacket
from pipelines.media.container import Tracks, packets, reads_all, time_s, tracks_of
from pipelines.media.damage import PassedOver
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.ending import Ending
from pipelines.media.joined import File, joined_files
from pipelines.media.opening import open_source
from pipelines.media.owners import is_unknown
from pipelines.media.raw_audio import RATE_MIN_HZ
from pipelines.media.stated import Ends
from pipelines.types import Channels, format_participants

_BARE_FRAMES: Final = {"aac", "mp3"}
"""FFmpeg's names of containers that hold frames and no times."""
_FROM_ZERO: Final = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}
"""Containers whose zero is the beginning of the recording, so that the file of one party says when they joined."""
_TRACKS_APART: Final = {"mov,mp4,m4a,3gp,3g2,mj2"}
"""Containers that hold one track behind the other, for as long as a movie fragment lasts; FFmpeg puts them together where it can seek."""
_OPEN_ALL_MAX_S: Final = 300
"""So long may it take to open all the files of a source."""
_TELLS_PLACES: Final = {"matroska,webm"}
"""Containers of which FFmpeg tells where in the file each packet lies, with next to nothing between them."""
_HELD_MAX_S: Final = 12
_HELD_MAX_BYTES: Final = 16 << 20
_PACKET_BYTES: Final = 1 << 10
"""What a packet takes besides its own bytes."""
_TOLD_MAX: Final = 10
"""Of files that were joined, so many sentences are said of how they end."""
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
    is_seen: bool = True,
) -> Iterator[TimedPacket]:
    """The packets of `participants`' tracks, from where the source begins: at 0, or as late as its own zero says.

    Args:
        file: of one recording, or of several that were joined to one.
        participants: who is on which channel or sound track.
        opened: keeps the containers open, for as long as their packets are needed.
        decoders: open the media there before it is opened here, which bounds what FFmpeg decodes when it opens something.
        warn: is told, in a sentence each, what is not heard.
        is_seen: False where its pictures are left out, if it has sound.

    Raises:
        MediaError: see `pipelines.media.fragment.fragments`.
    """
    what = _name(file)
    head: list[TimedPacket] = []
    timed = _read(file, participants, opened, decoders=decoders, warn=warn, is_seen=is_seen)
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


def _containers(
    file: File, participants: Channels, opened: ExitStack, decoders: DecoderProcesses | None, warn: Warn
) -> Iterator[tuple[Ending, ExitStack, InputContainer, frozenset[int]]]:
    """Each of the files that were joined, what closes it, its container, and the indexes of the tracks that are silent for now."""
    spent_s, what, ends = 0.0, _name(file), Ends()
    for number, part in enumerate(joined_files(file, ends)):
        own = opened.enter_context(ExitStack())
        began_s = time.monotonic()
        ending = Ending(part, ends)
        try:
            container, silent = open_source(part, own, what, decoders, participants)
        except MediaError as error:
            if number == 0:
                raise
            own.close()
            warn(f"{what}: a file that is joined behind others is passed over: {error}")
            continue
        finally:
            spent_s += time.monotonic() - began_s
        if spent_s > _OPEN_ALL_MAX_S:
            raise MediaError(f"{what}: opening the files that it is joined of takes too long; send them one by one")
        yield ending, own, container, silent


def _read(
    file: File,
    participants: Channels,
    opened: ExitStack,
    *,
    decoders: DecoderProcesses | None,
    warn: Warn,
    is_seen: bool,
) -> Iterator[TimedPacket]:
    clock, what = SourceClock(), _name(file)
    ended: list[ExitStack] = []
    told = 0
    files = _containers(file, participants, opened, decoders, warn)
    for number, (ending, own, container, silent) in enumerate(files, 1):
        tracks = _known(tracks_of(container, participants, what, silent), what, warn)
        hears_all = reads_all(container, tracks)
        if not is_seen and tracks.sounds:
            hears_all &= tracks.picture is None
            tracks = replace(tracks, picture=None)
        of = container.format.name
        read = ending.watched(_packets(container, tracks, what, warn))
        passed_over = PassedOver()
        if of in _TELLS_PLACES:
            read = passed_over.seen(read, complete=hears_all)
        if isinstance(ending.file, ByteStream) and of in _TRACKS_APART:
            read = _interleaved(read, len(tracks.streams))
        has_packets = False
        for packet in clock.place(read, tracks, counts=of in _BARE_FRAMES, from_zero=of in _FROM_ZERO):
            yield packet
            has_packets = True
            # Whoever asks for the second packet has made a fragment of all that was before the first.
            while ended:
                ended.pop().close()
        which = what if number == 1 else f"{what}: file {number} of those joined in it"
        sentences = ending.sentences(container, clock.file_end_s if has_packets and hears_all else None)
        told = _told((f"{which}{sentence}" for sentence in chain(passed_over.sentences(), sentences)), told, warn)
        ended.append(own)
        if not has_packets:
            ended.pop().close()
    if told > _TOLD_MAX:
        warn(f"{what}: {told - _TOLD_MAX} more such sentences of other files that are joined in it are left out")


def _told(sentences: Iterator[str], told: int, warn: Warn) -> int:
    """How many were said, with `told` before them; of all together `_TOLD_MAX` are."""
    for number, sentence in enumerate(sentences, told + 1):
        told = number
        if number <= _TOLD_MAX:
            warn(sentence)
    return told


def _name(file: File) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "the stream"


def _packets(container: InputContainer, tracks: Tracks, what: str, warn: Warn) -> "Iterator[Packet[Stream]]":
    try:
        empty = {stream.index for stream in tracks.taken_for_empty}
        for packet in packets(container, *tracks.streams, *tracks.taken_for_empty):
            if packet.stream_index in empty:
                raise MediaError(
                    f"{what}: a sound track that had sent nothing begins at {float(time_s(packet)):.1f} s of the stream's own clock, too late to "
                    "say whose it is or to be read: name one participant a track; send it as a file, as Matroska, or as a stream of its own"
                )
            yield packet
    except av.error.InvalidDataError:
        # What came before is good. The bytes that follow are not, so the call ends here, as with a torn connection.
        warn(f"{what} is damaged in the middle: the call ends there")
    except av.FFmpegError as error:
        raise MediaError(f"{what}: reading stopped ({error.strerror})") from error


def _interleaved(packets: "Iterator[Packet[Stream]]", tracks: int) -> "Iterator[Packet[Stream]]":
    """In the order of decoding, as far as that can be told of what `_HELD_MAX_S` and `_HELD_MAX_BYTES` hold."""
    held: list[tuple[float, int, Packet[Stream]]] = []
    waiting: Counter[int] = Counter()
    silent = 0
    """Tracks that have sent nothing for as long as could be held: they are waited for no more."""
    held_bytes, latest_s = 0, -math.inf
    for number, packet in enumerate(packets):
        ticks = packet.dts if packet.dts is not None else packet.pts
        latest_s = latest_s if ticks is None else float(ticks * packet.time_base)
        heapq.heappush(held, (latest_s, number, packet))
        waiting[packet.stream_index] += 1
        held_bytes += packet.size + _PACKET_BYTES
        if held_bytes > _HELD_MAX_BYTES or latest_s - held[0][0] > _HELD_MAX_S:
            silent = tracks - len(waiting)
        while held and len(waiting) >= tracks - silent:
            _, _, first = heapq.heappop(held)
            held_bytes -= first.size + _PACKET_BYTES
            waiting -= Counter([first.stream_index])
            yield first
    yield from (packet for _, _, packet in sorted(held, key=lambda item: item[:2]))


def _known(tracks: Tracks, what: str, warn: Warn) -> Tracks:
    """The tracks that can be cut; says which of the others are not heard.

    Raises:
        MediaError: there is sound of which nothing is known, or whose rate is too low.
    """
    for name in tracks.left_out:
        warn(f"{what}: sound track {name} is not heard, because nobody is said to be on it")
    unknown = [sound for sound in tracks.sounds if is_unknown(sound.stream)]
    if unknown:
        known = tuple(sound for sound in tracks.sounds if sound not in unknown)
        if not known:
            raise MediaError(
                f"{what}: its sound begins too late for a stream that is read once; send it as a file, as Matroska, or as a stream of its own"
            )
        for sound in unknown:
            who = format_participants(sound.participants)
            warn(f"{what}: the sound track of {who} sends nothing; without it the others are heard, until it does")
        empty = (*tracks.taken_for_empty, *(sound.stream for sound in unknown))
        who_is = tuple(who for sound in known for who in sound.participants)
        tracks = replace(tracks, sounds=known, participants=who_is, taken_for_empty=empty)
    for sound in tracks.sounds:
        rate_hz = sound.stream.codec_context.sample_rate
        if rate_hz < RATE_MIN_HZ:
            # At 1 Hz a megabyte would be ten days, in as many fragments as seconds.
            raise MediaError(f"{what} holds sound at {rate_hz} Hz; at least {RATE_MIN_HZ} Hz are allowed")
    if tracks.picture is None or not is_unknown(tracks.picture):
        return tracks
    if not tracks.sounds:
        raise MediaError(
            f"{what}: its pictures begin too late for a stream that is read once; send it as a file, or as Matroska"
        )
    warn(f"{what}: its pictures begin so late that nothing is known of them yet; they are left out")
    return replace(tracks, picture=None)
