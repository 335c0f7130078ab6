"""Cuts any media into fragments that can be demuxed by themselves (docs/architecture.md#a-fragment), without re-encoding."""

import heapq
import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import IO

import av
from av.audio.stream import AudioStream
from av.stream import Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream, Source, SpoolBudget, opened
from pipelines.media.clock import TimedPacket
from pipelines.media.container import START_TAG, Tracks
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.raw_audio import RawAudio, raw_audio
from pipelines.media.source import Warn, source_packets
from pipelines.types import FRAGMENT_MAX_BYTES, START_MAX_MS, Channels, Consent, MediaFragment, Participant

_KEY_CUT, _ANY_CUT = Fraction(1, 2), Fraction(5, 4)
"""Pictures: cut at a key frame from half the wanted length on, and anywhere from 5/4 on."""
_SUBTYPES = {"matroska": "x-matroska", "wav": "wav"}
_HEADER_BYTES = 16 << 10
_PACKET_HEADER_BYTES = 64
_MILLISECOND = Fraction(1, 1000)

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
    decoders: DecoderProcesses | None = None,
    spool: SpoolBudget | None = None,
    warn: Warn = logger.warning,
) -> Iterator[MediaFragment]:
    """Yields each fragment as soon as its media is there; the last one is `final`.

    Reading blocks, so live bytes want a thread. Raw sound (`audio/L16;…`, `audio/PCMU`, `audio/PCMA`) is cut by bytes
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
        content_type: needed for raw sound only.
        fragment_ms: the wanted length of a fragment; a fragment over `FRAGMENT_MAX_BYTES` is cut earlier.
        start_ms: where the media starts in the call.
        customer: whose call it is, as a keyed hash.
        decoders: open media there before it is opened here, which bounds what FFmpeg decodes when it opens something to `OPEN_MAX_S`.
        spool: of which an MP4 that cannot be read in order takes its part while it is cut.
        warn: is told, in a sentence each, what of the source is not heard: bytes that were not read, tracks, a missing end.

    Raises:
        MediaError: the source is empty, no media, holds no packet, a codec that Matroska cannot hold, sound of which it is not clear
            whose it is, or times that reach beyond what a fragment's header can say.
        BusyError: it has to be spooled, and there is no room.
    """
    raw = raw_audio(content_type) if content_type is not None else None
    if raw is not None and besides:
        raise MediaError(
            "sound without a container is sent by itself: convert it to WAV or FLAC, or interleave the parties"
        )
    with ExitStack() as files:
        first, *others = [files.enter_context(opened(one, spool=spool)) for one in (source, *besides)]
        if raw is not None:
            pieces = _cut_raw(first, raw, content_type or "", fragment_ms, participants)
        elif others and len(participants) != len(others) + 1:
            raise MediaError(f"{len(others) + 1} files and {len(participants)} participants: name one for each file")
        else:
            owners = [(who,) for who in participants] if others else [participants]
            pieces = _cut_media(
                [
                    source_packets(file, who, files, decoders=decoders, warn=warn)
                    for file, who in zip((first, *others), owners, strict=True)
                ],
                fragment_ms,
            )
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
    """Every piece holds a whole number of ms, so that its start is exact."""
    ms_max = FRAGMENT_MAX_BYTES * 1000 // (raw.rate_hz * raw.step_bytes)
    whole_ms = 1000 // math.gcd(raw.rate_hz, 1000)  # the fewest ms that hold a whole number of samples
    length_ms = max(min(fragment_ms, ms_max) // whole_ms, 1) * whole_ms
    length_bytes = raw.rate_hz * length_ms // 1000 * raw.step_bytes
    held, start_ms = bytearray(), 0
    while chunk := file.read(length_bytes):
        held += chunk
        while len(held) > length_bytes:  # one byte more is needed to know that this is not the last piece
            yield _Piece(start_ms, content_type, participants, bytes(held[:length_bytes]), final=False)
            del held[:length_bytes]
            start_ms += length_ms
    yield _Piece(start_ms, content_type, participants, bytes(held), final=True)


_Key = tuple[int, int]
"""A track of a fragment: the number of its party, and its own among that party's tracks."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """What a fragment holds: the tracks of every party, and pictures of one; and in which kind of file."""

    streams: dict[_Key, Stream]
    participants: Channels
    muxer: str

    @property
    def has_picture(self) -> bool:
        return any(isinstance(stream, VideoStream) for stream in self.streams.values())


@dataclass(frozen=True, slots=True)
class _Placed:
    """A packet, the number of its party, and among which tracks it stands."""

    timed: TimedPacket
    party: int
    layout: _Layout

    @property
    def key(self) -> _Key:
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


def _cut_media(parties: list[Iterator[TimedPacket]], fragment_ms: int) -> Iterator[_Piece]:
    for group, final in _groups(_merged(parties), fragment_ms):
        try:
            yield from _written(group, final=final)
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"its packets cannot be written again ({error}); re-encode it") from error


def _merged(parties: list[Iterator[TimedPacket]]) -> Iterator[_Placed]:
    """The packets of all parties in the order of time, each with what stands beside it."""
    firsts = [next(party) for party in parties]
    tracks = [first.tracks for first in firsts]
    layout = _layout(tracks)
    numbered = [
        zip(repeat(n), chain([first], rest)) for n, (first, rest) in enumerate(zip(firsts, parties, strict=True))
    ]
    for party, timed in heapq.merge(*numbered, key=lambda item: item[1].dts_ms):
        if timed.tracks is not tracks[party]:
            tracks[party] = timed.tracks
            layout = _layout(tracks)
        placed = _Placed(timed, party, layout)
        if placed.key in layout.streams:
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


def _written(group: list[_Placed], *, final: bool) -> Iterator[_Piece]:
    """The packets as a file of their own; as two when the headers made it too large after all."""
    layout = group[0].layout
    start_ms = min(placed.timed.shown_ms for placed in group)
    media = _muxed(group, layout, start_ms)
    if len(media) > FRAGMENT_MAX_BYTES and len(group) > 1:
        half = len(group) // 2
        yield from _written(group[:half], final=False)
        yield from _written(group[half:], final=final)
        return
    kind = f"{'video' if layout.has_picture else 'audio'}/{_SUBTYPES[layout.muxer]}"
    yield _Piece(max(start_ms, 0), kind, layout.participants, media, final)


def _muxed(group: list[_Placed], layout: _Layout, start_ms: int) -> bytes:
    """One file, its times counted from `start_ms`; equal packets give equal bytes."""
    file = io.BytesIO()
    with av.open(file, "w", format=layout.muxer, container_options={"fflags": "+bitexact"}) as container:
        copies = {
            key: container.add_stream_from_template(stream, opaque=True) for key, stream in layout.streams.items()
        }
        tagged = set[_Key]()
        for placed in group:
            stream = layout.streams[placed.key]
            if isinstance(stream, AudioStream) and placed.timed.index is not None and placed.key not in tagged:
                copies[placed.key].metadata[START_TAG] = f"{placed.timed.index}/{stream.codec_context.sample_rate}"
                tagged.add(placed.key)
        for placed in group:
            timed, packet = placed.timed, placed.timed.packet
            duration_ms = round((packet.duration or 0) * packet.time_base * 1000)
            packet.stream = copies[placed.key]
            packet.pts, packet.dts, packet.duration = timed.pts_ms - start_ms, timed.dts_ms - start_ms, duration_ms
            packet.time_base = _MILLISECOND
            container.mux_one(packet)
    return file.getvalue()


def _layout(parties: list[Tracks]) -> _Layout:
    """Matroska holds nearly every codec, and WAV those of the telephone; the rest is named before anything is cut."""
    if len(parties) > 1 and not all(tracks.sounds for tracks in parties):
        raise MediaError("a file without sound is sent by itself, as a stream of its own: only sound is put together")
    owners = [tracks.participants for tracks in parties]
    # Pictures are the customer's where there is one, and nobody's face is taken for another's.
    seen = parties[owners.index((Participant.CUSTOMER,)) if (Participant.CUSTOMER,) in owners else 0].picture
    streams: dict[_Key, Stream] = {
        (party, number): stream
        for party, tracks in enumerate(parties)
        for number, stream in enumerate(tracks.streams)
        if stream is seen or isinstance(stream, AudioStream)
    }
    muxers = _SUBTYPES if len(streams) == 1 and seen is None else ["matroska"]
    muxer = next((muxer for muxer in muxers if _holds(muxer, list(streams.values()))), None)
    if muxer is None:
        names = " and ".join(f"{stream.type} {stream.codec_context.name}" for stream in streams.values())
        raise MediaError(f"it holds {names}, which Matroska cannot; re-encode it, say to Opus and H.264")
    return _Layout(streams, tuple(chain.from_iterable(owners)), muxer)


def _holds(muxer: str, streams: list[Stream]) -> bool:
    with av.open(io.BytesIO(), "w", format=muxer) as container:
        try:
            for stream in streams:
                container.add_stream_from_template(stream, opaque=True)
        except ValueError:
            return False
    return True
