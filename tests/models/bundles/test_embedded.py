"""The bundle in the repository: what it must be able to do, whoever trains it anew."""

from pathlib import Path

import numpy as np
import pytest

from models import checkpoint
from models.bundles import EMBEDDED, Bundle, load_bundle, load_encoder, load_fusion
from models.encoders.words import SpokenText
from models.types import EMOTIONS, POLARITIES, Encoder, Features, Fuser, Modality, Prediction

BUNDLE_MAX_BYTES = 30_000_000

CLEAR = [
    ("I am furious, this is the worst company I have ever dealt with", -1),
    ("i have been waiting for two hours and nobody answers the phone", -1),
    ("you charged me twice and i want my money back", -1),
    ("what is your account number please", 0),
    ("let me check that for you", 0),
    ("thank you so much you have been very helpful", 1),
    ("perfect that solved my problem", 1),
]

BY_WHOM = [
    ("customer", "I've never had such good service", 1),
    ("customer", "I can't complain, everything arrived on time", 1),
    ("customer", "I was furious yesterday but you sorted it out, thank you", 1),
    ("customer", "I'd appreciate it if you'd finally send someone out", -1),
    ("customer", "Thanks for nothing", -1),
    ("customer", "how many times do I have to call?", -1),
    ("agent", "Let me put you on a brief hold while I check that", 0),
    ("agent", "I'm sorry for the inconvenience", 0),
    ("agent", "Thank you for calling, this call may be recorded", 0),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(EMBEDDED)


@pytest.fixture(scope="module")
def words(bundle: Bundle) -> Encoder:
    return load_encoder(bundle, Modality.TEXT)


@pytest.fixture(scope="module")
def fusion(bundle: Bundle) -> Fuser:
    return load_fusion(bundle)


def test_it_is_whole_and_small(bundle: Bundle) -> None:
    assert set(bundle.parts) == {"audio", "video", "text", "fusion", "fusion_mosi", "fusion_ravdess_av"}
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= BUNDLE_MAX_BYTES
    assert {path.suffix for path in EMBEDDED.iterdir()} == {".safetensors", ".json"}


def test_the_fusion_was_trained_with_the_encoders_beside_it(bundle: Bundle) -> None:
    _, metadata = checkpoint.load(*bundle.parts["fusion"].checkpoint)
    assert metadata.about["encoders"] == {str(one): bundle.parts[one].sha256 for one in Modality}


@pytest.mark.parametrize(("text", "sign"), CLEAR)
def test_words_of_customers_are_scored_on_their_side(words: Encoder, fusion: Fuser, text: str, sign: int) -> None:
    (features,) = words.encode([text])
    (fused,) = fusion.fuse([{Modality.TEXT: features}])
    for score in (features.prediction.score, fused.prediction.score):
        assert (score < -0.5, abs(score) <= 1, score > 0.5)[sign + 1]


@pytest.mark.parametrize(("participant", "text", "sign"), BY_WHOM)
def test_words_are_judged_by_who_says_them(words: Encoder, participant: str, text: str, sign: int) -> None:
    (features,) = words.encode([SpokenText(text, participant)])
    assert POLARITIES[int(features.prediction.polarity.argmax())] == POLARITIES[sign + 1]


@pytest.mark.parametrize(
    ("text", "emotion"),
    [("I am so angry with you!", "anger"), ("I am so happy!", "joy"), ("I am scared", "fear"), ("Okay.", "neutral")],
)
def test_words_that_name_an_emotion_get_it(words: Encoder, text: str, emotion: str) -> None:
    (features,) = words.encode([text])
    assert EMOTIONS[int(features.prediction.emotion.argmax())] == emotion


def test_punctuation_and_case_do_not_turn_a_judgement(words: Encoder) -> None:
    written = "This is terrible! I want to speak to your manager."
    plain = "this is terrible i want to speak to your manager"
    one, other = words.encode([written, plain])
    assert one.prediction.score < -1
    assert other.prediction.score < -1


def test_any_text_gets_an_answer(words: Encoder) -> None:
    texts = ["\N{GRINNING FACE}", "ужасно", "这太糟糕了", "a", "?", "word " * 10_000]
    for found in words.encode(texts):
        assert np.isfinite(found.embedding).all()
        assert found.prediction.emotion.sum() == pytest.approx(1, abs=1e-4)


def voice(fusion: Fuser, words: Features, *, negative: bool) -> Prediction:
    """The fused answer when a confident voice joins the words."""
    poles = np.array([0.9, 0.07, 0.03] if negative else [0.03, 0.07, 0.9], dtype=np.float32)
    emotions = np.full(7, 0.02, dtype=np.float32)
    emotions[EMOTIONS.index("anger" if negative else "joy")] = 0.88
    heard = Prediction(float(3 * (poles[2] - poles[0])), poles, emotions)
    embedding = np.zeros(256, dtype=np.float32)
    joined = fusion.fuse([{Modality.TEXT: words, Modality.AUDIO: Features(Modality.AUDIO, embedding, heard)}])
    return joined[0].prediction


def test_a_voice_that_agrees_reinforces_and_one_that_contradicts_weakens(words: Encoder, fusion: Fuser) -> None:
    (features,) = words.encode(["nobody has called me back"])
    alone = fusion.fuse([{Modality.TEXT: features}])[0].prediction
    assert alone.score < 0
    assert voice(fusion, features, negative=True).score < alone.score < voice(fusion, features, negative=False).score


def test_words_alone_are_judged_nearly_as_their_encoder_does(words: Encoder, fusion: Fuser) -> None:
    found = words.encode([text for text, _ in CLEAR])
    fused = fusion.fuse([{Modality.TEXT: one} for one in found])
    gaps = [abs(one.prediction.score - other.prediction.score) for one, other in zip(found, fused, strict=True)]
    assert np.mean(gaps) < 0.5


@pytest.mark.slow
def test_the_floor_of_words_on_meld_dev(data_dir: Path) -> None:
    from models import evaluate  # noqa: PLC0415  # only where the data are there

    found = evaluate.run("text", "embedded", "meld", data_dir)["tasks"]["emotion"]
    assert found["metrics"]["f1_weighted"] >= 0.54
    assert found["metrics"]["f1_weighted"] > found["constant"]["f1_weighted"]
