"""How the text network is trained on several sets at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data import airline, goemotions, meld
from models.data.sentences import Sentences, as_recognised
from models.encoders import minilm
from models.encoders.text import BATCH_TEXTS, PieceReader, TextConfig, TextNetwork, pad, prepare
from models.metrics import classification
from models.recipes.recipe import Recipe
from models.types import EMOTIONS, POLARITIES, FloatArray

LABEL_SMOOTHING = 0.05
SORTED_TOGETHER = 40
"""Batches drawn at once and sorted by length, so that a batch is not mostly padding."""


@dataclass(frozen=True, slots=True)
class Share:
    """One set's part in the training.

    Attributes:
        sentences: Its training split.
        per_epoch: How many are drawn per epoch, without repetition; at most all.
        weight: Of its rows in the loss.
    """

    sentences: Sentences
    per_epoch: int
    weight: float = 1.0


def batches(shares: Sequence[Share], reader: PieceReader, rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """One epoch: half of the texts as written, half `as_recognised`; like lengths together.

    The first share is the reference: of every other set the rows carry how much more (or less) often it has each
    class, as a difference of log frequencies (Menon et al. 2021, arXiv:2007.07314, eq. 10). Added to the logits in
    the loss, it lets one head learn from sets of different balance, and its probabilities follow the reference.
    """
    columns = [_drawn(share, shares[0], reader, rng) for share in shares]
    rows = [row for column in columns for row in column[0]]
    values = {key: np.concatenate([column[1][key] for column in columns]) for key in columns[0][1]}
    order = rng.permutation(len(rows))
    chunk = BATCH_TEXTS * SORTED_TOGETHER
    picks: list[list[int]] = []
    for first in range(0, len(order), chunk):
        near = sorted(order[first : first + chunk].tolist(), key=lambda place: len(rows[place]))
        picks += [near[at : at + BATCH_TEXTS] for at in range(0, len(near), BATCH_TEXTS)]
    for at in rng.permutation(len(picks)):
        pick = picks[at]
        yield {"ids": pad([rows[place] for place in pick])} | {k: torch.from_numpy(v[pick]) for k, v in values.items()}


def steps_per_epoch(shares: Sequence[Share]) -> int:
    """How many batches `batches` gives."""
    chunk = BATCH_TEXTS * SORTED_TOGETHER
    full, rest = divmod(sum(min(share.per_epoch, len(share.sentences)) for share in shares), chunk)
    return full * SORTED_TOGETHER + -(-rest // BATCH_TEXTS)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Smoothed cross-entropy of emotion plus that of polarity, each over the rows that say something about it."""
    _, emotion, polarity = model(batch["ids"])
    return _soft_cross_entropy(
        emotion + batch["emotion_shift"], batch["emotion"], batch["weight"]
    ) + _soft_cross_entropy(polarity + batch["polarity_shift"], batch["polarity"], batch["weight"])


def validate(
    model: nn.Module, reader: PieceReader, sets: Mapping[str, Sentences], recognised: str = "meld"
) -> dict[str, float]:
    """Weighted and macro F1 per set and task; the set `recognised` also in lower case without punctuation."""
    figures: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for name, sentences in sets.items():
        figures |= _figures(model, reader, name, sentences, sentences.texts)
        if name == recognised:
            spoken = [as_recognised(text, rng, dropped=0.0) for text in sentences.texts]
            figures |= _figures(model, reader, f"{name}_recognised", sentences, spoken)
    return figures


def frequencies(targets: FloatArray) -> FloatArray:
    """Log frequency of each class over the rows that are labelled; zeros when none is."""
    total = targets.sum(axis=0) + 1.0
    return np.zeros_like(total) if not targets.any() else np.log(total / total.sum())


def _drawn(
    share: Share, reference: Share, reader: PieceReader, rng: np.random.Generator
) -> tuple[list[list[int]], dict[str, FloatArray]]:
    own, first = share.sentences, reference.sentences
    pick = rng.permutation(len(own))[: share.per_epoch]
    texts = [as_recognised(own.texts[at], rng) if rng.random() < 0.5 else own.texts[at] for at in pick]
    values = {"weight": np.full(len(pick), share.weight, dtype=np.float32)}
    for key in ("emotion", "polarity"):
        target, wanted = getattr(own, key), getattr(first, key)
        shift = frequencies(target) - frequencies(wanted) if target.any() else np.zeros(target.shape[1])
        values[key] = target[pick]
        values[f"{key}_shift"] = np.tile(shift.astype(np.float32), (len(pick), 1))
    return reader.read([prepare(text) for text in texts]), values


def _soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    labelled = target.sum(dim=1)
    smooth = target * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / target.shape[1]
    rows = functional.cross_entropy(logits, smooth, reduction="none") * labelled * weight
    return rows.sum() / len(rows)


def _figures(
    model: nn.Module, reader: PieceReader, name: str, sentences: Sentences, texts: Sequence[str]
) -> dict[str, float]:
    device = next(model.parameters()).device
    rows = reader.read([prepare(text) for text in texts])
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    logits = {"emotion": np.zeros((len(rows), len(EMOTIONS))), "polarity": np.zeros((len(rows), len(POLARITIES)))}
    for first in range(0, len(order), BATCH_TEXTS):
        places = order[first : first + BATCH_TEXTS]
        _, emotion, polarity = model(pad([rows[place] for place in places]).to(device))
        logits["emotion"][places], logits["polarity"][places] = emotion.cpu().numpy(), polarity.cpu().numpy()
    figures: dict[str, float] = {}
    for task, answer in logits.items():
        target = getattr(sentences, task)
        # One label and no other: rows with several are for training only.
        sure = target.max(axis=1) == 1.0
        if sure.any():
            found = classification(target[sure].argmax(axis=1), answer[sure].argmax(axis=1), target.shape[1])
            figures |= {f"{name}_{task}_{key}": found[key] for key in ("f1_weighted", "f1_macro")}
    return figures


def text_multitask(data: Path) -> Recipe:
    """Train the text network on MELD, airline tweets and GoEmotions together, from MiniLM's first five layers.

    The vocabulary is cut to 10,000 pieces. The epoch is chosen by the mean of three figures: weighted F1 of emotion and
    of polarity on MELD dev, and macro F1 of polarity on a tenth of the tweets.
    """
    shares = [
        Share(meld.read(data, "train"), per_epoch=10_000),
        Share(airline.read(data, "train"), per_epoch=5_000),
        Share(goemotions.read(data, "train"), per_epoch=12_000, weight=0.5),
    ]
    held_out = {"meld": meld.read(data, "dev"), "airline": airline.read(data, "validation")}
    texts = [prepare(text) for share in shares for text in share.sentences.texts]
    config = TextConfig(vocabulary=minilm.choose_vocabulary(texts))
    reader = PieceReader(config)

    def judge(model: nn.Module) -> dict[str, float]:
        figures = validate(model, reader, held_out)
        chosen = ("meld_emotion_f1_weighted", "meld_polarity_f1_weighted", "airline_polarity_f1_macro")
        return figures | {"mean_f1": sum(figures[key] for key in chosen) / len(chosen)}

    return Recipe(
        name="text",
        config=config,
        build=lambda: minilm.start(config),
        batches=lambda rng: batches(shares, reader, rng),
        steps_per_epoch=steps_per_epoch(shares),
        loss=loss,
        validate=judge,
        metric="mean_f1",
        epochs=3,
        learning_rate=1e-4,
        warmup_fraction=0.1,
        int8_keys=frozenset(key for key, value in TextNetwork(config).named_parameters() if value.dim() > 1),
        about={
            "data": "MELD train, airline tweets (nine tenths by hash), GoEmotions train; from all-MiniLM-L6-v2",
            "validation_data": "MELD dev, airline tweets (a tenth by hash)",
            "license": "MELD research (GPL-3.0 repository), tweets CC BY-NC-SA 4.0, GoEmotions and MiniLM Apache-2.0",
            "skipped": sum(share.sentences.skipped for share in shares),
        },
    )
