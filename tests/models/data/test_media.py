import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from models.data import media
from models.data.media import read_pictures, read_sound
from models.types import FloatArray


def tone(rate_hz: int, seconds: float = 0.5, hz: float = 400.0) -> FloatArray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def film(path: Path, seconds: float = 1.0, size: tuple[int, int] = (64, 48), *, sound: bool = True) -> Path:
    """A film of 10 pictures per s that get brighter by 20 each, with a tone at 16 kHz."""
    with av.open(path, "w") as container:
        picture = container.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
        voice = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for place in range(int(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(
                np.full((size[1], size[0], 3), 20 * place % 256, dtype=np.uint8), "rgb24"
            )
            frame.pts, frame.time_base = place, Fraction(1, 10)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if voice is not None:
            block = av.AudioFrame.from_ndarray((tone(16_000, seconds) * 32767).astype(np.int16)[None], "s16", "mono")
            block.sample_rate = 16_000
            for packed in [*av.AudioResampler(format=voice.format, layout="mono", rate=16_000).resample(block)]:
                container.mux(voice.encode(packed))
            container.mux(voice.encode(None))
    return path


@pytest.mark.parametrize(("suffix", "kind"), [("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "PCM_16"), ("wav", "FLOAT"),
                                              ("wav", "PCM_U8"), ("wav", "ULAW")])  # fmt: skip
def test_sound_is_what_libsndfile_reads(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.stack([tone(16_000), 0.5 * tone(16_000, hz=900)], axis=1), 16_000, subtype=kind)

    found = read_sound(path)

    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, soundfile.read(path, dtype="float32")[0].mean(axis=1), atol=1e-4)


def test_one_channel_may_be_taken_of_several(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.stack([tone(16_000), 0.5 * tone(16_000, hz=900)], axis=1), 16_000)

    first, second = (read_sound(path, channel=channel) for channel in (0, 1))

    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first, tone(16_000), atol=1e-4)
    np.testing.assert_allclose(second, 0.5 * tone(16_000, hz=900), atol=1e-4)
    assert read_sound(path, channel=2) is None


def test_another_rate_becomes_16_khz(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(48_000), 48_000)

    found = read_sound(tmp_path / "clip.wav")

    assert found is not None
    assert found.shape == (8_000,)
    np.testing.assert_allclose(found[1000:7000], tone(16_000)[1000:7000], atol=0.01)


def test_of_long_sound_the_beginning_is_heard_and_a_short_clip_stays_short(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", tone(16_000, 3.0), 16_000)
    soundfile.write(tmp_path / "short.flac", tone(16_000, 0.05), 16_000)

    long, short = read_sound(tmp_path / "long.flac", max_s=1.5), read_sound(tmp_path / "short.flac")

    assert long is not None
    assert short is not None
    assert (len(long), len(short)) == (24_000, 800)


def test_a_cut_off_file_gives_what_came_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.flac", rng.uniform(-0.5, 0.5, 32_000), 16_000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:30_000])

    whole, cut = read_sound(tmp_path / "whole.flac"), read_sound(tmp_path / "cut.flac")

    assert whole is not None
    assert cut is not None
    assert 4_000 < len(cut) < 32_000
    np.testing.assert_array_equal(cut[:4_000], whole[:4_000])


def _empty_wav(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)


@pytest.mark.parametrize(
    "content", [b"", b"no sound at all, but a line of text\n" * 50, b"RIFF", b"fLaC", b"\0" * 5000]
)
@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.mp4"])
def test_what_cannot_be_decoded_is_neither_sound_nor_film(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    assert read_sound(tmp_path / name) is None
    assert read_pictures(tmp_path / name) is None


def test_no_samples_no_numbers_and_too_many_channels_are_no_sound(tmp_path: Path) -> None:
    _empty_wav(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "empty.flac", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "wide.wav", np.zeros((800, 8)), 16_000)

    assert [read_sound(path) for path in sorted(tmp_path.iterdir())] == [None] * 4


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "secret.wav", tone(16_000), 16_000)
    (tmp_path / "list.wav").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.wav").write_text("ffconcat version 1.0\nfile secret.wav\n")
    monkeypatch.chdir(tmp_path)

    assert read_sound(Path("list.wav")) is None
    assert read_sound(Path("concat.wav")) is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "flv", "avi"])
def test_a_film_gives_five_pictures_a_second_and_its_sound(tmp_path: Path, suffix: str) -> None:
    path = film(tmp_path / f"film.{suffix}")

    pictures, sound = read_pictures(path), read_sound(path)

    assert pictures is not None
    assert pictures.shape == (5, 48, 64, 3)
    assert pictures.dtype == np.uint8
    # Every other of the pictures 0, 20, 40 … is kept.
    np.testing.assert_allclose(pictures.mean(axis=(1, 2, 3)), [0, 40, 80, 120, 160], atol=6)
    assert sound is not None
    assert 0.9 < len(sound) / 16_000 < 1.2
    assert 0.15 < np.sqrt(np.mean(sound[4_000:12_000] ** 2)) < 0.25


def test_a_film_is_bounded_in_pictures_and_in_their_size(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", seconds=3.0, size=(1280, 320), sound=False)

    pictures = read_pictures(path, max_s=2.0)

    assert pictures is not None
    assert pictures.shape == (10, 160, media.SIDE_MAX_PX, 3)
    assert read_sound(path) is None


def test_real_films_have_pictures_and_those_with_a_voice_have_sound(data_dir: Path) -> None:
    path = data_dir / "clips" / "ravdess_01_neutral.mp4"

    pictures, sound = read_pictures(path), read_sound(path)

    assert pictures is not None
    assert pictures.shape == (17, 360, 640, 3)
    assert sound is not None
    assert 3.2 < len(sound) / 16_000 < 3.5
    assert read_sound(data_dir / "clips" / "silent_happy.mp4") is None
