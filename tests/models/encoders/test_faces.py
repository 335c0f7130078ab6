from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.encoders.faces import (
    CROP_PX,
    CROPS_MAX,
    _followed,
    _started,
    correlate,
    cut_out,
    find_faces,
    prepare,
    prepare_timed,
)
from models.errors import FaceInputError, FaceNotFoundError

Picture = NDArray[np.uint8]


def texture(height: int = 180, width: int = 240) -> NDArray[np.float32]:
    coarse = np.random.default_rng(4).uniform(0, 255, (1, 1, height // 12, width // 12)).astype(np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic")[0, 0].numpy()


def frames_of(path: Path) -> list[tuple[int, Picture]]:
    frames: list[tuple[int, Picture]] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            time_ms = int(1000 * (frame.time or 0))
            if not frames or time_ms >= frames[-1][0] + 200:
                side = 480 / max(frame.width, frame.height, 480)
                small = frame.reformat(width=int(frame.width * side), height=int(frame.height * side), format="rgb24")
                frames.append((time_ms, np.asarray(small.to_ndarray(), np.uint8)))
    return frames


def test_no_picture_has_no_face() -> None:
    assert find_faces([]).shape == (0, CROP_PX, CROP_PX)
    with pytest.raises(FaceNotFoundError, match="no face"):
        prepare([])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (20, 400, 3), (270, 480, 3), (90, 120), (3000, 4000, 3)])
def test_a_picture_without_a_face_has_none(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert len(find_faces([(0, np.full(shape, 90, np.uint8)), (200, noise)])) == 0


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_what_is_no_picture_is_refused_by_name(picture: Picture) -> None:
    with pytest.raises(FaceInputError, match="a picture of"):
        find_faces([(0, picture)])


def test_too_many_pictures_are_refused() -> None:
    with pytest.raises(FaceInputError, match="at most 4096"):
        find_faces([(i, np.zeros((1, 1, 3), np.uint8)) for i in range(4097)])


def test_a_crop_repeats_the_edge_where_the_box_leaves_the_picture() -> None:
    grey = np.zeros((40, 40), np.float32)
    grey[:, :20] = 200
    crop = cut_out(grey, (-10, 0, 30, 40))
    assert crop.shape == (48, 48)
    assert crop.dtype == np.uint8
    assert (crop[:, :30] > 190).all()
    assert (crop[:, -12:] < 10).all()


def test_a_template_correlates_best_where_it_was_taken_and_not_at_all_with_a_flat_patch() -> None:
    region = torch.from_numpy(texture(48, 60))
    found = correlate(region, region[7:31, 11:35])
    assert divmod(int(found.argmax()), found.shape[1]) == (7, 11)
    assert found.max().item() == pytest.approx(1, abs=1e-4)
    assert correlate(torch.ones(20, 20), torch.rand(10, 10)).abs().max() == 0


def test_a_track_follows_a_moving_texture_and_ends_at_another_picture() -> None:
    scene = texture()
    track = _started((60, 50, 130, 120), scene)
    for _ in range(5):
        scene = np.roll(scene, (3, 9), (0, 1))
        followed = _followed(track, scene)
        assert followed is not None
        track = followed
    assert track.box[0] == pytest.approx(60 + 45, abs=4)
    assert track.box[1] == pytest.approx(50 + 15, abs=4)
    assert _followed(track, np.full_like(scene, 128)) is None
    assert _followed(track, scene[:100]) is None


@pytest.mark.parametrize("clip", ["talk_may", "mead_m030_sad", "silent_happy"])
def test_a_talking_face_is_found_in_every_looked_at_picture(data_dir: Path, clip: str) -> None:
    frames = frames_of(data_dir / "clips" / f"{clip}.mp4")
    crops = find_faces(frames)
    assert len(crops) == min(len(frames), CROPS_MAX)
    assert crops.std(axis=(1, 2)).min() > 15
    read_only = [(time_ms, picture.copy()) for time_ms, picture in frames]
    for _, picture in read_only:
        picture.flags.writeable = False
    np.testing.assert_array_equal(find_faces(read_only), crops)
    timed = prepare_timed(frames)
    np.testing.assert_array_equal(timed.prepared, crops)
    np.testing.assert_array_equal(prepare(frames), crops)
    assert set(timed.times_ms.tolist()) <= {time_ms for time_ms, _ in frames}


def test_a_face_that_leaves_gives_no_more_crops(data_dir: Path) -> None:
    frames = frames_of(data_dir / "clips" / "talk_may.mp4")[:6]
    gone = [(time_ms + 1500, np.full_like(picture, 60)) for time_ms, picture in frames]
    assert len(find_faces(frames + gone)) == 6
