"""Judging trained networks on labelled data: one JSON object, with intervals and the constant predictor's row.

To add a data set: write `def my_set(bundle: Path, data: Path, split: str) -> Answers`, which loads what it judges from the
folder `bundle` and asks it about everything in the split, and add it to `DATASETS` at the end of this file.

The score's truth is declared, not measured: `models.labels` gives every emotion, or where a set knows no emotion
every polarity, a number in [-3, 3]. The signs mean something; the size is a convention, so `mae` says how well a network
follows the convention and `pearson` how well it orders.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models import evaluate_report
from models.bundles import bundle_folder, load_bundle
from models.data import airline as airline_files
from models.data import ckplus48 as ckplus48_files
from models.data import emodb as emodb_files
from models.data import fer2013 as fer2013_files
from models.data import goemotions as goemotions_files
from models.data import meld as meld_files
from models.data import ravdess as ravdess_files
from models.data import ravdess_films as ravdess_film_files
from models.data import sound
from models.data.faces import Faces
from models.data.media import PICTURES_PER_S
from models.data.recordings import Recordings
from models.data.sentences import Sentences, as_recognised
from models.encoders.audio import AudioEncoder
from models.encoders.mel import prepare_all
from models.encoders.text import TextEncoder
from models.encoders.video import VideoEncoder
from models.encoders.video import prepare as prepare_faces
from models.errors import BundleError, CheckpointError, DataError, EvaluateError
from models.fusion import label_pairs, tables
from models.fusion.attention import MODALITIES, AttentionFusion
from models.labels import emotion_matrix, score_of
from models.metrics import EMOTION_SCORES, POLARITY_SCORES, Answers, ScoreTask, Task, Tasks, emotion_tasks, judge
from models.types import EMOTIONS, POLARITIES, FloatArray, Modality


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
        only the task `emotion` leaves out.

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


def ravdess(bundle: Path, data: Path, split: str) -> Answers:
    """Voice on RAVDESS: `train`, `validation`, `test` or `all` actors."""
    return _voices(bundle, ravdess_files.read(data, split))


def ravdess_telephone(bundle: Path, data: Path, split: str) -> Answers:
    """The same clips through a telephone: 300-3400 Hz, 8 kHz, G.711."""
    return _voices(bundle, ravdess_files.read(data, split), sound.telephone)


def emodb(bundle: Path, data: Path, split: str) -> Answers:
    """Voice on EmoDB, German, in which boredom has no counterpart."""
    return _voices(bundle, emodb_files.read(data, split))


def emodb_telephone(bundle: Path, data: Path, split: str) -> Answers:
    """The same through a telephone."""
    return _voices(bundle, emodb_files.read(data, split), sound.telephone)


def fer2013(bundle: Path, data: Path, split: str) -> Answers:
    """Faces on FER2013: `train`, `public_test` (which is the validation split), any other folder's name, or `all`."""
    return _faces(bundle, fer2013_files.read(data, split))


def fer2013_frames(bundle: Path, data: Path, split: str) -> Answers:
    """Utterances of eight FER2013 faces of one label, four of them spoilt: learned weights, and `_averaged` equal ones."""
    faces = fer2013_files.read(data, split)
    utterances, truth = fer2013_files.utterances(faces, np.random.default_rng(0))
    if not utterances:
        raise EvaluateError(f"no label of split {split!r} has {fer2013_files.FRAMES} faces: nothing to judge.")
    encoder = VideoEncoder.load(bundle / "video.safetensors")
    emotions = np.stack([one.prediction.emotion for one in encoder.encode(utterances)])
    tasks, unsayable = emotion_tasks(faces.label_names, truth, EMOTIONS, emotions)
    log_mean = np.stack([np.log(one.clip(1e-9)).mean(axis=0) for _, one in encoder.frames(utterances)])
    equal = np.exp(log_mean) / np.exp(log_mean).sum(axis=1, keepdims=True)
    averaged, _ = emotion_tasks(faces.label_names, truth, EMOTIONS, equal @ emotion_matrix(encoder.labels))
    return Answers(tasks | {f"{name}_averaged": task for name, task in averaged.items()}, faces.skipped + unsayable)


def ckplus48(bundle: Path, data: Path, split: str) -> Answers:
    """Posed faces of CK+48, in which contempt has no counterpart: `train`, `validation` or `all`."""
    return _faces(bundle, ckplus48_files.read(data, split))


def ravdess_faces(bundle: Path, data: Path, split: str) -> Answers:
    """Faces of RAVDESS's films, found as in a call and pooled per film; films without a face are left out."""
    from models.encoders.faces import find_faces  # noqa: PLC0415  # the detector takes seconds to import

    films = ravdess_film_files.read(data, split)
    encoder = VideoEncoder.load(bundle / "video.safetensors")
    emotions, truth = [], []
    for path, label in zip(films.paths, films.labels, strict=True):
        film = ravdess_film_files.decode(path)
        pictures = [] if film is None else [(int(row * 1000 / PICTURES_PER_S), one) for row, one in enumerate(film[0])]
        faces = find_faces(pictures)
        if len(faces):
            emotions.append(encoder.encode([prepare_faces(faces)])[0].prediction.emotion)
            truth.append(label)
    if not truth:
        raise EvaluateError(f"no face in any of {len(films.paths)} films: nothing to judge.")
    tasks, unsayable = emotion_tasks(films.label_names, np.array(truth), EMOTIONS, np.stack(emotions))
    return Answers(tasks, films.skipped + len(films.paths) - len(truth) + unsayable)


def meld(bundle: Path, data: Path, split: str) -> Answers:
    """Words on MELD, each utterance by itself as in a call: `train`, `dev` (which is the validation split), or `all`."""
    return _words(bundle, replace(meld_files.read(data, split), before=()))


def meld_context(bundle: Path, data: Path, split: str) -> Answers:
    """The same with up to three turns of the dialogue before each utterance, which live calls do not give (see the card)."""
    return _words(bundle, meld_files.read(data, split))


def meld_recognised(bundle: Path, data: Path, split: str) -> Answers:
    """The same texts in lower case without punctuation, as a recogniser gives them."""
    sentences = meld_files.read(data, split)
    rng = np.random.default_rng(0)
    texts = tuple(as_recognised(text, rng, dropped=0.0) for text in sentences.texts)
    return _words(bundle, replace(sentences, texts=texts, before=()))


def goemotions(bundle: Path, data: Path, split: str) -> Answers:
    """Words on GoEmotions (Ekman): comments with one label; `train`, `dev` (which is the validation split), or `all`."""
    return _words(bundle, goemotions_files.read(data, split))


def tweets(bundle: Path, data: Path, split: str) -> Answers:
    """Words on airline tweets: `train`, `validation` (a tenth by hash) or `all`."""
    return _words(bundle, airline_files.read(data, split))


def fused_label_pairs(bundle: Path, data: Path, split: str) -> Answers:
    """Fusion on label pairs (see `models.fusion.label_pairs`); tasks per subset of modalities, and plain averaging."""
    return _label_pairs(bundle, data, split, doubt=0.0)


def fused_doubtful_pairs(bundle: Path, data: Path, split: str) -> Answers:
    """The same where some voices and faces show another label than the words, as in the training."""
    return _label_pairs(bundle, data, split, doubt=label_pairs.DOUBT)


def _label_pairs(bundle: Path, data: Path, split: str, doubt: float) -> Answers:
    pools = label_pairs.read(load_bundle(bundle), data, split)
    pairs = label_pairs.validation_pairs(pools, doubt)
    fusion = AttentionFusion.load(bundle / "fusion.safetensors")
    fused = label_pairs.answers_by_subset(fusion.network, pairs, fusion.temperatures)
    fused["averaged"] = label_pairs.averaged(pairs)
    everything = "+".join(MODALITIES)
    tasks: Tasks = {}
    for name, (emotion, polarity) in fused.items():
        suffix = "" if name == everything else f"_{name}"
        truth = pairs["emotion"].numpy()
        tasks[f"emotion{suffix}"] = Task(EMOTIONS, truth, emotion)
        tasks[f"polarity{suffix}"] = Task(POLARITIES, pairs["polarity"].numpy(), polarity)
        tasks[f"score{suffix}"] = ScoreTask(EMOTION_SCORES[truth], np.array([score_of(one) for one in polarity]))
    unpaired = len(pools[Modality.TEXT].emotions) - len(label_pairs.anchors(pools))
    return Answers(tasks, sum(pool.skipped for pool in pools.values()) + unpaired)


def _voices(bundle: Path, recordings: Recordings, line: Callable[[FloatArray], FloatArray] | None = None) -> Answers:
    encoder = AudioEncoder.load(bundle / "audio.safetensors")
    heard, places = prepare_all(recordings.clips if line is None else map(line, recordings.clips))
    if not heard:
        raise EvaluateError(f"all {len(recordings.clips)} clips are silent or too short: nothing to judge.")
    probabilities = np.stack([one for _, one in encoder.clips(heard)])
    tasks, unsayable = emotion_tasks(recordings.label_names, recordings.labels[places], encoder.labels, probabilities)
    return Answers(tasks, recordings.skipped + len(recordings.clips) - len(heard) + unsayable)


def _faces(bundle: Path, faces: Faces) -> Answers:
    encoder = VideoEncoder.load(bundle / "video.safetensors")
    probabilities = np.concatenate([one for _, one in encoder.frames(list(faces.pictures[:, None]))])
    tasks, unsayable = emotion_tasks(faces.label_names, faces.labels, encoder.labels, probabilities)
    return Answers(tasks, faces.skipped + unsayable)


def _words(bundle: Path, sentences: Sentences) -> Answers:
    encoder = TextEncoder.load(bundle / "text.safetensors")
    predictions = [one.prediction for one in encoder.encode(sentences.texts, sentences.before)]
    asked = {
        "emotion": (EMOTIONS, sentences.emotion, EMOTION_SCORES),
        "polarity": (POLARITIES, sentences.polarity, POLARITY_SCORES),
    }
    tasks: Tasks = {}
    judged = np.zeros(len(predictions), dtype=bool)
    for name, (labels, target, scores) in asked.items():
        rows = np.flatnonzero(target.max(axis=1) == 1.0)
        if len(rows):
            judged[rows] = True
            truth = target[rows].argmax(axis=1)
            tasks[name] = Task(labels, truth, np.stack([getattr(predictions[row], name) for row in rows]))
            answer = np.array([predictions[row].score for row in rows], dtype=np.float32)
            tasks.setdefault("score", ScoreTask(scores[truth], answer))
    in_order: Tasks = {name: tasks[name] for name in ("emotion", "polarity", "score") if name in tasks}
    return Answers(in_order, sentences.skipped + int((~judged).sum()))


Evaluation = Callable[[Path, Path, str], Answers]

DATASETS: dict[str, dict[str, Evaluation]] = {
    "audio": {
        "emodb": emodb,
        "emodb_telephone": emodb_telephone,
        "ravdess": ravdess,
        "ravdess_telephone": ravdess_telephone,
    },
    "video": {"ckplus48": ckplus48, "fer2013": fer2013, "fer2013_frames": fer2013_frames, "ravdess": ravdess_faces},
    "text": {
        "goemotions": goemotions,
        "meld": meld,
        "meld_context": meld_context,
        "meld_recognised": meld_recognised,
        "tweets": tweets,
    },
    "fusion": {
        "label_pairs": fused_label_pairs,
        "label_pairs_doubtful": fused_doubtful_pairs,
        "mosi": tables.mosi,
        "ravdess_av": tables.ravdess_av,
    },
}
"""What `undertone evaluate MODALITY --dataset NAME` knows."""
