import numpy as np
import pytest
import torch

from models.coherence import answered_together
from models.labels import score_of
from models.types import COMPATIBLE_EMOTIONS, EMOTIONS, POLARITIES, Prediction


def drawn(rows: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    emotion, polarity = (torch.randn(rows, size, generator=generator) for size in (len(EMOTIONS), len(POLARITIES)))
    return sharpness * emotion, sharpness * polarity


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 500.0])
def test_the_answers_are_distributions_whose_pairs_are_possible(sharpness: float) -> None:
    emotion, polarity = (one.exp().numpy() for one in answered_together(*drawn(500, sharpness)))

    np.testing.assert_allclose(emotion.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(polarity.sum(axis=1), 1, atol=1e-4)
    joy, neutral, surprise = (emotion[:, EMOTIONS.index(one)] for one in ("joy", "neutral", "surprise"))
    # What is joyful is positive, what is positive is joyful or surprising: so for sums over pairs.
    positive, calm = (polarity[:, POLARITIES.index(one)] for one in ("positive", "neutral"))
    assert (positive >= joy - 1e-5).all()
    assert (positive <= joy + surprise + 1e-5).all()
    assert (calm >= neutral - 1e-5).all()


def test_pairs_have_the_product_of_both_heads_and_the_impossible_ones_nothing() -> None:
    emotion, polarity = drawn(3, 2.0)

    found = answered_together(emotion, polarity)[1].exp()

    for row in range(3):
        weight = {
            pole: sum(float(emotion[row, EMOTIONS.index(one)].exp()) for one in COMPATIBLE_EMOTIONS[pole])
            * float(polarity[row, place].exp())
            for place, pole in enumerate(POLARITIES)
        }
        wanted = [weight[pole] / sum(weight.values()) for pole in POLARITIES]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4)


def test_a_head_that_is_unsure_follows_the_other() -> None:
    angry = torch.zeros(1, len(EMOTIONS))
    angry[0, EMOTIONS.index("anger")] = 6.0

    _, polarity = answered_together(angry, torch.tensor([[0.0, 0.2, 0.0]]))

    assert POLARITIES[int(polarity.argmax())] == "negative"


def test_the_rule_of_a_prediction_has_next_to_nothing_left_to_change() -> None:
    emotion, polarity = (one.exp().numpy() for one in answered_together(*drawn(2_000, 3.0)))
    found = [Prediction(score_of(p), p, e) for e, p in zip(emotion, polarity, strict=True)]
    changed = sum(not np.array_equal(one.emotion, given) for one, given in zip(found, emotion, strict=True))
    assert changed < 0.05 * len(found)
