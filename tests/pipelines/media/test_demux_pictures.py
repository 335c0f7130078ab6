"""Fragments in; pictures at their times out."""

import io
import struct
from typing import Any

import av
import numpy as np
import pytest

from pipelines.settings import StreamSettings, VideoSettings
from tests.pipelines import media_files as media
from tests.pipelines.media_files import BOTH, CUSTOMER, fragment


@pytest.mark.parametrize(
    ("container", "codecs", "options"),
    [
        ("matroska", "libx264 flac", {"bf": "3"}),
        ("mp4", "libx264 aac", {"bf": "2"}),
        ("mov", "mjpeg pcm_s16le", {}),
        ("webm", "libvpx libopus", {"deadline": "realtime", "auto-alt-ref": "0"}),
    ],
)
@pytest.mark.parametrize("key_every", [12, 1000])
def test_every_picture_keeps_its_time(container: str, codecs: str, options: dict[str, str], key_every: int) -> None:
    codec, sound = codecs.split()
    whole = media.film(
        container,
        picture_codec=codec,
        sound_codec=sound,
        samples=media.sound(4, 48_000),
        rate_hz=48_000,
        seconds=4,
        key_every=key_every,
        picture_options=options,
    )
    cuts = media.cut(io.BytesIO(whole), start_ms=2000)
    heard = media.hear(cuts, settings=StreamSettings(video=VideoSettings(frames_per_s=25)))
    assert [frame.time_ms for frame in heard.frames] == [2000 + 40 * n for n in range(100)]
    assert [media.picture_number(frame.pixels) for frame in heard.frames] == [n % 16 for n in range(100)]
    sampled = media.hear(cuts).frames
    assert [frame.time_ms for frame in sampled] == [2000 + 200 * n for n in range(20)]
    assert sampled[7].pixels.shape == (64, 96, 3)
    assert heard.start_sample[CUSTOMER] == 32_000
    assert heard.damaged == 0


def test_the_choice_of_pictures_does_not_depend_on_the_cuts() -> None:
    whole = media.film("matroska", picture_codec="libx264", seconds=6, pictures_per_s=30, picture_options={"bf": "2"})
    choices = []
    for fragment_ms in (400, 1000, 2500):
        frames = media.hear(media.cut(io.BytesIO(whole), fragment_ms=fragment_ms)).frames
        choices.append([(frame.time_ms, frame.pixels.tobytes()) for frame in frames])
    assert choices[0] == choices[1] == choices[2]
    assert len(choices[0]) == 30


def test_after_a_restart_the_picture_returns_at_a_key_frame() -> None:
    whole = media.film(
        "matroska",
        picture_codec="libx264",
        sound_codec="flac",
        samples=media.sound(9, 16_000),
        seconds=9,
        key_every=100,
        picture_options={"bf": "2"},
    )
    cuts = media.cut(io.BytesIO(whole))
    undisturbed = media.hear(cuts)
    at = next(n for n, cut in enumerate(cuts) if cut.start_ms > 2000)
    start_sample = undisturbed.each[at].start_sample
    assert start_sample is not None
    resumed = media.hear(cuts[at:], start_sample)
    assert resumed.damaged == 0
    assert [frame.time_ms for frame in resumed.frames] == [f.time_ms for f in undisturbed.frames if f.time_ms >= 4000]
    tail = undisturbed.samples[CUSTOMER][start_sample + 100 :]
    assert np.array_equal(resumed.samples[CUSTOMER][100:], tail)


def test_a_missing_fragment_costs_pictures_up_to_the_next_key_frame() -> None:
    whole = media.film("matroska", picture_codec="libx264", seconds=8, key_every=50, picture_options={"bf": "2"})
    cuts = media.cut(io.BytesIO(whole), fragment_ms=500)
    lost = next(n for n, cut in enumerate(cuts) if cut.start_ms > 4200)
    heard = media.hear(cuts[:lost] + cuts[lost + 1 :])
    assert heard.damaged == 0
    for frame in heard.frames:
        assert media.picture_number(frame.pixels) == frame.time_ms // 40 % 16
        assert not cuts[lost].start_ms + 100 < frame.time_ms < 6000
    assert heard.frames[-1].time_ms == 7800


def test_pictures_belong_to_the_customer_and_are_scaled_down() -> None:
    whole = media.film(
        "mp4",
        picture_codec="libx264",
        sound_codec="aac",
        samples=media.sound(1, 48_000, 2),
        rate_hz=48_000,
        seconds=1,
        size=(640, 360),
    )
    frames = media.hear(media.cut(io.BytesIO(whole), BOTH)).frames
    assert {(frame.participant, frame.pixels.shape) for frame in frames} == {(CUSTOMER, (270, 480, 3))}
    assert all(frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous for frame in frames)
    left, right = frames[0].pixels[:, 10].mean(axis=0), frames[0].pixels[:, -10].mean(axis=0)
    assert left[1] > 90
    assert left[2] < 40
    assert right[2] > 90
    assert right[1] < 40


def test_a_film_held_upright_is_turned() -> None:
    whole = bytearray(media.film("mp4", picture_codec="libx264", seconds=1))
    matrix = whole.index(b"tkhd") + 44  # ISO/IEC 14496-12 §8.3.2; a quarter turn clockwise
    whole[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    frames = media.hear(media.cut(io.BytesIO(bytes(whole)))).frames
    assert {frame.pixels.shape for frame in frames} == {(96, 64, 3)}
    assert frames[0].pixels[5, :, 1].mean() > 90  # what was left is up now
    assert frames[0].pixels[-5, :, 2].mean() > 90


def test_a_picture_of_one_pixel() -> None:
    whole = media.film("avi", picture_codec="ffv1", seconds=1, size=(1, 1))
    frames = media.hear(media.cut(io.BytesIO(whole))).frames
    assert {frame.pixels.shape for frame in frames} == {(1, 1, 3)}


def test_cover_art_is_no_film() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as output:
        sound: Any = output.add_stream("libmp3lame", rate=44_100)
        cover: Any = output.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(media.picture(3), format="rgb24")))
        output.mux(cover.encode(None))
        samples = media.sound(3, 44_100)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, 2, axis=0), format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert len(container.streams.video) == 1
    cuts = media.cut(io.BytesIO(file.getvalue()))
    assert {cut.content_type for cut in cuts} == {"audio/x-matroska"}
    heard = media.hear([fragment(file.getvalue(), "audio/mpeg")])
    assert heard.frames == []
    assert abs(len(heard.samples[CUSTOMER]) - 48_000) < 100
