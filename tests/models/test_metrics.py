import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from models.metrics import classification, classification_task

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_figures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, answer = np.array(pairs).T

    figures = classification(truth, answer, 4)

    assert figures == pytest.approx(
        {
            "accuracy": reference.accuracy_score(truth, answer),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, answer),
            "f1_macro": reference.f1_score(truth, answer, average="macro", zero_division=0),
            "f1_weighted": reference.f1_score(truth, answer, average="weighted", zero_division=0),
        }
    )


def test_the_constant_row_always_answers_the_commonest_class() -> None:
    task = classification_task(np.array([0, 1, 1, 2]), np.array([0, 1, 1, 2]), ("a", "b", "c"))

    assert task["labels"] == ["a", "b", "c"]
    assert task["metrics"]["accuracy"] == 1.0
    assert task["constant"]["accuracy"] == 0.5
    assert task["constant"]["balanced_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("truth", "answer"), [([], []), ([1], [1, 0])])
def test_nothing_to_judge_is_an_error(truth: list[int], answer: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        classification(np.array(truth, dtype=np.int64), np.array(answer, dtype=np.int64), 2)
