import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper

from models.encoders.speech import load_transcriber
from models.encoders.whisper import WhisperTranscriber
from models.errors import WhisperError
from models.types import FloatArray

# whisper.tokenizer opens its vocabulary and leaves closing it to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tiktoken:ResourceWarning")


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
def test_a_batch_equals_its_singles(random_whisper: WhisperTranscriber) -> None:
    batch = sounds()
    together = random_whisper.transcribe(batch)
    alone = [random_whisper.transcribe([samples])[0] for samples in batch]
    assert [t.text for t in together] == [t.text for t in alone]
    for one, other in zip(together, alone, strict=True):
        assert [w.start_ms for w in one.words] == [w.start_ms for w in other.words]
        assert [w.confidence for w in one.words] == pytest.approx([w.confidence for w in other.words], abs=1e-5)


@pytest.mark.slow  # computes for seconds
def test_a_short_window_leaves_the_encoder_its_other_positions(random_whisper: WhisperTranscriber) -> None:
    # The frame of both engines would hear such a text again in 30 s.
    short = random_whisper._decode(sounds(), 15)
    assert len(short) == len(sounds())
    assert [t.text for t in short] == [random_whisper._decode([samples], 15)[0].text for samples in sounds()]
    assert random_whisper._model.encoder.positional_embedding.shape[0] == 1500
    assert [t.text for t in random_whisper._decode(sounds(), 30)] == [
        t.text for t in random_whisper.transcribe(sounds())
    ]


@pytest.mark.slow  # computes for seconds
def test_words_lie_within_the_sound(random_whisper: WhisperTranscriber) -> None:
    for samples, transcript in zip(sounds(), random_whisper.transcribe(sounds()), strict=True):
        assert transcript.words
        assert all(0 <= w.start_ms <= w.end_ms <= len(samples) / 16 for w in transcript.words)
        assert all(0 <= w.confidence <= 1 for w in transcript.words)
        assert transcript.unreliable is not None, "random weights cannot be believed"
        assert transcript.engine.startswith("whisper-random/openai-")
        assert transcript.language == "en"


def test_nothing_next_to_nothing_and_nan(random_whisper: WhisperTranscriber) -> None:
    assert random_whisper.transcribe([]) == []
    short, broken = random_whisper.transcribe([np.zeros(3, np.float32), np.full(16_000, np.nan, np.float32)])
    assert (short.text, short.unreliable) == ("", "no_speech")
    assert broken.engine == random_whisper.engine
    with pytest.raises(WhisperError, match="at most 30 s"):
        random_whisper.transcribe([np.zeros(16_000 * 31, np.float32)])


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
