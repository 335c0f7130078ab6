"""RAVDESS speech: 24 actors, 8 emotions in the file names (Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391).

Split by actor only: the same sentences by the same voices on both sides of a split would measure who speaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.data import DataError
from models.data.labels import RAVDESS_LABELS
from models.types import SAMPLE_RATE_HZ, FloatArray

SPLIT_ACTORS: Mapping[str, Sequence[int]] = {
    "train": range(1, 19),
    "validation": range(19, 22),
    "test": range(22, 25),
    "all": range(1, 100),
}
CLIP_MAX_S = 60


@dataclass(frozen=True, slots=True)
class Recordings:
    """Clips of mono samples (N_i,) at 16 kHz, labels int64 (N,), and how many files were skipped."""

    clips: list[FloatArray]
    labels: NDArray[np.int64]
    skipped: int


def read(data: Path, split: str) -> Recordings:
    """Read `ravdess/Actor_NN/*.{flac,wav}` under `data`, or under the folder of RAVDESS itself.

    Args:
        data: The data folder.
        split: `train` (actors 1-18), `validation` (19-21), `test` (22-24) or `all`.

    Raises:
        DataError: No such split, no such folder, or no readable clip of these actors.
    """
    if split not in SPLIT_ACTORS:
        raise DataError(f"RAVDESS has no split {split!r}: choose one of {', '.join(SPLIT_ACTORS)}.")
    folder = data / "ravdess" if (data / "ravdess").is_dir() else data
    clips: list[FloatArray] = []
    labels: list[int] = []
    skipped = 0
    for path in sorted(p for p in folder.glob("Actor_*/*") if p.suffix.lower() in {".flac", ".wav"}):
        fields = path.stem.split("-")
        if len(fields) != 7 or not all(part.isdecimal() for part in fields):
            skipped += 1
            continue
        emotion, actor = int(fields[2]) - 1, int(fields[6])
        if actor not in SPLIT_ACTORS[split]:
            continue
        clip = _decode(path) if 0 <= emotion < len(RAVDESS_LABELS) else None
        if clip is None:
            skipped += 1
            continue
        clips.append(clip)
        labels.append(emotion)
    if not clips:
        raise DataError(f"no RAVDESS clip of split {split!r} in {data}: expected ravdess/Actor_NN/*.flac or *.wav.")
    return Recordings(clips, np.array(labels, dtype=np.int64), skipped)


def _decode(path: Path) -> FloatArray | None:
    """Mono samples at 16 kHz, or None when the file cannot be used."""
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = int(file.samplerate)
            samples = file.read(CLIP_MAX_S * rate_hz, dtype="float32", always_2d=True).mean(axis=1)
    except (OSError, soundfile.LibsndfileError):
        return None
    if len(samples) == 0 or not np.isfinite(samples).all():
        return None
    return resample(samples, rate_hz, SAMPLE_RATE_HZ)


def resample(samples: FloatArray, from_hz: int, to_hz: int) -> FloatArray:
    """Change the rate of a whole clip by cutting or padding its spectrum (ideal low pass, periodic at the ends)."""
    if from_hz == to_hz:
        return samples
    size = max(1, round(len(samples) * to_hz / from_hz))
    spectrum = np.fft.rfft(samples)[: size // 2 + 1]
    return (np.fft.irfft(spectrum, size) * (size / len(samples))).astype(np.float32)
