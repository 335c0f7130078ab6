"""Where speech is: silero-vad v6 (github.com/snakers4/silero-vad, MIT), its ONNX model run without torch."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from models.types import FloatArray

WINDOW_SAMPLES: Final = 512
"""One probability covers 32 ms at 16 kHz."""
CONTEXT_SAMPLES: Final = 64
"""The model sees this tail of the previous window before each window."""
STATE_SHAPE: Final = (1, 1, 128)


class SpeechDetector:
    """Probability of speech for each 32 ms window of one participant's sound.

    The answer depends only on the windows since the last `reset`. For that reason each is a call of its own, although the
    model takes many at once: a kernel may choose another order of summation for another number of rows, and a replay must
    find the same bits.
    """

    def __init__(self) -> None:
        """Every detector of a process shares one copy of the weights and keeps its own state."""
        self._session = _session()
        self.reset()

    def reset(self) -> None:
        """Forgets all sound so far: the next window is the first."""
        self._hidden = np.zeros(STATE_SHAPE, np.float32)
        self._cell = np.zeros(STATE_SHAPE, np.float32)
        self._row = np.zeros((1, CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)

    def judge(self, window: FloatArray) -> float:
        """The probability in [0, 1] of the next window: mono samples (WINDOW_SAMPLES,) at 16 kHz in [-1, 1]."""
        row = self._row[0]
        row[:CONTEXT_SAMPLES] = row[-CONTEXT_SAMPLES:]
        row[CONTEXT_SAMPLES:] = window
        inputs = {"input": self._row, "h": self._hidden, "c": self._cell}
        probability, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        return float(probability.item())


@cache
def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    # Windows are tiny: a second thread costs more than it brings, and calls run beside each other anyway.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(_model_path(), options, providers=["CPUExecutionProvider"])


def _model_path() -> Path:
    # Importing silero_vad would import torch, which a stream worker neither has nor needs.
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("silero-vad is not installed; `make setup` brings its wheel, which holds the model")
    return Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
