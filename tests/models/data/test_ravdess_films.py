from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import ravdess_films
from models.errors import DataError
from models.labels import RAVDESS_LABELS
from tests.films import film


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "ravdess" / "Actor_20"
    film(folder / "01-01-05-01-01-01-20.mp4")
    film(folder / "02-01-05-01-01-01-20.mp4", sound=False)
    film(folder / "02-01-06-01-01-01-20.mkv", sound=False)
    film(tmp_path / "ravdess" / "Actor_23" / "01-01-08-02-01-01-23.mov")
    soundfile.write(folder / "03-01-01-01-01-01-20.flac", np.zeros(800), 16_000)
    return tmp_path


def test_a_performance_counts_once_and_by_its_film_with_sound(films: Path) -> None:
    found = ravdess_films.read(films, "validation")

    assert [path.name for path in found.paths] == ["01-01-05-01-01-01-20.mp4", "02-01-06-01-01-01-20.mkv"]
    assert found.labels.tolist() == [4, 5]
    assert found.speakers.tolist() == [20, 20]
    assert (found.label_names, found.skipped) == (RAVDESS_LABELS, 0)
    assert len(ravdess_films.read(films, "all").paths) == 3


def test_films_are_decoded_one_by_one_with_or_without_sound(films: Path) -> None:
    full, silent = (ravdess_films.decode(path) for path in ravdess_films.read(films, "validation").paths)

    assert full is not None
    assert silent is not None
    assert full[0].shape == silent[0].shape == (3, 32, 32, 3)
    assert full[1] is not None
    assert 0.4 < len(full[1]) / 16_000 < 0.7
    assert silent[1] is None


def test_what_shows_no_picture_is_none(films: Path) -> None:
    path = films / "ravdess" / "Actor_20" / "01-01-07-01-01-01-20.mp4"
    path.write_bytes(b"no film")

    assert path in ravdess_films.read(films, "validation").paths
    assert ravdess_films.decode(path) is None


def test_no_film_and_an_unknown_split_are_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no RAVDESS film of split 'train'"):
        ravdess_films.read(films, "train")
    with pytest.raises(DataError, match="choose one of train"):
        ravdess_films.read(films, "dev")
    with pytest.raises(DataError, match=r"see docs/data\.md"):
        ravdess_films.read(tmp_path / "nothing", "all")
