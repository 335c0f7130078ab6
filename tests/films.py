"""Small films and tones that tests write for the readers."""

from pathlib import Path

import av
import numpy as np

from models.types import FloatArray


def tone(rate_hz: int, hz: float = 400.0, seconds: float = 0.5) -> FloatArray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def film(path: Path, *, sound: bool = True) -> None:
    """Half a second: five grey pictures, and a tone at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        picture = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        voice = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for place in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, dtype=np.uint8), "rgb24")
            frame.pts = place
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if voice:
            block = av.AudioFrame.from_ndarray(tone(16_000)[None], "fltp", "mono")
            block.sample_rate = 16_000
            container.mux(voice.encode(block))
            container.mux(voice.encode(None))
