import numpy as np
import pytest
import torch

from models.data.tables import Table
from models.errors import FusionInputError
from models.fusion.tables import TableConfig, TableNetwork, mean_of_others
from models.fusion.tables import probabilities as answers_to
from models.types import FloatArray, Modality

TINY = TableConfig(("audio", "video"), (3, 2), ("no", "yes"))


def network(config: TableConfig = TINY) -> TableNetwork:
    torch.manual_seed(0)
    return TableNetwork(config).eval()


def table(audio: list[list[float]], video: list[list[float]], groups: list[str] | None = None) -> Table:
    measured = {Modality.AUDIO: np.array(audio, np.float32), Modality.VIDEO: np.array(video, np.float32)}
    names = groups or [str(place) for place in range(len(audio))]
    return Table(measured, np.zeros(len(audio), np.int64), np.array(names), 0)


def probabilities(judge: TableNetwork, judged: Table) -> dict[str, FloatArray]:
    return answers_to(judge, judged.measured, judged.groups)


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

    assert mean_of_others(own, np.array(["a", "a", "a", "b"])).ravel().tolist() == [4, 3.5, 1.5, 0]


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
