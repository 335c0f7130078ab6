"""`undertone train --workers N`: the loop of `models/train.py` in N processes, by Ray Train.

Without `RAY_ADDRESS` the workers are processes of this machine; with it they are a cluster's, whose nodes must all
see the data folder and the output folder at the same paths. Gradients travel by gloo, between GPUs by NCCL.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from deployments.serve.local_ray import local_ray, set_ray_defaults
from models import train as training
from models.errors import TrainError
from models.share import Share

WAIT_S = 4 * 3600
"""How long the others wait for worker 0, which reads, validates and writes alone."""


def run(recipe: str, data: Path, out: Path, seed: int, *, workers: int, folds: bool) -> training.Results:
    """Train as `models.train.run` does, every batch divided among the workers; the weights are the same in each.

    Raises:
        TrainError: What stops the loop in a worker, a worker that died, or fewer GPUs than workers.
        ValueError: The data is missing or wrong.
    """
    out = out.resolve()
    order = {"recipe": recipe, "data": str(data.resolve()), "out": str(out), "seed": seed, "folds": folds}
    notes = out / "ray"
    run_config = RunConfig(
        storage_path=str(notes),
        failure_config=FailureConfig(max_failures=0),
        logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # mypy sees version 1 of the API
    )
    # Worker 0 reports on its standard output; what Ray says on standard error its log files keep.
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        try:
            with _connected(workers) as scaling_config:
                trainer = TorchTrainer(
                    _work,
                    train_loop_config=order,
                    torch_config=TorchConfig(timeout_s=WAIT_S),
                    scaling_config=scaling_config,
                    run_config=run_config,
                )
                trainer.fit()
        except WorkerGroupError as error:
            raise _cause(error, out) from error
        except OSError as error:
            raise TrainError(f"cannot write to {out} ({error.strerror or error}): name another folder.") from error
        except SystemExit:  # Ray Train's own answer to Ctrl-C
            raise KeyboardInterrupt from None
        finally:
            shutil.rmtree(notes, ignore_errors=True)  # Ray's notes on the run; what lasts is resume.pt
    results: training.Results = json.loads((out / "results.json").read_text())
    return results


@contextmanager
def _connected(workers: int) -> Iterator[ScalingConfig]:
    """Join the cluster of RAY_ADDRESS, or start Ray here, and divide what it has among the workers."""
    quiet: dict[str, Any] = {"logging_level": "warning"}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        with local_ray(num_cpus=max(workers, os.cpu_count() or 1), **quiet):
            yield _shares(workers, on_cluster=False)
        return
    set_ray_defaults()
    try:
        with chdir("/"):  # workers import from the driver's current folder first; in this one only root writes
            ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TrainError(f"no Ray cluster at RAY_ADDRESS={address}: correct or unset it.") from error
    try:
        yield _shares(workers, on_cluster=True)
    finally:
        ray.shutdown()


def _shares(workers: int, *, on_cluster: bool) -> ScalingConfig:
    found = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray ships no type
    gpus = int(found.get("GPU", 0))
    if gpus and workers > gpus:
        raise TrainError(f"{workers} workers need a GPU each, and there are {gpus}: ask for --workers {gpus} or fewer.")
    # On a cluster one worker must fit on its smallest node.
    cpus = 1 if on_cluster else max(1, int(found.get("CPU", 1)) // workers)
    return ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus, "GPU": min(1, gpus)})


def _work(order: dict[str, Any]) -> None:
    """What every worker does."""
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    data, out = Path(order["data"]), Path(order["out"])
    training.run(order["recipe"], data, out, order["seed"], folds=order["folds"], share=share)


def _cause(error: WorkerGroupError, out: Path) -> ValueError:
    """The error that says what to do: the loop's own if there is one, for the other workers only lost touch with it."""
    for failure in error.worker_failures.values():
        if isinstance(failure, ValueError):
            return TrainError(str(failure))
    rank, failure = next(iter(error.worker_failures.items()), (0, error))
    reason = " ".join(str(failure).split())[:300]
    return TrainError(
        f"worker {rank} died ({type(failure).__name__}: {reason}): the same command goes on from the last epoch in {out}; "
        "where memory was short, ask for fewer workers."
    )
