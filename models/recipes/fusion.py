"""How the fusion is trained on label pairs, and judged on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bundles import EMBEDDED, load_bundle
from models.calibration import Temperatures, temperature
from models.fusion.attention import MODALITIES, FusionConfig, FusionNetwork
from models.metrics import classification
from models.recipes import label_pairs
from models.recipes.label_pairs import DOUBT, SUBSETS, Pools, validation_pairs
from models.recipes.recipe import Recipe
from models.types import EMOTIONS, FloatArray


def fusion_label_pairs(data: Path) -> Recipe:
    """Train the fusion on label pairs, as the encoders of the embedded bundle see them (a few minutes).

    Train the encoders first, put their checkpoints into the bundle and seal it (`python -m models.bundles`).
    """
    bundle = load_bundle(EMBEDDED)
    train, held_out = (label_pairs.read(bundle, data, split) for split in ("train", "validation"))
    exchanged, size = label_pairs.noise(train, held_out), 128
    config = FusionConfig(embeddings=tuple(train[modality].embeddings.shape[1] for modality in MODALITIES))
    return Recipe(
        name="fusion",
        config=config,
        build=lambda: FusionNetwork(config),
        batches=lambda rng: label_pairs.batches(train, exchanged, size, rng),
        steps_per_epoch=len(label_pairs.anchors(train)) // size,
        loss=loss,
        validate=validate(held_out),
        metric="mean_f1",
        epochs=20,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        calibrate=lambda model: replace(config, **temperatures(held_out, model)),
        about={
            "data": "label pairs of MELD train, RAVDESS actors 1-18 and 8,000 faces of FER2013 train",
            "validation_data": "label pairs of MELD dev, RAVDESS actors 19-21 and FER2013 public_test",
            "license": "see the encoders",
            "encoders": {part: bundle.parts[part].sha256 for part in MODALITIES},
            "exchanged": {str(modality): round(share, 3) for modality, share in exchanged.items()},
            "doubt": DOUBT,
            "skipped": sum(pool.skipped for pools in (train, held_out) for pool in pools.values()),
        },
    )


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of emotion plus that of polarity."""
    emotion, polarity, _ = model([batch[modality.value] for modality in MODALITIES], batch["answers"], batch["present"])
    return functional.cross_entropy(emotion, batch["emotion"]) + functional.cross_entropy(polarity, batch["polarity"])


def validate(pools: Pools) -> Callable[[nn.Module], dict[str, float]]:
    """Weighted F1 per subset on clear pairs and, prefixed `doubtful_`, on pairs drawn as in training.

    `mean_f1` is the mean of emotion and polarity over all subsets of the doubtful pairs.
    """
    kinds = {"": validation_pairs(pools, 0.0), "doubtful_": validation_pairs(pools, DOUBT)}

    def figures(model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for prefix, pairs in kinds.items():
            for name, answers in answers_by_subset(model, pairs).items():
                found |= {f"{prefix}{task}_{name}": value for task, value in _f1(pairs, answers).items()}
        mean = [value for key, value in found.items() if key.startswith("doubtful_")]
        for prefix, pairs in kinds.items():
            found |= {f"{prefix}{task}_averaged": value for task, value in _f1(pairs, averaged(pairs)).items()}
        return found | {"mean_f1": sum(mean) / len(mean)}

    return figures


@torch.inference_mode()
def answers_by_subset(
    model: nn.Module, pairs: Mapping[str, Tensor], temperatures: tuple[float, float] = (1.0, 1.0)
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Probabilities of emotion (N, 7) and polarity (N, 3) per subset of modalities, named like `audio+text`."""
    found = {}
    for name, logits in _logits_by_subset(model, pairs).items():
        emotion, polarity = (
            (one / t).softmax(dim=1).cpu().numpy() for one, t in zip(logits, temperatures, strict=True)
        )
        found[name] = (emotion, polarity)
    return found


def averaged(pairs: Mapping[str, Tensor]) -> tuple[FloatArray, FloatArray]:
    """What a fusion without training says: the mean of the three encoders' probabilities."""
    mean = pairs["answers"].exp().mean(dim=1).numpy()
    return mean[:, : len(EMOTIONS)], mean[:, len(EMOTIONS) :]


def temperatures(pools: Pools, model: nn.Module) -> Temperatures:
    """Over all subsets of pairs drawn as in training."""
    pairs = validation_pairs(pools, DOUBT)
    subsets = _logits_by_subset(model, pairs).values()
    emotion, polarity = (
        temperature(torch.cat(logits).cpu(), pairs[task].repeat(len(SUBSETS)))
        for task, logits in zip(("emotion", "polarity"), zip(*subsets, strict=True), strict=True)
    )
    return {"emotion_temperature": emotion, "polarity_temperature": polarity}


def _logits_by_subset(model: nn.Module, pairs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    device = next(model.parameters()).device
    parts = [pairs[modality.value].to(device) for modality in MODALITIES]
    found = {}
    for subset in SUBSETS:
        present = torch.tensor([modality in subset for modality in MODALITIES]).expand(len(pairs["emotion"]), -1)
        emotion, polarity, _ = model(parts, pairs["answers"].to(device), present.to(device))
        found["+".join(subset)] = (emotion, polarity)
    return found


def _f1(pairs: Mapping[str, Tensor], answers: tuple[FloatArray, FloatArray]) -> dict[str, float]:
    return {
        task: classification(pairs[task].numpy(), answer.argmax(axis=1), answer.shape[1])["f1_weighted"]
        for task, answer in zip(("emotion", "polarity"), answers, strict=True)
    }
