import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.share import Share

WORKER = """
import json, sys, torch
from dataclasses import replace
from pathlib import Path
from torch import distributed, nn
from models import train
from models.recipes.debug import debug
from models.share import Share
from models.training_state import TrainError

rank, out, what = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
recipe = debug(out)

if what == "normal":  # batch normalisation, a moving average, draws from the global generator, odd and whole batches
    made, heard = [], []

    def build():
        made.append(nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2)))
        return made[-1]

    def batches(rng):
        for number, batch in enumerate(debug(out).batches(rng)):
            rows = batch["x"] + 0.1 * torch.randn(8, 2)
            heard.append(rows.sum().item())
            rest = {"whole": torch.zeros(())} if number == 5 else {}
            yield {"x": rows[: 8 - number % 2], "y": batch["y"][: 8 - number % 2], **rest}

    recipe = replace(recipe, build=build, batches=batches, average_decay=0.9, patience=2)
    results = train.train(recipe, out / "out", seed=1, share=Share(rank, 2))
    answer = [results["sha256"], results["epochs"], heard, [p.tolist() for p in made[-1].parameters()]]
elif what == "diverging":

    def loss(model, batch):
        return recipe.loss(model, batch) * (float("nan") if rank == 1 else 1.0)

    try:
        answer = train.train(replace(recipe, loss=loss), out / "out", share=Share(rank, 2))
    except TrainError as error:
        answer = str(error)
print(json.dumps(answer), flush=True)
distributed.barrier()
distributed.destroy_process_group()  # gloo's threads end the process with an abort when the interpreter ends before them
"""


def workers(what: str, tmp_path: Path) -> list[Any]:
    """What each of two processes prints last."""
    running = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path), what], stdout=-1, text=True)
        for rank in range(2)
    ]
    answers = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def test_the_shares_of_a_batch_are_the_batch() -> None:
    batch = {"x": torch.arange(7), "y": torch.arange(14).reshape(7, 2)}

    shares = [Share(rank, 3).rows(batch) for rank in range(3)]

    assert sorted(torch.cat([share["x"] for share in shares]).tolist()) == list(range(7))
    assert all(torch.equal(share["y"][:, 0], 2 * share["x"]) for share in shares)


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.zeros(2, 4)},
        {"x": torch.zeros(8, 4), "weights": torch.zeros(5)},
        {"x": torch.zeros(8), "scale": torch.zeros(())},
    ],
)
def test_a_batch_that_cannot_be_sharded_is_computed_whole(batch: dict[str, torch.Tensor]) -> None:
    assert Share(2, 3).rows(batch) is batch


@pytest.mark.slow
def test_two_workers_draw_the_same_batches_and_end_with_the_same_weights(tmp_path: Path) -> None:
    (sha256, epochs, heard, weights), other = workers("normal", tmp_path)

    assert [sha256, epochs, heard] == other[:3]
    assert epochs < 12  # patience ended it, in both
    for mine, others in zip(weights, other[3], strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(others))


@pytest.mark.slow
def test_a_loss_that_diverges_in_one_worker_ends_both(tmp_path: Path) -> None:
    for said in workers("diverging", tmp_path):
        assert "lower the learning rate" in said
