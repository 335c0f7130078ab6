import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.encoders.text import SPECIAL, PieceTokenizer, TextConfig, TextEncoder, TextNetwork
from models.encoders.words import SpokenText, prepare
from models.errors import TextInputError
from models.families import load_as
from models.types import Modality

LETTERS = tuple(string.ascii_lowercase)
VOCABULARY = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "'", "hello", "there", "thank")
TINY = TextConfig(vocabulary=VOCABULARY, width=16, layers=2, heads=4, hidden=32, pieces_max=12)


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextNetwork(TINY).eval(), TINY, name="tiny")


def test_a_text_gives_an_embedding_and_probabilities(encoder: TextEncoder) -> None:
    (found,) = encoder.encode(["Hello there"])
    assert found.modality is Modality.TEXT
    assert found.embedding.shape == (16,)
    assert found.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
    assert found.prediction.polarity.sum() == pytest.approx(1, abs=1e-5)
    negative, _, positive = found.prediction.polarity
    assert found.prediction.score == pytest.approx(3 * (positive - negative), abs=1e-5)


def test_the_answer_does_not_depend_on_the_batch_or_its_order(encoder: TextEncoder) -> None:
    texts = ["hello", "hello there thank you so much for this", "a", *(["thank " * n for n in range(1, 50)])]
    together, backwards = encoder.encode(texts), encoder.encode(texts[::-1])[::-1]
    for text, one, other in zip(texts, together, backwards, strict=True):
        (alone,) = encoder.encode([text])
        np.testing.assert_allclose(one.embedding, alone.embedding, atol=1e-5)
        np.testing.assert_allclose(other.prediction.emotion, alone.prediction.emotion, atol=1e-5)


def test_turns_before_a_text_are_looked_at_but_not_judged(encoder: TextEncoder) -> None:
    (alone,) = encoder.encode(["hello there"])
    after, nothing = encoder.encode([SpokenText("hello there", before=before) for before in (("thank", "a b"), ())])

    np.testing.assert_allclose(nothing.embedding, alone.embedding, atol=1e-6)
    assert np.abs(after.embedding - alone.embedding).max() > 1e-3


def test_turns_before_take_no_room_that_the_text_needs() -> None:
    tokenizer = PieceTokenizer(TINY)
    start, end = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
    hello, there, thank = (VOCABULARY.index(word) for word in ("hello", "there", "thank"))

    (short,) = tokenizer.encode([SpokenText("hello", before=("there " * 9, "thank"))])
    (full,) = tokenizer.encode([SpokenText("hello " * 30, before=("thank",))])
    (nearly,) = tokenizer.encode([SpokenText("hello " * 8, before=("there thank",))])

    assert short == [start, there, there, there, there, thank, end, hello, end]
    assert full == [start, *[hello] * 10, end]
    assert nearly == [start, thank, end, *[hello] * 8, end]


def test_who_speaks_stands_before_the_text_and_takes_one_piece_of_the_room() -> None:
    marks = ("[AGENT]", "[CUSTOMER]")
    told = replace(TINY, vocabulary=(*VOCABULARY, *marks), participants=("agent", "customer"))
    tokenizer = PieceTokenizer(told)
    start, end, hello, agent = (told.vocabulary.index(piece) for piece in ("[CLS]", "[SEP]", "hello", "[AGENT]"))

    (plain,) = tokenizer.encode([SpokenText("hello", "agent")])
    (behind,) = tokenizer.encode([SpokenText("hello", "agent", ("hello",))])
    (full,) = tokenizer.encode([SpokenText("hello " * 30, "agent")])
    (unknown,) = tokenizer.encode([SpokenText("hello", "mixed")])
    (spelled,) = tokenizer.encode([SpokenText("[AGENT]", "mixed")])

    assert plain == [start, agent, hello, end]
    assert behind == [start, hello, end, agent, hello, end]
    assert full == [start, agent, *[hello] * 9, end]
    assert unknown == [start, hello, end]
    assert agent not in spelled


def test_the_answer_depends_on_who_speaks_where_the_network_is_told() -> None:
    torch.manual_seed(0)
    told = replace(TINY, vocabulary=(*VOCABULARY, "[AGENT]", "[CUSTOMER]"), participants=("agent", "customer"))
    encoder = TextEncoder(TextNetwork(told).eval(), told, name="tiny")
    agent, customer = encoder.encode([SpokenText("hello there", who) for who in ("agent", "customer")])
    assert np.abs(agent.embedding - customer.embedding).max() > 1e-3


def test_weights_from_before_who_speaks_was_known_still_answer_and_do_not_ask(encoder: TextEncoder) -> None:
    agent, customer = encoder.encode([SpokenText("hello there", who) for who in ("agent", "customer")])
    np.testing.assert_array_equal(agent.embedding, customer.embedding)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e9])
def test_an_absurd_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperatures"):
        replace(TINY, emotion_temperature=temperature)


def test_a_higher_temperature_makes_one_head_less_sure(encoder: TextEncoder) -> None:
    calm = TextEncoder(encoder._network, replace(TINY, polarity_temperature=4.0), name="tiny")

    sure, unsure = (one.encode(["hello there"])[0].prediction for one in (encoder, calm))

    assert unsure.polarity.max() < sure.polarity.max()
    np.testing.assert_allclose(unsure.emotion, sure.emotion, atol=1e-6)


def test_no_text_gives_no_features(encoder: TextEncoder) -> None:
    assert encoder.encode([]) == []


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_text_is_refused_by_name(encoder: TextEncoder, text: str) -> None:
    with pytest.raises(TextInputError, match="no word"):
        encoder.encode(["hello", text])


def test_only_the_first_pieces_of_a_long_text_count(encoder: TextEncoder) -> None:
    (long,) = encoder.encode(["hello " * 10_000])
    (first,) = encoder.encode(["hello " * (TINY.pieces_max - 2)])
    np.testing.assert_allclose(long.embedding, first.embedding, atol=1e-6)
    assert len(prepare("x" * 10_000_000)) == 4096


def test_emoji_and_other_scripts_are_read_as_unknown_pieces(encoder: TextEncoder) -> None:
    unknown = SPECIAL.index("[UNK]")
    assert PieceTokenizer(TINY).encode([SpokenText("\N{GRINNING FACE}")])[0][1:-1] == [unknown]
    assert unknown in PieceTokenizer(TINY).encode([SpokenText("ужасно")])[0]
    for found in encoder.encode(["\N{GRINNING FACE}\N{THUMBS UP SIGN}", "ужасно", "هذا رهيب", "\x00\x01"]):
        assert np.isfinite(found.embedding).all()


def test_case_accents_and_curly_quotes_do_not_matter(encoder: TextEncoder) -> None:
    plain, fancy = encoder.encode(["don't hello", "D\u00f3n\u2019t   HELLO"])
    np.testing.assert_allclose(plain.embedding, fancy.embedding, atol=1e-6)


def test_a_checkpoint_brings_the_vocabulary_and_the_same_answers(encoder: TextEncoder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TextNetwork(TINY).eval()
    checkpoint.save(tmp_path / "text.safetensors", network.state_dict(), TINY, name="text")
    loaded = load_as(TextEncoder, tmp_path / "text.safetensors")
    assert loaded.name.startswith("text@")
    (ours,), (theirs,) = encoder.encode(["hello there"]), loaded.encode(["hello there"])
    np.testing.assert_allclose(ours.prediction.emotion, theirs.prediction.emotion, atol=2e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocabulary": ("hello",)},
        {"vocabulary": (*SPECIAL, "a", "a")},
        {"heads": 5},
        {"layers": 0},
        {"pieces_max": 3},
        {"participants": ("agent",)},
        {"participants": ("robot",)},
    ],
)
def test_an_absurd_architecture_is_refused(changes: dict[str, object]) -> None:
    fields = {"vocabulary": VOCABULARY, "width": 16, "heads": 4, "layers": 2, "hidden": 32, "pieces_max": 12}
    with pytest.raises(ValueError, match=r"must|repeats"):
        TextConfig(**(fields | changes))  # type: ignore[arg-type]  # wrong values are the point
