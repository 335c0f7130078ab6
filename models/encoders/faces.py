"""The face of an utterance's pictures: found by MTCNN on a few, followed by correlation on the rest, cut out small.

MTCNN (Zhang et al. 2016, arXiv:1604.02878) with the weights of the facenet-pytorch wheel.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.encoders import video
from models.encoders.video import GREY_WEIGHTS
from models.errors import FaceInputError, FaceNotFoundError
from models.types import Picture, Timed

CROP_PX = 48
CROPS_MAX = 16
"""Pictures looked at, and so faces handed to the encoder, evenly spaced over the utterance."""
MARGIN = 0.05
"""Added on each side of the box, as a part of its longer side: FER2013's framing."""

DETECT_SIDE_PX = 320
"""Longest side of the picture in which MTCNN searches."""
FACE_MIN_PX = 28
"""Smallest face searched for, in that picture."""
PROBABILITY_MIN = 0.9
DETECT_EVERY_MS = 2000
RETRY_MS = 600
"""Wait before searching again where nothing was found."""

TEMPLATE_PX = 24
"""Longer side of a face while it is followed."""
REACH_PX = 8
"""How far it may move between two pictures, at that size."""
CORRELATION_MIN = 0.6

PICTURE_SIDE_MAX_PX = 16_384
WORK_SIDE_PX = 1280
"""A longer picture is thinned to this first, which bounds memory."""
FRAMES_MAX = 4096

Crops = NDArray[np.uint8]
Grey = NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Track:
    """A face being followed: box (left, top, right, bottom) in a picture of `shape`, and its look at `scale`."""

    box: Box
    shape: tuple[int, ...]
    scale: float
    template: Tensor


def prepare(frames: Sequence[tuple[int, Picture]]) -> Crops:
    """What the face encoder takes: the faces of an utterance's pictures, see `find_faces`, (N, 48, 48), N >= 1.

    Raises:
        FaceNotFoundError: No face in any picture.
        FaceInputError: As `find_faces`.
    """
    return prepare_timed(frames).prepared


def prepare_timed(frames: Sequence[tuple[int, Picture]]) -> Timed[Crops]:
    """`prepare`, with the time of the picture that each face was cut out of.

    Raises:
        FaceNotFoundError: No face in any picture.
        FaceInputError: As `find_faces`.
    """
    found = _faces_of(frames)
    if not found:
        raise FaceNotFoundError("no face in any sampled picture")
    return Timed(video.prepare(np.stack([crop for _, crop in found])), np.array([time for time, _ in found], np.int32))


def find_faces(frames: Sequence[tuple[int, Picture]]) -> Crops:
    """Cut the largest face out of an utterance's pictures.

    A function of its input alone: nothing is kept from one utterance to the next.

    Args:
        frames: `(time_ms, picture)` in order of time; each picture uint8 RGB (H, W, 3) or grey (H, W), at most
            16384 pixels a side; sizes may differ. At most 4096.

    Returns:
        uint8 grey (N, 48, 48), N <= 16, the face filling most of each crop; N = 0 when no face is found.

    Raises:
        FaceInputError: For anything else.
    """
    found = _faces_of(frames)
    return np.stack([crop for _, crop in found]) if found else np.zeros((0, CROP_PX, CROP_PX), np.uint8)


def _faces_of(frames: Sequence[tuple[int, Picture]]) -> list[tuple[int, Crops]]:
    """The face (48, 48) of each picture that has one, with its time."""
    if len(frames) > FRAMES_MAX:
        raise FaceInputError(f"{len(frames)} pictures in one utterance; sample at most {FRAMES_MAX}")
    found: list[tuple[int, Crops]] = []
    track: _Track | None = None
    searched_ms: int | None = None
    for time_ms, picture in _spaced(frames):
        rgb = _checked(picture)
        grey = (rgb @ GREY_WEIGHTS).astype(np.float32)
        if track is not None:
            track = _followed(track, grey)
            searched_ms = searched_ms if track is not None else None
        if searched_ms is None or time_ms - searched_ms >= (RETRY_MS if track is None else DETECT_EVERY_MS):
            searched_ms = time_ms
            box = _detected(rgb)
            # A turned face that the detector misses stays with its track as long as it correlates.
            track = track if box is None else _started(box, grey)
        if track is not None:
            found.append((time_ms, cut_out(grey, track.box)))
    return found


def cut_out(grey: Grey, box: Box) -> Crops:
    """Cut a square around a box, `MARGIN` wider on each side, edges repeated: grey (H, W) to uint8 (48, 48)."""
    left, top, right, bottom = box
    side = max(round(max(right - left, bottom - top) * (1 + 2 * MARGIN)), 1)
    x = round((left + right - side) / 2)
    y = round((top + bottom - side) / 2)
    rows = np.clip(np.arange(y, y + side), 0, grey.shape[0] - 1)
    columns = np.clip(np.arange(x, x + side), 0, grey.shape[1] - 1)
    small = _resized(torch.from_numpy(grey[np.ix_(rows, columns)]), CROP_PX, CROP_PX)
    return small.round().clamp(0, 255).to(torch.uint8).numpy()


def _spaced(frames: Sequence[tuple[int, Picture]]) -> list[tuple[int, Picture]]:
    if len(frames) <= CROPS_MAX:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, CROPS_MAX).round().astype(int)]


def _checked(picture: Picture) -> Picture:
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise FaceInputError(f"a picture of {picture.dtype} {picture.shape}; send uint8 (H, W, 3) or (H, W)")
    if not 1 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= PICTURE_SIDE_MAX_PX:
        raise FaceInputError(
            f"a picture of {picture.shape[:2]} pixels; each side must be in [1, {PICTURE_SIDE_MAX_PX}]"
        )
    step = -(-max(picture.shape[:2]) // WORK_SIDE_PX)
    thinned = picture[::step, ::step]
    return thinned if picture.ndim == 3 else np.repeat(thinned[:, :, None], 3, axis=2)


def _resized(image_HW: Tensor, height: int, width: int) -> Tensor:  # noqa: N803  shape suffix
    return functional.interpolate(
        image_HW[None, None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]


@functools.cache
def _detector() -> Any:
    # facenet-pytorch loads with torch.load, which reads tensors only (weights_only is its default since torch 2.6).
    return MTCNN(min_face_size=FACE_MIN_PX, select_largest=True, keep_all=True).eval()


def _detected(rgb: Picture) -> Box | None:
    """The largest face of a picture, or None."""
    height, width = rgb.shape[:2]
    scale = min(1.0, DETECT_SIDE_PX / max(height, width))
    small = (round(height * scale), round(width * scale))
    if min(small) < FACE_MIN_PX:
        return None
    planes = torch.tensor(rgb).permute(2, 0, 1)[None].float()
    shrunk = functional.interpolate(planes, size=small, mode="bilinear", antialias=True, align_corners=False)
    boxes, probabilities = _detector().detect(shrunk[0].permute(1, 2, 0))
    if boxes is None:
        return None
    for box, probability in zip(boxes, probabilities, strict=True):
        if float(probability) >= PROBABILITY_MIN:
            left, top, right, bottom = (float(edge) for edge in box)
            x, y = width / small[1], height / small[0]
            return left * x, top * y, right * x, bottom * y
    return None


def _started(box: Box, grey: Grey) -> _Track:
    scale = TEMPLATE_PX / max(box[2] - box[0], box[3] - box[1], 1.0)
    small = _shrunk(grey, scale)
    left, top, right, bottom = _scaled(box, scale, small)
    return _Track(box, grey.shape, scale, small[top:bottom, left:right].clone())


def _followed(track: _Track, grey: Grey) -> _Track | None:
    """The track moved to where its template correlates best near its last place, or None where it is lost."""
    if grey.shape != track.shape:
        return None
    small = _shrunk(grey, track.scale)
    left, top, _, _ = _scaled(track.box, track.scale, small)
    height, width = track.template.shape
    y, x = max(top - REACH_PX, 0), max(left - REACH_PX, 0)
    region = small[y : top + height + REACH_PX, x : left + width + REACH_PX]
    if region.shape[0] < height or region.shape[1] < width:
        return None
    correlation = correlate(region, track.template)
    best = int(correlation.argmax())
    if float(correlation.flatten()[best]) < CORRELATION_MIN:
        return None
    right_by = (x + best % correlation.shape[1] - left) / track.scale
    down_by = (y + best // correlation.shape[1] - top) / track.scale
    box = track.box
    moved = (box[0] + right_by, box[1] + down_by, box[2] + right_by, box[3] + down_by)
    return _Track(moved, track.shape, track.scale, track.template)


def _shrunk(grey: Grey, scale: float) -> Tensor:
    height, width = (max(round(side * scale), 1) for side in grey.shape)
    return _resized(torch.from_numpy(grey), height, width)


def _scaled(box: Box, scale: float, small: Tensor) -> tuple[int, int, int, int]:
    """The box in the small picture, clamped to it, at least one pixel a side."""
    height, width = small.shape
    left, top = min(max(round(box[0] * scale), 0), width - 1), min(max(round(box[1] * scale), 0), height - 1)
    right, bottom = min(max(round(box[2] * scale), left + 1), width), min(max(round(box[3] * scale), top + 1), height)
    return left, top, right, bottom


def correlate(region: Tensor, template: Tensor) -> Tensor:
    """Normalised cross-correlation in [-1, 1] of a template (h, w) at each place in a region (H, W).

    Lewis 1995, "Fast Normalized Cross-Correlation", eq. 2. A flat patch or template correlates with nothing (0).
    Shape of the result: (H - h + 1, W - w + 1).
    """
    windows = region.unfold(0, template.shape[0], 1).unfold(1, template.shape[1], 1).flatten(2)
    windows = windows - windows.mean(-1, keepdim=True)
    shape = (template - template.mean()).flatten()
    norm = windows.norm(dim=-1) * shape.norm()
    return torch.where(norm > 1e-3, windows @ shape / norm.clamp_min(1e-3), torch.zeros_like(norm))
