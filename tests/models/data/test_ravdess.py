from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import DataError, ravdess
from models.types import FloatArray


def tone(rate_hz: int, hz: float = 400.0, seconds: float = 0.5) -> FloatArray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


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


def test_all_takes_whatever_lies_there(recordings: Path) -> None:
    assert len(ravdess.read(recordings / "ravdess", "all").clips) == 8


def test_other_rates_and_stereo_become_mono_at_16_khz(recordings: Path) -> None:
    stereo = np.stack([tone(48_000), tone(48_000)], axis=1)
    soundfile.write(recordings / "ravdess" / "Actor_19" / "03-01-05-01-01-01-19.wav", stereo, 48_000)

    read = ravdess.read(recordings, "validation")

    clip = read.clips[read.labels.tolist().index(4)]
    assert clip.shape == (8_000,)
    np.testing.assert_allclose(clip[1000:7000], tone(16_000)[1000:7000], atol=0.01)


def test_broken_files_are_skipped_and_counted(recordings: Path) -> None:
    folder = recordings / "ravdess" / "Actor_19"
    (folder / "03-01-02-01-01-01-19.flac").write_bytes(b"no sound")
    (folder / "03-01-03-01-01-01-19.wav").touch()
    (folder / "notes.wav").write_bytes(b"")
    soundfile.write(folder / "03-01-09-01-01-01-19.flac", tone(16_000), 16_000)
    not_a_number = np.full(800, np.nan, dtype=np.float32)
    soundfile.write(folder / "03-01-04-01-01-01-19.wav", not_a_number, 16_000, subtype="FLOAT")

    read = ravdess.read(recordings, "validation")

    assert (len(read.clips), read.skipped) == (2, 5)


def test_an_unknown_split_and_an_empty_folder_are_named(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of train"):
        ravdess.read(recordings, "dev")
    with pytest.raises(DataError, match="Actor_NN"):
        ravdess.read(tmp_path / "nothing", "train")


def test_the_real_set_has_sixty_clips_an_actor(data_dir: Path) -> None:
    read = ravdess.read(data_dir, "validation")

    assert (len(read.clips), read.skipped) == (180, 0)
    assert np.bincount(read.labels).tolist() == [12, 24, 24, 24, 24, 24, 24, 24]
