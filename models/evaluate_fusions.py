"""What a fusion says of label pairs and of the published tables; the sets' names stand in `models.evaluate`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.bundles import load_bundle
from models.data import mosi as mosi_files
from models.data import ravdess_av as ravdess_av_files
from models.data.tables import Table
from models.families import load_as
from models.fusion.attention import MODALITIES, AttentionFusion
from models.fusion.tables import TableNetwork, probabilities
from models.labels import RAVDESS_LABELS, score_of
from models.recipes import label_pairs as pairing
from models.recipes.fusion import answers_by_subset, averaged
from models.tasks import EMOTION_SCORES, Answers, ScoreTask, Task, Tasks, emotion_tasks
from models.types import EMOTIONS, POLARITIES, FloatArray, Modality


def label_pairs(bundle: Path, data: Path, split: str) -> Answers:
    """Fusion on label pairs (see `models.recipes.label_pairs`); tasks per subset of modalities, and plain averaging."""
    return _label_pairs(bundle, data, split, doubt=0.0)


def doubtful_pairs(bundle: Path, data: Path, split: str) -> Answers:
    """The same where some voices and faces show another label than the words, as in the training."""
    return _label_pairs(bundle, data, split, doubt=pairing.DOUBT)


def _label_pairs(bundle: Path, data: Path, split: str, doubt: float) -> Answers:
    pools = pairing.read(load_bundle(bundle), data, split)
    pairs = pairing.validation_pairs(pools, doubt)
    fusion = load_as(AttentionFusion, bundle / "fusion.safetensors")
    fused = answers_by_subset(fusion.network, pairs, fusion.temperatures)
    fused["averaged"] = averaged(pairs)
    everything = "+".join(MODALITIES)
    tasks: Tasks = {}
    for name, (emotion, polarity) in fused.items():
        suffix = "" if name == everything else f"_{name}"
        truth = pairs["emotion"].numpy()
        tasks[f"emotion{suffix}"] = Task(EMOTIONS, truth, emotion)
        tasks[f"polarity{suffix}"] = Task(POLARITIES, pairs["polarity"].numpy(), polarity)
        tasks[f"score{suffix}"] = ScoreTask(EMOTION_SCORES[truth], np.array([score_of(one) for one in polarity]))
    unpaired = len(pools[Modality.TEXT].emotions) - len(pairing.anchors(pools))
    return Answers(tasks, sum(pool.skipped for pool in pools.values()) + unpaired)


def mosi(bundle: Path, data: Path, split: str) -> Answers:
    """The fusion `fusion_mosi` on MOSI: task `polarity`, one per subset (`polarity_text`), and `polarity_averaged`.

    Args:
        bundle: With `fusion_mosi.safetensors`.
        data: The data folder.
        split: See `models.data.mosi.read`.

    Raises:
        DataError: The data or the split are not there.
        CheckpointError: The checkpoint is damaged or missing.
    """
    table = mosi_files.read(data, split)
    tasks = _named(
        load_as(TableNetwork, bundle / "fusion_mosi.safetensors"),
        table,
        lambda answer: {"polarity": Task(mosi_files.LABELS, table.labels, answer)},
    )
    return Answers(tasks, table.skipped)


def ravdess_av(bundle: Path, data: Path, split: str) -> Answers:
    """The fusion `fusion_ravdess_av` on its table: `emotion`, `polarity` and `score`, likewise.

    Args:
        bundle: With `fusion_ravdess_av.safetensors`.
        data: The data folder.
        split: See `models.data.ravdess_av.read`.

    Raises:
        DataError: The data or the split are not there.
        CheckpointError: The checkpoint is damaged or missing.
    """
    table = ravdess_av_files.read(data, split)
    tasks = _named(
        load_as(TableNetwork, bundle / "fusion_ravdess_av.safetensors"),
        table,
        lambda answer: emotion_tasks(RAVDESS_LABELS, table.labels, RAVDESS_LABELS, answer)[0],
    )
    return Answers(tasks, table.skipped)


def _named(
    network: TableNetwork, table: Table, ask: Callable[[FloatArray], Mapping[str, Task | ScoreTask]]
) -> dict[str, Task | ScoreTask]:
    everything = "+".join(table.measured)
    return {
        task if subset == everything else f"{task}_{subset}": asked
        for subset, answer in probabilities(network, table.measured, table.groups).items()
        for task, asked in ask(answer).items()
    }
