import logging
import sys
from pathlib import Path

import ctranslate2
import pytest

from models.encoders.speech import absolute_source, load_transcriber, weights_path
from models.encoders.whisper_ct2 import COMPUTE_TYPES
from models.encoders.whisper_weights import PACKED
from models.errors import TranscriberError, WhisperError

# whisper.tokenizer opens its vocabulary and leaves closing it to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tiktoken:ResourceWarning")


def test_a_processor_is_served_in_what_it_can_do_and_the_reference_is_one_word_away() -> None:
    supported = ctranslate2.get_supported_compute_types("cpu")
    first = next(kind for kind in COMPUTE_TYPES if kind in supported)
    for name in PACKED:
        engine = load_transcriber(name).engine
        assert engine.startswith(f"whisper-{name}/ctranslate2-")
        assert engine.endswith((f"-{first}", f"-{first}_float32"))
    assert load_transcriber("tiny.en", engine="openai").engine.startswith("whisper-tiny.en/openai-")


def test_openai_whisper_serves_where_ctranslate2_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    monkeypatch.delitem(sys.modules, "models.encoders.whisper_ct2", raising=False)
    with caplog.at_level(logging.WARNING):
        assert load_transcriber("tiny.en").engine.startswith("whisper-tiny.en/openai-")
    assert "CTranslate2 cannot be loaded here" in caplog.text
    with pytest.raises(WhisperError, match="CTranslate2 cannot be loaded here"):
        load_transcriber("tiny.en", engine="ctranslate2")


def test_the_weights_lie_in_whispers_cache_under_its_own_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")

    assert weights_path("large") == Path("/cache/whisper/large-v3.pt")
    assert weights_path("own.pt") == Path("own.pt")


def test_an_unknown_name_is_refused_with_the_installed_ones_first() -> None:
    with pytest.raises(TranscriberError, match=r"one of tiny\.en, base, "):
        load_transcriber("whispr")


@pytest.mark.slow  # starts a process of its own
@pytest.mark.parametrize("name", ["small.en", "small"])
def test_installed_weights_serve_where_others_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "whisper.py").write_text("open('loaded', 'w').close()")
    monkeypatch.chdir(tmp_path)  # whose modules are not loaded
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with caplog.at_level(logging.WARNING):
        transcriber = load_transcriber(name)
    assert transcriber.engine.startswith("whisper-base/")
    assert f"Whisper {name} cannot serve" in caplog.text
    assert transcriber.engine in caplog.text
    assert not (tmp_path / "loaded").exists()


def test_a_path_becomes_absolute_and_a_name_stays_one_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "small", "own.pt"):
        (tmp_path / name).touch()
    found = [absolute_source(name) for name in ("base", "small", "own.pt", "gone.pt")]
    assert found == ["base", "small", str(tmp_path / "own.pt"), "gone.pt"]


def test_weights_that_do_not_come_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert load_transcriber("small.en", fetch_deadline_s=0.01).engine.startswith("whisper-base/")
    assert "did not come within 0.01 s" in caplog.text


@pytest.mark.slow  # starts a process of its own
def test_a_damaged_file_in_the_cache_is_fetched_anew_and_never_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    weights = weights_path("small.en")
    weights.parent.mkdir()
    weights.write_bytes(b"half of a file")
    with caplog.at_level(logging.WARNING):
        assert load_transcriber("small.en").engine.startswith("whisper-base/")
    assert "Whisper small.en cannot serve" in caplog.text
