"""`undertone train --workers`, as it is typed, and what it says when a worker fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from deployments.serve import training
from models import checkpoint, train
from models.errors import TrainError
from models.recipes.debug import debug

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


def command(out: Path) -> list[str]:
    undertone = Path(sys.executable).with_name("undertone")
    order = ["train", "debug", "--data", str(out.parent), "--out", str(out), "--seed", "3", "--workers", "2", "--json"]
    return [str(undertone), *order]


def holder(pipe: Path) -> int:
    """The process that has `pipe` open, other than this one."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == pipe and int(link.parts[2]) != os.getpid():
                return int(link.parts[2])
        except OSError:  # a process that is not ours, or ended meanwhile
            continue
    raise AssertionError("nobody reads the pipe")


def test_a_dead_worker_is_named_and_the_same_command_then_goes_on_as_one_process_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun = train.train(debug(tmp_path), out, seed=3, stop_after_epochs=1)
    state, pipe = out / "state", out / "resume.pt"
    pipe.rename(state)
    os.mkfifo(pipe)  # worker 0 waits in it until it is killed
    with subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with pipe.open("wb"):
            os.kill(holder(pipe), signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "worker 0 died" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said

    state.rename(pipe)
    done = subprocess.run(command(out), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((out / "results.json").read_text())
    assert results["workers"] == 2
    assert results["history"][:1] == begun["history"]
    assert len(results["history"]) == 12
    alone = train.train(debug(tmp_path), tmp_path / "alone", seed=3)
    assert results["kept"]["train_accuracy"] == alone["kept"]["train_accuracy"] == 1.0
    assert results["history"][1]["train_loss"] == pytest.approx(alone["history"][1]["train_loss"], abs=0.15)
    weights, metadata = checkpoint.load(out / "debug.safetensors", results["sha256"])
    assert weights["0.weight"].shape == (16, 2)
    assert metadata.about["validation"]["accuracy"] == results["kept"]["accuracy"]
    assert {file.name for file in out.iterdir()} == {
        *("curves.png", "debug.safetensors", "results.json", "resume.pt", "tensorboard")
    }


def test_the_loops_own_error_comes_before_that_of_workers_that_lost_touch() -> None:
    lost, cause = RuntimeError("Connection closed by peer"), TrainError("the loss is nan: lower the learning rate.")

    assert "lower" in str(training._cause(WorkerGroupError("", {0: lost, 1: cause}), Path("out")))
    assert "fewer workers" in str(training._cause(WorkerGroupError("", {1: ActorDiedError()}), Path("out")))
