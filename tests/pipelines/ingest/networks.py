"""Networks that answer at once and the same to everything, for tests of what stands around them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.types import Contribution, Features, FusedPrediction, Modality, Prediction
from pipelines.ingest.analyse import ModelNames

NAMES = ModelNames("tiny-1", "fusion-1", {modality: f"{modality}-1" for modality in Modality})
PREDICTION = Prediction(1.5, np.array([0.1, 0.2, 0.7], np.float32), np.full(7, 1 / 7, np.float32))


async def feels(_raw: Any) -> Features:
    return Features(Modality.TEXT, np.zeros(4, np.float32), PREDICTION)


async def fuses(present: Mapping[Modality, Features]) -> FusedPrediction:
    change = Contribution(0.5, np.zeros(3, np.float32), np.zeros(7, np.float32))
    return FusedPrediction(PREDICTION, dict.fromkeys(present, 1 / len(present)), dict.fromkeys(present, change))
