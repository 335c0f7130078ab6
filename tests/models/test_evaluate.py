import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from models import checkpoint, evaluate
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.encoders.video import FaceNetwork, VideoConfig
from models.errors import BundleError, CheckpointError, DataError, EvaluateError
from models.labels import FER2013_LABELS
from models.types import EMOTIONS, POLARITIES

CLASS_METRICS = {"accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "roc_auc_ovr", "ece"}
METRICS = {
    "emotion": CLASS_METRICS,
    "polarity": CLASS_METRICS | {"negative_recall_at_precision_70"},
    "score": {"mae", "pearson"},
}
VOICE, FACE = AudioConfig(width=8, heads=2, layers=2, embedding=4), VideoConfig(widths=(4, 4, 4, 4), embedding=4)


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
    assert list(result["tasks"]) == ["emotion", "polarity", "score"]
    for name, task in result["tasks"].items():
        assert set(task["metrics"]) == METRICS[name]
        assert set(task["intervals"]) == set(task["constant"]) == set(task["metrics"])
    assert all(0 <= value <= 1 for value in result["tasks"]["emotion"]["metrics"].values())
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

    with pytest.raises(EvaluateError, match="nothing to judge"):
        evaluate.run("audio", str(bundle), "ravdess", tmp_path)


@pytest.mark.parametrize(("modality", "dataset"), [("audio", "fer2013"), ("smell", "ravdess"), ("audio", "")])
def test_an_unknown_choice_names_the_known_ones(data: Path, modality: str, dataset: str) -> None:
    with pytest.raises(EvaluateError, match=r"audio ravdess.*video fer2013"):
        evaluate.run(modality, "embedded", dataset, data)


def test_a_missing_bundle_checkpoint_or_data_is_named(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="no bundle"):
        evaluate.run("audio", str(tmp_path / "nothing"), "ravdess", data)
    with pytest.raises(DataError, match="ravdess"):
        evaluate.run("audio", str(bundle), "ravdess", tmp_path / "nothing")
    (bundle / "audio.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        evaluate.run("audio", str(bundle), "ravdess", data)


def test_a_damaged_checkpoint_is_named(bundle: Path, data: Path) -> None:
    path = bundle / "audio.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"audio\.safetensors"):
        evaluate.run("audio", str(bundle), "ravdess", data)


@pytest.mark.parametrize(
    ("modality", "dataset"),
    # Sounds are made, and the behavioural tests lie in this repository.
    [(one, name) for one, sets in evaluate.DATASETS.items() for name in sets if name not in {"checklist", "sounds"}],
)
def test_an_empty_folder_is_a_named_error_for_every_set(modality: str, dataset: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, BundleError)):
        evaluate.run(modality, "embedded", dataset, tmp_path, "all")


@pytest.mark.parametrize(("modality", "dataset"), [("audio", "ravdess"), ("video", "fer2013")])
def test_an_unknown_split_is_the_readers_error(bundle: Path, data: Path, modality: str, dataset: str) -> None:
    with pytest.raises(DataError, match="third"):
        evaluate.run(modality, str(bundle), dataset, data, "third")


def test_another_split_name_is_evaluated(bundle: Path, data: Path) -> None:
    (data / "fer2013" / "public_test").rename(data / "fer2013" / "kept_back")
    assert evaluate.run("video", str(bundle), "fer2013", data, "kept_back")["n"] == 7
    assert evaluate.run("video", str(bundle), "fer2013", data, "all")["n"] == 7


def test_utterances_of_spoilt_faces_are_judged_by_learned_and_by_equal_weights(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in FER2013_LABELS[:2]:
        folder = tmp_path / "fer2013" / "kept_back" / label
        folder.mkdir(parents=True)
        for row in range(9):
            Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(folder / f"{row}.png")

    found = evaluate.run("video", str(bundle), "fer2013_frames", tmp_path, "all")

    assert found["n"] == 2
    assert {"emotion", "emotion_averaged"} <= set(found["tasks"])
    assert found["tasks"]["emotion"]["metrics"] != found["tasks"]["emotion_averaged"]["metrics"]


def test_everything_that_lies_there_is_evaluated_and_what_does_not_is_named(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(evaluate.DATASETS, "speech")  # minutes; see the next test
    (data / "airline").mkdir()
    (data / "airline" / "tweets_train.csv").write_text("airline_sentiment,text\nnegative,awful\n")

    found = {(one["modality"], one["dataset"]): one for one in evaluate.run_all(str(bundle), data, "all")}

    assert set(found) == {(modality, name) for modality, sets in evaluate.DATASETS.items() for name in sets}
    judged = {key for key, one in found.items() if "tasks" in one}
    assert judged == {("audio", "ravdess"), ("audio", "ravdess_telephone"), ("video", "fer2013")}
    assert "emodb" in found["audio", "emodb"]["missing"].lower()
    assert "text.safetensors" in found["text", "tweets"]["missing"]


def test_a_set_that_does_not_lie_in_the_folder_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = evaluate.DATASETS["speech"]
    monkeypatch.setattr(evaluate, "DATASETS", {"speech": {name: sets[name] for name in ("librivox", "sample")}})
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
    table = "start_ms\tend_ms\tparticipant\twords\n0\t900\tagent\thello\n"
    (tmp_path / "elsewhere" / "call.txt").write_text(table)
    soundfile.write(tmp_path / "elsewhere" / "call.wav", np.zeros((16_000, 2)), 16_000)

    found = evaluate.run_all("embedded", tmp_path / "here", "all", elsewhere={"sample": tmp_path / "elsewhere"})

    missing, judged = found
    assert "expected speech/librivox" in missing["missing"]
    assert (judged["dataset"], judged["n"]) == ("sample", 1)
    metrics = judged["tasks"]["words"]["metrics"]  # silence: nothing in it is believed
    assert (metrics["deletions"] + metrics["substitutions"], metrics["reliable_share"]) == (1, 0)


def test_a_class_missing_from_the_split_leaves_figures_over_the_others(bundle: Path, data: Path) -> None:
    shutil.rmtree(data / "fer2013" / "public_test" / "disgust")

    emotion = evaluate.run("video", str(bundle), "fer2013", data)["tasks"]["emotion"]

    assert emotion["per_class"]["disgust"]["recall"] is None
    assert emotion["constant"]["balanced_accuracy"] == pytest.approx(1 / 6)
    assert 0 <= emotion["metrics"]["roc_auc_ovr"] <= 1


def test_one_class_alone_has_no_roc_auc(bundle: Path, data: Path) -> None:
    for label in FER2013_LABELS[1:]:
        shutil.rmtree(data / "fer2013" / "public_test" / label)

    tasks = evaluate.run("video", str(bundle), "fer2013", data)["tasks"]

    assert tasks["emotion"]["metrics"]["roc_auc_ovr"] is None
    assert tasks["score"]["metrics"]["pearson"] is None


def test_too_short_clips_are_skipped_and_long_ones_heard_from_their_beginning(bundle: Path, data: Path) -> None:
    actor = data / "ravdess" / "Actor_20"
    noise = np.random.default_rng(0).standard_normal(8_000 * 60).astype(np.float32) / 10
    soundfile.write(actor / "03-01-05-02-01-01-20.wav", noise[:400], 8_000)  # 0.05 s
    with soundfile.SoundFile(actor / "03-01-05-02-02-01-20.wav", "w", 8_000, 1, "PCM_U8") as file:
        for _ in range(30):
            file.write(noise)  # 30 minutes

    result = evaluate.run("audio", str(bundle), "ravdess", data)

    assert (result["n"], result["skipped"]) == (9, 1)


def test_boredom_and_contempt_are_left_out_of_the_emotions_and_counted(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "emodb" / "wav").mkdir(parents=True)
    for name in ("03a01Wa", "16a01Fa", "16a02La"):  # anger, happiness, boredom
        soundfile.write(tmp_path / "emodb" / "wav" / f"{name}.wav", 0.1 * rng.standard_normal(8_000), 16_000)
    for label in ("contempt", "happy", "fear"):
        (tmp_path / "CK+48" / label).mkdir(parents=True)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
        picture.save(tmp_path / "CK+48" / label / "S010_004_00000017.png")

    for modality, dataset in (("audio", "emodb"), ("audio", "emodb_telephone"), ("video", "ckplus48")):
        result = evaluate.run(modality, str(bundle), dataset, tmp_path, "all")
        assert (result["n"], result["skipped"]) == (3, 1)
        assert result["tasks"]["emotion"]["labels"] == list(EMOTIONS)
        assert {name: task["n"] for name, task in result["tasks"].items()} == {"emotion": 2, "polarity": 3, "score": 3}


def test_films_without_a_face_are_a_named_error(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "ravdess" / "Actor_20" / "02-01-05-01-01-01-20.mp4"
    path.parent.mkdir(parents=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, dtype=np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(EvaluateError, match="no face in any of 1 films"):
        evaluate.run("video", str(bundle), "ravdess", tmp_path, "all")


@pytest.mark.slow
def test_a_real_film_is_judged_by_its_face(bundle: Path, data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ravdess" / "Actor_01"
    folder.mkdir(parents=True)
    shutil.copy(data_dir / "clips" / "ravdess_01_neutral.mp4", folder / "01-01-01-01-01-01-01.mp4")
    (folder / "01-01-05-01-01-01-01.mp4").write_bytes(b"no film")

    result = evaluate.run("video", str(bundle), "ravdess", tmp_path, "all")

    assert (result["n"], result["skipped"]) == (1, 1)


@pytest.mark.slow
def test_the_embedded_voice_reaches_its_floor(data_dir: Path) -> None:
    result = evaluate.run("audio", "embedded", "ravdess", data_dir)

    by_telephone = evaluate.run("audio", "embedded", "ravdess_telephone", data_dir)

    emotion, polarity = result["tasks"]["emotion"], result["tasks"]["polarity"]
    assert (result["n"], result["skipped"]) == (180, 0)
    assert emotion["metrics"]["balanced_accuracy"] >= 0.74
    assert emotion["constant"]["balanced_accuracy"] == pytest.approx(0.125)
    assert polarity["metrics"]["accuracy"] >= 0.84
    heard = by_telephone["tasks"]["emotion"]["metrics"]["balanced_accuracy"]
    assert heard >= max(0.66, emotion["metrics"]["balanced_accuracy"] - 0.09)
    assert by_telephone["tasks"]["polarity"]["metrics"]["accuracy"] >= 0.82


@pytest.mark.slow
def test_the_embedded_face_network_reaches_its_floor(data_dir: Path) -> None:
    result = evaluate.run("video", "embedded", "fer2013", data_dir)

    assert (result["n"], result["skipped"]) == (3589, 0)
    assert result["tasks"]["emotion"]["metrics"]["accuracy"] >= 0.695
