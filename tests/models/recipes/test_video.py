from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import checkpoint
from models.data.faces import Faces
from models.encoders.video import FaceNetwork, VideoConfig
from models.errors import CheckpointError
from models.labels import FER2013_LABELS
from models.recipes.video import BATCH_FACES, FACES_POOLED, batches, loss, softened, started


class Scores(nn.Module):
    """A face network whose logits and weights are its input."""

    def __init__(self, logits: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.logits, self.weights = logits, weights

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pictures, self.logits, self.weights


def value(logits: Tensor, weights: Tensor, labels: Tensor, target: Tensor | None = None) -> float:
    target = nn.functional.one_hot(labels, logits.shape[1]).float() if target is None else target
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


def test_faces_and_their_pool_are_judged_by_soft_targets_not_by_their_label() -> None:
    labels, weights = torch.zeros(FACES_POOLED, dtype=torch.long), torch.zeros(FACES_POOLED)
    logits = torch.tensor([[2.0, 1.0]] * FACES_POOLED)
    doubtful = torch.tensor([[0.5, 0.5]] * FACES_POOLED)

    # One face and, half as much, the pool of four that are alike.
    wanted = 1.5 * float(nn.functional.cross_entropy(logits[:1], doubtful[:1]))
    assert value(logits, weights, labels, doubtful) == pytest.approx(wanted)
    assert value(logits, weights, labels) != pytest.approx(wanted)


def test_a_target_is_half_the_label_and_half_what_the_teacher_says() -> None:
    found = softened(np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]], dtype=np.float32))
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.9], [0.7, 0.3]]))


def test_a_target_stays_with_its_face_in_every_batch() -> None:
    count = 2 * BATCH_FACES + 5
    labels = np.arange(count) % 7
    faces = Faces(np.full((count, 48, 48), 90, np.uint8), labels, FER2013_LABELS, 0)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), 7).float()

    epoch = list(batches(faces, targets, np.random.default_rng(0)))

    assert [len(batch["label"]) for batch in epoch] == [BATCH_FACES, BATCH_FACES]
    assert all(torch.equal(batch["target"].argmax(dim=1), batch["label"]) for batch in epoch)


def test_the_training_goes_on_from_the_weights_that_it_names_and_from_no_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    earlier = FaceNetwork(VideoConfig()).state_dict()
    sha256 = checkpoint.save(tmp_path / "start.safetensors", earlier, VideoConfig(), name="video")

    found = started(VideoConfig(), tmp_path / "start.safetensors", sha256).state_dict()

    for name, values in earlier.items():
        torch.testing.assert_close(found[name], values, atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="SHA-256"):
        started(VideoConfig(), tmp_path / "start.safetensors")
