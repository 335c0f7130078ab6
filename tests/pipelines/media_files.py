"""Test media, made by PyAV when asked for: sound that is known at every moment, and pictures that tell their time."""

import io
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition

from models.types import FloatArray
from pipelines.media.byte_stream import Source
from pipelines.media.demux import Demuxed, Demuxer
from pipelines.media.fragment import fragments
from pipelines.media.picture_buffer import decoded
from pipelines.media.pictures import PicturePacket
from pipelines.settings import StreamSettings
from pipelines.types import DEFAULT_CONSENT, Channels, MediaFragment, Participant, Pixels, VideoFrame

AGENT, CUSTOMER, MIXED = Participant.AGENT, Participant.CUSTOMER, Participant.MIXED
BOTH = (AGENT, CUSTOMER)


def sound(seconds: float, rate_hz: int, channels: int = 1) -> FloatArray:
    """(channels, N) of a sound without end or repetition below 3 kHz: the same at any rate, other on each channel."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([
        0.2 * np.sin(2 * np.pi * (300 + 60 * c) * t + 9 * np.sin(2 * np.pi * 1.31 * t + c))
        + 0.2 * np.sin(2 * np.pi * (900 + 90 * c) * t + 25 * np.sin(2 * np.pi * 0.37 * t + c))
        for c in range(channels)
    ]).astype(np.float32)  # fmt: skip


def film(
    container: str,
    *,
    sound_codec: str | None = None,
    samples: FloatArray | None = None,
    rate_hz: int = 16_000,
    picture_codec: str | None = None,
    seconds: float = 0.0,
    pictures_per_s: int = 25,
    size: tuple[int, int] = (96, 64),
    key_every: int = 25,
    options: dict[str, str] | None = None,
    picture_options: dict[str, str] | None = None,
    show: Callable[[int, tuple[int, int]], Pixels] | None = None,
) -> bytes:
    """A file of that container: sound, pictures (`picture(n)` at n / pictures_per_s), or both."""
    folder = tempfile.TemporaryDirectory()  # faststart must open the file a second time, by name
    file = Path(folder.name, "film")
    with folder, av.open(str(file), "w", format=container, container_options=options or {}) as output:
        packets: list[Any] = []
        moving: Any = None
        if picture_codec is not None:
            moving = output.add_stream(picture_codec, rate=pictures_per_s, options=picture_options or {})
            if picture_codec == "libx264":
                # With its assembler x264 writes other bytes about once in 100 films (seen with the macroblock tree on).
                moving.options = {
                    "x264-params": f"keyint={key_every}:min-keyint={key_every}:scenecut=0:no-asm=1",
                    **moving.options,
                }
            if picture_codec == "mjpeg":
                moving.options = {"qmin": "2", "qmax": "2"}
            moving.width, moving.height = size
            moving.pix_fmt = "yuvj420p" if picture_codec == "mjpeg" else "yuv420p"
            moving.codec_context.gop_size = key_every
            moving.codec_context.thread_count = 1
        if sound_codec is not None:
            assert samples is not None
            packets += _sound_packets(output, sound_codec, samples, rate_hz)
        if moving is not None:
            for n in range(round(seconds * pictures_per_s)):
                frame = av.VideoFrame.from_ndarray((show or picture)(n, size), format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, pictures_per_s)
                packets += moving.encode(frame)
            packets += moving.encode(None)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            output.mux(packet)
        output.close()
        return file.read_bytes()


def _sound_packets(output: Any, codec: str, samples: FloatArray, rate_hz: int) -> list[Any]:
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    stream = output.add_stream(codec, rate=rate_hz)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = layout
    if codec == "vorbis":
        stream.codec_context.options = {"strict": "experimental"}
    stream.codec_context.open()
    whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    whole.sample_rate, whole.time_base, whole.pts = rate_hz, Fraction(1, rate_hz), 0
    resampler = av.AudioResampler(
        format=stream.codec_context.format,
        layout=layout,
        rate=rate_hz,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    frames = [frame for frame in [*resampler.resample(whole), *resampler.resample(None)] if frame is not None]
    return [packet for frame in [*frames, None] for packet in stream.encode(frame)]


def two_tracks(
    titles: tuple[str, ...] = ("", ""),
    *,
    default: int = 0,
    empty: tuple[int, ...] = (),
    channels: int = 1,
    rate_hz: int = 16_000,
    seconds: float = 3,
) -> bytes:
    """Matroska with a sound track for each title: FLAC, each other sound (`sound` of as many channels, one after the other)."""
    file = io.BytesIO()
    every = sound(seconds, rate_hz, channels * len(titles))
    with av.open(file, "w", format="matroska") as output:
        streams: list[Any] = []
        for n, title in enumerate(titles):
            stream = output.add_stream("flac", rate=rate_hz)
            stream.codec_context.layout = "mono" if channels == 1 else "stereo"
            stream.metadata["title"] = title
            stream.disposition = Disposition.default if n == default else Disposition(0)
            streams.append(stream)
        packets: list[Any] = []
        for n, stream in enumerate(streams):
            samples = every[n * channels : (n + 1) * channels]
            whole = av.AudioFrame.from_ndarray(
                np.ascontiguousarray((samples.T * 32767).astype(np.int16).reshape(1, -1)),
                format="s16",
                layout="mono" if channels == 1 else "stereo",
            )
            whole.sample_rate, whole.time_base, whole.pts = rate_hz, Fraction(1, rate_hz), 0
            stream.codec_context.open()
            resampler = av.AudioResampler(format="s16", layout=whole.layout, rate=rate_hz, frame_size=1600)
            frames = [*resampler.resample(whole), *resampler.resample(None), None]
            packets += [packet for frame in frames for packet in stream.encode(frame)] if n not in empty else []
        for packet in sorted(packets, key=lambda packet: packet.dts or 0):
            output.mux(packet)
    return file.getvalue()


def picture(n: int, size: tuple[int, int] = (96, 64)) -> Pixels:
    """Picture `n`: red grows by 16 with each, modulo 16; green marks the left half, blue the right."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = n % 16 * 16
    pixels[:, : width // 2, 1] = 128
    pixels[:, width // 2 :, 2] = 128
    return pixels


@cache
def _raw_codec() -> av.VideoCodecContext:
    codec = av.VideoCodecContext.create("rawvideo", "r")
    codec.width, codec.height, codec.pix_fmt = 3, 2, "rgb24"
    return codec


def picture_packet(time_ms: int, who: Participant = CUSTOMER) -> PicturePacket:
    """A picture of three pixels by two, all of the value `time_ms % 251`, that needs no other."""
    packet: Any = av.Packet(18)
    packet.update(bytes([time_ms % 251]) * 18)
    packet.pts = packet.dts = time_ms
    packet.time_base, packet.is_keyframe = Fraction(1, 1000), True
    return PicturePacket(who, time_ms, time_ms, packet, _raw_codec(), 6)


def noise(n: int, size: tuple[int, int]) -> Pixels:
    """A picture that no codec makes small."""
    return np.random.default_rng(n).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def picture_number(pixels: Pixels) -> int:
    """Reads `n % 16` back, whatever the codec and the scaling did to the edges."""
    return round(float(pixels[..., 0].mean()) / 16)


def wav_stream(total_bytes: int, rate_hz: int = 44_100) -> Iterator[bytes]:
    """A stereo WAV of 16 bits that does not know its own length, as `ffmpeg -f wav -` writes to a pipe."""
    chunk = sound(1.0, rate_hz, 2).T * 32767
    yield b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, rate_hz, rate_hz * 4, 4, 16)
    yield b"data\xff\xff\xff\xff"
    second = chunk.astype("<i2").tobytes()
    for _ in range(total_bytes // len(second)):
        yield second


def fragment(media: bytes, content_type: str, seq: int = 0, start_ms: int = 0, **changes: Any) -> MediaFragment:
    """One fragment of the stream `main`, of the customer unless `changes` say otherwise."""
    made = MediaFragment(
        call_id="call",
        tenant="default",
        stream="main",
        seq=seq,
        start_ms=start_ms,
        content_type=content_type,
        participants=(CUSTOMER,),
        consent=DEFAULT_CONSENT,
        final=False,
        media=media,
    )
    return replace(made, **changes)


def l16(samples: FloatArray) -> bytes:
    """(channels, N) in [-1, 1] as linear PCM in network byte order (RFC 2586)."""
    return (samples.T * 32767).round().astype(">i2").tobytes()


def sounds_like(heard: FloatArray, truth: FloatArray) -> float:
    """Their correlation over the length that both have."""
    shared = min(len(heard), len(truth))
    return float(np.corrcoef(heard[:shared], truth[:shared])[0, 1])


class Pipe:
    """Bytes to be read once, a few at a time."""

    def __init__(self, media: bytes) -> None:
        self._media, self._at = media, 0

    def read(self, size: int) -> bytes:
        taken = self._media[self._at : self._at + min(size, 5000)]
        self._at += len(taken)
        return taken


def cut(source: Source, participants: Channels = (CUSTOMER,), **options: Any) -> list[MediaFragment]:
    """All fragments of a source."""
    return list(
        fragments(
            source,
            call_id="call",
            tenant="default",
            stream="main",
            participants=participants,
            consent=DEFAULT_CONSENT,
            **options,
        )
    )


@dataclass
class Heard:
    """What a whole stream gave: per participant where its sound starts and the samples, without a gap in between."""

    start_sample: dict[Participant, int]
    samples: dict[Participant, FloatArray]
    frames: list[VideoFrame]
    damaged: int
    each: list[Demuxed]


def hear(
    cuts: Iterable[MediaFragment], start_sample: int | None = None, settings: StreamSettings | None = None
) -> Heard:
    """Demuxes fragments up to their end; fails on a gap."""
    demuxer = Demuxer(settings or StreamSettings(), start_sample)
    each = [demuxer.feed(fragment) for fragment in cuts]
    each.append(demuxer.finish())
    starts, samples = dict[Participant, int](), dict[Participant, list[FloatArray]]()
    for block in [block for demuxed in each for block in demuxed.blocks]:
        start = starts.setdefault(block.participant, block.start_sample)
        track = samples.setdefault(block.participant, [])
        assert block.start_sample == start + sum(map(len, track)), "a gap"
        assert block.samples.dtype == np.float32
        track.append(block.samples)
    shown = [picture for demuxed in each for picture in demuxed.pictures]
    frames, damaged = decoded(shown, settings or StreamSettings())
    return Heard(
        starts,
        {participant: np.concatenate(track) for participant, track in samples.items()},
        frames,
        sum(demuxed.damaged for demuxed in each) + damaged,
        each,
    )
