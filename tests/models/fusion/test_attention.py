from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.errors import FusionInputError
from models.families import load_as
from models.fusion.attention import MODALITIES, AttentionFusion, FusionConfig, FusionNetwork, as_tensors
from models.labels import score_of
from models.types import EMOTIONS, POLARITIES, Features, Modality, Prediction

TINY = FusionConfig(embeddings=(4, 5, 6), width=8, heads=2)
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


def features(modality: Modality, seed: int = 0, *, emotion: str | None = None, polarity: str | None = None) -> Features:
    rng = np.random.default_rng((seed, MODALITIES.index(modality)))
    embedding = rng.normal(size=TINY.embeddings[MODALITIES.index(modality)]).astype(np.float32)
    emotions = rng.dirichlet(np.ones(len(EMOTIONS))).astype(np.float32)
    poles = rng.dirichlet(np.ones(len(POLARITIES))).astype(np.float32)
    if emotion is not None:
        emotions = np.full(len(EMOTIONS), 0.4 / 6, dtype=np.float32)
        emotions[EMOTIONS.index(emotion)] = 0.6
    if polarity is not None:
        poles = np.full(len(POLARITIES), 0.2, dtype=np.float32)
        poles[POLARITIES.index(polarity)] = 0.6
    return Features(modality, embedding, Prediction(score_of(poles), poles, emotions))


def item(subset: tuple[Modality, ...], seed: int = 0) -> dict[Modality, Features]:
    return {modality: features(modality, seed) for modality in subset}


def untrained() -> AttentionFusion:
    torch.manual_seed(0)
    return AttentionFusion(FusionNetwork(TINY), TINY, name="fresh")


@pytest.fixture
def fusion() -> AttentionFusion:
    """Every weight drawn, those included that start at zero."""
    torch.manual_seed(0)
    network = FusionNetwork(TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return AttentionFusion(network, TINY, name="tiny")


def same(one: Prediction, other: Prediction) -> bool:
    return bool(
        np.allclose(one.emotion, other.emotion, atol=1e-5)
        and np.allclose(one.polarity, other.polarity, atol=1e-5)
        and abs(one.score - other.score) < 1e-4
    )


@pytest.mark.parametrize("subset", SUBSETS)
def test_weights_and_contributions_name_what_is_present_and_nothing_else(
    fusion: AttentionFusion, subset: tuple[Modality, ...]
) -> None:
    (found,) = fusion.fuse([item(subset)])
    assert set(found.weights) == set(found.contributions) == set(subset)
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-5)
    assert found.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
    assert found.prediction.polarity.sum() == pytest.approx(1, abs=1e-5)
    assert found.prediction.score == pytest.approx(score_of(found.prediction.polarity))


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_contribution_is_the_answer_minus_the_answer_without_the_modality(
    fusion: AttentionFusion, subset: tuple[Modality, ...]
) -> None:
    whole = item(subset)
    (found,) = fusion.fuse([whole])
    for modality, contribution in found.contributions.items():
        rest: Mapping[Modality, Features] = {key: value for key, value in whole.items() if key is not modality}
        without = fusion.fuse([rest])[0].prediction if rest else fusion.prior()
        assert contribution.score == pytest.approx(found.prediction.score - without.score, abs=1e-4)
        np.testing.assert_allclose(contribution.polarity, found.prediction.polarity - without.polarity, atol=1e-5)
        np.testing.assert_allclose(contribution.emotion, found.prediction.emotion - without.emotion, atol=1e-5)
        assert contribution.emotion.sum() == pytest.approx(0, abs=1e-5)


def test_the_answer_does_not_depend_on_the_batch_nor_on_the_order_of_the_modalities(fusion: AttentionFusion) -> None:
    items = [item(subset, seed) for seed, subset in enumerate(SUBSETS * 3)]
    for one, found in zip(items, fusion.fuse(items), strict=True):
        backwards = dict(reversed(one.items()))
        assert same(found.prediction, fusion.fuse([backwards])[0].prediction)


def test_what_lies_in_the_place_of_an_absent_modality_changes_nothing(fusion: AttentionFusion) -> None:
    embeddings, answers, present = as_tensors([item((Modality.TEXT,))], TINY)
    place = MODALITIES.index(Modality.AUDIO)
    with torch.inference_mode():
        before = fusion.network(embeddings, answers, present)
        embeddings[place] += 1e3
        answers[:, place] -= 5
        after = fusion.network(embeddings, answers, present)
    torch.testing.assert_close(before, after)
    assert float(before[2][0, place]) == 0


def test_a_missing_modality_is_not_the_same_as_a_neutral_one(fusion: AttentionFusion) -> None:
    text = {Modality.TEXT: features(Modality.TEXT)}
    neutral = text | {Modality.AUDIO: features(Modality.AUDIO, emotion="neutral", polarity="neutral")}
    one, other = fusion.fuse([text, neutral])
    assert not same(one.prediction, other.prediction)


def test_before_training_one_modality_is_passed_on_and_agreement_reinforces() -> None:
    fusion = untrained()
    text = {Modality.TEXT: features(Modality.TEXT, emotion="anger", polarity="negative")}
    both = text | {Modality.AUDIO: features(Modality.AUDIO, emotion="anger", polarity="negative")}
    alone, together = (one.prediction for one in fusion.fuse([text, both]))
    np.testing.assert_allclose(alone.emotion, text[Modality.TEXT].prediction.emotion, atol=1e-5)
    assert together.emotion[EMOTIONS.index("anger")] > alone.emotion[EMOTIONS.index("anger")]
    assert together.score < alone.score < 0


def test_nothing_to_fuse_is_refused_and_an_empty_batch_is_empty(fusion: AttentionFusion) -> None:
    assert fusion.fuse([]) == []
    with pytest.raises(FusionInputError, match="without any modality"):
        fusion.fuse([item((Modality.TEXT,)), {}])


def test_features_of_another_encoder_are_refused_by_name(fusion: AttentionFusion) -> None:
    other = Features(Modality.AUDIO, np.zeros(9, dtype=np.float32), features(Modality.AUDIO).prediction)
    with pytest.raises(FusionInputError, match="of one bundle"):
        fusion.fuse([{Modality.AUDIO: other}])


def test_a_checkpoint_gives_the_same_answers(fusion: AttentionFusion, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "fusion.safetensors", fusion.network.state_dict(), TINY, name="fusion")
    loaded = load_as(AttentionFusion, tmp_path / "fusion.safetensors")
    assert loaded.name.startswith("fusion@")
    whole = item(MODALITIES)
    one, other = fusion.fuse([whole])[0].prediction, loaded.fuse([whole])[0].prediction
    np.testing.assert_allclose(one.emotion, other.emotion, atol=1e-2)


@pytest.mark.parametrize("changes", [{"embeddings": (4, 5)}, {"embeddings": (0, 5, 6)}, {"heads": 3}, {"width": 0}])
def test_an_absurd_architecture_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        FusionConfig(**({"embeddings": (4, 5, 6), "width": 8, "heads": 2} | changes))  # type: ignore[arg-type]  # wrong on purpose
