"""`undertone train` and `undertone evaluate`: the research side from the command line."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.table import Table

from deployments.console import EXIT_USAGE, CommandError, print_out, write_json
from models import evaluate as evaluation
from models import train as training
from models.recipes import RECIPES


def train(recipe: str, data: Path, out: Path, seed: int, *, as_json: bool) -> None:
    """Run a recipe to its end, or go on with an interrupted run.

    Raises:
        CommandError: no such recipe, no data, or the training cannot go on.
    """
    if recipe not in RECIPES:
        raise CommandError(f"no recipe {recipe!r}: choose one of {', '.join(sorted(RECIPES))}", EXIT_USAGE)
    _needs(data)
    try:
        with redirect_stdout(sys.stderr):  # the loop shows its progress, which is not the result
            results = training.run(recipe, data, out, seed)
    except ValueError as error:  # TrainError, DataError, CheckpointError: each says what to do next
        raise CommandError(str(error)) from error
    if as_json:
        write_json([results])
        return
    best = ", ".join(f"{name} {value:.4f}" for name, value in results["best"].items() if name != "epoch")
    print_out(f"{recipe}: best epoch {results['best']['epoch']:.0f} of {results['epochs']}: {best}")
    print_out(f"checkpoint and results.json in {out}, {results['seconds']} s")


def evaluate(modality: str, bundle: str, dataset: str, data: Path, split: str | None, *, as_json: bool) -> None:
    """Measure a network and print its figures beside the constant predictor's.

    Raises:
        CommandError: no such modality, data set, bundle, split or data.
    """
    _needs(data)
    try:
        found = evaluation.run(modality, bundle, dataset, data, *([split] if split else []))
    except ValueError as error:  # EvaluateError, DataError, CheckpointError: each says what to do next
        raise CommandError(str(error)) from error
    if as_json:
        write_json([found])
    else:
        print_out(figures(found))


def figures(found: Mapping[str, Any]) -> Table:
    """Every metric of every task, and what always answering with the most frequent label would give."""
    title = f"{found['dataset']} {found['split']}: {found['n']} judged, {found['skipped']} left out"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("task")
    table.add_column("metric")
    table.add_column("network", justify="right")
    table.add_column("constant", justify="right")
    for task, measured in found["tasks"].items():
        for name, value in measured["metrics"].items():
            if isinstance(value, int | float):
                table.add_row(task, name, f"{value:.4f}", f"{measured['constant'][name]:.4f}")
    return table


def _needs(data: Path) -> None:
    if not data.is_dir():
        raise CommandError(f"{data} is no folder: name the folder of the data sets with --data", EXIT_USAGE)
