from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.data.mosi import LABELS, LENGTHS
from models.data.tables import Table
from models.errors import CheckpointError, FusionInputError
from models.fusion import tables
from models.fusion.tables import TableConfig, TableNetwork, others, probabilities
from models.labels import RAVDESS_LABELS
from models.types import Modality
from tests.models.data.test_mosi import write as write_mosi
from tests.models.data.test_ravdess_av import row
from tests.models.data.test_ravdess_av import write as write_ravdess_av

TINY = TableConfig(("audio", "video"), (3, 2), ("no", "yes"))


def network(config: TableConfig = TINY) -> TableNetwork:
    torch.manual_seed(0)
    return TableNetwork(config).eval()


def table(audio: list[list[float]], video: list[list[float]], groups: list[str] | None = None) -> Table:
    measured = {Modality.AUDIO: np.array(audio, np.float32), Modality.VIDEO: np.array(video, np.float32)}
    names = groups or [str(place) for place in range(len(audio))]
    return Table(measured, np.zeros(len(audio), np.int64), np.array(names), 0)


def test_every_subset_gets_probabilities() -> None:
    found = probabilities(network(), table([[1, 2, 3]] * 4, [[4, 5]] * 4))

    assert list(found) == ["audio", "video", "audio+video", "averaged"]
    for answer in found.values():
        assert answer.shape == (4, 2)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)


def test_a_subset_does_not_hear_what_it_leaves_out() -> None:
    one = probabilities(network(), table([[1, 2, 3]], [[4, 5]]))
    other = probabilities(network(), table([[1, 2, 3]], [[-4, 9]]))

    np.testing.assert_array_equal(one["audio"], other["audio"])
    assert not np.array_equal(one["audio+video"], other["audio+video"])


def test_a_modality_without_any_measurement_is_absent_not_average() -> None:
    nan = float("nan")
    found = probabilities(network(), table([[1, 2, 3]], [[nan, nan]]))

    np.testing.assert_array_equal(found["audio+video"], found["audio"])


def test_a_single_missing_measurement_counts_as_the_middle() -> None:
    np.testing.assert_array_equal(
        probabilities(network(), table([[1, float("nan"), 3]], [[4, 5]]))["audio"],
        probabilities(network(), table([[1, 0, 3]], [[4, 5]]))["audio"],
    )


def test_an_absurd_measurement_counts_as_a_large_one() -> None:
    np.testing.assert_array_equal(
        probabilities(network(), table([[1, 1e29, 3]], [[4, 5]]))["audio"],
        probabilities(network(), table([[1, 5, 3]], [[4, 5]]))["audio"],
    )


def test_others_is_the_mean_of_the_rest_of_the_group() -> None:
    own = np.array([1, 2, 6, 9], np.float32).reshape(4, 1, 1)

    assert others(own, np.array(["a", "a", "a", "b"])).ravel().tolist() == [4, 3.5, 1.5, 0]


def test_the_other_utterances_count_by_the_weight_of_context() -> None:
    judge = network()
    alone = probabilities(judge, table([[1, 2, 3], [3, 2, 1]], [[4, 5], [5, 4]]))["audio"]
    together = table([[1, 2, 3], [3, 2, 1]], [[4, 5], [5, 4]], ["a", "a"])

    np.testing.assert_array_equal(probabilities(judge, together)["audio"], alone)
    judge.context.data.fill_(0.5)
    assert not np.allclose(probabilities(judge, together)["audio"], alone)


def test_a_table_of_other_measurements_is_refused() -> None:
    with pytest.raises(FusionInputError, match="trained with"):
        probabilities(network(), table([[1, 2]], [[4, 5]]))


@pytest.mark.parametrize(
    "changed",
    [
        {"modalities": ("audio", "smell")},
        {"modalities": ("audio",)},
        {"lengths": (0, 2)},
        {"labels": ("a",)},
        {"width": 7},
    ],
)
def test_an_absurd_architecture_is_refused(changed: dict[str, tuple[str, ...]]) -> None:
    given = {"modalities": ("audio", "video"), "lengths": (3, 2), "labels": ("no", "yes"), "width": 8, "heads": 2}
    with pytest.raises(ValueError, match="must"):
        TableConfig(**{**given, **changed})  # type: ignore[arg-type]


def test_mosi_is_judged_on_polarity_by_every_subset(tmp_path: Path) -> None:
    config = TableConfig(tuple(LENGTHS), tuple(LENGTHS.values()), LABELS)
    checkpoint.save(tmp_path / "fusion_mosi.safetensors", network(config).state_dict(), config, name="fusion_mosi")
    write_mosi(tmp_path / "mosi", "test", ["a", "a", "b"])

    answers = tables.mosi(tmp_path, tmp_path, "all")

    assert set(answers.tasks) == {"polarity", "polarity_averaged"} | {
        f"polarity_{one}" for one in ("audio", "video", "text", "audio+video", "audio+text", "video+text")
    }
    assert all(task.truth.tolist() == [0, 1, 0] for task in answers.tasks.values())
    assert answers.skipped == 0


def test_the_ravdess_table_is_judged_on_its_eight_emotions_and_polarity(tmp_path: Path) -> None:
    config = TableConfig(("audio", "video"), (69, 56), RAVDESS_LABELS)
    path = tmp_path / "fusion_ravdess_av.safetensors"
    checkpoint.save(path, network(config).state_dict(), config, name="fusion_ravdess_av")
    write_ravdess_av(tmp_path / "ravdess_av" / "test.csv", [row(emotion=one) for one in ("calm", "sad", "bored")])

    answers = tables.ravdess_av(tmp_path, tmp_path, "all")

    assert {"emotion", "emotion_audio", "emotion_video", "emotion_averaged", "polarity"} <= set(answers.tasks)
    assert answers.tasks["emotion"].truth.tolist() == [1, 3]
    assert answers.skipped == 1


def test_a_bundle_without_the_part_is_named(tmp_path: Path) -> None:
    write_mosi(tmp_path, "test", ["a"])
    with pytest.raises(CheckpointError, match="cannot read"):
        tables.mosi(tmp_path, tmp_path, "test")


@pytest.mark.slow
def test_the_embedded_fusions_reach_their_floors(data_dir: Path) -> None:
    from models.bundles import EMBEDDED  # noqa: PLC0415  # only where the data are there
    from models.metrics import Task  # noqa: PLC0415

    def accuracy(task: object) -> float:
        assert isinstance(task, Task)
        return float((task.probabilities.argmax(axis=1) == task.truth).mean())

    seen = tables.mosi(EMBEDDED, data_dir, "validation").tasks
    assert accuracy(seen["polarity"]) > accuracy(seen["polarity_text"])
    seen = tables.ravdess_av(EMBEDDED, data_dir, "validation").tasks
    best = max(accuracy(seen[f"emotion_{one}"]) for one in ("audio", "video"))
    assert accuracy(seen["emotion"]) > best + 0.05
    assert accuracy(seen["emotion"]) > accuracy(seen["emotion_averaged"])
