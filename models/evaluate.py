"""Judging trained networks on labelled data: one JSON object, with intervals and the constant predictor's row.

To add a data set: write `def my_set(bundle: Path, data: Path, split: str) -> Answers`, which loads what it judges from the
folder `bundle` and asks it about everything in the split, and add it to `DATASETS` at the end of this file.

The score's truth is declared, not measured: `models.labels` gives every emotion, or where a set knows no emotion
every polarity, a number in [-3, 3]. The signs mean something; the size is a convention, so `mae` says how well a network
follows the convention and `pearson` how well it orders.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from models import evaluate_encoders as encoders
from models import evaluate_fusions as fusions
from models import evaluate_report
from models.bundles import bundle_folder
from models.errors import BundleError, CheckpointError, DataError, EvaluateError
from models.metrics import judge
from models.tasks import Answers


def run(
    modality: str, bundle: str, dataset: str, data: Path, split: str = "validation", *, report: Path | None = None
) -> dict[str, Any]:
    """Evaluate one network of a bundle on one data set; this is `undertone evaluate`.

    Args:
        modality: `audio`, `video`, `text` or `fusion`.
        bundle: `embedded`, or a folder of checkpoints.
        dataset: A name in `DATASETS[modality]`.
        data: The data folder.
        split: The data set's own name of a split, or `all`; `validation` is understood by every set.
        report: Folder for pictures and tables, see `models.evaluate_report`; none when not given.

    Returns:
        `{"dataset", "split", "n", "skipped", "tasks": {task: what models.metrics.judge returns}}`, a JSON value. Tasks
        are `emotion`, `polarity` and `score`, those that the set has labels for; of a fusion also one per subset of
        modalities, `emotion_audio+text`, and `emotion_averaged`, the mean of the encoders' probabilities. `n` counts the
        samples of the largest task; `skipped` what was broken, and labels without a counterpart in `EMOTIONS`, which
        only the task `emotion` leaves out. Behavioural tests also have `capabilities`, `{capability: {"n", "passed"}}`.

    Raises:
        EvaluateError: No such modality, data set or bundle; or nothing to judge.
        DataError: The data or the split are not there.
        CheckpointError: The checkpoint is damaged or missing.
        BundleError: The bundle was changed or lacks a part; raised for fusions.
    """
    choices = DATASETS.get(modality, {})
    if dataset not in choices:
        known = ", ".join(f"{name} {one}" for name, sets in sorted(DATASETS.items()) for one in sorted(sets))
        raise EvaluateError(f"cannot evaluate {modality!r} on {dataset!r}: choose one of {known}.")
    folder = bundle_folder(bundle)
    if not folder.is_dir():
        raise EvaluateError(f"no bundle {bundle!r}: name `embedded` or a folder with {modality}.safetensors.")
    answers = choices[dataset](folder, data, split)
    if not answers.tasks:
        raise EvaluateError(f"no sample of split {split!r} has a label that can be judged: {answers.skipped} left out.")
    found = {
        "dataset": dataset,
        "split": split,
        "n": max(len(task.truth) for task in answers.tasks.values()),
        "skipped": answers.skipped,
        "tasks": {name: judge(task) for name, task in answers.tasks.items()},
    }
    if answers.capabilities:
        found["capabilities"] = {name: dict(counts) for name, counts in answers.capabilities.items()}
    if report is not None:
        evaluate_report.write(report, found, answers)
    return found


def run_all(bundle: str, data: Path, split: str = "validation") -> Iterator[dict[str, Any]]:
    """Evaluate a bundle on everything in `DATASETS`, one after the other: what `run` returns, with its `modality`.

    What cannot be judged has `modality`, `dataset` and `missing`, which says why: the set is not in the data folder, or
    the bundle has no such part or a damaged one.
    """
    for modality, sets in DATASETS.items():
        for dataset in sets:
            try:
                yield {"modality": modality, **run(modality, bundle, dataset, data, split)}
            except (DataError, EvaluateError, BundleError, CheckpointError) as error:
                yield {"modality": modality, "dataset": dataset, "missing": str(error)}


Evaluation = Callable[[Path, Path, str], Answers]

DATASETS: dict[str, dict[str, Evaluation]] = {
    "audio": {
        "emodb": encoders.emodb,
        "emodb_telephone": encoders.emodb_telephone,
        "ravdess": encoders.ravdess,
        "ravdess_telephone": encoders.ravdess_telephone,
    },
    "video": {
        "ckplus48": encoders.ckplus48,
        "fer2013": encoders.fer2013,
        "fer2013_frames": encoders.fer2013_frames,
        "ravdess": encoders.ravdess_faces,
    },
    "text": {
        "checklist": encoders.checklist,
        "goemotions": encoders.goemotions,
        "maia_agent": encoders.maia_agent,
        "maia_customer": encoders.maia_customer,
        "maia_customer_context": encoders.maia_customer_context,
        "meld": encoders.meld,
        "meld_context": encoders.meld_context,
        "meld_recognised": encoders.meld_recognised,
        "tweets": encoders.tweets,
    },
    "fusion": {
        "label_pairs": fusions.label_pairs,
        "label_pairs_doubtful": fusions.doubtful_pairs,
        "mosi": fusions.mosi,
        "ravdess_av": fusions.ravdess_av,
    },
}
"""What `undertone evaluate MODALITY --dataset NAME` knows."""
