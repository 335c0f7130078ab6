"""Cuts any media into fragments that can be demuxed by themselves (docs/architecture.md#a-fragment), without re-encoding."""

import io
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream, Source, SpoolBudget, opened
from pipelines.media.container import START_TAG, open_media, packets, skipped_samples, sound_and_picture
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.raw_audio import RATE_MIN_HZ, RawAudio, raw_audio
from pipelines.media.resample import require_channels
from pipelines.types import FRAGMENT_MAX_BYTES, START_MAX_MS, Consent, MediaFragment, Participant

PICTURE_MAX_PIXELS = 5120 * 2880
"""FFmpeg looks at up to ten pictures when it opens a file; larger ones, 10 bits deep, would take a gigabyte."""
OPEN_MAX_S = 5.0
"""Processor time that opening may take where it is bounded; twenty pictures of 10 bits and that size take one second."""
_KEY_CUT, _ANY_CUT = Fraction(1, 2), Fraction(5, 4)
"""Pictures: cut at a key frame from half the wanted length on, and anywhere from 5/4 on."""
_SUBTYPES = {"matroska": "x-matroska", "wav": "wav"}
_HEADER_BYTES = 16 << 10
_PACKET_HEADER_BYTES = 64
_JUMP_BACK_S = 2
"""Times that fall back further than pictures are reordered: recordings were joined, and the next one follows."""
_MILLISECOND = Fraction(1, 1000)

logger = logging.getLogger(__name__)


def fragments(
    source: Source,
    *,
    call_id: str,
    tenant: str,
    stream: str,
    participants: tuple[Participant, ...],
    consent: Consent | None,
    content_type: str | None = None,
    fragment_ms: int = 1000,
    start_ms: int = 0,
    customer: str | None = None,
    recorded: bool = False,
    decoders: DecoderProcesses | None = None,
    spool: SpoolBudget | None = None,
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
        participants: who is on which channel.
        consent: what may be analysed; None leaves it to the tenant's policy.
        content_type: needed for raw sound only.
        fragment_ms: the wanted length of a fragment; a fragment over `FRAGMENT_MAX_BYTES` is cut earlier.
        start_ms: where the media starts in the call.
        customer: whose call it is, as a keyed hash.
        recorded: whether nobody waits for what comes of it.
        decoders: open media there before it is opened here, which bounds what FFmpeg decodes when it opens something to `OPEN_MAX_S`.
        spool: of which an MP4 that cannot be read in order takes its part while it is cut.

    Raises:
        MediaError: the source is empty, no media, holds no packet, a codec that Matroska cannot hold, or times that
            reach beyond what a fragment's header can say.
        BusyError: it has to be spooled, and there is no room.
    """
    raw = raw_audio(content_type) if content_type is not None else None
    if raw is not None:
        require_channels(raw.channels, participants)
    with opened(source, spool=spool) as file:
        pieces = (
            _cut_raw(file, raw, content_type or "", fragment_ms) if raw else _cut_media(file, fragment_ms, decoders)
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
                participants=participants,
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
    media: bytes
    final: bool


def _cut_raw(file: IO[bytes] | ByteStream, raw: RawAudio, content_type: str, fragment_ms: int) -> Iterator[_Piece]:
    """Every piece holds a whole number of ms, so that its start is exact."""
    ms_max = FRAGMENT_MAX_BYTES * 1000 // (raw.rate_hz * raw.step_bytes)
    whole_ms = 1000 // math.gcd(raw.rate_hz, 1000)  # the fewest ms that hold a whole number of samples
    length_ms = max(min(fragment_ms, ms_max) // whole_ms, 1) * whole_ms
    length_bytes = raw.rate_hz * length_ms // 1000 * raw.step_bytes
    held, start_ms = bytearray(), 0
    while chunk := file.read(length_bytes):
        held += chunk
        while len(held) > length_bytes:  # one byte more is needed to know that this is not the last piece
            yield _Piece(start_ms, content_type, bytes(held[:length_bytes]), final=False)
            del held[:length_bytes]
            start_ms += length_ms
    yield _Piece(start_ms, content_type, bytes(held), final=True)


@dataclass(frozen=True, slots=True)
class _Timed:
    """A packet with its times in ms of the source's own clock; `shown_ms` is when its content is heard or seen."""

    packet: "Packet[Stream]"
    pts_ms: int
    dts_ms: int
    shown_ms: int
    index: int | None
    """Sound: where its first sample is in the media, at the stream's rate, below zero within the encoder's delay."""


def _cut_media(file: IO[bytes] | ByteStream, fragment_ms: int, decoders: DecoderProcesses | None) -> Iterator[_Piece]:
    what = str(getattr(file, "name", "the stream")) if isinstance(getattr(file, "name", None), str) else "the stream"
    if decoders is not None:
        decoders.check_opening(file, what, PICTURE_MAX_PIXELS, cpu_max_s=OPEN_MAX_S)
    with open_media(file, what, PICTURE_MAX_PIXELS) as container:
        sound, picture = sound_and_picture(container, what)
        if sound is not None and 0 < sound.codec_context.sample_rate < RATE_MIN_HZ:
            # At 1 Hz a megabyte would be ten days, in as many fragments as seconds.
            raise MediaError(
                f"{what} holds sound at {sound.codec_context.sample_rate} Hz; at least {RATE_MIN_HZ} Hz are allowed"
            )
        streams: list[Stream] = [stream for stream in (picture, sound) if stream is not None]
        muxer = _muxer(streams, what)
        origin_ms: int | None = None
        timed = _timed(container, streams, what)
        for group, final in _groups(timed, fragment_ms, has_picture=picture is not None):
            if origin_ms is None:
                origin_ms = _start_ms(group)
            try:
                yield from _written(group, muxer, streams, origin_ms, final=final)
            except (av.FFmpegError, ValueError) as error:
                raise MediaError(f"{what}: its packets cannot be written again ({error}); re-encode it") from error
        if origin_ms is None:
            raise MediaError(f"{what} opens, but holds no packet of sound or picture")


def _timed(container: InputContainer, streams: list[Stream], what: str) -> Iterator[_Timed]:
    """The packets of `streams` in the order of the file, each with its times."""
    clocks = {stream.index: _Clock(stream) for stream in streams}
    try:
        for packet in packets(container, *streams):
            yield clocks[packet.stream_index].timed(packet)
    except av.error.InvalidDataError:
        # What came before is good. The bytes that follow are not, so the call ends here, as with a torn connection.
        logger.warning("%s is damaged in the middle: the call ends there", what)
    except av.FFmpegError as error:
        raise MediaError(f"{what}: reading stopped ({error.strerror})") from error


class _Clock:
    """The times of one stream's packets, made whole where the container leaves them out."""

    def __init__(self, stream: Stream) -> None:
        # A damaged stream may tell no rate: 0.
        self._rate_hz = stream.codec_context.sample_rate or None if isinstance(stream, AudioStream) else None
        self._end = self._shift = Fraction(0)
        self._dts_ms: int | None = None
        self._heard: Fraction | None = None
        """Sound: when its first sample is heard, the encoder's delay left out."""

    def timed(self, packet: "Packet[Stream]") -> _Timed:
        unit = packet.time_base
        ticks = packet.pts if packet.pts is not None else packet.dts
        pts = self._end if ticks is None else unit * ticks + self._shift
        if self._end - pts > _JUMP_BACK_S:
            self._shift += self._end - pts
            pts = self._end
        self._end = pts + unit * (packet.duration or 0)
        index, shown = None, pts
        if self._rate_hz is not None:
            if self._heard is None:
                skip = Fraction(skipped_samples(packet)[0], self._rate_hz)
                self._heard = pts + skip if skip else max(pts, Fraction(0))
            index = round((pts - self._heard) * self._rate_hz)
            shown = max(pts, self._heard)
        pts_ms = round(pts * 1000)
        # Matroska tells no dts of pictures before FFmpeg has seen enough of their order: then the last one stands.
        told_ms = pts_ms if packet.dts is None else min(round((unit * packet.dts + self._shift) * 1000), pts_ms)
        if self._dts_ms is None:
            self._dts_ms = told_ms
        elif packet.dts is not None:
            self._dts_ms = max(self._dts_ms, told_ms)
        return _Timed(packet, max(pts_ms, self._dts_ms), self._dts_ms, round(shown * 1000), index)


def _groups(timeds: Iterator[_Timed], fragment_ms: int, *, has_picture: bool) -> Iterator[tuple[list[_Timed], bool]]:
    """Packets of one fragment each, and whether they are the last; a group is complete when the next packet is there."""
    group: list[_Timed] = []
    size_bytes = _HEADER_BYTES
    for timed in timeds:
        packet_bytes = timed.packet.size + _PACKET_HEADER_BYTES
        if packet_bytes + _HEADER_BYTES > FRAGMENT_MAX_BYTES:
            raise MediaError(
                f"one packet of {timed.packet.size} bytes is more than a fragment may hold ({FRAGMENT_MAX_BYTES}); "
                "re-encode the pictures smaller"
            )
        if group:
            elapsed_ms = timed.dts_ms - group[0].dts_ms
            key = timed.packet.is_keyframe and isinstance(timed.packet.stream, VideoStream)
            wanted_ms = fragment_ms * ((_KEY_CUT if key else _ANY_CUT) if has_picture else 1)
            if elapsed_ms >= wanted_ms or size_bytes + packet_bytes > FRAGMENT_MAX_BYTES:
                yield group, False
                group, size_bytes = [], _HEADER_BYTES
        group.append(timed)
        size_bytes += packet_bytes
    if group:
        yield group, True


def _start_ms(group: list[_Timed]) -> int:
    return min(timed.shown_ms for timed in group)


def _written(
    group: list[_Timed], muxer: str, streams: list[Stream], origin_ms: int, *, final: bool
) -> Iterator[_Piece]:
    """The packets as a file of their own; as two when the headers made it too large after all."""
    start_ms = _start_ms(group)
    media = _muxed(group, muxer, streams, start_ms)
    if len(media) > FRAGMENT_MAX_BYTES and len(group) > 1:
        half = len(group) // 2
        yield from _written(group[:half], muxer, streams, origin_ms, final=False)
        yield from _written(group[half:], muxer, streams, origin_ms, final=final)
        return
    kind = "video" if any(isinstance(stream, VideoStream) for stream in streams) else "audio"
    yield _Piece(max(start_ms - origin_ms, 0), f"{kind}/{_SUBTYPES[muxer]}", media, final)


def _muxed(group: list[_Timed], muxer: str, streams: list[Stream], start_ms: int) -> bytes:
    """One file, its times counted from `start_ms`; equal packets give equal bytes."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, container_options={"fflags": "+bitexact"}) as container:
        copies = {stream.index: container.add_stream_from_template(stream, opaque=True) for stream in streams}
        for timed in group:
            if timed.index is not None:
                rate_hz = cast(AudioStream, timed.packet.stream).codec_context.sample_rate
                container.metadata[START_TAG] = f"{timed.index}/{rate_hz}"
                break
        for timed in group:
            packet = timed.packet
            duration_ms = round((packet.duration or 0) * packet.time_base * 1000)
            packet.stream = copies[packet.stream_index]
            packet.pts, packet.dts, packet.duration = timed.pts_ms - start_ms, timed.dts_ms - start_ms, duration_ms
            packet.time_base = _MILLISECOND
            container.mux_one(packet)
    return file.getvalue()


def _muxer(streams: list[Stream], what: str) -> str:
    """Matroska holds nearly every codec, and WAV those of the telephone; the rest is named before anything is cut."""
    for muxer in _SUBTYPES if len(streams) == 1 and isinstance(streams[0], AudioStream) else ["matroska"]:
        with av.open(io.BytesIO(), "w", format=muxer) as container:
            try:
                for stream in streams:
                    container.add_stream_from_template(stream, opaque=True)
            except ValueError:
                continue
            return muxer
    names = " and ".join(f"{stream.type} {stream.codec_context.name}" for stream in streams)
    raise MediaError(f"{what} holds {names}, which Matroska cannot; re-encode it, say to Opus and H.264")
