import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import whisper

from models.encoders import pocketsphinx
from models.encoders import whisper as whisper_family
from models.encoders.pocketsphinx import PocketSphinxTranscriber
from models.encoders.speech import load_transcriber, weights_path
from models.encoders.whisper import WhisperTranscriber
from models.errors import PocketSphinxError, TranscriberError, WhisperError
from models.types import FloatArray, Word

# whisper.tokenizer opens its vocabulary and leaves closing it to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tiktoken:ResourceWarning")


@pytest.fixture(scope="module")
def sphinx() -> PocketSphinxTranscriber:
    return PocketSphinxTranscriber()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    dims = whisper.ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=2, n_audio_layer=1,
        n_vocab=51864, n_text_ctx=24, n_text_state=32, n_text_head=2, n_text_layer=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("whisper") / "random.pt"
    state = whisper.Whisper(dims).state_dict()
    # Whisper leaves the decoder's positions uninitialised: whatever the memory held.
    state["decoder.positional_embedding"] = torch.randn(24, 32)
    torch.save({"dims": vars(dims), "model_state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def random_whisper(checkpoint: Path) -> WhisperTranscriber:
    transcriber = load_transcriber(str(checkpoint))
    assert isinstance(transcriber, WhisperTranscriber)
    return transcriber


def sounds() -> list[FloatArray]:
    rng = np.random.default_rng(1)
    return [(rng.standard_normal(n) * 0.1).astype(np.float32) for n in (8_000, 40_000, 23_456)]


@pytest.mark.slow  # computes for seconds
def test_a_batch_of_whisper_equals_its_singles(random_whisper: WhisperTranscriber) -> None:
    batch = sounds()
    together = random_whisper.transcribe(batch)
    alone = [random_whisper.transcribe([samples])[0] for samples in batch]
    assert [t.text for t in together] == [t.text for t in alone]
    for one, other in zip(together, alone, strict=True):
        assert [w.start_ms for w in one.words] == [w.start_ms for w in other.words]
        assert [w.confidence for w in one.words] == pytest.approx([w.confidence for w in other.words], abs=1e-5)


def test_whisper_words_lie_within_the_sound(random_whisper: WhisperTranscriber) -> None:
    for samples, transcript in zip(sounds(), random_whisper.transcribe(sounds()), strict=True):
        assert transcript.words
        assert all(0 <= w.start_ms <= w.end_ms <= len(samples) / 16 for w in transcript.words)
        assert all(0 <= w.confidence <= 1 for w in transcript.words)
        assert transcript.unreliable is not None, "random weights cannot be believed"
        assert transcript.engine.startswith("whisper-random@")
        assert transcript.language == "en"


def test_whisper_takes_nothing_next_to_nothing_and_nan(random_whisper: WhisperTranscriber) -> None:
    assert random_whisper.transcribe([]) == []
    short, broken = random_whisper.transcribe([np.zeros(3, np.float32), np.full(16_000, np.nan, np.float32)])
    assert (short.text, short.unreliable) == ("", "no_speech")
    assert broken.engine == random_whisper.engine
    with pytest.raises(WhisperError, match="at most 30 s"):
        random_whisper.transcribe([np.zeros(16_000 * 31, np.float32)])


@pytest.mark.parametrize(
    ("text", "no_speech", "log_probability", "compression", "gate"),
    [
        ("Thank you.", 0.9, -1.5, 1.0, "no_speech"),
        ("Thank you.", 0.9, -0.2, 1.0, None),
        ("no no no no", 0.0, -0.2, 3.0, "repetition"),
        ("Blurred words", 0.0, -1.5, 1.0, "low_confidence"),
        (" ... ", 0.0, -0.2, 1.0, "no_speech"),
    ],
)
def test_whisper_gates(
    text: str, no_speech: float, log_probability: float, compression: float, gate: str | None
) -> None:
    assert whisper_family.unreliable_reason(text, no_speech, log_probability, compression) == gate


def test_a_checkpoint_with_another_digest_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WhisperError, match="SHA-256"):
        load_transcriber(str(checkpoint), sha256="0" * 64)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, save: Callable[..., Any]) -> None:
    mark, path = tmp_path / "ran", tmp_path / "bomb.pt"
    save({"dims": Bomb(mark), "model_state_dict": {}}, path)
    with pytest.raises(WhisperError, match="no Whisper checkpoint"):
        load_transcriber(str(path))
    assert not mark.exists()


def test_the_weights_lie_in_whispers_cache_under_its_own_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")

    assert weights_path("large") == Path("/cache/whisper/large-v3.pt")
    assert weights_path("own.pt") == Path("own.pt")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(TranscriberError, match="pocketsphinx"):
        load_transcriber("whispr")


@pytest.mark.parametrize("deadline_s", [20.0, 0.01])
def test_pocketsphinx_serves_where_the_weights_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deadline_s: float
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with caplog.at_level(logging.WARNING):
        transcriber = load_transcriber("tiny.en", fetch_deadline_s=deadline_s)
    assert transcriber.engine.startswith("pocketsphinx-")
    assert "Whisper tiny.en cannot serve" in caplog.text
    assert transcriber.engine in caplog.text


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(48_000, np.float32),
        np.full(48_000, np.nan, np.float32),
        (np.random.default_rng(0).standard_normal(48_000) * 0.05).astype(np.float32),
    ],
)
def test_pocketsphinx_hears_no_words_in_silence_and_noise(sphinx: PocketSphinxTranscriber, samples: FloatArray) -> None:
    (transcript,) = sphinx.transcribe([samples])
    assert (transcript.text, transcript.words, transcript.unreliable) == ("", (), "no_speech")


def test_pocketsphinx_does_not_believe_a_tone(sphinx: PocketSphinxTranscriber) -> None:
    (transcript,) = sphinx.transcribe([(0.3 * np.sin(np.arange(48_000) * 0.17)).astype(np.float32)])
    assert transcript.unreliable is not None


def test_pocketsphinx_gates() -> None:
    assert pocketsphinx.unreliable_reason([Word("so", 0, 3000, 1.0)]) == "low_confidence"
    assert pocketsphinx.unreliable_reason([Word("so", 0, 300, 0.1)]) == "low_confidence"
    assert pocketsphinx.unreliable_reason([Word("so", 0, 300, 0.9)]) is None


def test_pocketsphinx_refuses_what_is_no_utterance(sphinx: PocketSphinxTranscriber) -> None:
    with pytest.raises(PocketSphinxError, match="one utterance"):
        sphinx.transcribe([np.zeros((2, 16_000), np.float32)])


def test_pocketsphinx_understands_read_speech_the_same_in_any_order(
    data_dir: Path, sphinx: PocketSphinxTranscriber
) -> None:
    paths = sorted((data_dir / "speech" / "librivox").glob("*.wav"))[:3]
    batch = [soundfile.read(path, dtype="float32")[0] for path in paths]
    found = sphinx.transcribe(batch)
    assert sphinx.transcribe(batch[::-1])[::-1] == found
    for path, samples, transcript in zip(paths, batch, found, strict=True):
        spoken = set(path.with_suffix(".txt").read_text().split())
        assert len(spoken & set(transcript.text.split())) >= len(spoken) / 2
        assert transcript.unreliable is None
        assert all(w.text.isascii() and not set(w.text) & set("<[(") for w in transcript.words)
        assert all(0 <= w.start_ms < w.end_ms <= len(samples) / 16 for w in transcript.words)
