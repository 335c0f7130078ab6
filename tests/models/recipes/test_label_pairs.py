import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.errors import DataError
from models.fusion.attention import ANSWERS, MODALITIES, FusionConfig, FusionNetwork
from models.recipes.fusion import answers_by_subset, averaged, loss, temperatures, validate
from models.recipes.label_pairs import (
    DRAWS,
    SUBSETS,
    Pool,
    batches,
    draw,
    noise,
    validation_pairs,
)
from models.types import EMOTIONS, Modality

SIZES = (4, 5, 6)
CONFIG = FusionConfig(embeddings=SIZES, width=8, heads=2, dropout=0.0)


def pool(modality: Modality, *, right: float, rows: int = 280, seed: int = 0) -> Pool:
    """An encoder that is right in a share of the rows; the embedding's first number is the row's emotion."""
    rng = np.random.default_rng((seed, MODALITIES.index(modality)))
    emotions = np.arange(rows) % len(EMOTIONS)
    said = np.where(rng.random(rows) < right, emotions, (emotions + 1 + rng.integers(0, 6, rows)) % len(EMOTIONS))
    poles = np.where(emotions == 0, 1, np.where(emotions == 1, 2, 0))
    answers = np.full((rows, ANSWERS), np.log(0.05), dtype=np.float32)
    answers[np.arange(rows), said] = np.log(0.7)
    answers[np.arange(rows), len(EMOTIONS) + poles[said]] = np.log(0.9)
    embeddings = rng.normal(size=(rows, SIZES[MODALITIES.index(modality)])).astype(np.float32)
    embeddings[:, 0] = emotions
    return Pool(embeddings, answers, emotions.astype(np.int64), poles.astype(np.int64), 0)


def _only(one: Pool, rows: NDArray[np.bool_]) -> Pool:
    return Pool(one.embeddings[rows], one.answers[rows], one.emotions[rows], one.polarities[rows], 0)


def pools(right: float, seed: int = 0) -> dict[Modality, Pool]:
    return {modality: pool(modality, right=right, seed=seed) for modality in MODALITIES}


def test_clear_pairs_carry_one_label_in_all_modalities() -> None:
    pairs = validation_pairs(pools(0.8), doubt=0.0)
    for modality in MODALITIES:
        torch.testing.assert_close(pairs[modality.value][:, 0], pairs["emotion"].float())


def test_texts_whose_emotion_no_voice_has_are_left_out() -> None:
    parts = pools(0.8)
    heard = parts[Modality.AUDIO]
    rows = heard.emotions != EMOTIONS.index("fear")
    parts[Modality.AUDIO] = _only(heard, rows)

    for doubt in (0.0, 1.0):
        pairs = validation_pairs(parts, doubt)
        assert len(pairs["emotion"]) == 240 * DRAWS
        assert EMOTIONS.index("fear") not in pairs["emotion"]

    for batch in batches(parts, dict.fromkeys(MODALITIES, 0.0), 16, np.random.default_rng(0)):
        assert EMOTIONS.index("fear") not in batch["emotion"]

    nothing = _only(heard, np.zeros(len(rows), dtype=bool))
    with pytest.raises(DataError, match="share a label"):
        validation_pairs({**parts, Modality.VIDEO: nothing}, 0.0)


def test_a_fusion_that_is_too_sure_gets_a_high_temperature_which_calms_its_answers() -> None:
    torch.manual_seed(0)
    network, held_out = FusionNetwork(CONFIG).eval(), pools(0.5)
    with torch.no_grad():
        network.evidence.mul_(5)
    pairs = validation_pairs(held_out, 0.3)

    fitted = temperatures(held_out, network)
    sure = answers_by_subset(network, pairs)["audio+video+text"][0]
    calm = answers_by_subset(network, pairs, (fitted["emotion_temperature"], 1.0))["audio+video+text"][0]

    assert fitted["emotion_temperature"] > 1.5
    assert calm.max(axis=1).mean() < sure.max(axis=1).mean()
    np.testing.assert_array_equal(calm.argmax(axis=1), sure.argmax(axis=1))


def test_doubt_and_exchange_change_so_many_rows() -> None:
    anchors = np.arange(5_600) % 280
    changed = {Modality.AUDIO: 0.0, Modality.VIDEO: 0.5, Modality.TEXT: 0.0}
    pairs = draw(pools(0.8), anchors, np.random.default_rng(0), changed, doubt=0.0)
    differs = {m: float((pairs[m.value][:, 0] != pairs["emotion"]).float().mean()) for m in MODALITIES}
    assert differs[Modality.AUDIO] == differs[Modality.TEXT] == 0
    # Of the exchanged half, a seventh has the same label by chance.
    assert differs[Modality.VIDEO] == pytest.approx(0.5 * 6 / 7, abs=0.03)
    doubtful = draw(pools(0.8), anchors, np.random.default_rng(0), dict.fromkeys(MODALITIES, 0.0), doubt=1.0)
    assert float((doubtful["audio"][:, 0] != doubtful["emotion"]).float().mean()) > 0.7
    torch.testing.assert_close(doubtful["text"][:, 0], doubtful["emotion"].float())


def test_exchange_brings_training_accuracy_down_to_validation_accuracy() -> None:
    shares = noise(pools(0.95), pools(0.6, seed=1))
    for modality, share in shares.items():
        train, validation = pools(0.95)[modality].accuracy, pools(0.6, seed=1)[modality].accuracy
        assert train * (1 - share) + share / 7 == pytest.approx(validation, abs=0.01)
    assert set(noise(pools(0.6), pools(0.95)).values()) == {0.0}


def test_training_drops_modalities_and_sometimes_all() -> None:
    epoch = list(batches(pools(0.8), dict.fromkeys(MODALITIES, 0.1), 28, np.random.default_rng(0)))
    assert len(epoch) == 10
    present = torch.cat([batch["present"] for batch in epoch])
    assert {tuple(row) for row in present.tolist()} == {
        tuple(bits) for bits in np.array(np.meshgrid(*[[True, False]] * 3)).T.reshape(-1, 3).tolist()
    }


@pytest.mark.slow  # computes for seconds
def test_a_fusion_trained_on_pairs_beats_the_single_encoders_and_knows_the_prior() -> None:
    torch.manual_seed(0)
    train, held_out = pools(0.7), pools(0.7, seed=1)
    network = FusionNetwork(CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for epoch in range(8):
        for batch in batches(train, dict.fromkeys(MODALITIES, 0.0), 28, np.random.default_rng(epoch)):
            optimizer.zero_grad()
            loss(network, batch).backward()  # type: ignore[no-untyped-call]  # torch ships no type
            optimizer.step()
    figures = validate(held_out)(network.eval())
    together = figures["emotion_audio+video+text"]
    assert together > max(figures[f"emotion_{modality}"] for modality in MODALITIES)
    assert figures["doubtful_emotion_audio+video+text"] < together
    answers = answers_by_subset(network, validation_pairs(held_out, 0.0))
    assert set(answers) == {"+".join(subset) for subset in SUBSETS}
    assert averaged(validation_pairs(held_out, 0.0))[0].shape == (280 * DRAWS, 7)
