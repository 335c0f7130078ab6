"""What `undertone evaluate --report DIR` leaves behind: `report.json`, `report.md` and pictures of every task."""

# ruff: noqa: PLC0415  # matplotlib and scikit-learn take seconds to import, and only the pictures need them

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.metrics import BINS
from models.recognition import WordsTask
from models.tasks import Answers, AnyTask, ScoreTask, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE_INCHES, DOTS_PER_INCH = 6.0, 120
COUNTS_WRITTEN_MAX = 15
"""Classes above which a confusion matrix shows colours only: the numbers would not be readable."""


def write(folder: Path, found: Mapping[str, Any], answers: Answers) -> None:
    """Write the report of one evaluation; what is there under the same names is replaced.

    Of each task of classes `TASK_confusion.png`, `TASK_roc.png` and `TASK_reliability.png`, of a score `TASK.png`; of words a
    table of the worst sounds.

    Args:
        folder: Made when it is not there.
        found: What `models.evaluate.run` returns.
        answers: What it was worked out from.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    lines = [f"# {found['dataset']} {found['split']}", "", f"{found['n']} judged, {found['skipped']} left out.", ""]
    if "capabilities" in found:
        lines += _markdown(capability_rows(found["capabilities"]))
    for name, task in answers.tasks.items():
        pictures = _pictures(task, found["tasks"][name])
        for suffix, draw in pictures.items():
            _save(folder / f"{name}{suffix}.png", draw)
        lines += [f"## {name}", "", *_tables(found["tasks"][name])]
        lines += [f"![{name}{suffix.replace('_', ' ')}]({name}{suffix}.png)" for suffix in pictures] + [""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def cell(value: float | None) -> str:
    """A figure in a table; `-` where it does not exist."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def metric_rows(task: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A header, then per metric the network's value, its 95 % interval and the constant predictor's value."""
    metrics = (
        (name, value, task["intervals"][name], task["constant"][name]) for name, value in task["metrics"].items()
    )
    return [
        ("metric", "network", "95 % interval", "constant"),
        *(
            (name, cell(value), "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}", cell(constant))
            for name, value, ends, constant in metrics
        ),
    ]


def class_rows(task: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A header, then per class its label and figures."""
    header = ("class", *next(iter(task["per_class"].values())))
    return [header, *((label, *map(cell, figures.values())) for label, figures in task["per_class"].items())]


def confusion_rows(task: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A header, then per true class how often each class was answered."""
    rows = zip(task["labels"], task["confusion"], strict=True)
    return [("truth / answer", *task["labels"]), *((label, *map(str, counts)) for label, counts in rows)]


def capability_rows(capabilities: Mapping[str, Mapping[str, int]]) -> list[tuple[str, ...]]:
    """A header, then per capability its tests, how many of them are passed, and the share; last, all together."""
    total = {key: sum(one[key] for one in capabilities.values()) for key in ("n", "passed")}
    return [
        ("capability", "tests", "passed", "share"),
        *(
            (name, str(one["n"]), str(one["passed"]), f"{one['passed'] / one['n']:.2f}")
            for name, one in (*capabilities.items(), ("all", total))
        ),
    ]


def worst_rows(task: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A header, then the sounds with the most wrong words: what was said and what was written."""
    header = ("sound", "errors", "said", "written", "reliable")
    return [header, *(tuple(str(one[name]) for name in header) for one in task["worst"])]


def _tables(task: Mapping[str, Any]) -> list[str]:
    tables = [metric_rows(task)] + ([class_rows(task), confusion_rows(task)] if task["labels"] else [])
    tables += [worst_rows(task)] if task.get("worst") else []
    return [line for rows in tables for line in _markdown(rows)]


def _markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    header, *others = [f"| {' | '.join(row)} |" for row in escaped]
    return [header, "|" + "---|" * len(rows[0]), *others, ""]


def _pictures(task: AnyTask, judged: Mapping[str, Any]) -> Mapping[str, Any]:
    """What to draw, by the end of its file's name; words are read, not drawn."""
    if isinstance(task, WordsTask):
        return {}
    if isinstance(task, ScoreTask):
        return {"": lambda axes: _scores(axes, task)}
    return {
        "_confusion": lambda axes: _confusion(axes, judged),
        "_roc": lambda axes: _roc(axes, task),
        "_reliability": lambda axes: _reliability(axes, judged),
    }


def _save(path: Path, draw: Any) -> None:
    from matplotlib.figure import Figure

    # A Figure without pyplot: nothing global, no window, and it is freed when it goes.
    figure = Figure(figsize=(SIDE_INCHES, SIDE_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(path.stem.replace("_", " "))
    figure.savefig(path)


def _confusion(axes: "Axes", judged: Mapping[str, Any]) -> None:
    labels, counts = judged["labels"], np.array(judged["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth (count, share of the row)")
    for row, column in np.ndindex(counts.shape if len(labels) <= COUNTS_WRITTEN_MAX else (0, 0)):
        share = shares[row, column]
        text = f"{counts[row, column]}\n{100 * share:.0f} %"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 0.5 else "black")


def _roc(axes: "Axes", task: Task) -> None:
    """A curve per class against the rest; a class that the truth lacks, or that is all of it, has none."""
    from sklearn.metrics import auc, roc_curve

    for place, label in enumerate(task.labels):
        positive = task.truth == place
        if positive.any() and not positive.all():
            false_share, true_share, _ = roc_curve(positive, task.probabilities[:, place])
            axes.plot(false_share, true_share, label=f"{label} {auc(false_share, true_share):.3f}")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="constant 0.500")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(title="class, area under the curve", loc="lower right", fontsize=8)


def _reliability(axes: "Axes", judged: Mapping[str, Any]) -> None:
    """Accuracy per bin of confidence beside what a calibrated network would have, and how many answers each bin holds."""
    bins = judged["reliability"]
    total = sum(one["count"] for one in bins)
    centers = (np.arange(BINS) + 0.5) / BINS
    axes.bar(centers, [one["accuracy"] or 0 for one in bins], 0.9 / BINS, label="accuracy")
    axes.step(
        centers, [one["count"] / total for one in bins], where="mid", color="tab:orange", label="share of answers"
    )
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence of the answer")
    axes.set_ylabel("share")
    axes.legend(title=f"ECE {judged['metrics']['ece']:.3f}", loc="upper left", fontsize=8)


def _scores(axes: "Axes", task: ScoreTask) -> None:
    """A box of answers per declared truth; of many different truths a cloud."""
    values = np.unique(task.truth)
    if len(values) <= COUNTS_WRITTEN_MAX:
        axes.boxplot([task.answer[task.truth == value] for value in values], positions=values.tolist(), widths=0.2)
        axes.set_xticks(values.tolist(), [f"{value:g}" for value in values])
    else:
        axes.scatter(task.truth, task.answer, s=4, alpha=0.3)
    axes.plot([-3, 3], [-3, 3], linestyle=":", color="grey")
    axes.set_xlim(-3.2, 3.2)
    axes.set_ylim(-3.2, 3.2)
    axes.set_xlabel("truth")
    axes.set_ylabel("answer")
