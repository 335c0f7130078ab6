"""What every set of labelled voices gives."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.media import read_sound
from models.errors import DataError
from models.types import SAMPLE_RATE_HZ, FloatArray

TOTAL_MAX_S = 12 * 3600
"""Of all clips together, which are held in memory: 2.8 GB."""


@dataclass(frozen=True, slots=True)
class Recordings:
    """N clips of mono samples (N_i,) at 16 kHz, at most 60 s each unless the set says otherwise.

    `names` (N) are those of the files; `labels` int64 (N,) index `label_names`, which are emotions or, of a set for
    recognition, the words spoken; `speakers` int64 (N,) are the set's own numbers; `skipped` counts files that could not be used.
    """

    names: tuple[str, ...]
    clips: list[FloatArray]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    speakers: NDArray[np.int64]
    skipped: int


def decode_all(
    named: Iterable[tuple[Path, int, int]],
    label_names: tuple[str, ...],
    skipped: int,
    expected: str,
    whole_s: float | None = None,
) -> Recordings:
    """Decode each (path, label, speaker); files without readable sound are skipped and counted.

    Args:
        named: What the files' names say.
        label_names: Of the set.
        skipped: Files already left out.
        expected: For the error: what should have been there.
        whole_s: Where a label is about the whole file: longer ones are skipped. Else of a long one the beginning is heard.

    Raises:
        DataError: No clip, or more than `TOTAL_MAX_S` of them.
    """
    clips: list[FloatArray] = []
    kept: list[tuple[str, int, int]] = []
    samples = 0
    for path, label, speaker in named:
        clip = read_sound(path) if whole_s is None else read_sound(path, whole_s)
        if clip is None or (whole_s is not None and len(clip) >= int(whole_s * SAMPLE_RATE_HZ)):
            skipped += 1
            continue
        samples += len(clip)
        if samples > TOTAL_MAX_S * SAMPLE_RATE_HZ:
            raise DataError(f"more than {TOTAL_MAX_S // 3600} h of sound: give fewer files, or a smaller split.")
        clips.append(clip)
        kept.append((path.stem, label, speaker))
    if not clips:
        raise DataError(f"{expected} ({skipped} files skipped)")
    names, labels, speakers = zip(*kept, strict=True)
    return Recordings(
        names, clips, np.array(labels, dtype=np.int64), label_names, np.array(speakers, dtype=np.int64), skipped
    )
