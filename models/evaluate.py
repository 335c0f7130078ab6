"""Judging trained networks on labelled data: one JSON object, with intervals and the constant predictor's row.

To add a data set: write `def my_set(bundle: Path, data: Path, split: str) -> Answers`, which loads what it judges from the
folder `bundle` and asks it about everything in the split, and add it to `DATASETS` at the end of this file. A set of the modality
`speech` is given a `Transcriber` instead of the folder.

The score's truth is declared, not measured: `models.labels` gives every emotion, or where a set knows no emotion
every polarity, a number in [-3, 3]. The signs mean something; the size is a convention, so `mae` says how well a network
follows the convention and `pearson` how well it orders.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models import evaluate_encoders as encoders
from models import evaluate_fusions as fusions
from models import evaluate_report
from models import evaluate_speech as speech
from models.bundles import bundle_folder
from models.encoders.speech import DEFAULT, Engine, load_transcriber
from models.errors import EvaluateError, ModelError
from models.metrics import judge
from models.tasks import Answers


def run(
    modality: str,
    bundle: str,
    dataset: str,
    data: Path,
    split: str = "validation",
    *,
    report: Path | None = None,
    transcriber: str = DEFAULT,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Evaluate one network of a bundle on one data set; this is `undertone evaluate`.

    Args:
        modality: `audio`, `video`, `text`, `fusion`, or `speech`, where a transcriber is judged.
        bundle: `embedded`, or a folder of checkpoints.
        dataset: A name in `DATASETS[modality]`.
        data: The data folder.
        split: The data set's own name of a split, or `all`; `validation` is understood by every set.
        report: Folder for pictures and tables, see `models.evaluate_report`; none when not given.
        transcriber: Of speech: a name that `models.encoders.speech.load_transcriber` knows.
        engine: Of speech: what runs it; None takes the one that fits the device.

    Returns:
        `{"dataset", "split", "n", "skipped", "tasks": {task: what models.metrics.judge returns}}`, a JSON value. Tasks
        are `emotion`, `polarity` and `score`, those that the set has labels for; of a fusion also one per subset of
        modalities, `emotion_audio+text`, and `emotion_averaged`, the mean of the encoders' probabilities. Of speech the one
        task is `words`, and `engine` says what transcribed. `n` counts the samples of the largest task; `skipped` what was
        broken, and labels without a counterpart in `EMOTIONS`, which only the task `emotion` leaves out. Behavioural tests also have
        `capabilities`, `{capability: {"n", "passed"}}`.

    Raises:
        EvaluateError: No such modality, data set or bundle; or nothing to judge.
        DataError: The data or the split are not there.
        CheckpointError: The checkpoint is damaged or missing.
        BundleError: The bundle was changed or lacks a part; raised for fusions.
        TranscriberError, WhisperError: There is no such transcriber, or its weights are damaged.
    """
    evaluation = known(modality, dataset)
    judged: Any = load_transcriber(transcriber, engine=engine) if modality == "speech" else _folder(bundle, modality)
    answers = evaluation(judged, data, split)
    if not answers.tasks:
        raise EvaluateError(f"no sample of split {split!r} has a label that can be judged: {answers.skipped} left out.")
    tasks = {name: judge(task) for name, task in answers.tasks.items()}
    found = {
        "dataset": dataset,
        "split": split,
        **({"engine": judged.engine} if modality == "speech" else {}),
        "n": max(task["n"] for task in tasks.values()),
        "skipped": answers.skipped,
        "tasks": tasks,
    }
    if answers.capabilities:
        found["capabilities"] = {name: dict(counts) for name, counts in answers.capabilities.items()}
    if report is not None:
        evaluate_report.write(report, found, answers)
    return found


def run_all(
    bundle: str,
    data: Path,
    split: str = "validation",
    *,
    transcriber: str = DEFAULT,
    engine: Engine | None = None,
    elsewhere: Mapping[str, Path] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
    """Evaluate a bundle and a transcriber on everything in `DATASETS`, one after the other: what `run` returns, with its `modality`.

    What cannot be judged has `modality`, `dataset` and `missing`, which says why: the set is not in the data folder, or
    the bundle has no such part or a damaged one. A data set that does not lie in `data` may have a folder of its own `elsewhere`.
    """
    for modality, sets in DATASETS.items():
        for dataset in sets:
            try:
                found = run(
                    modality,
                    bundle,
                    dataset,
                    elsewhere.get(dataset, data),
                    split,
                    transcriber=transcriber,
                    engine=engine,
                )
                yield {"modality": modality, **found}
            except ModelError as error:
                yield {"modality": modality, "dataset": dataset, "missing": str(error)}


def known(modality: str, dataset: str) -> "Evaluation":
    """How a modality is judged on a data set.

    Raises:
        EvaluateError: No such modality or data set.
    """
    if dataset not in DATASETS.get(modality, {}):
        names = ", ".join(f"{name} {one}" for name, sets in sorted(DATASETS.items()) for one in sorted(sets))
        raise EvaluateError(f"cannot evaluate {modality!r} on {dataset!r}: choose one of {names}.")
    return DATASETS[modality][dataset]


def _folder(bundle: str, modality: str) -> Path:
    folder = bundle_folder(bundle)
    if not folder.is_dir():
        raise EvaluateError(f"no bundle {bundle!r}: name `embedded` or a folder with {modality}.safetensors.")
    return folder


Evaluation = Callable[[Any, Path, str], Answers]
"""From what is judged (a bundle's folder, or of speech the `Transcriber`), the data folder and the split."""

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
    "speech": {
        "librivox": speech.librivox,
        "librivox_telephone": speech.librivox_telephone,
        "ravdess": speech.ravdess,
        "ravdess_telephone": speech.ravdess_telephone,
        "sample": speech.sample,
        "sounds": speech.sounds,
    },
    "fusion": {
        "label_pairs": fusions.label_pairs,
        "label_pairs_doubtful": fusions.doubtful_pairs,
        "mosi": fusions.mosi,
        "ravdess_av": fusions.ravdess_av,
    },
}
"""What `undertone evaluate MODALITY --dataset NAME` knows."""
