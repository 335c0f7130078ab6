"""What a training shows while it runs: a progress bar, TensorBoard logs and, at its end, a picture of its curves."""

# ruff: noqa: PLC0415  # tensorboard and matplotlib take seconds to import and belong to the train group

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

History = Sequence[Mapping[str, float]]
"""One row per epoch: `epoch`, `train_loss`, `learning_rate`, and every figure of the validation."""

TRAINING = ("train_loss", "learning_rate")


class Report:
    """Progress on the terminal and scalars per epoch in a TensorBoard folder.

    The folder's events are written anew from the history, so that a resumed training repeats no epoch in it.

    Args:
        name: What is trained.
        metric: The figure shown beside the loss, if any.
        steps: Training steps in all.
        folder: Of the TensorBoard events.
        history: The epochs done before.
    """

    def __init__(self, name: str, metric: str | None, steps: int, folder: Path, history: History) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._name, self._metric, self._shown = name, metric, ""
        self._writer = SummaryWriter(str(folder))
        for row in history:
            self._log(row)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns)
        self._task = self._progress.add_task(name, total=steps)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._writer.close()

    def step(self, done: int, loss: float) -> None:
        """Show that `done` steps are over, the last with this loss."""
        self._progress.update(self._task, completed=done, description=f"{self._name} loss {loss:.4f}{self._shown}")

    def epoch(self, row: Mapping[str, float]) -> None:
        """Show and log an epoch's figures."""
        if self._metric is not None:
            self._shown = f" {self._metric} {row[self._metric]:.4f}"
        self._progress.console.print(json.dumps(row), soft_wrap=True)
        self._log(row)

    def _log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                tag = f"train/{name.removeprefix('train_')}" if name in TRAINING else f"validation/{name}"
                self._writer.add_scalar(tag, value, int(row["epoch"]))
        self._writer.flush()


def draw_curves(history: History, metric: str | None, path: Path) -> None:
    """Draw the training loss and the metric over the epochs (every figure where nothing is chosen) as a PNG."""
    from matplotlib.figure import Figure  # without pyplot there is no window and no state

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, figures = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["train_loss"] for row in history], marker=".")
    loss.set(title="training loss", xlabel="epoch")
    names = [name for name in history[-1] if name not in ("epoch", *TRAINING)] if metric is None else [metric]
    for name in names:
        figures.plot(epochs, [row[name] for row in history], marker=".", label=name)
    figures.set(title="validation", xlabel="epoch")
    if names:
        figures.legend()
    figure.savefig(path, format="png", dpi=100)


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
