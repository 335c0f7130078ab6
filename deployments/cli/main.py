"""The command line, `undertone`: every command's options and examples; the work is done in `deployments/cli_*.py`."""

# ruff: noqa: PLC0415  # a command imports its own work, so that `undertone --help` needs neither Ray nor torch

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.cli.console import EXIT_USAGE, CommandError, clear_errors

app = typer.Typer(
    name="undertone",
    help="Live sentiment of customer-service calls from voice, face and words.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table, one object a line.")]
Tenant = Annotated[str, typer.Option(help="Whose calls.")]
Participants = Annotated[
    str | None,
    typer.Option(help="Who is on which channel, in order: `agent,customer`. Of two files: who is in which."),
]
Consent = Annotated[
    str | None,
    typer.Option(
        help="What may be judged by what, such as `customer=audio+video+text;agent=text`, which holds unless the "
        "tenant's settings say otherwise. It wins over them."
    ),
]
Call = Annotated[str, typer.Argument(help="The call's id, as `undertone calls` shows it.")]
Source = Annotated[
    Literal["kafka", "redis"] | None,
    typer.Option(help="The log of fragments; Kafka where UNDERTONE_KAFKA is set, else Redis Streams."),
]
Transcriber = Annotated[str, typer.Option(help="A Whisper model's name or path, or `pocketsphinx`.")]
Bundle = Annotated[str, typer.Option(help="`embedded`, or the folder of another bundle.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The Serve config file of the live system: its limits and policies hold here too."),
]
Run = Annotated[str, typer.Option(help="Whose results: `live`, or the name of a replay or a shadow.")]
LetterPlace = Annotated[str, typer.Argument(help="Where the record stood in the log: PARTITION:OFFSET.")]
LetterCall = Annotated[str | None, typer.Option("--call", help="Only of this call.")]
LetterReason = Annotated[str | None, typer.Option("--reason", help="Only refused for this reason.")]
LetterSince = Annotated[str | None, typer.Option("--since", help="Only what the log took since then.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

DATASETS_HELP = (
    "text: meld, meld_context, meld_recognised, tweets, goemotions; audio: ravdess, ravdess_telephone, emodb, "
    "emodb_telephone; video: fer2013, fer2013_frames, ckplus48, ravdess; fusion: label_pairs, label_pairs_doubtful, mosi, ravdess_av."
)


class Pace(StrEnum):
    """How fast media is sent: as it was spoken, or as fast as the log takes it."""

    REALTIME = "realtime"
    FAST = "fast"


@app.command(epilog="Example: undertone serve --port 8000, then in another window: undertone send call.flac")
@clear_errors
def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")] = 8000,
    source: Source = None,
    transcriber: Transcriber = "base.en",
    bundle: Bundle = "embedded",
    as_json: Json = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    from deployments.cli import serve as cli_serve

    cli_serve.serve(host=host, port=port, source=source, transcriber=transcriber, bundle=bundle, as_json=as_json)


@app.command(
    epilog="Examples: undertone send call.flac --participants agent,customer · "
    "undertone send agent.flac caller.flac --participants agent,customer --pace realtime"
)
@clear_errors
def send(
    paths: Annotated[list[Path], typer.Argument(help="One file that FFmpeg opens, or one mono file per participant.")],
    *,
    call_id: Annotated[str | None, typer.Option(help="The call's id; made up and printed when not given.")] = None,
    participants: Participants = None,
    pace: Annotated[Pace, typer.Option(help="As it was spoken, or as fast as it goes.")] = Pace.FAST,
    consent: Consent = None,
    stream: Annotated[str, typer.Option(help="The stream's name within the call.")] = "main",
    tenant: Tenant = "default",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted send of this call ended.")
    ] = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Send a recording as a call, fragment by fragment, each acknowledged by the log."""
    from deployments.cli import send as cli_send

    order = cli_send.Order(tuple(paths), call_id, participants, consent, stream, tenant, realtime=pace is Pace.REALTIME)
    cli_send.run(order, source=source, resume=resume, as_json=as_json)


@app.command(epilog="Example: undertone calls --polarity negative --max-score -1")
@clear_errors
def calls(
    *,
    tenant: Tenant = "default",
    participant: Annotated[str | None, typer.Option(help="agent, customer or mixed.")] = None,
    polarity: Annotated[str | None, typer.Option(help="negative, neutral or positive.")] = None,
    emotion: Annotated[str | None, typer.Option(help="neutral, joy, sadness, anger, surprise, fear, disgust.")] = None,
    min_score: Annotated[float | None, typer.Option(min=-3, max=3)] = None,
    max_score: Annotated[float | None, typer.Option(min=-3, max=3)] = None,
    since: Annotated[str | None, typer.Option(help="Started at or after, like 2026-11-21T08:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Started before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List calls, newest first."""
    from deployments.cli import query as cli_query

    filters = {"participant": participant, "polarity": polarity, "emotion": emotion, "min_score": min_score}
    filters |= {"max_score": max_score, "since": since, "until": until}
    cli_query.calls(tenant, filters, limit=limit, as_json=as_json)


@app.command(epilog="Example: undertone show demo-1")
@clear_errors
def show(call: Call, *, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Show a call: who said what, how it was meant, by which modality, and the summary."""
    from deployments.cli import query as cli_query

    cli_query.show(call, tenant, as_json=as_json)


@app.command(epilog="Examples: undertone watch · undertone watch demo-1 --json")
@clear_errors
def watch(
    call: Annotated[str | None, typer.Argument(help="The call's id; the newest open call when not given.")] = None,
    *,
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Follow a call while it happens, until it ends or Ctrl-C."""
    from deployments.cli import query as cli_query

    cli_query.watch(call, tenant, as_json=as_json)


@app.command(
    epilog="Examples: undertone analyze clip.mp4 · undertone analyze call.flac --participants agent,customer --json"
)
@clear_errors
def analyze(
    paths: Annotated[list[Path], typer.Argument(help="One file that FFmpeg opens, or one mono file per participant.")],
    *,
    participants: Participants = None,
    consent: Consent = None,
    transcriber: Transcriber = "base.en",
    bundle: Bundle = "embedded",
    as_json: Json = False,
) -> None:
    """Analyse a file here and now: no broker, no server."""
    from deployments.cli import analyze as cli_analyze

    cli_analyze.run(paths, participants, consent, transcriber=transcriber, bundle=bundle, as_json=as_json)


@app.command(epilog="Example: undertone demo --pace realtime")
@clear_errors
def demo(
    *,
    pace: Annotated[Pace, typer.Option(help="As it was spoken, or as fast as it goes.")] = Pace.FAST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Start everything on this machine, play the sample call through it, and stop."""
    from deployments.cli import demo as cli_demo

    cli_demo.run(realtime=pace is Pace.REALTIME, port=port, as_json=as_json)


@app.command(
    epilog="Examples: undertone train debug --data ../shared/data --out /tmp/debug --seed 0 · the same command again goes "
    "on after a kill · undertone train audio_ravdess --data ../shared/data --out /tmp/folds --folds · "
    "undertone train video_fer2013 --data ../shared/data --out /tmp/face --workers 4"
)
@clear_errors
def train(
    recipe: Annotated[str, typer.Argument(help="A function of models/recipes/.")],
    *,
    data: Annotated[Path, typer.Option(help="The folder of the data sets.")],
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
    from deployments.cli import train as cli_train

    cli_train.train(recipe, data, out, seed, folds=folds, workers=workers, as_json=as_json)


@app.command(
    epilog="Examples: undertone evaluate text --dataset meld --data ../shared/data · "
    "undertone evaluate audio --dataset ravdess --data my_actors --split all --json · "
    "undertone evaluate all --data ../shared/data · "
    "undertone evaluate fusion --bundle my_bundle --dataset label_pairs --data ../shared/data --report /tmp/report"
)
@clear_errors
def evaluate(
    modality: Annotated[
        str, typer.Argument(help="text, audio, video, fusion, or `all` for every data set in one table.")
    ],
    *,
    dataset: Annotated[str, typer.Option(help=DATASETS_HELP)] = "",
    data: Annotated[Path, typer.Option(help="The folder of the data sets, laid out as their readers say.")],
    bundle: Bundle = "embedded",
    split: Annotated[
        str, typer.Option(help="The data set's own name of a split, or `all`: whatever lies there.")
    ] = "validation",
    report: Annotated[Path | None, typer.Option(help="Folder for report.json, report.md and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure a network of a bundle on a data set: figures, 95 % intervals, and what a constant answer would get."""
    _needs_train_group()
    from deployments.cli import train as cli_train

    if modality == "all":
        cli_train.evaluate_all(bundle, data, split, as_json=as_json)
        return
    cli_train.evaluate(modality, bundle, dataset, data, split, report=report, as_json=as_json)


@app.command(
    epilog="Examples: undertone audit · undertone audit --call demo-1 · undertone audit --since 2026-11-21T08:00:00Z --json"
)
@clear_errors
def audit(
    *,
    call: Annotated[str | None, typer.Option(help="Only this call.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what the log took since then, like 2026-11-21T08:00:00Z.")
    ] = None,
    run: Run = "live",
    config: ConfigFile = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Compare the log's offsets, the store and the dead letters: exit code 1 if anything is missing or double."""
    from deployments.cli import audit as cli_audit

    raise typer.Exit(cli_audit.run_audit(call, since, run=run, config_file=config, source=source, as_json=as_json))


dlq = typer.Typer(
    help="Dead letters: records that could not be analysed.",
    epilog="Examples: undertone dlq list · undertone dlq show 3:1207 · undertone dlq redrive --reason killed --dry-run",
    no_args_is_help=True,
)
app.add_typer(dlq, name="dlq")


@dlq.command("list", epilog="Examples: undertone dlq list · undertone dlq list --reason undecodable --json")
@clear_errors
def dlq_list(
    *,
    call: LetterCall = None,
    reason: LetterReason = None,
    since: LetterSince = None,
    decided: Annotated[bool, typer.Option("--all", help="Also those that were redriven or dropped.")] = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """List dead letters with their places and reasons."""
    from deployments.cli import audit as cli_audit

    wanted = cli_audit.Wanted(call, reason, since, decided=decided)
    cli_audit.list_letters(wanted, source=source, as_json=as_json)


@dlq.command("show", epilog="Example: undertone dlq show 3:1207")
@clear_errors
def dlq_show(place: LetterPlace, *, source: Source = None, as_json: Json = False) -> None:
    """Show one dead letter: why it was refused, after how many attempts, and its headers."""
    from deployments.cli import audit as cli_audit

    cli_audit.show_letter(place, source=source, as_json=as_json)


@dlq.command(
    "redrive", epilog="Examples: undertone dlq redrive --reason killed --dry-run · undertone dlq redrive --call demo-1"
)
@clear_errors
def dlq_redrive(
    *,
    place: Annotated[str | None, typer.Option(help="Only the record at PARTITION:OFFSET.")] = None,
    call: LetterCall = None,
    reason: LetterReason = None,
    since: LetterSince = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were redriven or dropped before.")] = False,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Send dead letters again: their utterances come to stand where they were spoken."""
    from deployments.cli import audit as cli_audit

    wanted = cli_audit.Wanted(call, reason, since, place, decided=again)
    cli_audit.redrive(wanted, dry_run=dry_run, config_file=config, source=source, as_json=as_json)


@dlq.command("drop", epilog="Example: undertone dlq drop --reason bad_header --dry-run")
@clear_errors
def dlq_drop(
    *,
    place: Annotated[str | None, typer.Option(help="Only the record at PARTITION:OFFSET.")] = None,
    call: LetterCall = None,
    reason: LetterReason = None,
    since: LetterSince = None,
    dry_run: DryRun = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Decide that nothing is to be done about dead letters: they are not listed any more."""
    from deployments.cli import audit as cli_audit

    cli_audit.drop(cli_audit.Wanted(call, reason, since, place), dry_run=dry_run, source=source, as_json=as_json)


@app.command(
    epilog="Examples: undertone replay --call demo-1 --bundle my_bundle --into mine · "
    "undertone replay --since 2026-11-14T00:00:00Z --config deployments/serve.yaml --into last-week"
)
@clear_errors
def replay(
    *,
    call: Annotated[str | None, typer.Option(help="Only this call.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what the log took since then, like 2026-11-21T08:00:00Z.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Another bundle: `embedded`, or a folder.")] = None,
    into: Annotated[
        str | None, typer.Option(help="The name for the results; the same one goes on after a stop.")
    ] = None,
    config: ConfigFile = None,
    transcriber: Annotated[str | None, typer.Option(help="A Whisper model's name or path, or `pocketsphinx`.")] = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Judge calls that the log still holds once more, beside their live results."""
    from deployments.cli import replay as cli_replay

    if call is None and since is None:
        raise CommandError("say what to replay: --call ID, or --since 2026-11-14T00:00:00Z", EXIT_USAGE)
    changes: dict[str, object] = {"bundle": bundle, "transcriber": transcriber}
    changes = {name: value for name, value in changes.items() if value is not None}
    cli_replay.replay(call, since, into=into, changes=changes, config_file=config, source=source, as_json=as_json)


@app.command(epilog="Examples: undertone compare live mine · undertone compare live mine --call demo-1 --json")
@clear_errors
def compare(
    first: Annotated[str, typer.Argument(help="A run: `live`, or the name of a replay or a shadow.")],
    second: Annotated[str, typer.Argument(help="Another run.")],
    *,
    call: Annotated[str | None, typer.Option(help="Only this call.")] = None,
    since: Annotated[str | None, typer.Option(help="Only calls that started since then.")] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Say where two runs over the same calls agree, how far scores moved, and which utterances changed polarity."""
    from deployments.cli import replay as cli_replay

    cli_replay.compare_runs(first, second, tenant, call, since, as_json=as_json)


@app.command(epilog="Example: undertone doctor --json")
@clear_errors
def doctor(*, as_json: Json = False) -> None:
    """Say what is installed, reachable and missing, and how to mend it."""
    from deployments.cli import doctor as cli_doctor

    cli_doctor.run(as_json=as_json)


def _needs_train_group() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise CommandError("the packages for training and evaluating are not installed: uv sync --group train")
