"""Cuts any media into fragments that can be demuxed by themselves (docs/architecture.md#a-fragment), without re-encoding."""

import heapq
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import IO

import av
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream, Source, SpoolBudget, head_of, opened
from pipelines.media.clock import TimedPacket
from pipelines.media.damage import Refused
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.mux import Layout, TrackKey, layout_of, muxed, unwritable
from pipelines.media.raw_audio import RawAudio, content_type_of, is_container, raw_audio
from pipelines.media.resample import require_channels
from pipelines.media.source import Warn, source_packets
from pipelines.types import FRAGMENT_MAX_BYTES, START_MAX_MS, Channels, Consent, MediaFragment, Participant

_KEY_CUT, _ANY_CUT = Fraction(1, 2), Fraction(5, 4)
"""Pictures: cut at a key frame from half the wanted length on, and anywhere from 5/4 on."""
_SUBTYPES = {"matroska": "x-matroska", "ogg": "ogg", "wav": "wav"}
_HEADER_BYTES = 16 << 10
_PACKET_HEADER_BYTES = 64

logger = logging.getLogger(__name__)


def fragments(
    source: Source,
    *,
    call_id: str,
    tenant: str,
    stream: str,
    participants: Channels,
    consent: Consent | None,
    besides: Sequence[Path] = (),
    content_type: str | None = None,
    fragment_ms: int = 1000,
    start_ms: int = 0,
    customer: str | None = None,
    recorded: bool = False,
    decoders: DecoderProcesses | None = None,
    spool: SpoolBudget | None = None,
    warn: Warn = logger.warning,
) -> Iterator[MediaFragment]:
    """Yields each fragment as soon as its media is there; the last one is `final`.

    Reading blocks, so live bytes want a thread. Raw sound (`audio/L16;…`, `audio/PCMU` …: `raw_audio`) is cut by bytes
    and keeps its content type; every other `content_type` is left to FFmpeg's own look at the bytes, and the packets
    go into Matroska: sound cut anywhere, pictures at key frames and, when those are rare, between them.

    Args:
        source: a file, a blocking reader, or an iterable of byte chunks.
        call_id: see `MediaFragment`, as the next four.
        tenant: whose call it is.
        stream: which flow of the call.
        participants: who is on which channel or sound track; with `besides`, who is in which file.
        consent: what may be analysed; None leaves it to the tenant's policy.
        besides: further files, with one party of the call each, on the same time line.
        content_type: needed for raw sound only, unless it is a file whose name says it (`content_type_of`).
        fragment_ms: the wanted length of a fragment; a fragment over `FRAGMENT_MAX_BYTES` is cut earlier.
        start_ms: where the media starts in the call.
        customer: whose call it is, as a keyed hash.
        recorded: whether nobody waits for what comes of it.
        decoders: open media there before it is opened here, which bounds what FFmpeg decodes when it opens something to `OPEN_MAX_S`.
        spool: of which an MP4 that cannot be read in order takes its part while it is cut.
        warn: is told, in a sentence each, what of the source is not heard: bytes that were not read, tracks, a missing end.

    Raises:
        MediaError: the source is empty, no media, raw sound that is not what it says, holds no packet, a codec that Matroska cannot
            hold, sound of which it is not clear whose it is, or times that reach beyond what a fragment's header can say.
        BusyError: it has to be spooled, and there is no room.
    """
    if content_type is None and isinstance(source, Path):
        content_type = content_type_of(source.name)
    named = None if content_type is None else raw_audio(content_type)
    with ExitStack() as files:
        first, *others = [files.enter_context(opened(one, spool=spool)) for one in (source, *besides)]
        raw = None if named is None or is_container(head_of(first)) else named
        if others and len(participants) != len(others) + 1:
            raise MediaError(f"{len(others) + 1} files and {len(participants)} participants: name one for each file")
        if raw is not None and others:
            raise MediaError(
                f"{source} holds sound without a container; convert it to WAV or FLAC to send it with others"
            )
        if raw is not None:
            require_channels(raw.channels, participants)
            pieces = _cut_raw(first, raw, content_type or "", fragment_ms, participants)
        else:
            owners = [(who,) for who in participants] if others else [participants]
            # Pictures are the customer's where there is one, and nobody's face is taken for another's.
            seen = participants.index(Participant.CUSTOMER) if Participant.CUSTOMER in participants else 0
            parties = [
                source_packets(file, who, files, decoders=decoders, warn=warn, is_seen=not others or n == seen)
                for n, (file, who) in enumerate(zip((first, *others), owners, strict=True))
            ]
            pieces = _cut_media(parties, fragment_ms, warn)
        for seq, piece in enumerate(pieces):
            if start_ms + piece.start_ms > START_MAX_MS:
                raise MediaError(
                    f"the media reaches {start_ms + piece.start_ms} ms into its call; at most {START_MAX_MS} ms are allowed: "
                    "correct its times or send it as several calls"
                )
            yield MediaFragment(
                call_id=call_id,
                tenant=tenant,
                stream=stream,
                seq=seq,
                start_ms=start_ms + piece.start_ms,
                content_type=piece.content_type,
                participants=piece.participants,
                consent=consent,
                final=piece.final,
                media=piece.media,
                customer=customer,
                recorded=recorded,
            )


@dataclass(frozen=True, slots=True)
class _Piece:
    start_ms: int
    content_type: str
    participants: Channels
    media: bytes
    final: bool


def _cut_raw(
    file: IO[bytes] | ByteStream, raw: RawAudio, content_type: str, fragment_ms: int, participants: Channels
) -> Iterator[_Piece]:
    """Every piece holds a whole number of ms and of the decoder's frames, so that its start is exact."""
    frame_ms = raw.frame_s * 1000
    ms_max = int(FRAGMENT_MAX_BYTES // raw.frame_bytes * frame_ms)
    length_ms = max(min(fragment_ms, ms_max) // frame_ms.numerator, 1) * frame_ms.numerator
    length_bytes = int(length_ms / frame_ms) * raw.frame_bytes
    held, start_ms = bytearray(), 0
    while chunk := file.read(length_bytes):
        held += chunk
        while len(held) > length_bytes:  # one byte more is needed to know that this is not the last piece
            raw.check(held[:length_bytes])
            yield _Piece(start_ms, content_type, participants, bytes(held[:length_bytes]), final=False)
            del held[:length_bytes]
            start_ms += length_ms
    raw.check(held)
    yield _Piece(start_ms, content_type, participants, bytes(held), final=True)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A packet, the number of its party, and among which tracks it stands."""

    timed: TimedPacket
    party: int
    layout: Layout

    @property
    def key(self) -> TrackKey:
        return self.party, self.timed.track

    def starts_anew_behind(self, group: "list[_Placed]") -> bool:
        """Whether no fragment can hold this packet besides those."""
        if not group or self.layout is not group[0].layout:
            return bool(group)
        return self.timed.starts_anew and any(other.key == self.key for other in group)

    def is_due(self, first: "_Placed", fragment_ms: int) -> bool:
        """Whether a fragment that begins with the `first` is long enough and may end before this packet."""
        key = self.timed.packet.is_keyframe and isinstance(self.timed.packet.stream, VideoStream)
        wanted_ms = fragment_ms * ((_KEY_CUT if key else _ANY_CUT) if self.layout.has_picture else 1)
        return self.timed.dts_ms - first.timed.dts_ms >= wanted_ms


def _cut_media(parties: list[Iterator[TimedPacket]], fragment_ms: int, warn: Warn) -> Iterator[_Piece]:
    refused = Refused()
    has_any = False
    for group, final in _groups(_merged(parties), fragment_ms):
        try:
            for piece in _written(group, refused, final=final):
                has_any |= bool(piece.media)
                if final and not has_any:
                    raise MediaError("all of its packets are damaged: none can be written again; re-encode it")
                yield piece
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"its packets cannot be written again ({error}); re-encode it") from error
    for sentence in refused.sentences():
        warn(sentence)


def _merged(parties: list[Iterator[TimedPacket]]) -> Iterator[_Placed]:
    """The packets of all parties in the order of time, each with what stands beside it."""
    firsts = [next(party) for party in parties]
    tracks = [first.tracks for first in firsts]
    layout = layout_of(tracks)
    numbered = [
        zip(repeat(n), chain([first], rest)) for n, (first, rest) in enumerate(zip(firsts, parties, strict=True))
    ]
    for party, timed in heapq.merge(*numbered, key=lambda item: item[1].dts_ms):
        if timed.tracks is not tracks[party]:
            tracks[party] = timed.tracks
            layout = layout_of(tracks)
        placed = _Placed(timed, party, layout)
        yield placed


def _groups(packets: Iterator[_Placed], fragment_ms: int) -> Iterator[tuple[list[_Placed], bool]]:
    """Packets of one fragment each, and whether they are the last; a group is complete when the next packet is there."""
    group: list[_Placed] = []
    size_bytes = _HEADER_BYTES
    began_ms = length_ms = 0
    for placed in packets:
        timed = placed.timed
        packet_bytes = timed.packet.size + _PACKET_HEADER_BYTES
        if packet_bytes + _HEADER_BYTES > FRAGMENT_MAX_BYTES:
            raise MediaError(
                f"one packet of {timed.packet.size} bytes is more than a fragment may hold ({FRAGMENT_MAX_BYTES}); "
                "re-encode the pictures smaller"
            )
        anew = placed.starts_anew_behind(group)
        # A recorder that is started again does so at regular times: its recordings are no two fragments, one of a packet.
        ends_soon = 0 <= began_ms + length_ms - timed.dts_ms <= fragment_ms // 4
        is_full = size_bytes + packet_bytes > FRAGMENT_MAX_BYTES
        if group and (anew or is_full or (not ends_soon and placed.is_due(group[0], fragment_ms))):
            yield group, False
            group, size_bytes = [], _HEADER_BYTES
        if anew:
            began_ms, length_ms = timed.dts_ms, timed.dts_ms - began_ms
        group.append(placed)
        size_bytes += packet_bytes
    if group:
        yield group, True


def _written(group: list[_Placed], refused: Refused, *, final: bool) -> Iterator[_Piece]:
    """The packets as a file of their own; as two when the headers made it too large after all. Those that are damaged are left out."""
    layout = group[0].layout
    kind = f"{'video' if layout.has_picture else 'audio'}/{_SUBTYPES[layout.muxer]}"
    start_ms = min(placed.timed.shown_ms for placed in group)
    try:
        media = muxed([(placed.key, placed.timed) for placed in group], layout, start_ms)
    except (av.FFmpegError, ValueError):
        damaged = unwritable([(placed.key, placed.timed) for placed in group], layout, start_ms)
        if not damaged:
            raise
        refused.add([group[number].timed for number in damaged])
        group = [placed for number, placed in enumerate(group) if number not in damaged]
        if not group:
            if final:
                yield _Piece(max(start_ms, 0), kind, layout.participants, b"", final)
            return
        # The fragment begins with the first packet that it holds.
        start_ms = min(placed.timed.shown_ms for placed in group)
        media = muxed([(placed.key, placed.timed) for placed in group], layout, start_ms)
    if len(media) > FRAGMENT_MAX_BYTES and len(group) > 1:
        half = len(group) // 2
        yield from _written(group[:half], refused, final=False)
        yield from _written(group[half:], refused, final=final)
        return
    yield _Piece(max(start_ms, 0), kind, layout.participants, media, final)
