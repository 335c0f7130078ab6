"""The face encoder: a residual network on grey 48x48 faces; it also says how much each frame of an utterance counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.residual import ResidualBlock
from models.errors import VideoInputError
from models.labels import FER2013_LABELS, emotion_matrix, prediction_from_emotions
from models.types import Features, FeatureSequence, FloatArray, Modality, Timed

SIDE_PX = 48
FACE_MIN_PX = 12
FACE_MAX_PX = 4096
FRAMES_MAX = 75
"""Frames of one utterance that are looked at: 15 s at 5 per s. Of more, as many are taken at even distances."""
BATCH_FACES = 128
VIEWS = 4

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601 luma of red, green and blue, which the JPEGs of FER2013 were made with."""

Faces = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """Architecture of the face network.

    Attributes:
        widths: Channels of the four residual stages, each halving the side.
        embedding: Length of the embedding.
        dropout: Before the embedding, while training.
        labels: Classes of the head, names that `models.labels.TO_EMOTION` knows.
        temperature: What logits are divided by before the softmax (Guo et al. 2017, arXiv:1706.04599, section 4.2).
        weight_temperature: What the frames' weight logits are divided by; as trained (1) a few frames decide alone.
    """

    widths: tuple[int, ...] = (48, 96, 192, 384)
    embedding: int = 128
    dropout: float = 0.2
    labels: tuple[str, ...] = FER2013_LABELS
    temperature: float = 1.0
    weight_temperature: float = 3.0

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or not all(isinstance(w, int) and 1 <= w <= 2048 for w in self.widths):
            raise ValueError(f"widths must be four numbers in [1, 2048], not {self.widths}")
        if not 1 <= self.embedding <= 4096:
            raise ValueError(f"embedding must be in [1, 4096], not {self.embedding}")
        if not all(0.05 <= t <= 20 for t in (self.temperature, self.weight_temperature)):
            raise ValueError("temperatures must be in [0.05, 20]")


class FaceNetwork(nn.Module):
    """Grey faces to embeddings, class logits and weights; each picture is standardised, so exposure does not matter."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, first // 2 or 1, 3, 1, 1, bias=False),
            nn.BatchNorm2d(first // 2 or 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(first // 2 or 1, first, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        strides = (1, 2, 2, 2)
        pairs = zip((first, *config.widths), config.widths, strides, strict=False)
        self.stages = nn.Sequential(*(ResidualBlock(a, b, stride) for a, b, stride in pairs))
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(config.widths[-1], config.embedding)
        self.head = nn.Linear(config.embedding, len(config.labels))
        self.weigh = nn.Linear(config.embedding, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map pictures (B, S, S), values 0 to 255, to embeddings (B, D), class logits (B, classes) and weight logits (B,).

        The softmax of the weight logits over an utterance's frames says how much each counts (attention pooling; Meng et
        al. 2019, arXiv:1907.00193, section 3).
        """
        x = pictures.float()
        mean = x.mean(dim=(1, 2), keepdim=True)
        deviation = x.std(dim=(1, 2), keepdim=True)
        # 8 grey levels: below that a picture is flat, and amplifying it would show only noise.
        x = ((x - mean) / deviation.clamp_min(8.0))[:, None].contiguous(memory_format=torch.channels_last)
        x = self.stages(self.stem(x)).mean(dim=(2, 3))
        embedding = functional.relu(self.embed(self.dropout(x)))
        return embedding, self.head(embedding), self.weigh(embedding)[:, 0]


def prepare(faces: Faces) -> Faces:
    """Bring face crops to the network's size; this runs where the frames are, so that little travels.

    Args:
        faces: uint8, grey (N, H, W) or RGB (N, H, W, 3); sides from 12 to 4096 pixels.

    Returns:
        Grey (n, 48, 48) uint8 with n = min(N, 75), evenly chosen.

    Raises:
        VideoInputError: No frame, another shape or type, or a side out of range (a 1x1 picture).
    """
    if faces.dtype != np.uint8 or faces.ndim not in {3, 4} or (faces.ndim == 4 and faces.shape[3] != 3):
        raise VideoInputError(f"faces must be uint8 (N, H, W) or (N, H, W, 3), not {faces.dtype} {faces.shape}.")
    if len(faces) == 0:
        raise VideoInputError("no face in any frame: leave the video modality out.")
    if not FACE_MIN_PX <= min(faces.shape[1:3]) <= max(faces.shape[1:3]) <= FACE_MAX_PX:
        raise VideoInputError(
            f"a face of {faces.shape[2]}x{faces.shape[1]} pixels cannot be judged: sides must be {FACE_MIN_PX} to {FACE_MAX_PX}."
        )
    rows = np.linspace(0, len(faces) - 1, min(len(faces), FRAMES_MAX)).round().astype(int)
    return np.stack([_grey_square(face) for face in faces[rows]])


def _grey_square(face: Faces) -> Faces:
    x = torch.from_numpy(face.astype(np.float32))
    if x.dim() == 3:
        x = x @ torch.from_numpy(GREY_WEIGHTS)
    if x.shape != (SIDE_PX, SIDE_PX):
        x = functional.interpolate(x[None, None], size=(SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)[0, 0]
    return np.asarray(x.round().clamp(0, 255).to(torch.uint8))


def _views(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Test-time augmentation: rows of the concatenated batch (V,), and which of the four views of each (V,).

    A face alone is judged in all four views, so that its mirror image has the same answer; of an utterance's many faces each is
    judged in one, in turns, since the pooling averages over them anyway.
    """
    owners, kinds, first = [], [], 0
    for size in sizes:
        each = max(1, VIEWS // size)
        owners.append(torch.arange(first, first + size).repeat_interleave(each))
        kinds.append(torch.arange(size * each) % VIEWS)
        first += size
    return torch.cat(owners), torch.cat(kinds)


def _cropped(pictures: Tensor, kinds: Tensor) -> Tensor:
    """The views (B, 40, 40) of pictures (B, 48, 48): 0 near, 1 wider mirrored, 2 near mirrored, 3 wider.

    The network learned on crops of this size; on the whole picture it is worse.
    """
    near = pictures[:, 4:44, 4:44].float()
    wider = pictures[:, None, 2:46, 2:46].float()
    further = functional.interpolate(wider, size=near.shape[1:], mode="bilinear")[:, 0]
    views = torch.stack([near, further.flip(2), near.flip(2), further])
    return views[kinds.to(views.device), torch.arange(len(pictures), device=views.device)]


def _mean_of(values: Tensor, owners: Tensor) -> Tensor:
    """The mean of the rows (V, …) of each owner, owners counted from 0 without a gap."""
    count = torch.bincount(owners)
    total = values.new_zeros(len(count), *values.shape[1:]).index_add_(0, owners, values)
    return total / count.view(-1, *[1] * (values.dim() - 1))


class VideoEncoder:
    """The trained face network.

    Args:
        network: In `eval` mode.
        config: Its architecture.
        name: Name and hash; a result puts the bundle's name before it: `embedded/video@1a2b3c4d`.
        device: Where it runs.
    """

    def __init__(self, network: FaceNetwork, config: VideoConfig, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self.labels = config.labels
        self._device = torch.device(device)
        self._network = network.eval().to(self._device).to(memory_format=torch.channels_last)
        self._temperature, self._weight_temperature = config.temperature, config.weight_temperature
        self._to_emotion = emotion_matrix(config.labels)

    def probe(self) -> Faces:
        """One black picture."""
        return np.zeros((1, SIDE_PX, SIDE_PX), np.uint8)

    def encode(self, batch: Sequence[Faces | Timed[Faces]]) -> list[Features]:
        """Judge utterances by their prepared faces (n, 48, 48): embeddings and logits averaged by the learned weights.

        The sequence of a `Timed` one has the embedding of each face.

        Raises:
            VideoInputError: An item that `prepare` did not make, or times that are not those of its faces.
        """
        features = []
        faces = [item.prepared if isinstance(item, Timed) else item for item in batch]
        for item, (embeddings, logits, weights) in zip(batch, self._judge(faces), strict=True):
            share = self._shares(weights)
            probabilities = self._probabilities((share * logits).sum(dim=0))
            prediction = prediction_from_emotions(probabilities @ self._to_emotion)
            vector = (share * embeddings).sum(dim=0).numpy()
            features.append(Features(Modality.VIDEO, vector, prediction, _sequence(item, embeddings)))
        return features

    def classify(self, batch: Sequence[Faces]) -> FloatArray:
        """Probabilities (N, classes) of the network's own classes, pooled over each utterance's faces."""
        pooled = [(self._shares(weights) * logits).sum(dim=0) for _, logits, weights in self._judge(batch)]
        return np.stack([self._probabilities(one) for one in pooled])

    def frames(self, batch: Sequence[Faces]) -> list[tuple[FloatArray, FloatArray]]:
        """Judge every frame by itself: embeddings (n, D) and probabilities of the network's own classes (n, classes)."""
        return [(embeddings.numpy(), self._probabilities(logits)) for embeddings, logits, _ in self._judge(batch)]

    @torch.inference_mode()
    def _judge(self, batch: Sequence[Faces]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per utterance and frame: embeddings (n, D), logits (n, classes) and weight logits (n,), on the CPU."""
        for faces in batch:
            if faces.dtype != np.uint8 or faces.shape[1:] != (SIDE_PX, SIDE_PX) or len(faces) == 0:
                raise VideoInputError(
                    f"expected prepared faces uint8 (n, 48, 48), n > 0, not {faces.dtype} {faces.shape}."
                )
        if not batch:
            return []
        pictures, sizes = torch.from_numpy(np.concatenate(batch)), [len(faces) for faces in batch]
        owners, kinds = _views(sizes)
        parts = [
            self._network(_cropped(pictures[rows].to(self._device), kind))
            for rows, kind in zip(torch.split(owners, BATCH_FACES), torch.split(kinds, BATCH_FACES), strict=True)
        ]
        columns = (_mean_of(torch.cat(column).float().cpu(), owners) for column in zip(*parts, strict=True))
        return list(zip(*(torch.split(column, sizes) for column in columns), strict=True))

    def _shares(self, weights: Tensor) -> Tensor:
        """How much each frame counts (n, 1), summing to 1, from weight logits (n,)."""
        return (weights / self._weight_temperature).softmax(dim=0)[:, None]

    def _probabilities(self, logits: Tensor) -> FloatArray:
        return np.asarray((logits / self._temperature).softmax(dim=-1), dtype=np.float32)


def _sequence(item: Faces | Timed[Faces], embeddings: Tensor) -> FeatureSequence | None:
    if not isinstance(item, Timed):
        return None
    if len(item.times_ms) != len(embeddings):
        raise VideoInputError(f"{len(item.times_ms)} times for {len(embeddings)} faces: send what prepare_timed gave.")
    return FeatureSequence(embeddings.numpy(), item.times_ms)
