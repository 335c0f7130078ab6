"""Sound and pictures out of untrusted files: FFmpeg, with bounds on time, size and number."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from models.types import SAMPLE_RATE_HZ, FloatArray

SOUND_SUFFIXES = frozenset({".flac", ".wav", ".mp3", ".m4a", ".aac", ".ogg", ".opus"})
FILM_SUFFIXES = frozenset({".mp4", ".m4v", ".mkv", ".webm", ".mov", ".flv", ".avi"})

FORMATS = "aac,avi,flac,flv,matroska,webm,mov,mp4,m4a,mp3,ogg,wav"
"""What may be opened. Playlists and image sequences are left out: they open other files."""

FILE_MAX_BYTES = 512 << 20
SOUND_MAX_S = 60.0
"""No clip of these data sets comes near it; of a longer file the beginning is heard."""
RATE_MAX_HZ = 192_000
CHANNELS_MAX = 7
"""From eight planes on PyAV 18.1 reads beyond the list of planes."""

FILM_MAX_S = 30.0
PICTURES_PER_S = 5.0
SIDE_MAX_PX = 640
SOURCE_MAX_PIXELS = 4096 * 2304
FRAMES_MAX_PER_S = 240

Pictures = NDArray[np.uint8]


def read_sound(path: Path, max_s: float = SOUND_MAX_S, channel: int | None = None) -> FloatArray | None:
    """The first sound stream as mono float32 (N,) at 16 kHz, full scale at 1, N at most `max_s` seconds.

    Channels are averaged, or one `channel`, counted from 0, is taken. Where a file is damaged the sound before that
    place counts.

    Returns:
        None when there is no sound or no such channel, it cannot be decoded, or it holds NaN or infinity.
    """
    chunks: list[FloatArray] = []
    rate_hz, count = 0, 0
    try:
        with _open(path) as container:
            for frame in _sound_frames(container):
                rate_hz = rate_hz or frame.sample_rate
                if frame.sample_rate != rate_hz or not 0 < rate_hz <= RATE_MAX_HZ:
                    break
                chunks.append(_mono(frame, channel))
                count += len(chunks[-1])
                if count >= max_s * rate_hz:
                    break
    except (av.FFmpegError, OSError, ValueError, IndexError):
        pass  # what came before the damage counts
    if not count:
        return None
    samples = np.concatenate(chunks)[: int(max_s * rate_hz)]
    return resample(samples, rate_hz, SAMPLE_RATE_HZ) if np.isfinite(samples).all() else None


def read_pictures(path: Path, max_s: float = FILM_MAX_S, per_s: float = PICTURES_PER_S) -> Pictures | None:
    """The first moving picture of each slot of `1 / per_s` s, as RGB uint8 (T, H, W, 3), T at most `max_s * per_s`.

    The longer side is at most `SIDE_MAX_PX`; smaller pictures keep their size. Where a file is damaged the pictures
    before that place count.

    Returns:
        None when there is none that can be decoded.
    """
    pictures: list[Pictures] = []
    try:
        with _open(path) as container:
            wanted = 0
            for time_s, frame in _timed(container, int(max_s * FRAMES_MAX_PER_S)):
                if time_s >= max_s:
                    break
                if time_s * per_s >= wanted:
                    pictures.append(_small(frame, pictures[0].shape if pictures else None))
                    wanted = int(time_s * per_s) + 1
    except (av.FFmpegError, OSError, ValueError, IndexError):
        pass
    return np.stack(pictures) if pictures else None


def resample(samples: FloatArray, from_hz: int, to_hz: int) -> FloatArray:
    """Change the rate of a whole clip by cutting or padding its spectrum (ideal low pass, periodic at the ends)."""
    if from_hz == to_hz:
        return samples
    size = max(1, round(len(samples) * to_hz / from_hz))
    spectrum = np.fft.rfft(samples)[: size // 2 + 1]
    return (np.fft.irfft(spectrum, size) * (size / len(samples))).astype(np.float32)


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Opened from an open file, so that the media itself can name no other file or address."""
    if path.stat().st_size > FILE_MAX_BYTES:
        raise ValueError(f"{path} is larger than {FILE_MAX_BYTES} bytes")
    with (
        path.open("rb") as file,
        av.open(
            file,
            "r",
            options={"max_pixels": str(SOURCE_MAX_PIXELS)},
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
            metadata_errors="replace",
        ) as container,
    ):
        yield container


def _sound_frames(container: InputContainer) -> Iterator[AudioFrame]:
    stream = next(iter(container.streams.audio), None)
    if stream is not None and stream.codec_context is not None:
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def _mono(frame: AudioFrame, channel: int | None) -> FloatArray:
    """Any sample format as float32 (N,) with full scale at 1: the mean of the channels, or one of them."""
    if frame.layout.nb_channels > CHANNELS_MAX:
        raise ValueError(f"{frame.layout.nb_channels} channels")
    array = np.asarray(frame.to_ndarray())
    if frame.format.is_packed:
        array = array.reshape(-1, frame.layout.nb_channels).T
    samples = array.astype(np.float32)
    if array.dtype.kind == "u":
        samples -= 128
    if array.dtype.kind != "f":
        samples /= np.float32(2 ** (8 * array.dtype.itemsize - 1))
    return np.asarray(samples.mean(axis=0) if channel is None else samples[channel], dtype=np.float32)


def _timed(container: InputContainer, frames_max: int) -> Iterator[tuple[float, VideoFrame]]:
    """At most so many frames with their times from the first one on; cover art is no moving picture."""
    stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if stream is None or stream.codec_context is None:
        return
    rate = float(stream.average_rate or 25)
    start_s: float | None = None
    for place, frame in enumerate(container.decode(stream)):
        if place >= frames_max:
            return
        time_s = place / rate if frame.time is None else float(frame.time)
        start_s = time_s if start_s is None else start_s
        yield time_s - start_s, frame


def _small(frame: VideoFrame, shape: tuple[int, ...] | None) -> Pictures:
    """As RGB of the wanted shape (H, W, 3), or, when there is none yet, of at most `SIDE_MAX_PX` a side."""
    shrink = min(1.0, SIDE_MAX_PX / max(frame.width, frame.height))
    height, width = shape[:2] if shape else (max(1, round(side * shrink)) for side in (frame.height, frame.width))
    return np.asarray(frame.reformat(width=width, height=height, format="rgb24").to_ndarray())
