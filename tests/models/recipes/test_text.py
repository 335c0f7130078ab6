from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.sentences import Sentences, one_hot
from models.encoders.text import SPECIAL, PieceTokenizer, TextConfig, TextNetwork, mark_of
from models.recipes.text import Portion, batches, frequencies, loss, steps_per_epoch, temperatures, validate
from models.types import EMOTIONS, PARTICIPANTS, POLARITIES, FloatArray

VOCABULARY = (*SPECIAL, "hello", "there", "no", "thank")
CONFIG = TextConfig(vocabulary=VOCABULARY, width=16, layers=1, heads=2, hidden=32, pieces_max=12, dropout=0.0)
READER = PieceTokenizer(CONFIG)
NO_EMOTION = np.zeros(len(EMOTIONS), dtype=np.float32)


def sentences(rows: list[tuple[str, FloatArray, str]]) -> Sentences:
    texts, emotion, poles = zip(*rows, strict=True)
    return Sentences(texts, np.stack(emotion), np.stack([one_hot(pole, POLARITIES) for pole in poles]), 0)


SPOKEN = sentences(
    [("hello there", one_hot("joy", EMOTIONS), "positive"), ("no no", one_hot("anger", EMOTIONS), "negative")] * 20
)
WRITTEN = sentences([("thank thank", NO_EMOTION, "positive")] * 30)


def test_an_epoch_draws_each_portion_once_and_gives_the_promised_batches() -> None:
    portions = [Portion(SPOKEN, per_epoch=40), Portion(WRITTEN, per_epoch=25, weight=0.5)]
    epoch = list(batches(portions, READER, np.random.default_rng(0)))
    assert len(epoch) == steps_per_epoch(portions) == 3
    assert sum(len(batch["ids"]) for batch in epoch) == 65
    assert sum(int((batch["weight"] == 0.5).sum()) for batch in epoch) == 25


def rows_of(portion: Portion, reader: PieceTokenizer = READER) -> list[list[int]]:
    return [row for batch in batches([portion], reader, np.random.default_rng(0)) for row in batch["ids"].tolist()]


def test_a_part_of_the_rows_stands_behind_the_turns_before_them() -> None:
    spoken = SPOKEN.take(list(range(len(SPOKEN))) * 10)
    ids = rows_of(Portion(replace(spoken, before=(("thank",),) * len(spoken)), per_epoch=400))
    behind = [row for row in ids if row.count(SPECIAL.index("[SEP]")) == 2]
    assert 80 <= len(behind) <= 160
    assert all(VOCABULARY[row[1]] == "thank" for row in behind)


@pytest.mark.parametrize(("participant", "instead"), [("agent", "mixed"), ("customer", "mixed"), ("mixed", "customer")])
def test_who_speaks_stands_before_most_texts_and_another_before_some(participant: str, instead: str) -> None:
    marks = tuple(map(mark_of, PARTICIPANTS))
    told = replace(CONFIG, vocabulary=(*VOCABULARY, *marks), participants=PARTICIPANTS)
    spoken = SPOKEN.take(list(range(len(SPOKEN))) * 10)
    ids = rows_of(Portion(replace(spoken, participants=(participant,) * 400), per_epoch=400), PieceTokenizer(told))
    found = Counter(told.vocabulary[row[1]] for row in ids)
    assert set(found) == {mark_of(participant), mark_of(instead)}
    assert 40 <= found[mark_of(instead)] <= 120


def test_temperatures_make_a_network_that_is_too_sure_doubt() -> None:
    torch.manual_seed(0)
    network = TextNetwork(CONFIG).eval()
    with torch.no_grad():
        network.polarity.weight.mul_(100)
        found = temperatures(network, READER, {"meld": SPOKEN, "airline": WRITTEN})
    assert found.keys() == {"emotion_temperature", "polarity_temperature"}
    assert found["polarity_temperature"] > 1.5


def test_rows_of_a_set_with_a_reference_carry_how_its_balance_differs() -> None:
    portions = [Portion(SPOKEN, per_epoch=40), Portion(WRITTEN, per_epoch=30, reference=SPOKEN)]
    rows = torch.cat([batch["polarity_shift"] for batch in batches(portions, READER, np.random.default_rng(0))])
    wanted = frequencies(WRITTEN.polarity) - frequencies(SPOKEN.polarity)
    assert wanted[POLARITIES.index("positive")] > 0
    assert {tuple(row) for row in rows.tolist()} == {(0.0, 0.0, 0.0), tuple(wanted.tolist())}


def test_a_row_without_emotion_says_nothing_to_the_emotion_head() -> None:
    torch.manual_seed(0)
    network = TextNetwork(CONFIG)
    (batch,) = batches([Portion(WRITTEN, per_epoch=30)], READER, np.random.default_rng(0))
    loss(network, batch).backward()  # type: ignore[no-untyped-call]  # torch ships no type
    assert network.emotion.weight.grad is not None
    assert not network.emotion.weight.grad.any()
    assert network.polarity.weight.grad is not None
    assert network.polarity.weight.grad.any()


def test_training_learns_clear_sentences() -> None:
    torch.manual_seed(0)
    network, portions = TextNetwork(CONFIG), [Portion(SPOKEN, per_epoch=40)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for epoch in range(15):
        for batch in batches(portions, READER, np.random.default_rng(epoch)):
            optimizer.zero_grad()
            loss(network, batch).backward()  # type: ignore[no-untyped-call]  # torch ships no type
            optimizer.step()
    with torch.no_grad():
        figures = validate(network.eval(), READER, {"meld": SPOKEN})
    assert figures["meld_emotion_f1_weighted"] == pytest.approx(1.0)
    assert figures["meld_recognised_polarity_f1_weighted"] == pytest.approx(1.0)
