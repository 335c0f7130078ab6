"""How the text network is trained on several sets at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.calibration import Temperatures, temperature
from models.data import airline, customer_service, goemotions, meld, satisfaction
from models.data.sentences import Sentences, as_recognised, as_transcribed
from models.encoders import minilm
from models.encoders.text import BATCH_TEXTS, PieceTokenizer, TextConfig, TextNetwork, pad
from models.encoders.words import SpokenText, prepare
from models.metrics import classification
from models.recipes.recipe import Recipe
from models.types import EMOTIONS, PARTICIPANTS, POLARITIES, UNKNOWN_PARTICIPANT, FloatArray

TASKS = {"emotion": EMOTIONS, "polarity": POLARITIES}
LABEL_SMOOTHING = 0.05
TRANSCRIBED_SHARE, RECOGNISED_SHARE = 0.4, 0.15
"""Of the training texts: with Whisper's errors, and as a recogniser without punctuation gives them."""
CONTEXT_SHARE = 0.3
"""Of the training texts that have turns before them: behind these."""
EXCHANGED_SHARE = 0.2
"""Of the training texts: a customer's or an agent's as if nobody knew who speaks, and any other's as a customer's, so that
what one set alone teaches is not bound to the speaker that this set alone has."""
SERVICE_SENTENCES = 40_000
PLAIN_TURNS = 24_000
SORTED_TOGETHER = 40
"""Batches drawn at once and sorted by length, so that a batch is not mostly padding."""


@dataclass(frozen=True, slots=True)
class Portion:
    """One set's part in the training.

    Attributes:
        sentences: Its training split.
        per_epoch: How many are drawn per epoch, without repetition; at most all.
        weight: Of its rows in the loss.
        reference: A set whose balance of classes this one's rows are brought to: how much more (or less) often they have
            each class is added to the logits in the loss, as a difference of log frequencies (Menon et al. 2021,
            arXiv:2007.07314, eq. 10). One head can then learn from both, and its probabilities follow the reference.
    """

    sentences: Sentences
    per_epoch: int
    weight: float = 1.0
    reference: Sentences | None = None


def batches(
    portions: Sequence[Portion], tokenizer: PieceTokenizer, rng: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    """One epoch of texts as `_heard` gives them, like lengths together."""
    columns = [_drawn(portion, tokenizer, rng) for portion in portions]
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


def steps_per_epoch(portions: Sequence[Portion]) -> int:
    """How many batches `batches` gives."""
    chunk = BATCH_TEXTS * SORTED_TOGETHER
    full, rest = divmod(sum(min(portion.per_epoch, len(portion.sentences)) for portion in portions), chunk)
    return full * SORTED_TOGETHER + -(-rest // BATCH_TEXTS)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Smoothed cross-entropy of emotion plus that of polarity, each over the rows that say something about it."""
    _, *logits = model(batch["ids"])
    losses = [
        _soft_cross_entropy(one.float() + batch[f"{task}_shift"], batch[task], batch["weight"])
        for task, one in zip(TASKS, logits, strict=True)
    ]
    return torch.stack(losses).sum()


def frequencies(targets: FloatArray) -> FloatArray:
    """Log frequency of each class over the rows that are labelled; zeros when none is."""
    total = targets.sum(axis=0) + 1.0
    return np.zeros_like(total) if not targets.any() else np.log(total / total.sum())


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a validation split: its texts and, where there are any, the turns before them."""

    sentences: Sentences
    texts: Sequence[str]
    before: Sequence[Sequence[str]] | None = None


def readings(held_out: Mapping[str, Sentences]) -> dict[str, Reading]:
    """Every set as written; sets with dialogues also `_context`, and the set `meld` also `_recognised`."""
    found: dict[str, Reading] = {}
    for name, sentences in held_out.items():
        found[name] = Reading(sentences, sentences.texts)
        if any(sentences.before):
            found[f"{name}_context"] = Reading(sentences, sentences.texts, sentences.before)
    if "meld" in held_out:
        found["meld_recognised"] = Reading(held_out["meld"], [as_recognised(text) for text in held_out["meld"].texts])
    return found


def validate(model: nn.Module, tokenizer: PieceTokenizer, held_out: Mapping[str, Sentences]) -> dict[str, float]:
    """Weighted and macro F1 per reading and task."""
    figures: dict[str, float] = {}
    for name, reading in readings(held_out).items():
        for task, (logits, labels) in judged(model, tokenizer, reading).items():
            found = classification(labels, logits.argmax(axis=1), logits.shape[1])
            figures |= {f"{name}_{task}_{key}": found[key] for key in ("f1_weighted", "f1_macro")}
    return figures


def temperatures(model: nn.Module, tokenizer: PieceTokenizer, held_out: Mapping[str, Sentences]) -> Temperatures:
    """Over all the sets, and MELD without punctuation; each that has a task weighs the same. 1 for a task that none has."""
    found: dict[str, list[float]] = {"emotion": [], "polarity": []}
    for name, reading in readings(held_out).items():
        if name.endswith("_context"):  # live calls give no turns before
            continue
        for task, (logits, labels) in judged(model, tokenizer, reading).items():
            found[task].append(temperature(torch.from_numpy(logits), torch.from_numpy(labels)))
    emotion, polarity = (float(np.exp(np.mean(np.log(values or [1.0])))) for values in found.values())
    return {"emotion_temperature": emotion, "polarity_temperature": polarity}


def judged(
    model: nn.Module, tokenizer: PieceTokenizer, reading: Reading
) -> dict[str, tuple[FloatArray, NDArray[np.int64]]]:
    """Per task logits (n, classes) and labels (n,) of the texts with one label and no other."""
    device = next(model.parameters()).device
    before = reading.before or ((),) * len(reading.texts)
    spoken = zip(reading.texts, reading.sentences.participants, before, strict=True)
    rows = tokenizer.encode([SpokenText(prepare(text), who, tuple(turns)) for text, who, turns in spoken])
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    logits = {task: np.zeros((len(rows), len(labels)), dtype=np.float32) for task, labels in TASKS.items()}
    for first in range(0, len(order), BATCH_TEXTS):
        places = order[first : first + BATCH_TEXTS]
        _, *answers = model(pad([rows[place] for place in places]).to(device))
        for task, answer in zip(TASKS, answers, strict=True):
            logits[task][places] = answer.cpu().numpy()
    found = {}
    for task, answer in logits.items():
        target = getattr(reading.sentences, task)
        sure = target.max(axis=1) == 1.0
        if sure.any():
            found[task] = (answer[sure], target[sure].argmax(axis=1))
    return found


def _drawn(
    portion: Portion, tokenizer: PieceTokenizer, rng: np.random.Generator
) -> tuple[list[list[int]], dict[str, FloatArray]]:
    own = portion.sentences
    pick = rng.permutation(len(own))[: portion.per_epoch]
    texts = [_heard(own, at, rng) for at in pick]
    values = {"weight": np.full(len(pick), portion.weight, dtype=np.float32)}
    for task in TASKS:
        target = getattr(own, task)
        shift = np.zeros(target.shape[1], dtype=np.float32)
        if portion.reference is not None:
            shift += frequencies(target) - frequencies(getattr(portion.reference, task))
        values |= {task: target[pick], f"{task}_shift": np.tile(shift, (len(pick), 1))}
    return tokenizer.encode(texts), values


def _heard(own: Sentences, at: int, rng: np.random.Generator) -> SpokenText:
    """A text as a recogniser might have heard it, behind its turns before and said by whom its set says, or not."""
    text, turns = own.texts[at], own.before[at] if rng.random() < CONTEXT_SHARE else ()
    participant = own.participants[at]
    if rng.random() < EXCHANGED_SHARE:
        participant = "customer" if participant == UNKNOWN_PARTICIPANT else UNKNOWN_PARTICIPANT
    way = rng.random()
    if way < RECOGNISED_SHARE:
        text, turns = as_recognised(text), tuple(map(as_recognised, turns))
    elif way < RECOGNISED_SHARE + TRANSCRIBED_SHARE:
        text = as_transcribed(text, rng)
    return SpokenText(prepare(text), participant, turns)


def _soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    labelled = target.sum(dim=1)
    smooth = target * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / target.shape[1]
    rows = functional.cross_entropy(logits, smooth, reduction="none") * labelled * weight
    return rows.sum() / len(rows)


def _rated(data: Path) -> Sentences:
    """Turns of service dialogues: all that are rated low or high, and a sample of the others, nine in ten being neutral."""
    turns = satisfaction.read(data, "train")
    neutral = turns.polarity[:, POLARITIES.index("neutral")] == 1.0
    plain = np.random.default_rng(0).permutation(np.flatnonzero(neutral))[:PLAIN_TURNS]
    return turns.take([*np.flatnonzero(~neutral).tolist(), *plain.tolist()])


def text_multitask(data: Path) -> Recipe:
    """Train the text network on MELD, airline tweets, GoEmotions, service dialogues and made sentences, from MiniLM.

    Of the vocabulary 18,000 pieces are kept, and who speaks is told. Tweets, 63 % complaints, are easily told from talk by
    their topic, so the head may learn their balance; comments are not, and are brought to the balance of MELD. The epoch
    with the best mean of four figures is kept.
    """
    talk = meld.read(data, "train")
    portions = [
        Portion(talk, per_epoch=10_000, weight=1.3),
        Portion(airline.read(data, "train"), per_epoch=10_500),
        Portion(goemotions.read(data, "train"), per_epoch=14_000, weight=0.7, reference=talk),
        Portion(customer_service.read(SERVICE_SENTENCES), per_epoch=14_000),
        Portion(_rated(data), per_epoch=4_000, weight=0.5),
    ]
    held_out = {
        "meld": meld.read(data, "dev"),
        "airline": airline.read(data, "validation"),
        "goemotions": goemotions.read(data, "dev"),
    }
    texts = [prepare(text) for portion in portions for text in portion.sentences.texts]
    vocabulary = minilm.choose_vocabulary(texts, participants=PARTICIPANTS)
    config = TextConfig(vocabulary=vocabulary, participants=PARTICIPANTS)
    tokenizer = PieceTokenizer(config)

    def judge(model: nn.Module) -> dict[str, float]:
        figures = validate(model, tokenizer, held_out)
        chosen = (
            "meld_emotion_f1_weighted",
            "meld_polarity_f1_weighted",
            "airline_polarity_f1_macro",
            "goemotions_emotion_f1_macro",
        )
        return figures | {"mean_f1": sum(figures[key] for key in chosen) / len(chosen)}

    return Recipe(
        name="text",
        config=config,
        build=lambda: minilm.start(config),
        batches=lambda rng: batches(portions, tokenizer, rng),
        steps_per_epoch=steps_per_epoch(portions),
        loss=loss,
        validate=judge,
        metric="mean_f1",
        epochs=3,
        learning_rate=1e-4,
        warmup_fraction=0.05,
        average_decay=1.0,
        bfloat16=True,
        calibrate=lambda model: replace(config, **temperatures(model, tokenizer, held_out)),
        int8_keys=frozenset(key for key, value in TextNetwork(config).named_parameters() if value.dim() > 1),
        about={
            "data": "MELD train, airline tweets (nine tenths by hash), GoEmotions train, satisfaction (nine tenths of the "
            "dialogues by hash), sentences of models/data/customer_service.txt",
            "start": f"sentence-transformers/all-MiniLM-L6-v2, SHA-256 {minilm.SHA256}",
            "validation_data": "MELD dev, airline tweets (a tenth by hash), GoEmotions dev",
            "license": "MELD research (GPL-3.0 repository), tweets CC BY-NC-SA 4.0, GoEmotions and MiniLM Apache-2.0, "
            "satisfaction Apache-2.0, CC BY-SA 4.0 and CC BY 4.0, its ratings without a licence",
            "skipped": sum(portion.sentences.skipped for portion in portions),
        },
    )
