"""`undertone train` and `undertone evaluate`: the research side from the command line."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.table import Table

from deployments.cli.console import EXIT_USAGE, CommandError, aside, print_out, write_json
from models import evaluate as evaluation
from models import train as training
from models.errors import ModelError
from models.evaluate_report import class_rows, confusion_rows, metric_rows
from models.recipes import FOLDS, RECIPES


def train(recipe: str, data: Path, out: Path, seed: int, *, folds: bool, workers: int, as_json: bool) -> None:
    """Run a recipe to its end, or go on with an interrupted run.

    Raises:
        CommandError: no such recipe, no data, or the training cannot go on.
    """
    known = FOLDS if folds else RECIPES
    if recipe not in known:
        names = ", ".join(sorted(known)) or "(there is none)"
        what = "recipe with folds" if folds else "recipe"
        raise CommandError(f"no {what} {recipe!r}: choose one of {names}", EXIT_USAGE)
    _needs(data)
    try:
        with redirect_stdout(sys.stderr):  # the loop shows its progress, which is not the result
            if workers > 1:
                from deployments.serve import training as scaled  # noqa: PLC0415  # Ray, which one worker does not need

                results = scaled.run(recipe, data, out, seed, workers=workers, folds=folds)
            else:
                results = training.run(recipe, data, out, seed, folds=folds)
    except ModelError as error:
        raise CommandError(str(error)) from error
    if as_json:
        write_json([results])
    else:
        print_out(_trained(recipe, results))
        print_out(f"results.json and checkpoints in {out}, {results['seconds']} s")


def _trained(recipe: str, results: Mapping[str, Any]) -> str:
    if "folds" in results:
        figures = (f"{name} {mean:.4f} ± {results['std'][name]:.4f}" for name, mean in results["mean"].items())
        return f"{recipe}: mean ± standard deviation of {len(results['folds'])} folds: {', '.join(figures)}"
    kept = results["kept"]
    figures = (f"{name} {value:.4f}" for name, value in kept.items() if name not in ("epoch", "learning_rate"))
    which = "last" if results["metric"] is None else "best"
    return f"{recipe}: {which} epoch {kept['epoch']:.0f} of {results['epochs']}: {', '.join(figures)}"


def evaluate(
    modality: str, bundle: str, dataset: str, data: Path, split: str, *, report: Path | None, as_json: bool
) -> None:
    """Measure a network and print its figures beside the constant predictor's.

    Raises:
        CommandError: no such modality, data set, bundle, split or data.
    """
    _needs(data)
    try:
        with redirect_stdout(sys.stderr):  # what a library may say is not the result
            found = evaluation.run(modality, bundle, dataset, data, split, report=report)
    except ModelError as error:
        raise CommandError(str(error)) from error
    if as_json:
        write_json([found])
        return
    print_out(figures(found))
    for name, task in found["tasks"].items():
        if (
            task["labels"] and "_" not in name
        ):  # a fusion's tasks per subset of modalities are in the JSON and the report
            print_out(_table(f"\n{name}, by class", class_rows(task), words=1))
            print_out(_table(f"\n{name}, confusion", confusion_rows(task), words=1))
    if report is not None:
        print_out(f"report in {report}")


def evaluate_all(bundle: str, data: Path, split: str, *, as_json: bool) -> None:
    """Measure a bundle on every data set that lies in the folder, and print one table.

    Raises:
        CommandError: no such folder, or a damaged bundle.
    """
    _needs(data)
    found = []
    try:
        for one in evaluation.run_all(bundle, data, split):
            found.append(one)
            aside().print(f"{one['modality']} {one['dataset']}: {one.get('missing', 'done')}")
    except ModelError as error:
        raise CommandError(str(error)) from error
    if as_json:
        write_json([{"bundle": bundle, "split": split, "evaluations": found}])
        return
    shown = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "ece")
    rows = [("modality", "data set", "task", "n", *shown)]
    for one in found:
        for name, task in one.get("tasks", {}).items():
            if name in {"emotion", "polarity"}:
                values = [f"{task['metrics'][key]:.3f} ({task['constant'][key]:.3f})" for key in shown[:-1]]
                rows.append(
                    (one["modality"], one["dataset"], name, str(task["n"]), *values, f"{task['metrics']['ece']:.3f}")
                )
    print_out(_table(f"bundle {bundle}, split {split} (a constant answer in brackets)", rows, words=3))


def figures(found: Mapping[str, Any]) -> Table:
    """Every metric of every task with its 95 % interval, and what a constant answer would get."""
    title = f"{found['dataset']} {found['split']}: {found['n']} judged, {found['skipped']} left out"
    tables = {name: metric_rows(task) for name, task in found["tasks"].items()}
    header = next(iter(tables.values()))[0]
    rows = [(name, *row) for name, table in tables.items() for row in table[1:]]
    return _table(title, [("task", *header), *rows], words=2)


def _table(title: str, rows: Sequence[tuple[str, ...]], words: int) -> Table:
    """The first row is the header; the first `words` columns hold words, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if place < words else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _needs(data: Path) -> None:
    if not data.exists():
        raise CommandError(f"there is no {data}: name the folder of the data sets with --data", EXIT_USAGE)
