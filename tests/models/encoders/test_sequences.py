"""What the embedded encoders give step by step to a fusion that asks for it."""

import pickle
from typing import Any

import numpy as np
import pytest

from models.bundles import EMBEDDED, Bundle, load_bundle, load_encoder
from models.encoders import mel, words
from models.errors import ModelError
from models.types import FloatArray, Modality, Spoken, Timed, Transcript, Word
from tests.models.encoders.voice import voice

SAID = Transcript(
    "I am  furious, really.",
    "en",
    (
        Word("I", 100, 180, 0.9),
        Word("am", 200, 280, 0.9),
        Word("furious,", 300, 700, 0.9),
        Word("really.", 900, 1200, 0.9),
    ),
    "test",
)
FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
FACE_TIMES_MS = np.array([0, 200, 400, 800, 1000], np.int32)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(EMBEDDED)


def sound(lead_s: float = 0.0) -> FloatArray:
    return np.concatenate([np.zeros(int(lead_s * 16_000), np.float32), voice(1.5)])


def timed(modality: Modality) -> Timed[Any]:
    match modality:
        case Modality.AUDIO:
            return mel.prepare_timed(sound())
        case Modality.VIDEO:
            return Timed(FACES, FACE_TIMES_MS)
        case Modality.TEXT:
            return words.prepare_timed(Spoken(SAID, "customer"))


@pytest.mark.parametrize("modality", Modality)
def test_a_sequence_has_one_width_and_rising_times_and_the_pooled_answer_stays(
    bundle: Bundle, modality: Modality
) -> None:
    item = timed(modality)
    plain, asked = load_encoder(bundle, modality).encode([item.prepared, item])

    assert plain.sequence is None
    assert asked.sequence is not None
    assert asked.sequence.vectors.shape == (len(asked.sequence.times_ms), {"video": 128}.get(modality, 384))
    assert asked.sequence.vectors.dtype == np.float32
    assert (np.diff(asked.sequence.times_ms) >= 0).all()
    np.testing.assert_allclose(asked.embedding, plain.embedding, atol=1e-5)
    np.testing.assert_allclose(asked.prediction.emotion, plain.prediction.emotion, atol=1e-5)
    (alone,) = load_encoder(bundle, modality).encode([item.prepared])
    (alone_asked,) = load_encoder(bundle, modality).encode([item])
    np.testing.assert_array_equal(alone.embedding, alone_asked.embedding)


def test_a_voice_has_a_vector_per_160_ms_from_where_the_sound_begins(bundle: Bundle) -> None:
    encoder = load_encoder(bundle, Modality.AUDIO)
    (at_once,) = encoder.encode([mel.prepare_timed(sound())])
    (later,) = encoder.encode([mel.prepare_timed(sound(lead_s=0.8))])

    assert at_once.sequence is not None
    assert later.sequence is not None
    assert set(np.diff(at_once.sequence.times_ms)) == {160}
    assert at_once.sequence.times_ms[-1] == pytest.approx(1500, abs=160)
    assert later.sequence.times_ms[0] == pytest.approx(at_once.sequence.times_ms[0] + 800, abs=60)


def test_a_sequence_does_not_depend_on_the_batch(bundle: Bundle) -> None:
    encoder = load_encoder(bundle, Modality.AUDIO)
    short, long = mel.prepare_timed(voice(0.6)), mel.prepare_timed(voice(3.0))
    together, alone = encoder.encode([short, long])[0].sequence, encoder.encode([short])[0].sequence
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(together.vectors, alone.vectors, atol=1e-4)


def test_a_face_keeps_the_time_of_its_picture(bundle: Bundle) -> None:
    (found,) = load_encoder(bundle, Modality.VIDEO).encode([Timed(FACES, FACE_TIMES_MS)])
    assert found.sequence is not None
    np.testing.assert_array_equal(found.sequence.times_ms, FACE_TIMES_MS)


def test_a_word_piece_has_the_time_of_its_word(bundle: Bundle) -> None:
    (found,) = load_encoder(bundle, Modality.TEXT).encode([words.prepare_timed(Spoken(SAID, "customer"))])
    assert found.sequence is not None
    # I, am, furious, the comma, really, the full stop
    assert found.sequence.times_ms.tolist() == [100, 200, 300, 300, 900, 900]


def test_words_without_times_have_none(bundle: Bundle) -> None:
    given = words.prepare_timed(Spoken(Transcript("I am furious", "und", (), "given")))
    (found,) = load_encoder(bundle, Modality.TEXT).encode([given])
    assert found.sequence is not None
    assert set(found.sequence.times_ms) == {words.UNKNOWN_MS}


@pytest.mark.parametrize("modality", Modality)
def test_times_of_something_else_are_refused(bundle: Bundle, modality: Modality) -> None:
    item = timed(modality)
    with pytest.raises(ModelError, match="times for"):
        load_encoder(bundle, modality).encode([Timed(item.prepared, item.times_ms[1:])])


def test_who_does_not_ask_does_not_pay(bundle: Bundle) -> None:
    item = timed(Modality.AUDIO)
    plain, asked = load_encoder(bundle, Modality.AUDIO).encode([item.prepared, item])
    assert len(pickle.dumps(plain)) < 2_000 < len(pickle.dumps(asked))
