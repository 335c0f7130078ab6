"""Training pairs for a fusion without paired recordings: voice, face and words of the same label, put together.

No public set here holds raw voice, face and words of the same moment. A label pair is a MELD text, a RAVDESS clip and a
FER2013 face that carry the same emotion; no one person spoke that text with that voice and face. So a fusion learns from
them how far each encoder can be believed, and nothing about how voice, face and words move together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundles import Bundle, load_encoder
from models.data import fer2013, meld, ravdess
from models.data.sentences import as_transcribed
from models.encoders import mel, video, words
from models.encoders.words import SpokenText
from models.errors import DataError
from models.fusion.attention import MODALITIES, log_answers, subsets
from models.labels import FER2013_LABELS, RAVDESS_LABELS, emotion_matrix
from models.types import EMOTIONS, Features, FloatArray, Modality

DOUBT = 0.15
"""Share of training pairs in which the voice, and likewise the face, carries a label of its own: label noise,
because actors who show one emotion at a time are easier to classify than callers, whose voice and face often show none."""

DRAWS = 5
"""Pairs that each text is judged in: which of a few hundred clips it gets moves a figure by more than a point."""

EMPTY_SHARE = 0.03
FACES_MAX = 8_000
SUBSETS = tuple(subsets(MODALITIES))


@dataclass(frozen=True, slots=True)
class Pool:
    """One modality's features.

    Attributes:
        embeddings: (N, E).
        answers: Log answers (N, 10).
        emotions: int64 (N,).
        polarities: int64 (N,) of texts, whose labels count; empty of voices and faces.
        skipped: Files and rows that could not be used.
    """

    embeddings: FloatArray
    answers: FloatArray
    emotions: NDArray[np.int64]
    polarities: NDArray[np.int64]
    skipped: int

    @property
    def accuracy(self) -> float:
        """Of the encoder's own emotion."""
        return float((self.answers[:, : len(EMOTIONS)].argmax(axis=1) == self.emotions).mean())


Pools = Mapping[Modality, Pool]


def read(bundle: Bundle, data: Path, split: str) -> Pools:
    """What the bundle's encoders say about MELD, RAVDESS and FER2013.

    Args:
        bundle: With all three encoders.
        data: The data folder.
        split: `train` (texts also as Whisper would write a customer's; at most 8,000 faces), `validation`, or any other that
            all three sets have.

    Raises:
        DataError: A data set is missing.
        BundleError: An encoder is missing.
    """
    rng = np.random.default_rng(0)
    sentences = meld.read(data, split)
    texts, repeats = [SpokenText(words.prepare(one)) for one in sentences.texts], 1
    if split == "train":
        # A call's fused judgement is a customer's, so half of the embeddings are those of a customer's words.
        said = [SpokenText(words.prepare(as_transcribed(one.text, rng)), "customer") for one in texts]
        texts, repeats = texts + said, 2
    recordings = ravdess.read(data, split)
    faces = fer2013.read(data, split)
    rows = rng.permutation(len(faces.labels))[:FACES_MAX]
    pictures = [faces.pictures[row][None] for row in rows]
    voices, spoken = mel.prepare_all(recordings.clips)
    if not voices:
        raise DataError("every recording is silent, broken or too short: nothing to pair.")
    emotions = {
        Modality.AUDIO: emotion_matrix(RAVDESS_LABELS).argmax(axis=1)[recordings.labels[spoken]],
        Modality.VIDEO: emotion_matrix(FER2013_LABELS).argmax(axis=1)[faces.labels[rows]],
        Modality.TEXT: np.tile(sentences.emotion.argmax(axis=1), repeats),
    }
    inputs: dict[Modality, list[Any]] = {
        Modality.AUDIO: voices,
        Modality.VIDEO: [video.prepare(one) for one in pictures],
        Modality.TEXT: texts,
    }
    polarities = {Modality.TEXT: np.tile(sentences.polarity.argmax(axis=1), repeats)}
    skipped = {
        Modality.AUDIO: recordings.skipped + len(recordings.labels) - len(voices),
        Modality.VIDEO: faces.skipped,
        Modality.TEXT: sentences.skipped,
    }
    nothing = np.zeros(0, dtype=np.int64)
    return {
        modality: _pool(
            load_encoder(bundle, modality).encode(inputs[modality]),
            emotions[modality],
            polarities.get(modality, nothing),
            skipped[modality],
        )
        for modality in MODALITIES
    }


def noise(train: Pools, validation: Pools) -> dict[Modality, float]:
    """Share of pairs in which a modality's features are exchanged for any other's while training.

    Encoders know their training parts better than new data. Exchanging so many rows brings each one's accuracy in
    training down to its accuracy on the validation part, so that the fusion does not learn to overrate it.
    """
    shares = {}
    for modality in MODALITIES:
        chance = 1 / len(EMOTIONS)
        excess = train[modality].accuracy - validation[modality].accuracy
        shares[modality] = float(np.clip(excess / max(train[modality].accuracy - chance, 1e-6), 0.0, 0.9))
    return shares


def draw(
    pools: Pools,
    texts: NDArray[np.int64],
    rng: np.random.Generator,
    exchanged: Mapping[Modality, float],
    doubt: float,
) -> dict[str, Tensor]:
    """Pair every anchor text with a voice and a face of its emotion.

    Args:
        pools: Of one split.
        texts: Rows of the text pool, whose labels count: the anchors.
        rng: Draws.
        exchanged: Per modality, the share of rows exchanged for any row of that pool.
        doubt: Share of rows in which voice, and likewise face, have the emotion of another text.

    Returns:
        `audio`, `video`, `text` (B, E), `answers` (B, 3, 10), `emotion` (B,), `polarity` (B,).
    """
    words = pools[Modality.TEXT]
    emotions = words.emotions[texts]
    batch: dict[str, Tensor] = {
        "emotion": torch.from_numpy(emotions),
        "polarity": torch.from_numpy(words.polarities[texts]),
    }
    answers = []
    for modality in MODALITIES:
        pool, rows = pools[modality], texts
        if modality is not Modality.TEXT:
            others = rng.choice(emotions, len(texts))
            shown = np.where(rng.random(len(texts)) < doubt, others, emotions)
            rows = _of_same_label(pool.emotions, shown, rng)
        anything = rng.integers(0, len(pool.emotions), len(texts))
        rows = np.where(rng.random(len(texts)) < exchanged[modality], anything, rows)
        batch[modality.value] = torch.from_numpy(pool.embeddings[rows])
        answers.append(pool.answers[rows])
    return batch | {"answers": torch.from_numpy(np.stack(answers, axis=1))}


def batches(
    pools: Pools, exchanged: Mapping[Modality, float], size: int, rng: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    """One epoch over the anchors; `present` (B, 3) is everything in a third of the rows, else any subset."""
    texts = anchors(pools)
    table = np.array([[modality in subset for modality in MODALITIES] for subset in SUBSETS])
    steps = len(texts) // size
    for rows in np.split(rng.permutation(texts)[: steps * size], steps):
        present = table[rng.integers(0, len(SUBSETS), size)] | (rng.random(size) < 1 / 3)[:, None]
        present &= (rng.random(size) >= EMPTY_SHARE)[:, None]
        yield draw(pools, rows, rng, exchanged, DOUBT) | {"present": torch.from_numpy(present)}


def anchors(pools: Pools) -> NDArray[np.int64]:
    """The texts whose emotion some voice and some face has too.

    Raises:
        DataError: There is none.
    """
    shared = set.intersection(*(set(pool.emotions.tolist()) for pool in pools.values()))
    texts = np.flatnonzero(np.isin(pools[Modality.TEXT].emotions, list(shared)))
    if len(texts) == 0:
        raise DataError("no emotion that text, voice and face all have: give sets that share a label.")
    return texts


def validation_pairs(pools: Pools, doubt: float) -> dict[str, Tensor]:
    """Every anchor in five pairs, its voices and faces drawn by a fixed seed.

    Raises:
        DataError: There is no such text.
    """
    texts = np.tile(anchors(pools), DRAWS)
    return draw(pools, texts, np.random.default_rng(0), dict.fromkeys(MODALITIES, 0.0), doubt)


def _pool(
    features: Sequence[Features], emotions: NDArray[np.int64], polarities: NDArray[np.int64], skipped: int
) -> Pool:
    return Pool(
        np.stack([one.embedding for one in features]),
        np.stack([log_answers(one.prediction) for one in features]),
        emotions.astype(np.int64),
        polarities.astype(np.int64),
        skipped,
    )


def _of_same_label(labels: NDArray[np.int64], wanted: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random row of each wanted label."""
    rows = np.zeros(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        places = np.flatnonzero(wanted == label)
        rows[places] = rng.choice(np.flatnonzero(labels == label), len(places))
    return rows
