from pathlib import Path

import pytest
import torch

from models import checkpoint
from models import evaluate_fusions as fusions
from models.data.mosi import LABELS, LENGTHS
from models.errors import CheckpointError
from models.fusion.tables import TableConfig, TableNetwork
from models.labels import RAVDESS_LABELS
from models.tasks import Task
from tests.models.data.test_mosi import write as write_mosi
from tests.models.data.test_ravdess_av import row
from tests.models.data.test_ravdess_av import write as write_ravdess_av


def network(config: TableConfig) -> TableNetwork:
    torch.manual_seed(0)
    return TableNetwork(config).eval()


def test_mosi_is_judged_on_polarity_by_every_subset(tmp_path: Path) -> None:
    config = TableConfig(tuple(LENGTHS), tuple(LENGTHS.values()), LABELS)
    checkpoint.save(tmp_path / "fusion_mosi.safetensors", network(config).state_dict(), config, name="fusion_mosi")
    write_mosi(tmp_path / "mosi", "test", ["a", "a", "b"])

    answers = fusions.mosi(tmp_path, tmp_path, "all")

    assert set(answers.tasks) == {"polarity", "polarity_averaged"} | {
        f"polarity_{one}" for one in ("audio", "video", "text", "audio+video", "audio+text", "video+text")
    }
    assert all(isinstance(task, Task) and task.truth.tolist() == [0, 1, 0] for task in answers.tasks.values())
    assert answers.skipped == 0


def test_the_ravdess_table_is_judged_on_its_eight_emotions_and_polarity(tmp_path: Path) -> None:
    config = TableConfig(("audio", "video"), (69, 56), RAVDESS_LABELS)
    path = tmp_path / "fusion_ravdess_av.safetensors"
    checkpoint.save(path, network(config).state_dict(), config, name="fusion_ravdess_av")
    write_ravdess_av(tmp_path / "ravdess_av" / "test.csv", [row(emotion=one) for one in ("calm", "sad", "bored")])

    answers = fusions.ravdess_av(tmp_path, tmp_path, "all")

    assert {"emotion", "emotion_audio", "emotion_video", "emotion_averaged", "polarity"} <= set(answers.tasks)
    emotion = answers.tasks["emotion"]
    assert isinstance(emotion, Task)
    assert emotion.truth.tolist() == [1, 3]
    assert answers.skipped == 1


def test_a_bundle_without_the_part_is_named(tmp_path: Path) -> None:
    write_mosi(tmp_path, "test", ["a"])
    with pytest.raises(CheckpointError, match="cannot read"):
        fusions.mosi(tmp_path, tmp_path, "test")


@pytest.mark.slow
def test_the_embedded_fusions_reach_their_floors(data_dir: Path) -> None:
    from models.bundles import EMBEDDED  # noqa: PLC0415  # only where the data are there
    from models.tasks import Task  # noqa: PLC0415

    def accuracy(task: object) -> float:
        assert isinstance(task, Task)
        return float((task.probabilities.argmax(axis=1) == task.truth).mean())

    seen = fusions.mosi(EMBEDDED, data_dir, "validation").tasks
    assert accuracy(seen["polarity"]) > accuracy(seen["polarity_text"])
    seen = fusions.ravdess_av(EMBEDDED, data_dir, "validation").tasks
    best = max(accuracy(seen[f"emotion_{one}"]) for one in ("audio", "video"))
    assert accuracy(seen["emotion"]) > best + 0.05
    assert accuracy(seen["emotion"]) > accuracy(seen["emotion_averaged"])
