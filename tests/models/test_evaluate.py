import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from models import checkpoint, evaluate
from models.checkpoint import CheckpointError
from models.data import DataError
from models.data.labels import FER2013_LABELS
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.encoders.video import FaceNetwork, VideoConfig
from models.types import EMOTIONS, POLARITIES

VOICE, FACE = AudioConfig(widths=(4, 4), embedding=4), VideoConfig(widths=(4, 4, 4, 4), embedding=4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "bundle"
    checkpoint.save(folder / "audio.safetensors", VoiceNetwork(VOICE).state_dict(), VOICE, name="audio")
    checkpoint.save(folder / "video.safetensors", FaceNetwork(FACE).state_dict(), FACE, name="video")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    actor = tmp_path / "ravdess" / "Actor_20"
    actor.mkdir(parents=True)
    for emotion in range(1, 9):
        samples = 0.1 * rng.standard_normal(8_000)
        soundfile.write(actor / f"03-01-{emotion:02}-01-01-01-20.flac", samples, 16_000)
    for label in FER2013_LABELS:
        folder = tmp_path / "fer2013" / "public_test" / label
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(folder / "one.png")
    return tmp_path


@pytest.mark.parametrize(
    ("modality", "dataset", "n"), [("audio", "ravdess", 8), ("audio", "ravdess_telephone", 8), ("video", "fer2013", 7)]
)
def test_an_evaluation_is_one_json_object(bundle: Path, data: Path, modality: str, dataset: str, n: int) -> None:
    result = evaluate.run(modality, str(bundle), dataset, data)

    assert json.loads(json.dumps(result)) == result
    assert (result["dataset"], result["split"], result["n"], result["skipped"]) == (dataset, "validation", n, 0)
    assert len(result["tasks"]["emotion"]["labels"]) == n
    assert result["tasks"]["polarity"]["labels"] == list(POLARITIES)
    for task in result["tasks"].values():
        assert set(task["metrics"]) == {"accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"}
        assert all(0 <= value <= 1 for value in task["metrics"].values())
    assert result["tasks"]["emotion"]["constant"]["balanced_accuracy"] == pytest.approx(1 / n)


def test_all_evaluates_whatever_lies_there(bundle: Path, data: Path) -> None:
    (data / "ravdess" / "Actor_20").rename(data / "ravdess" / "Actor_98")
    for path in (data / "ravdess" / "Actor_98").iterdir():
        path.rename(path.with_stem(path.stem.removesuffix("20") + "98"))

    assert evaluate.run("audio", str(bundle), "ravdess", data, "all")["n"] == 8


def test_silent_and_broken_files_are_skipped_and_counted(bundle: Path, data: Path) -> None:
    actor = data / "ravdess" / "Actor_20"
    soundfile.write(actor / "03-01-01-02-01-01-20.flac", np.zeros(8_000), 16_000)
    (actor / "03-01-02-02-01-01-20.flac").write_bytes(b"no sound")

    result = evaluate.run("audio", str(bundle), "ravdess", data)

    assert (result["n"], result["skipped"]) == (8, 2)


def test_only_silence_is_a_named_error(bundle: Path, tmp_path: Path) -> None:
    actor = tmp_path / "ravdess" / "Actor_20"
    actor.mkdir(parents=True)
    soundfile.write(actor / "03-01-01-02-01-01-20.flac", np.zeros(8_000), 16_000)

    with pytest.raises(evaluate.EvaluateError, match="nothing to judge"):
        evaluate.run("audio", str(bundle), "ravdess", tmp_path)


@pytest.mark.parametrize(("modality", "dataset"), [("audio", "fer2013"), ("smell", "ravdess"), ("audio", "")])
def test_an_unknown_choice_names_the_known_ones(data: Path, modality: str, dataset: str) -> None:
    with pytest.raises(evaluate.EvaluateError, match=r"audio ravdess.*video fer2013"):
        evaluate.run(modality, "embedded", dataset, data)


def test_a_missing_bundle_checkpoint_or_data_is_named(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(evaluate.EvaluateError, match="no bundle"):
        evaluate.run("audio", str(tmp_path / "nothing"), "ravdess", data)
    with pytest.raises(DataError, match="ravdess"):
        evaluate.run("audio", str(bundle), "ravdess", tmp_path / "nothing")
    (bundle / "audio.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        evaluate.run("audio", str(bundle), "ravdess", data)


def test_a_network_of_other_classes_is_judged_on_the_seven_emotions() -> None:
    truth = np.array([1, 4])  # calm, angry
    probabilities = np.eye(7, dtype=np.float32)[[FER2013_LABELS.index("neutral"), FER2013_LABELS.index("sad")]]

    tasks = evaluate.emotion_tasks(("neutral", "calm", "happy", "sad", "angry"), truth, FER2013_LABELS, probabilities)

    assert tasks["emotion"].labels == EMOTIONS
    assert [EMOTIONS[row] for row in tasks["emotion"].truth] == ["neutral", "anger"]
    assert [EMOTIONS[row] for row in tasks["emotion"].probabilities.argmax(axis=1)] == ["neutral", "sadness"]
    assert tasks["polarity"].truth.tolist() == tasks["polarity"].probabilities.argmax(axis=1).tolist()


@pytest.mark.slow
def test_the_embedded_voice_reaches_its_floor(data_dir: Path) -> None:
    result = evaluate.run("audio", "embedded", "ravdess", data_dir)

    emotion = result["tasks"]["emotion"]
    assert (result["n"], result["skipped"]) == (180, 0)
    assert emotion["metrics"]["balanced_accuracy"] >= 0.45
    assert emotion["constant"]["balanced_accuracy"] == pytest.approx(0.125)


@pytest.mark.slow
def test_the_embedded_face_network_reaches_its_floor(data_dir: Path) -> None:
    result = evaluate.run("video", "embedded", "fer2013", data_dir)

    assert (result["n"], result["skipped"]) == (3589, 0)
    assert result["tasks"]["emotion"]["metrics"]["accuracy"] >= 0.60
