from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models import checkpoint
from models.bundles import EMBEDDED
from models.encoders.video import FRAMES_MAX, FaceNetwork, Faces, VideoConfig, VideoEncoder, prepare
from models.errors import VideoInputError
from models.families import load_as
from models.types import Modality

SMALL = VideoConfig(widths=(4, 6, 8, 8), embedding=5)


def pictures(*shape: int, seed: int = 0) -> Faces:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(FaceNetwork(SMALL), SMALL, name="video@test")


@pytest.mark.parametrize("shape", [(3, 48, 48), (3, 160, 160), (2, 12, 12), (2, 90, 60), (2, 160, 160, 3)])
def test_faces_of_any_size_and_colour_become_48_grey_pixels(shape: tuple[int, ...]) -> None:
    prepared = prepare(pictures(*shape))

    assert prepared.shape == (shape[0], 48, 48)
    assert prepared.dtype == np.uint8


def test_a_prepared_grey_face_stays_as_it_is() -> None:
    np.testing.assert_array_equal(prepare(pictures(2, 48, 48)), pictures(2, 48, 48))


def test_colours_become_their_luma() -> None:
    red = np.zeros((1, 48, 48, 3), dtype=np.uint8)
    red[..., 0] = 255

    assert int(prepare(red)[0, 0, 0]) == round(255 * 0.299)


def test_shrinking_averages_instead_of_picking() -> None:
    checkerboard = np.indices((192, 192)).sum(axis=0) % 2 * 255

    assert np.abs(prepare(checkerboard[None].astype(np.uint8)).astype(int) - 127)[:, 4:-4, 4:-4].max() <= 8


def test_of_many_frames_some_are_chosen_evenly_with_both_ends() -> None:
    faces = np.repeat(np.arange(250, dtype=np.uint8), 48 * 48).reshape(250, 48, 48)

    chosen = prepare(faces)[:, 0, 0]

    assert (len(chosen), chosen[0], chosen[-1]) == (FRAMES_MAX, 0, 249)
    assert set(np.diff(chosen.astype(int))) <= {3, 4}


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        (pictures(0, 48, 48), "no face"),
        (pictures(1, 1, 1), "1x1 pixels"),
        (pictures(1, 48, 5), "5x48 pixels"),
        (np.zeros((1, 12, 5000), dtype=np.uint8), "5000x12 pixels"),
        (pictures(48, 48), "uint8"),
        (pictures(1, 48, 48, 4), "uint8"),
        (np.zeros((1, 48, 48), dtype=np.float32), "float32"),
    ],
    ids=["no frames", "1x1", "narrow", "huge", "no frame axis", "four channels", "floats"],
)
def test_what_cannot_be_judged_says_why(faces: Faces, reason: str) -> None:
    with pytest.raises(VideoInputError, match=reason):
        prepare(faces)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_an_answer_does_not_depend_on_the_batch_mates(encoder: VideoEncoder, sizes: list[int]) -> None:
    batch = [pictures(size, 48, 48, seed=seed) for seed, size in enumerate(sizes)]

    for item, feature in zip(batch, encoder.encode(batch), strict=True):
        alone = encoder.encode([item])[0]
        np.testing.assert_allclose(feature.embedding, alone.embedding, atol=1e-4)
        np.testing.assert_allclose(feature.prediction.emotion, alone.prediction.emotion, atol=1e-5)


def test_an_utterance_is_the_mean_of_its_frames_by_the_learned_weights(encoder: VideoEncoder) -> None:
    """Four faces are each seen in one way: near, further and mirrored, near and mirrored, further."""
    faces = pictures(4, 48, 48)
    near, wider = (torch.from_numpy(faces[:, None, edge:-edge, edge:-edge]).float() for edge in (4, 2))
    near, further = (functional.interpolate(x, size=40, mode="bilinear")[:, 0] for x in (near, wider))
    with torch.no_grad():
        views = torch.stack([near[0], further[1].flip(1), near[2].flip(1), further[3]])
        _, logits, weights = encoder._network(views)

    feature = encoder.encode([faces])[0]

    assert feature.modality is Modality.VIDEO
    assert feature.embedding.shape == (5,)
    share = (weights / SMALL.weight_temperature).softmax(dim=0)[:, None]
    expected = (share * logits).sum(dim=0).softmax(dim=0).numpy() @ encoder._to_emotion
    np.testing.assert_allclose(feature.prediction.emotion, expected, atol=1e-5)
    assert feature.prediction.polarity.sum() == pytest.approx(1, abs=1e-5)
    assert -3 <= feature.prediction.score <= 3


def test_a_frame_without_weight_says_nothing() -> None:
    torch.manual_seed(0)
    network = FaceNetwork(SMALL).eval()
    said, *silent = pictures(3, 48, 48)
    judge = VideoEncoder(network, SMALL, name="video@test")
    embeddings = [judge.encode([face[None]])[0].embedding for face in (said, *silent)]
    with torch.no_grad():
        network.weigh.weight.copy_(1e6 * torch.from_numpy(2 * embeddings[0] - embeddings[1] - embeddings[2])[None])

    one, other = judge.encode([np.stack([said, face]) for face in silent])

    np.testing.assert_allclose(one.prediction.emotion, other.prediction.emotion, atol=1e-5)


def test_a_higher_temperature_makes_answers_less_sure(encoder: VideoEncoder) -> None:
    faces = pictures(3, 48, 48)
    calm = VideoEncoder(encoder._network, replace(SMALL, temperature=4.0), name="video@test")

    sure, unsure = (one.encode([faces])[0].prediction.emotion for one in (encoder, calm))

    assert unsure.max() < sure.max()
    assert unsure.argmax() == sure.argmax()


def test_a_mirrored_face_is_judged_alike(encoder: VideoEncoder) -> None:
    face = pictures(1, 48, 48)

    straight, mirrored = encoder.encode([face, np.ascontiguousarray(face[:, :, ::-1])])

    np.testing.assert_allclose(straight.embedding, mirrored.embedding, atol=1e-5)
    np.testing.assert_allclose(straight.prediction.emotion, mirrored.prediction.emotion, atol=1e-6)


def test_exposure_does_not_matter(encoder: VideoEncoder) -> None:
    face = pictures(1, 48, 48) // 3 + 20

    bright, dark = encoder.encode([face * 2, face])

    np.testing.assert_allclose(bright.prediction.emotion, dark.prediction.emotion, atol=1e-3)


def test_a_flat_picture_gives_a_finite_answer(encoder: VideoEncoder) -> None:
    feature = encoder.encode([np.full((1, 48, 48), 255, dtype=np.uint8)])[0]

    assert np.isfinite(feature.embedding).all()
    assert np.isfinite(feature.prediction.emotion).all()


def test_an_empty_batch_has_no_answers(encoder: VideoEncoder) -> None:
    assert encoder.encode([]) == []


@pytest.mark.parametrize("shape", [(0, 48, 48), (1, 47, 48), (48, 48)])
def test_what_prepare_did_not_make_is_refused(encoder: VideoEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(VideoInputError, match="expected prepared faces"):
        encoder.encode([pictures(1, 48, 48), np.zeros(shape, dtype=np.uint8)])


def test_read_only_input_is_welcome(encoder: VideoEncoder) -> None:
    faces = prepare(pictures(2, 60, 60))
    faces.flags.writeable = False

    assert len(encoder.encode([faces])) == 1


def test_an_encoder_comes_back_from_its_checkpoint(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = tmp_path / "video.safetensors"
    sha256 = checkpoint.save(path, encoder._network.state_dict(), SMALL, name="video")

    loaded = load_as(VideoEncoder, path, expected_sha256=sha256)

    faces = pictures(2, 48, 48)
    expected = encoder.encode([faces])[0].prediction.emotion
    assert loaded.name == f"video@{sha256[:8]}"
    np.testing.assert_allclose(loaded.encode([faces])[0].prediction.emotion, expected, atol=0.01)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e9])
def test_an_absurd_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        VideoConfig(temperature=temperature)


@pytest.mark.parametrize("widths", [(), (4, 4, 4), (0, 4, 4, 4), (4, 4, 4, 10**9)])
def test_an_absurd_architecture_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="widths"):
        VideoConfig(widths=widths)


def test_the_embedded_face_network_is_found_small_and_answers() -> None:
    path = EMBEDDED / "video.safetensors"

    feature = load_as(VideoEncoder, path).encode([pictures(2, 48, 48)])[0]

    assert path.stat().st_size < 6 << 20
    assert feature.embedding.shape == (128,)
    assert feature.prediction.emotion.sum() == pytest.approx(1, abs=1e-5)
