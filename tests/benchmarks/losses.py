"""How many utterances of real calls begin or end elsewhere when bursts of sound are lost: `python -m tests.benchmarks.losses --seeds 41`.

Three minutes of each of three recordings (`UNDERTONE_DATA`), as blocks of a second straight into the track; bursts 3 to 9 s apart. One that
has no counterpart within 0.3 s in the undamaged run counts, and so does one of that run without a counterpart.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.media import read_sound
from models.types import FloatArray
from pipelines.media.resample import AudioBlock
from pipelines.media.track import Track
from pipelines.settings import StreamSettings
from pipelines.types import Participant

RATE_HZ = 16_000
LENGTH_S = 180
CALLS = ("agent_monologue", "auto_repairs_40_agent", "auto_repairs_40_caller")
BURSTS_MS = ((150, 400), (400, 570))
NEAR_S = 0.3

Bursts = list[tuple[int, int]]
Spans = NDArray[np.float64]


def bursts(length: int, seed: int, shortest_ms: int, longest_ms: int) -> Bursts:
    """Samples that are lost: from, to."""
    rng = np.random.default_rng(seed)
    found: Bursts = []
    at = 2 * RATE_HZ
    while at < length - 5 * RATE_HZ:
        at += int(rng.uniform(3, 9) * RATE_HZ)
        size = int(rng.uniform(shortest_ms, longest_ms) * RATE_HZ / 1000)
        if at + size < length:
            found.append((at, at + size))
            at += size
    return found


def spans(sound: FloatArray, lost: Bursts) -> Spans:
    """Start and end of each utterance, s (N, 2)."""
    track, at, ended = Track(StreamSettings(), 0), 0, []
    for begin, end in [*lost, (len(sound), len(sound))]:
        for first in range(at, begin, RATE_HZ):
            block = AudioBlock(Participant.CUSTOMER, first, sound[first : min(begin, first + RATE_HZ)])
            ended += track.feed([block], [])
        at = end
    ended += track.finish()
    told = [(one.segment.start_sample, one.segment.end_sample) for one in ended if one.samples.size]
    return np.array(told).reshape(-1, 2) / RATE_HZ


def alone(these: Spans, those: Spans) -> int:
    """How many of these have no counterpart among those."""
    return sum(not (np.abs(those - one).max(axis=1) <= NEAR_S).any() for one in these) if len(those) else len(these)


def main() -> None:
    """Prints a line for each recording and length of burst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    folder = Path(os.environ["UNDERTONE_DATA"]) / "calls"
    for name in CALLS:
        sound = read_sound(folder / f"{name}.flac", LENGTH_S)
        if sound is None:
            raise SystemExit(f"{folder / name}.flac cannot be read")
        whole = spans(sound, [])
        for shortest_ms, longest_ms in BURSTS_MS:
            losses = [bursts(len(sound), seed, shortest_ms, longest_ms) for seed in range(seeds)]
            torn = [spans(sound, lost) for lost in losses]
            differ = sum(alone(whole, one) + alone(one, whole) for one in torn)
            count = sum(map(len, losses))
            sys.stdout.write(
                f"{name:24} {shortest_ms} to {longest_ms} ms: {count} bursts, {differ} of {len(whole) * seeds} utterances differ\n"
            )


if __name__ == "__main__":
    main()
