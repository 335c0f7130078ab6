"""What an encoder says of every data set that has its modality; the sets' names stand in `models.evaluate`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.data import airline as airline_files
from models.data import checklist as checklist_files
from models.data import ckplus48 as ckplus48_files
from models.data import emodb as emodb_files
from models.data import fer2013 as fer2013_files
from models.data import goemotions as goemotions_files
from models.data import maia as maia_files
from models.data import meld as meld_files
from models.data import ravdess as ravdess_files
from models.data import ravdess_films as ravdess_film_files
from models.data import sound
from models.data.checklist import Test
from models.data.faces import Faces
from models.data.media import PICTURES_PER_S
from models.data.recordings import Recordings
from models.data.sentences import Sentences, as_recognised
from models.encoders.video import VideoEncoder
from models.errors import AudioInputError, EvaluateError, FaceNotFoundError
from models.families import family_in, imported, load, load_as
from models.labels import emotion_matrix
from models.tasks import EMOTION_SCORES, POLARITY_SCORES, Answers, ScoreTask, Task, Tasks, emotion_tasks
from models.types import (
    EMOTIONS,
    POLARITIES,
    Classifier,
    Encoder,
    FloatArray,
    Modality,
    Prediction,
    Spoken,
    Transcript,
)


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
    """Utterances of eight FER2013 faces of one label, four of them degraded: learned weights, and `_averaged` equal ones."""
    faces = fer2013_files.read(data, split)
    utterances, truth = fer2013_files.utterances(faces, np.random.default_rng(0))
    if not utterances:
        raise EvaluateError(f"no label of split {split!r} has {fer2013_files.FRAMES} faces: nothing to judge.")
    encoder = load_as(VideoEncoder, bundle / "video.safetensors")
    emotions = np.stack([one.prediction.emotion for one in encoder.encode(utterances)])
    tasks, unmapped = emotion_tasks(faces.label_names, truth, EMOTIONS, emotions)
    log_mean = np.stack([np.log(one.clip(1e-9)).mean(axis=0) for _, one in encoder.frames(utterances)])
    equal = np.exp(log_mean) / np.exp(log_mean).sum(axis=1, keepdims=True)
    averaged, _ = emotion_tasks(faces.label_names, truth, EMOTIONS, equal @ emotion_matrix(encoder.labels))
    return Answers(tasks | {f"{name}_averaged": task for name, task in averaged.items()}, faces.skipped + unmapped)


def ckplus48(bundle: Path, data: Path, split: str) -> Answers:
    """Posed faces of CK+48, in which contempt has no counterpart: `train`, `validation` or `all`."""
    return _faces(bundle, ckplus48_files.read(data, split))


def ravdess_faces(bundle: Path, data: Path, split: str) -> Answers:
    """Faces of RAVDESS's films, found as in a call and pooled per film; films without a face are left out."""
    films = ravdess_film_files.read(data, split)
    encoder, prepare = _encoder(bundle, Modality.VIDEO)
    emotions, truth = [], []
    for path, label in zip(films.paths, films.labels, strict=True):
        film = ravdess_film_files.decode(path)
        pictures = [] if film is None else [(int(row * 1000 / PICTURES_PER_S), one) for row, one in enumerate(film[0])]
        try:
            faces = prepare(pictures)
        except FaceNotFoundError:
            continue
        emotions.append(encoder.encode([faces])[0].prediction.emotion)
        truth.append(label)
    if not truth:
        raise EvaluateError(f"no face in any of {len(films.paths)} films: nothing to judge.")
    tasks, unmapped = emotion_tasks(films.label_names, np.array(truth), EMOTIONS, np.stack(emotions))
    return Answers(tasks, films.skipped + len(films.paths) - len(truth) + unmapped)


def meld(bundle: Path, data: Path, split: str) -> Answers:
    """Words on MELD, each utterance by itself as in a call: `train`, `dev` (which is the validation split), or `all`."""
    return _words(bundle, replace(meld_files.read(data, split), before=()))


def meld_context(bundle: Path, data: Path, split: str) -> Answers:
    """The same with up to three turns of the dialogue before each utterance, which live calls do not give (see the card)."""
    return _words(bundle, meld_files.read(data, split))


def meld_recognised(bundle: Path, data: Path, split: str) -> Answers:
    """The same texts in lower case without punctuation, as a recogniser gives them."""
    sentences = meld_files.read(data, split)
    texts = tuple(map(as_recognised, sentences.texts))
    return _words(bundle, replace(sentences, texts=texts, before=()))


def goemotions(bundle: Path, data: Path, split: str) -> Answers:
    """Words on GoEmotions (Ekman): comments with one label; `train`, `dev` (which is the validation split), or `all`."""
    return _words(bundle, goemotions_files.read(data, split))


def tweets(bundle: Path, data: Path, split: str) -> Answers:
    """Words on airline tweets: `train`, `validation` (a tenth by hash) or `all`."""
    return _words(bundle, airline_files.read(data, split))


def maia_customer(bundle: Path, data: Path, split: str) -> Answers:
    """Words on MAIA's customers, sentence by sentence: every file in the folder (`validation`, `all`), or one of them."""
    return _words(bundle, replace(maia_files.read(data, split, "customer"), before=()))


def maia_agent(bundle: Path, data: Path, split: str) -> Answers:
    """The same on its agents."""
    return _words(bundle, replace(maia_files.read(data, split, "agent"), before=()))


def maia_customer_context(bundle: Path, data: Path, split: str) -> Answers:
    """On its customers, with up to three of their own previous sentences before each."""
    return _words(bundle, maia_files.read(data, split, "customer"))


def checklist(bundle: Path, data: Path, split: str) -> Answers:
    """The behavioural tests of `models.data.checklist`; `data` may be a file of others. There are no splits.

    The task `polarity` asks every sentence whose polarity is expected, invariant pairs twice.
    """
    del split
    tests = checklist_files.read(data if data.is_file() else checklist_files.TESTS)
    encoder, prepare = _encoder(bundle, Modality.TEXT)
    said = [prepare(_spoken(text, test.participant)) for test in tests for text in test.texts]
    answers = iter([one.prediction for one in encoder.encode(said)])
    passed: dict[str, list[bool]] = {}
    truth, poles = [], []
    for test in tests:
        found = [next(answers) for _ in test.texts]
        passed.setdefault(test.capability, []).append(_passes(test, found))
        if test.expected in POLARITIES:
            truth += [POLARITIES.index(test.expected)] * len(found)
            poles += [one.polarity for one in found]
    tasks: Tasks = {"polarity": Task(POLARITIES, np.array(truth), np.stack(poles))} if truth else {}
    counts = {name: {"n": len(ones), "passed": sum(ones)} for name, ones in passed.items()}
    return Answers(tasks, 0, counts)


def _passes(test: Test, found: Sequence[Prediction]) -> bool:
    if test.kind == "direction":
        change = found[1].score - found[0].score
        return change > 0 if test.expected == "higher" else change < 0
    answers = {POLARITIES[int(one.polarity.argmax())] for one in found}
    return len(answers) == 1 if test.kind == "invariance" else answers == {test.expected}


def _spoken(text: str, participant: str, before: tuple[str, ...] = ()) -> Spoken:
    return Spoken(Transcript(text, "und", (), "given"), participant, before)


def _encoder(bundle: Path, modality: Modality) -> tuple[Encoder, Callable[[Any], Any]]:
    """What the bundle judges one modality by, and what makes its input."""
    path = bundle / f"{modality}.safetensors"
    family = family_in(path, modality)
    return load(path), imported(family.prepare)


def _own_classes(encoder: Encoder, batch: Sequence[Any]) -> tuple[tuple[str, ...], FloatArray]:
    """The classes of the encoder's own head and their probabilities (N, classes); `EMOTIONS` where it has no others."""
    if isinstance(encoder, Classifier):
        return encoder.labels, encoder.classify(batch)
    return EMOTIONS, np.stack([one.prediction.emotion for one in encoder.encode(batch)])


def _voices(bundle: Path, recordings: Recordings, line: Callable[[FloatArray], FloatArray] | None = None) -> Answers:
    encoder, prepare = _encoder(bundle, Modality.AUDIO)
    prepared, rows = [], []
    for row, clip in enumerate(recordings.clips if line is None else map(line, recordings.clips)):
        try:
            prepared.append(prepare(clip))
        except AudioInputError:
            continue
        rows.append(row)
    if not rows:
        raise EvaluateError(f"all {len(recordings.clips)} clips are silent or too short: nothing to judge.")
    tasks, unmapped = emotion_tasks(recordings.label_names, recordings.labels[rows], *_own_classes(encoder, prepared))
    return Answers(tasks, recordings.skipped + len(recordings.clips) - len(rows) + unmapped)


def _faces(bundle: Path, faces: Faces) -> Answers:
    encoder, _ = _encoder(bundle, Modality.VIDEO)
    crops = list(faces.pictures[:, None])
    tasks, unmapped = emotion_tasks(faces.label_names, faces.labels, *_own_classes(encoder, crops))
    return Answers(tasks, faces.skipped + unmapped)


def _words(bundle: Path, sentences: Sentences) -> Answers:
    encoder, prepare = _encoder(bundle, Modality.TEXT)
    said = zip(sentences.texts, sentences.participants, sentences.before, strict=True)
    features = encoder.encode([prepare(_spoken(text, who, before)) for text, who, before in said])
    predictions = [one.prediction for one in features]
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
