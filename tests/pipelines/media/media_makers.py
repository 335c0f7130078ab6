"""Files as other makers write them, made in memory from sound at 16 kHz: any codec and container, packets left out, clocks set anew."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from models.types import FloatArray
from tests.pipelines import media_files

Edit = Callable[[list[Any]], list[Any]]
"""Takes a track's packets in decoding order and returns those that are written, with other times where it likes."""


@dataclass(frozen=True)
class Sound:
    """A track of sound: (channels, N) or (N,) at 16 kHz, encoded at `rate_hz`."""

    samples: FloatArray
    codec: str = "libopus"
    rate_hz: int = 48_000
    title: str | None = None
    is_default: bool | None = None
    edit: Edit | None = None
    options: dict[str, str] = field(default_factory=dict)
    bit_rate: int | None = None


@dataclass(frozen=True)
class Pictures:
    """A track of pictures, shown at `times_s`."""

    times_s: Sequence[float]
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: {"x264-params": "no-asm=1:bframes=3:b-adapt=0:keyint=50"})
    edit: Edit | None = None
    is_cover: bool = False


def write(
    container: str, *tracks: Sound | Pictures, options: dict[str, str] | None = None, as_came: bool = True
) -> bytes:
    """A file of that container with those tracks, in their order.

    Where times were changed, packets lie as they came: the clock was set. Else they lie by the changed times: they came later.
    """
    # Packets whose times were changed stay where they are.
    limits = {"max_interleave_delta": "1", **(options or {})} if as_came else options or {}
    folder = tempfile.TemporaryDirectory()  # faststart must open the file a second time, by name
    file = Path(folder.name, "made")
    with folder, av.open(str(file), "w", format=container, container_options=limits) as output:
        streams = [_sound(output, one) if isinstance(one, Sound) else _pictures(output, one) for one in tracks]
        ordered: list[tuple[Fraction, Any]] = []
        for one, encoded in zip(tracks, streams, strict=True):
            # Whatever is made of their times, packets lie in a file as they came.
            came = {id(packet): (packet.dts or 0) * packet.time_base for packet in encoded}
            ordered += [
                (came[id(packet)] if as_came else packet.dts * packet.time_base, packet)
                for packet in (one.edit(encoded) if one.edit else encoded)
            ]
        for _, packet in sorted(ordered, key=lambda one: one[0]):
            output.mux(packet)
        output.close()
        return file.read_bytes()


def at_rate(samples: FloatArray, rate_hz: int) -> FloatArray:
    """(channels, N) or (N,) at 16 kHz as (channels, M) at `rate_hz`."""
    rows = np.ascontiguousarray(np.atleast_2d(samples))
    if rate_hz == 16_000 or not rows.size:
        return rows
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    out = []
    for row in rows:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(row[np.newaxis]), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        out.append(np.concatenate([part.to_ndarray()[0] for part in parts]))
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    return np.stack(out).astype(np.float32)


def _sound(output: Any, one: Sound) -> list[Any]:
    samples = at_rate(one.samples, one.rate_hz)
    layout = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 6: "5.1"}[samples.shape[0]]
    stream = output.add_stream(one.codec, rate=one.rate_hz)
    stream.codec_context.layout = layout
    stream.codec_context.options = {"strict": "experimental", **one.options}
    if one.bit_rate:
        stream.codec_context.bit_rate = one.bit_rate
    if one.title is not None:
        stream.metadata["title"] = one.title
    if one.is_default is not None:
        stream.disposition = Disposition.default if one.is_default else Disposition(0)
    stream.codec_context.open()
    if not samples.shape[1]:
        return []
    whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    whole.sample_rate, whole.time_base, whole.pts = one.rate_hz, Fraction(1, one.rate_hz), 0
    size = stream.codec_context.frame_size or 1024
    to = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=one.rate_hz, frame_size=size)
    frames = [*to.resample(whole), *to.resample(None)]
    return [packet for frame in [*frames, None] for packet in stream.encode(frame)]


def _pictures(output: Any, one: Pictures) -> list[Any]:
    stream = output.add_stream(one.codec, rate=25, options=dict(one.options))
    stream.width, stream.height = 96, 64
    stream.pix_fmt = "yuvj420p" if one.codec == "mjpeg" else "yuv420p"
    unit = Fraction(1, 25) if one.codec in {"mpeg4", "mpeg2video"} else Fraction(1, 1000)
    stream.codec_context.time_base = unit
    stream.codec_context.thread_count = 1
    if one.is_cover:
        stream.disposition = Disposition.attached_pic
    packets: list[Any] = []
    for n, time_s in enumerate(one.times_s):
        frame = av.VideoFrame.from_ndarray(media_files.picture(n), format="rgb24")
        frame.pts, frame.time_base = round(time_s / unit), unit
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def dropped(*spans: tuple[float, float]) -> Edit:
    """Without the packets that begin in one of these spans, in seconds."""
    return lambda packets: [p for p in packets if not any(a <= _time_s(p) < b for a, b in spans)]


def every_lost(nth: int) -> Edit:
    """Without every nth packet."""
    return lambda packets: [p for n, p in enumerate(packets, 1) if n % nth]


def jumped(*steps: tuple[float, float]) -> Edit:
    """What begins at or after a step's first number of seconds has times that are moved by its second."""

    def edit(packets: list[Any]) -> list[Any]:
        by = 0.0
        for packet in packets:
            by = max(by, sum(move for at, move in steps if _time_s(packet) >= at), key=abs)
            ticks = round(by / packet.time_base)
            packet.pts += ticks
            if packet.dts is not None:
                packet.dts += ticks
        return packets

    return edit


def _time_s(packet: Any) -> float:
    return float((packet.pts if packet.pts is not None else packet.dts) * packet.time_base)


def pieces(samples: FloatArray, length_s: float) -> list[FloatArray]:
    """The sound of a recorder that is started anew every `length_s`."""
    size = round(length_s * 16_000)
    return [samples[..., at : at + size] for at in range(0, samples.shape[-1], size)]


def joined(container: str, samples: FloatArray, length_s: float, codec: str, rate_hz: int, **more: Any) -> bytes:
    """Recordings of `length_s` each, one behind the other in one file."""
    return b"".join(write(container, Sound(piece, codec, rate_hz), **more) for piece in pieces(samples, length_s))
