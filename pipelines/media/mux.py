"""Packets of a source into a file of their own, without re-encoding."""

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipelines.errors import MediaError
from pipelines.media.clock import TimedPacket
from pipelines.media.container import START_TAG, Tracks, rounded
from pipelines.types import Channels

_MILLISECOND = Fraction(1, 1000)
_EXPANDED = {"pcm_mulaw", "pcm_alaw"}
"""What Matroska cannot hold, and several tracks have no other file for: written as what it decodes to, 16 bits, whose samples are the same."""

TrackKey = tuple[int, int]
"""A track of a fragment: the number of its party, and its own among that party's tracks."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a fragment holds: the tracks of every party, and pictures of one; and in which kind of file."""

    streams: dict[TrackKey, Stream]
    participants: Channels
    muxer: str
    expands: bool
    """Whether mu-law and A-law are written as what they decode to, since several tracks share a file."""

    @property
    def has_picture(self) -> bool:
        """Whether there is a moving picture among them."""
        return any(isinstance(stream, VideoStream) for stream in self.streams.values())


def layout_of(parties: list[Tracks]) -> Layout:
    """How the tracks of these parties are written. Matroska holds nearly every codec, and WAV those of the telephone.

    Raises:
        MediaError: no such file can hold them, or one of several parties has no sound.
    """
    if len(parties) > 1 and not all(tracks.sounds for tracks in parties):
        raise MediaError("a file without sound is sent by itself, as a stream of its own: only sound is put together")
    owners = [tracks.participants for tracks in parties]
    seen = next((tracks.picture for tracks in parties if tracks.picture is not None), None)
    streams: dict[TrackKey, Stream] = {
        (party, number): stream
        for party, tracks in enumerate(parties)
        for number, stream in enumerate(tracks.streams)
        if stream is seen or isinstance(stream, AudioStream)
    }
    codecs = {stream.codec_context.name for stream in streams.values()}
    # WAV has no packets. FFmpeg finds those of its codecs again, by their length or in their bits, but not Speex's.
    alone = [] if len(streams) > 1 or seen is not None else ["ogg"] if codecs == {"speex"} else ["wav"]
    muxer = next((muxer for muxer in ["matroska", *alone] if _holds(muxer, list(streams.values()))), None)
    if muxer is None:
        raise MediaError(
            f"it holds {' and '.join(sorted(codecs))}, which Matroska cannot; re-encode it, say to Opus and H.264"
        )
    return Layout(streams, tuple(chain.from_iterable(owners)), muxer, expands=len(streams) > 1)


def _holds(muxer: str, streams: list[Stream]) -> bool:
    with av.open(io.BytesIO(), "w", format=muxer) as container:
        try:
            for stream in streams:
                _add_track(container, stream, expands=len(streams) > 1)
        except (av.FFmpegError, ValueError):
            return False
    return True


def _add_track(container: OutputContainer, stream: Stream, *, expands: bool) -> Stream:
    if expands and isinstance(stream, AudioStream) and stream.codec_context.name in _EXPANDED:
        copy = container.add_stream("pcm_s16le", rate=stream.codec_context.sample_rate)
        copy.codec_context.layout = stream.codec_context.layout
        return copy
    return container.add_stream_from_template(stream, opaque=True)


def _expanded(packet: "Packet[Stream]", stream: AudioStream) -> "Packet[Stream]":
    """The packet's samples, 16 bits each."""
    frames = stream.codec_context.decode(packet)
    step_bytes = 2 * stream.codec_context.channels
    samples = b"".join(bytes(frame.planes[0])[: frame.samples * step_bytes] for frame in frames)
    if not samples:
        raise ValueError("a packet without a sample")
    return Packet(samples)


def muxed(group: list[tuple[TrackKey, TimedPacket]], layout: Layout, start_ms: int) -> bytes:
    """One file, its times counted from `start_ms`; equal packets give equal bytes.

    Raises:
        av.FFmpegError, ValueError: it cannot hold one of them: see `unwritable`.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=layout.muxer, container_options={"fflags": "+bitexact"}) as container:
        expands = layout.expands
        copies = {key: _add_track(container, stream, expands=expands) for key, stream in layout.streams.items()}
        for key, timed in group:
            stream, copy = layout.streams[key], copies[key]
            if isinstance(stream, AudioStream) and timed.index is not None and START_TAG not in copy.metadata:
                copy.metadata[START_TAG] = f"{timed.index}/{stream.codec_context.sample_rate}"
        for key, timed in group:
            packet, stream = timed.packet, layout.streams[key]
            duration_ms = rounded(packet.time_base, 1000 * (packet.duration or 0))
            if expands and isinstance(stream, AudioStream) and stream.codec_context.name in _EXPANDED:
                packet = _expanded(packet, stream)
            packet.stream = copies[key]
            packet.pts, packet.dts, packet.duration = timed.pts_ms - start_ms, timed.dts_ms - start_ms, duration_ms
            packet.time_base = _MILLISECOND
            container.mux_one(packet)
    return file.getvalue()


def unwritable(group: list[tuple[TrackKey, TimedPacket]], layout: Layout, start_ms: int) -> frozenset[int]:
    """The numbers of the packets that no file can hold: damaged ones, as AAC of a transport stream that does not begin with its header.

    Of several tracks a muxer holds packets back, and an error is not that of the packet it was given: each track is written alone. One
    that has met an error is not used again, which has crashed FFmpeg: the packets are halved until those that are refused stand alone.
    """
    refused: list[int] = []
    for one, stream in layout.streams.items():
        alone = replace(layout, streams={one: stream})
        runs = [[number for number, (key, _) in enumerate(group) if key == one]]
        while runs:
            run = runs.pop()
            try:
                muxed([group[number] for number in run], alone, start_ms)
            except (av.FFmpegError, ValueError):  # what a muxer cannot read has many names
                half = len(run) // 2
                if half:
                    runs += [run[:half], run[half:]]
                else:
                    refused += run
    return frozenset(refused)
