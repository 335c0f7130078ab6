from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import checkpoint
from models.encoders.video import FaceNetwork, VideoConfig
from models.errors import CheckpointError
from models.recipes.video import FACES_POOLED, loss, started


class Scores(nn.Module):
    """A face network whose logits and weights are its input."""

    def __init__(self, logits: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.logits, self.weights = logits, weights

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pictures, self.logits, self.weights


def value(logits: Tensor, weights: Tensor, labels: Tensor) -> float:
    target = nn.functional.one_hot(labels, logits.shape[1]).float()
    batch = {"pictures": torch.zeros(len(labels), 1), "label": labels, "target": target}
    return float(loss(Scores(logits, weights), batch))


def test_four_faces_of_a_label_are_pooled_by_their_weights() -> None:
    labels = torch.zeros(FACES_POOLED, dtype=torch.long)
    logits = torch.tensor([[4.0, 0.0]] + [[0.0, 4.0]] * 3)

    trusted = value(logits, torch.tensor([9.0, 0.0, 0.0, 0.0]), labels)
    equal = value(logits, torch.zeros(4), labels)

    assert trusted < equal


def test_faces_of_different_labels_are_judged_alone() -> None:
    labels = torch.arange(FACES_POOLED)
    logits = torch.randn(FACES_POOLED, FACES_POOLED, generator=torch.Generator().manual_seed(0))
    alone = nn.functional.cross_entropy(logits, labels)

    assert value(logits, torch.zeros(FACES_POOLED), labels) == pytest.approx(float(alone))


def test_the_training_goes_on_from_the_weights_that_it_names_and_from_no_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    earlier = FaceNetwork(VideoConfig()).state_dict()
    sha256 = checkpoint.save(tmp_path / "start.safetensors", earlier, VideoConfig(), name="video")

    found = started(VideoConfig(), tmp_path / "start.safetensors", sha256).state_dict()

    for name, values in earlier.items():
        torch.testing.assert_close(found[name], values, atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="SHA-256"):
        started(VideoConfig(), tmp_path / "start.safetensors")
