"""`undertone train` and `undertone evaluate`: the research side from the command line."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deployments.cli.console import (
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    print_out,
    stderr,
    write_json,
)
from deployments.cli.options import DEFAULTS, Bundle, Json, Transcriber
from deployments.sample import ANGRY_TO_CONTENT
from models.encoders.speech import Engine
from models.errors import ModelError
from pipelines.redaction.measure import measure, read
from pipelines.tenants import RedactSettings

DATASETS_HELP = (
    "text: maia_customer, maia_customer_context, maia_agent, checklist, meld, meld_context, meld_recognised, tweets, "
    "goemotions; audio: ravdess, ravdess_telephone, emodb, "
    "emodb_telephone; video: fer2013, fer2013_frames, ckplus48, ravdess; speech: librivox, librivox_telephone, ravdess, "
    "ravdess_telephone, sample, sounds; fusion: label_pairs, label_pairs_doubtful, mosi, ravdess_av."
)
COMPARED = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "ece")
"""The metrics in the table of `evaluate all`."""
COMPARED_WORDS = (
    "wer",
    "insertions",
    "deletions",
    "substitutions",
    "reliable_share",
    "reliable_words",
    "invented_words",
)
OWN_DATA: dict[str, Path] = dict.fromkeys(("checklist", "sample", "sounds"), ANGRY_TO_CONTENT.parent)
"""Data sets that the project itself makes, which need no data folder."""

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone train debug --out /tmp/debug --seed 0 · the same command again goes "
    "on after a kill · undertone train audio_ravdess --data DATA --out /tmp/folds --folds · "
    "undertone train video_fer2013 --data DATA --out /tmp/face --workers 4"
)
@clear_errors
def train(
    recipe: Annotated[str, typer.Argument(help="As `undertone recipes` lists them.")],
    *,
    data: Annotated[Path | None, typer.Option(help="The folder of the data sets; `debug` needs none.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoint, results, curves and logs; the same one goes on after a kill.")
    ],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folds: Annotated[
        bool, typer.Option("--folds", help="Cross-validate: train every fold, give mean and standard deviation.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that share every batch, by Ray Train; one GPU each where there are any."),
    ] = 1,
    as_json: Json = False,
) -> None:
    """Train one published result; watch it with `tensorboard --logdir OUT`."""
    _needs_train_group()
    from models import train as training  # noqa: PLC0415  # imports torch
    from models.recipes import FOLDS, RECIPES, WITHOUT_DATA  # noqa: PLC0415  # imports torch

    known = FOLDS if folds else RECIPES
    if recipe not in known:
        names = ", ".join(sorted(known)) or "(there is none)"
        what = "recipe with folds" if folds else "recipe"
        raise CommandError(f"no {what} {recipe!r}: choose one of {names} (undertone recipes)", EXIT_NOT_FOUND)
    data = Path() if data is None and recipe in WITHOUT_DATA else _needs(data)
    if stderr().is_terminal:  # in a log an expected error is the only line
        stderr().print(f"preparing {recipe} from {data} (this may take minutes)", soft_wrap=True)
    with _model_errors():
        if workers > 1:
            from deployments.serve import training as scaled  # noqa: PLC0415  # Ray, which one worker does not need

            results = scaled.run(recipe, data, out, seed, workers=workers, folds=folds)
        else:
            results = training.run(recipe, data, out, seed, folds=folds)
    if as_json:
        write_json([results])
    else:
        print_out(_trained(recipe, results))
        print_out(f"results.json and checkpoints in {out}, {results['seconds']} s")


@commands.command(
    epilog="Examples: undertone evaluate text --dataset meld --data DATA · "
    "undertone evaluate audio --dataset ravdess --data my_actors --split all --json · "
    "undertone evaluate speech --dataset sample --transcriber base · "
    "undertone evaluate all --data DATA · "
    "undertone evaluate fusion --bundle my_bundle --dataset label_pairs --data DATA --report /tmp/report"
)
@clear_errors
def evaluate(
    modality: Annotated[
        str,
        typer.Argument(help="text, audio, video, speech, fusion, `all` for every data set in one table, or redaction."),
    ],
    *,
    dataset: Annotated[str, typer.Option(help=DATASETS_HELP)] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the data sets, laid out as their readers say; checklist, sample and sounds need none."
        ),
    ] = None,
    bundle: Bundle = DEFAULTS.bundle,
    transcriber: Transcriber = DEFAULTS.transcriber,
    engine: Annotated[
        Engine | None, typer.Option(help="Of speech: what runs the transcriber; else what fits the device.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="The data set's own name of a split, or `all`: whatever lies there.")
    ] = "validation",
    report: Annotated[Path | None, typer.Option(help="Folder for report.json, report.md and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure a network of a bundle, or a transcriber, on a data set: figures, 95 % intervals, and what a constant answer would get.

    `redaction` measures what is replaced in words, on sentences of its own or those of a file that --data names.
    """
    if modality == "redaction":
        _evaluate_redaction(data, as_json=as_json)
        return
    _needs_train_group()
    from models import evaluate as evaluation  # noqa: PLC0415  # imports torch

    if modality != "all":
        with _model_errors():
            evaluation.known(modality, dataset)
    if data is None:
        data = OWN_DATA.get(dataset)
    folder = _needs(data)
    if modality == "all":
        _evaluate_all(bundle, folder, split, transcriber, engine, as_json=as_json)
        return
    with _model_errors():
        found = evaluation.run(
            modality, bundle, dataset, folder, split, report=report, transcriber=transcriber, engine=engine
        )
    if as_json:
        write_json([found])
    else:
        _print_evaluation(found)
        if report is not None:
            print_out(f"report in {report}")


def figures(found: Mapping[str, Any]) -> Table:
    """Every metric of every task with its 95 % interval, and what a constant answer would get."""
    from models.evaluate_report import metric_rows  # noqa: PLC0415  # imports torch

    engine = f", {found['engine']}" if "engine" in found else ""
    title = f"{found['dataset']} {found['split']}: {found['n']} judged, {found['skipped']} left out{engine}"
    tables = {name: metric_rows(task) for name, task in found["tasks"].items()}
    header = next(iter(tables.values()))[0]
    rows = [(name, *row) for name, table in tables.items() for row in table[1:]]
    return _table(title, [("task", *header), *rows], words=2)


@contextmanager
def _model_errors() -> Iterator[None]:
    """Errors that say what to do next end the command; what is printed meanwhile is not the result."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except ModelError as error:
        raise CommandError(str(error)) from error


def _trained(recipe: str, results: Mapping[str, Any]) -> str:
    if "folds" in results:
        figures = (f"{name} {mean:.4f} ± {results['std'][name]:.4f}" for name, mean in results["mean"].items())
        return f"{recipe}: mean ± standard deviation of {len(results['folds'])} folds: {', '.join(figures)}"
    kept = results["kept"]
    figures = (f"{name} {value:.4f}" for name, value in kept.items() if name not in ("epoch", "learning_rate"))
    which = "last" if results["metric"] is None else "best"
    return f"{recipe}: {which} epoch {kept['epoch']:.0f} of {results['epochs']}: {', '.join(figures)}"


def _print_evaluation(found: Mapping[str, Any]) -> None:
    from models.evaluate_report import capability_rows, class_rows, confusion_rows, worst_rows  # noqa: PLC0415  # imports torch

    print_out(figures(found))
    if "capabilities" in found:
        tests = sum(one["n"] for one in found["capabilities"].values())
        # No title of the table, which would be broken into lines as narrow as that is.
        print_out(
            f"\n{tests} behavioural tests; judged above: the {found['n']} sentences in them whose polarity is expected"
        )
        print_out(_table("", capability_rows(found["capabilities"]), words=1))
    for name, task in found["tasks"].items():
        # A fusion's tasks per subset of modalities have a `_` in their names; they are in the JSON and the report.
        if task["labels"] and "_" not in name:
            print_out(_table(f"\n{name}, by class", class_rows(task), words=1))
            print_out(_table(f"\n{name}, confusion", confusion_rows(task), words=1))
        if task.get("worst"):
            print_out(_table(f"\n{name}, most errors", worst_rows(task), words=5))


def _evaluate_all(
    bundle: str, data: Path, split: str, transcriber: str, engine: Engine | None, *, as_json: bool
) -> None:
    """Measure a bundle and a transcriber on every data set that lies in the folder, and print a table of each."""
    from models import evaluate as evaluation  # noqa: PLC0415  # imports torch

    found = []
    with _model_errors():
        for one in evaluation.run_all(bundle, data, split, transcriber=transcriber, engine=engine, elsewhere=OWN_DATA):
            found.append(one)
            stderr().print(f"{one['modality']} {one['dataset']}: {one.get('missing', 'done')}")
    if as_json:
        write_json([{"bundle": bundle, "split": split, "evaluations": found}])
        return
    rows = [("modality", "data set", "task", "n", *COMPARED)]
    for one in found:
        for name, task in one.get("tasks", {}).items():
            if name in {"emotion", "polarity"}:
                values = [f"{task['metrics'][key]:.3f} ({task['constant'][key]:.3f})" for key in COMPARED[:-1]]
                rows.append(
                    (one["modality"], one["dataset"], name, str(task["n"]), *values, f"{task['metrics']['ece']:.3f}")
                )
    print_out(_table(f"bundle {bundle}, split {split} (a constant answer in brackets)", rows, words=3))
    if words := [one for one in found if one["modality"] == "speech" and "tasks" in one]:
        print_out(
            _table(f"\ntranscriber {words[0]['engine']} (an empty transcript in brackets)", _word_rows(words), words=1)
        )


def _evaluate_redaction(data: Path | None, *, as_json: bool) -> None:
    """Print recall, precision and counts by kind and form, of the sentences that were looked at while tuning and the others."""
    found = measure(read() if data is None else read(data), RedactSettings().redactor)
    if as_json:
        write_json([found])
        return
    for part, figures_of in found.items():
        title = (
            f"{part}: {figures_of['sentences']} sentences, {figures_of['clean']} clean, "
            f"{figures_of['touched']} of them touched ({100 * figures_of['touched_share']:.1f} %)"
        )
        rows = [("item", "items", "found", "right kind", "false marks", "recall", "precision")]
        for item, counts in figures_of["kinds"].items():
            whole = (str(counts[name]) for name in ("items", "found", "named", "false"))
            rates = (counts[name] for name in ("recall", "precision"))
            rows.append((item, *whole, *("-" if rate is None else f"{100 * rate:.1f}" for rate in rates)))
        print_out(_table(title, rows, words=1))


def _word_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A header, then per data set of speech its figures; a figure that a set does not have is a dash."""
    rows: list[tuple[str, ...]] = [("data set", "sounds", "words", *COMPARED_WORDS)]
    for one in found:
        task = one["tasks"]["words"]
        cells = (
            f"{task['metrics'][key]:.3g} ({task['constant'][key]:.3g})" if key in task["metrics"] else "-"
            for key in COMPARED_WORDS
        )
        rows.append((one["dataset"], str(task["n"]), str(task["words"]), *cells))
    return rows


def _table(title: str, rows: Sequence[tuple[str, ...]], words: int) -> Table:
    """The first row is the header; the first `words` columns hold words, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if place < words else "right")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    return table


def _needs(data: Path | None) -> Path:
    if data is None or not data.exists():
        what, code = (
            ("no data folder is given", EXIT_USAGE) if data is None else (f"there is no {data}", EXIT_NOT_FOUND)
        )
        raise CommandError(f"{what}: name the folder of the data sets with --data", code)
    return data


def _needs_train_group() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise CommandError("the packages for training and evaluating are not installed: make setup in the checkout")
