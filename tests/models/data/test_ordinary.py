from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import ordinary
from models.errors import DataError


def write(path: Path, seconds: float, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(seconds * rate_hz)), rate_hz)


def test_files_are_cut_into_pieces_of_one_length_at_16_khz(tmp_path: Path) -> None:
    write(tmp_path / "calls" / "agent_monologue.flac", 6.0, 8_000)
    write(tmp_path / "speech" / "librivox" / "book.wav", 1.0)

    pieces = ordinary.read(tmp_path)

    assert [len(piece) for piece in pieces] == [16_000, 40_000, 40_000]


def test_the_call_that_judges_is_never_read(tmp_path: Path) -> None:
    write(tmp_path / "calls" / "auto_repairs_40_agent.flac", 6.0)
    with pytest.raises(DataError, match="no sound"):
        ordinary.read(tmp_path)
    write(tmp_path / "calls" / "other.flac", 3.0)
    assert len(ordinary.read(tmp_path)) == 1


def test_other_speech_beside_the_books_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "speech" / "jfk.flac", 6.0)
    write(tmp_path / "speech" / "librivox" / "book.wav", 2.5)

    assert len(ordinary.read(tmp_path)) == 1


def test_a_folder_without_sound_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "speech" / "librivox").mkdir(parents=True)
    (tmp_path / "speech" / "librivox" / "book.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="expected speech/librivox"):
        ordinary.read(tmp_path)
