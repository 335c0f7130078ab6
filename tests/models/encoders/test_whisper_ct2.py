from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import soundfile

from models.data.sound import telephone
from models.encoders import whisper_weights
from models.encoders.speech import load_transcriber
from models.encoders.whisper_ct2 import CTranslate2Transcriber
from models.encoders.whisper_weights import CONFIG, MODEL, PACKED, Packed
from models.errors import WhisperError
from models.types import FloatArray, Transcriber

# whisper.tokenizer opens its vocabulary and leaves closing it to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tiktoken:ResourceWarning")


@pytest.fixture(scope="module")
def tiny() -> Transcriber:
    return load_transcriber("tiny.en", engine="ctranslate2")


def test_silence_the_shortest_and_the_longest_have_no_words_that_may_be_believed(tiny: Transcriber) -> None:
    batch = [
        np.zeros(0, np.float32),
        np.zeros(1_600, np.float32),
        np.zeros(16_000 * 30, np.float32),
        np.full(16_000, np.nan, np.float32),
    ]
    found = tiny.transcribe(batch)
    assert [one.unreliable for one in found] == ["no_speech"] * 4
    assert {one.engine for one in found} == {tiny.engine}
    assert tiny.transcribe([]) == []


def test_what_is_no_utterance_is_refused(tiny: Transcriber) -> None:
    for wrong in (np.zeros((2, 16_000), np.float32), np.zeros(16_000 * 30 + 1, np.float32)):
        with pytest.raises(WhisperError, match="one utterance"):
            tiny.transcribe([wrong])


def test_an_unknown_device_is_an_error_that_names_it() -> None:
    with pytest.raises(WhisperError, match="on tpu here"):
        CTranslate2Transcriber("tiny.en", device="tpu")


def test_a_processor_without_8_bit_integers_computes_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda *_device: {"float32"})
    assert CTranslate2Transcriber("tiny.en").engine.endswith("-float32")
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda *_device: set())
    with pytest.raises(WhisperError, match="cannot run Whisper tiny"):
        CTranslate2Transcriber("tiny.en")


def test_a_configuration_that_lies_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKED, "liar", PACKED["tiny.en"] | {CONFIG: Packed("0" * 64, PACKED["tiny.en"][CONFIG].parts)})
    with pytest.raises(WhisperError, match=r"config\.json of Whisper liar has SHA-256"):
        CTranslate2Transcriber("liar")


def test_weights_that_are_no_model_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKED["tiny.en"]
    monkeypatch.setitem(PACKED, "tiny.en", packed | {MODEL: packed[CONFIG]})
    with pytest.raises(WhisperError, match="cannot run Whisper tiny"):
        CTranslate2Transcriber("tiny.en")


@pytest.mark.slow  # computes for seconds
def test_more_than_a_batch_keeps_its_order(tiny: Transcriber, data_dir: Path) -> None:
    speech, _ = soundfile.read(sorted((data_dir / "speech" / "librivox").glob("*.wav"))[1], dtype="float32")
    batch = [speech if place % 3 == 1 else np.zeros(1_000 * place, np.float32) for place in range(11)]
    texts = [one.text for one in tiny.transcribe(batch)]
    assert [place for place, text in enumerate(texts) if "young man" in text] == [1, 4, 7, 10]


def recordings(data_dir: Path) -> list[FloatArray]:
    paths = sorted((data_dir / "speech" / "librivox").glob("*.wav"))[:2]
    paths += sorted((data_dir / "ravdess" / "Actor_20").glob("*-01-20.flac"))[:3]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


@pytest.mark.slow  # computes for seconds
def test_a_long_and_fast_utterance_is_written_to_its_end(tiny: Transcriber, data_dir: Path) -> None:
    paths = sorted((data_dir / "speech" / "librivox").glob("*.wav"))
    words = [path.with_suffix(".txt").read_text().split() for path in paths]
    speech = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths] * 2)
    fast = np.interp(np.arange(0, len(speech), 1.4), np.arange(len(speech)), speech).astype(np.float32)[
        : 16_000 * 30 - 1600
    ]
    (found,) = tiny.transcribe([fast])
    assert len(found.words) > 0.7 * 2 * sum(map(len, words)) * len(fast) * 1.4 / len(speech)
    assert found.words[-1].end_ms > 25_000


@pytest.mark.slow  # computes for seconds
@pytest.mark.parametrize("name", whisper_weights.PACKED)
def test_both_engines_hear_the_same(name: str, data_dir: Path) -> None:
    batch = recordings(data_dir)[: None if name == "tiny.en" else 3]  # the reference takes seconds for each
    batch += [telephone(batch[0]), np.clip(8 * batch[0], -1, 1)]
    ours = load_transcriber(name, engine="ctranslate2").transcribe(batch)
    theirs = load_transcriber(name, engine="openai").transcribe(batch)
    same = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.text == b.text]
    # Of the loud and the telephone's a doubtful word may be another on another processor, which computes in other integers.
    assert len(same) >= 0.6 * len(batch)
    apart_ms = []
    for one, other in same:
        assert [word.text for word in one.words] == [word.text for word in other.words]
        for a, b in zip(one.words, other.words, strict=True):
            apart_ms.append(abs(a.start_ms - b.start_ms))
            assert a.confidence == pytest.approx(b.confidence, abs=0.3)
        assert (one.language, one.unreliable) == (other.language, other.unreliable) == ("en", None)
    # One word in a hundred lies farther apart, another one on another processor.
    assert np.mean(np.array(apart_ms) <= 200) >= 0.97
