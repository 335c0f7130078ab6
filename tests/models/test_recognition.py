import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import judge
from models.recognition import WORST, WordsTask, word_errors

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


@pytest.mark.parametrize(
    ("said", "written", "errors"),
    [
        ("kids are talking by the door", "kids are talking by the door", (0, 0, 0)),
        ("kids are talking by the door", "the kids are talking by a", (1, 1, 1)),
        ("kids are talking by the door", "", (0, 6, 0)),
        ("", "thank you", (2, 0, 0)),
        ("a b c", "b c d", (1, 1, 0)),  # cheaper than three substitutions
        ("a b", "c d", (0, 0, 2)),
        ("a b", "b", (0, 1, 0)),
    ],
)
def test_errors_are_those_of_the_cheapest_way(said: str, written: str, errors: tuple[int, int, int]) -> None:
    assert word_errors(said.split(), written.split()) == errors


@given(WORDS, WORDS, WORDS)
def test_errors_keep_the_laws_of_an_edit_distance(one: list[str], other: list[str], third: list[str]) -> None:
    inserted, deleted, substituted = word_errors(one, other)

    assert inserted - deleted == len(other) - len(one)
    assert max(len(one), len(other)) >= inserted + deleted + substituted >= abs(len(one) - len(other))
    assert (inserted + deleted + substituted == 0) == (one == other)
    assert word_errors(other, one) == (deleted, inserted, substituted)
    assert sum(word_errors(one, third)) <= sum(word_errors(one, other)) + sum(word_errors(other, third))


def task(said: list[str], written: list[str], *, reliable: list[bool] | None = None) -> WordsTask:
    names = tuple(f"{place}.wav" for place in range(len(said)))
    return WordsTask(names, tuple(said), tuple(written), np.array(reliable or [True] * len(said)))


def test_the_word_error_rate_counts_words_not_sounds() -> None:
    judged = judge(task(["a b c d e f g h", "i j"], ["a b c d e f g h", "x y z"], reliable=[True, False]))

    assert json.loads(json.dumps(judged)) == judged
    assert (judged["n"], judged["words"], judged["labels"]) == (2, 10, [])
    assert judged["metrics"] == {
        "wer": pytest.approx(0.3),
        "insertions": 1,
        "deletions": 0,
        "substitutions": 2,
        "reliable_share": 0.5,
    }
    assert judged["constant"] == {
        "wer": 1,
        "insertions": 0,
        "deletions": 10,
        "substitutions": 0,
        "reliable_share": 0,
    }


def test_the_interval_is_that_of_resampled_sounds() -> None:
    said, written = ["a b", "c d", "e f g h"] * 20, ["a b", "x d", "e f g"] * 20
    judged = judge(task(said, written))

    rng = np.random.default_rng(5)
    errors, words = np.array([0, 1, 1] * 20), np.array([2, 2, 4] * 20)
    drawn = rng.integers(0, 60, (4_000, 60))
    expected = np.percentile(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1), (2.5, 97.5))
    np.testing.assert_allclose(judged["intervals"]["wer"], expected, atol=0.015)


def test_where_nothing_is_said_every_word_is_invented_and_those_that_pass_the_gates_are_counted() -> None:
    judged = judge(task(["", "", ""], ["thank you", "you", ""], reliable=[False, True, False]))

    assert judged["metrics"] == {"reliable_words": 1, "invented_words": 3}
    assert judged["constant"] == {"reliable_words": 0, "invented_words": 0}
    assert judged["words"] == 0


def test_the_sounds_with_the_most_errors_are_named() -> None:
    many = 2 * WORST
    judged = judge(task(["a b c"] * many, ["a b c", "a x y"] * WORST))

    assert len(judged["worst"]) == WORST
    first = judged["worst"][0]
    assert first == {"sound": "1.wav", "errors": 2, "said": "a b c", "written": "a x y", "reliable": True}


def test_no_sound_is_a_named_error() -> None:
    with pytest.raises(ValueError, match="nothing to judge"):
        judge(task([], []))
