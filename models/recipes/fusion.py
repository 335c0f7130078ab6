"""How the fusion is trained."""

from dataclasses import replace
from pathlib import Path

from models.bundles import EMBEDDED, load_bundle
from models.fusion import label_pairs
from models.fusion.attention import MODALITIES, FusionConfig, FusionNetwork
from models.recipes.recipe import Recipe


def fusion_label_pairs(data: Path) -> Recipe:
    """Train the fusion on label pairs, as the encoders of the embedded bundle see them (a few minutes).

    Train the encoders first, put their checkpoints into the bundle and seal it (`python -m models.bundles`).
    """
    bundle = load_bundle(EMBEDDED)
    heard, held_out = (label_pairs.read(bundle, data, split) for split in ("train", "validation"))
    exchanged, size = label_pairs.noise(heard, held_out), 128
    config = FusionConfig(embeddings=tuple(heard[modality].embeddings.shape[1] for modality in MODALITIES))
    return Recipe(
        name="fusion",
        config=config,
        build=lambda: FusionNetwork(config),
        batches=lambda rng: label_pairs.batches(heard, exchanged, size, rng),
        steps_per_epoch=len(label_pairs.anchors(heard)) // size,
        loss=label_pairs.loss,
        validate=label_pairs.validate(held_out),
        metric="mean_f1",
        epochs=20,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        calibrate=lambda model: replace(config, **label_pairs.temperatures(held_out, model)),
        about={
            "data": "label pairs of MELD train, RAVDESS actors 1-18 and 8,000 faces of FER2013 train",
            "validation_data": "label pairs of MELD dev, RAVDESS actors 19-21 and FER2013 public_test",
            "license": "see the encoders",
            "encoders": {part: bundle.parts[part].sha256 for part in MODALITIES},
            "exchanged": {str(modality): round(share, 3) for modality, share in exchanged.items()},
            "doubt": label_pairs.DOUBT,
            "skipped": sum(pool.skipped for pools in (heard, held_out) for pool in pools.values()),
        },
    )
