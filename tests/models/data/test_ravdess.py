from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import ravdess
from models.data import recordings as recordings_file
from models.errors import DataError
from models.labels import RAVDESS_LABELS
from tests.films import film, tone


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for actor in (1, 18, 19, 22):
        folder = tmp_path / "ravdess" / f"Actor_{actor:02}"
        folder.mkdir(parents=True)
        for emotion in (1, 8):
            soundfile.write(
                folder / f"03-01-{emotion:02}-01-01-01-{actor:02}.flac", tone(16_000, seconds=actor / 10), 16_000
            )
    return tmp_path


@pytest.mark.parametrize(("split", "actors"), [("train", [1, 1, 18, 18]), ("validation", [19, 19]), ("test", [22, 22])])
def test_splits_never_share_an_actor(recordings: Path, split: str, actors: list[int]) -> None:
    read = ravdess.read(recordings, split)

    assert [round(len(clip) / 1_600) for clip in read.clips] == actors
    assert read.labels.tolist() == [0, 7] * (len(actors) // 2)
    assert read.speakers.tolist() == actors
    assert read.label_names == RAVDESS_LABELS


def test_all_takes_whatever_lies_there(recordings: Path) -> None:
    soundfile.write(recordings / "ravdess" / "Actor_01" / "03-01-02-01-01-01-77.WAV", tone(16_000), 16_000)

    assert np.unique(ravdess.read(recordings, "all").speakers).tolist() == [1, 18, 19, 22, 77]
    assert len(ravdess.read(recordings / "ravdess", "all").clips) == 9
    assert ravdess.read(recordings / "ravdess" / "Actor_22", "all").speakers.tolist() == [22, 22]


def test_folders_above_the_actors_change_nothing(recordings: Path) -> None:
    (recordings / "ravdess" / "holdout").mkdir()
    (recordings / "ravdess" / "Actor_22").rename(recordings / "ravdess" / "holdout" / "Actor_22")

    assert ravdess.read(recordings, "test").speakers.tolist() == [22, 22]


def test_films_are_heard_and_a_performance_counts_once_by_its_sound_file(recordings: Path) -> None:
    folder = recordings / "ravdess" / "Actor_19"
    film(folder / "01-01-01-01-01-01-19.mp4")  # lies there as 03-….flac of 1.9 s too
    film(folder / "01-01-05-01-01-01-19.mp4")
    film(folder / "02-01-05-01-01-01-19.mp4", sound=False)
    film(folder / "02-01-06-01-01-01-19.mp4", sound=False)

    read = ravdess.read(recordings, "validation")

    assert sorted(read.labels.tolist()) == [0, 4, 7]
    assert read.skipped == 0
    lengths = {int(label): len(clip) for label, clip in zip(read.labels, read.clips, strict=True)}
    assert lengths[0] == 30_400
    assert 0.4 < lengths[4] / 16_000 < 0.7


def test_the_statement_in_the_name_is_what_is_said(recordings: Path) -> None:
    folder = recordings / "ravdess" / "Actor_19"
    soundfile.write(folder / "03-01-05-01-02-01-19.wav", tone(16_000), 16_000)
    soundfile.write(folder / "03-01-06-01-03-01-19.wav", tone(16_000), 16_000)  # there is no third

    read = ravdess.read_words(recordings, "validation")

    said = {name: read.label_names[label] for name, label in zip(read.names, read.labels, strict=True)}
    assert said == {
        "03-01-01-01-01-01-19": "Kids are talking by the door",
        "03-01-05-01-02-01-19": "Dogs are sitting by the door",
        "03-01-08-01-01-01-19": "Kids are talking by the door",
    }
    assert read.skipped == 1


def test_songs_and_links_out_of_the_folder_are_skipped_and_counted(recordings: Path) -> None:
    folder = recordings / "ravdess" / "Actor_19"
    soundfile.write(folder / "03-02-01-01-01-01-19.wav", tone(16_000), 16_000)
    soundfile.write(recordings / "secret.wav", tone(16_000), 16_000)
    (folder / "03-01-05-01-01-01-19.wav").symlink_to(recordings / "secret.wav")

    read = ravdess.read(recordings, "validation")

    assert (len(read.clips), read.skipped) == (2, 2)


def test_broken_files_are_skipped_and_counted(recordings: Path) -> None:
    folder = recordings / "ravdess" / "Actor_19"
    (folder / "03-01-02-01-01-01-19.flac").write_bytes(b"no sound")
    (folder / "03-01-03-01-01-01-19.wav").touch()
    (folder / "notes.wav").write_bytes(b"")
    soundfile.write(folder / "03-01-09-01-01-01-19.flac", tone(16_000), 16_000)
    (folder / "03-01-06-01-01-01-19.wav").write_text("a text that calls itself a sound")
    film(folder / "01-01-07-01-01-01-19.mp4", sound=False)
    not_a_number = np.full(800, np.nan, dtype=np.float32)
    soundfile.write(folder / "03-01-04-01-01-01-19.wav", not_a_number, 16_000, subtype="FLOAT")

    read = ravdess.read(recordings, "validation")

    assert (len(read.clips), read.skipped) == (2, 7)


def test_an_unknown_split_and_an_empty_folder_are_named(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of train"):
        ravdess.read(recordings, "dev")
    with pytest.raises(DataError, match=r"see docs/data\.md"):
        ravdess.read(tmp_path / "nothing", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected ravdess/Actor_NN"):
        ravdess.read(tmp_path / "empty", "all")


def test_more_sound_than_memory_should_hold_is_refused(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings_file, "TOTAL_MAX_S", 2)

    with pytest.raises(DataError, match="give fewer files"):
        ravdess.read(recordings, "all")


def test_the_real_set_has_sixty_clips_an_actor(data_dir: Path) -> None:
    read = ravdess.read(data_dir, "validation")

    assert (len(read.clips), read.skipped) == (180, 0)
    assert np.bincount(read.labels).tolist() == [12, 24, 24, 24, 24, 24, 24, 24]
    assert np.bincount(ravdess.read_words(data_dir, "validation").labels).tolist() == [90, 90]
