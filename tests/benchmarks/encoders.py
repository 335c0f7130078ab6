"""How fast each encoder of the embedded bundle is on one core: `make bench`, or alone `make bench PART=encoders`.

What `prepare` does counts too. Sound and words are the project's own sample call; the faces are noise, because the
network's time does not depend on what a picture shows.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from deployments.sample import ANGRY_TO_CONTENT
from models.bundles import EMBEDDED, load_bundle, load_encoder
from models.encoders import mel, video, words
from models.types import SAMPLE_RATE_HZ, FloatArray, Modality

SECONDS = 5.0


def encoder_speed(voices: Sequence[FloatArray]) -> dict[str, float]:
    """Voice as a multiple of real time, faces per s and utterances of text per s, each on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bundle = load_bundle(EMBEDDED)
        table = ANGRY_TO_CONTENT.with_suffix(".txt").read_text().splitlines()
        lines = [line.rpartition("\t")[2] for line in table[1:]]
        faces = np.random.default_rng(0).integers(0, 256, (8, 16, 48, 48), dtype=np.uint8)
        hear, see, read = (load_encoder(bundle, modality) for modality in Modality)
        return {
            "voice_x_real_time": _per_s(
                lambda: hear.encode([mel.prepare(one) for one in voices]), sum(map(len, voices)) / SAMPLE_RATE_HZ
            ),
            "faces_per_s": _per_s(lambda: see.encode([video.prepare(one) for one in faces]), faces[..., 0, 0].size),
            "texts_per_s": _per_s(lambda: read.encode([words.prepare(one) for one in lines]), len(lines)),
        }
    finally:
        torch.set_num_threads(threads)


def _per_s(run: Callable[[], Sequence[Any]], amount: float) -> float:
    run()
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        run()
        rounds += 1
    return amount * rounds / (time.perf_counter() - started)
