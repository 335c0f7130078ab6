"""`undertone replay` and `undertone compare`: what another model makes of calls that are over, and where it differs."""

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deployments.cli import render
from deployments.cli.connect import System, configuration, connect, note_by_hand
from deployments.cli.console import (
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    counted,
    exit_code_of,
    hint,
    print_out,
    stderr,
    write_json,
)
from deployments.cli.listing import Column, Listing
from deployments.cli.options import (
    TRANSCRIBER_HELP,
    ConfigFile,
    Json,
    LogSince,
    OnlyCall,
    OnlyTenant,
    Source,
    Tenant,
    require_named,
    since_ms,
)
from pipelines.errors import SourceUnavailableError, StoreUnavailableError
from pipelines.log.records import concerns
from pipelines.review.compare import Comparison, Tally
from pipelines.settings import AppConfig, with_live_tenants
from pipelines.store.chain import ALL_CALLS
from pipelines.store.queries import CallFilter
from pipelines.types import LIVE_RUN, RETENTION_DAYS, TOPIC_MEDIA, CallRef, Faults, UtteranceSentiment

if TYPE_CHECKING:  # both import kafka or redis, which `undertone --help` spares
    from pipelines.store.store import Store

POLL_S = 0.1
NOTE_S = 60.0
"""How long the store may take to note an access before it is asked again."""
CHANGES_SHOWN_MAX = 40
WORKER_SETTINGS = {"stalled_after_s": 1.0, "closed_after_s": 2.0, "commit_interval_s": 0.2}
"""A stream without a final fragment is closed soon: the log holds nothing more of it."""

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone replay --call demo-1 --bundle my_bundle --into mine · "
    "undertone replay --since 2026-11-14T00:00:00Z --config deployments/serve.yaml --into last-week"
)
@clear_errors
def replay(
    *,
    call: OnlyCall = None,
    tenant: OnlyTenant = None,
    since: LogSince = None,
    bundle: Annotated[str | None, typer.Option(help="Another bundle: `embedded`, or a folder.")] = None,
    into: Annotated[
        str | None, typer.Option(help="The name for the results; the same one goes on after a stop.")
    ] = None,
    config: ConfigFile = None,
    transcriber: Annotated[str | None, typer.Option(help=TRANSCRIBER_HELP)] = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Judge calls that the log still holds once more, beside their live results."""
    from deployments.serve.embedded import local_analyser  # noqa: PLC0415  # imports redis

    if call is None and since is None:
        raise CommandError("say what to replay: --call ID, or --since 2026-11-14T00:00:00Z", EXIT_USAGE)
    run = into or f"replay-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if run == LIVE_RUN:
        raise CommandError(f"{LIVE_RUN} is the name of the live results: give another one", EXIT_USAGE)
    if transcriber is not None:
        require_named(transcriber)
    system = connect(source, config)
    changes: dict[str, object] = {"bundle": bundle, "transcriber": transcriber}
    changes = {name: value for name, value in changes.items() if value is not None}
    changes |= {"share": 1.0, "worker": {**system.config.worker.model_dump(), **WORKER_SETTINGS}}
    of_run = configuration(config, {**changes, "run": run, "source": system.config.source})
    of_run = with_live_tenants(of_run, system.with_store(lambda store: store.service.tenants(), LIVE_RUN))
    _require_records(system, call, tenant, since_ms(since))
    with stderr().status("loading the networks …"):
        try:
            analyser = local_analyser(of_run)
        except ValueError as error:  # a checkpoint or bundle that cannot be trusted; it says what to do next
            raise CommandError(str(error), exit_code_of(error)) from error
    wanted = {"since_ms": since_ms(since), "call_id": call, "tenant": tenant}
    stored, calls = asyncio.run(_replay(system, of_run, wanted, analyser))
    deleted = _deleted(system, calls)
    if call is not None and len(deleted) == len(calls):
        raise CommandError(f"the call {call} was deleted: nothing of it can be read any more", EXIT_NOT_FOUND)
    if as_json:
        write_json([{"run": run, **stored, "deleted": sorted(one.call_id for one in deleted)}])
        return
    print_out(
        f"{counted(stored['utterances'], 'new utterance')} of {counted(stored['calls'] - len(deleted), 'call')} under {run}"
    )
    if deleted:
        hint(f"left out, since they were deleted: {', '.join(sorted(one.call_id for one in deleted))}")
    hint(f"compare them: undertone compare {LIVE_RUN} {run}")


@commands.command(epilog="Examples: undertone compare live mine · undertone compare live mine --call demo-1 --json")
@clear_errors
def compare(
    first: Annotated[str, typer.Argument(help="A run: `live`, or the name of a replay or a shadow.")],
    second: Annotated[str, typer.Argument(help="Another run.")],
    *,
    call: OnlyCall = None,
    since: Annotated[str | None, typer.Option(help="Only calls that started since then.")] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Say where two runs over the same calls agree, how far scores moved, and which utterances changed polarity."""
    system = connect(None)
    wanted = CallFilter(tenant=tenant, since_ms=since_ms(since) or None)

    async def both(store: "Store") -> Comparison:
        tally = Tally((first, second))
        async for pair in _pairs(store, tally.runs, wanted, call):
            tally.add(*pair)
        return tally.comparison()

    found = system.with_store(both, LIVE_RUN)
    if not found.calls:
        raise CommandError(
            f"no call has results under both {first} and {second}; undertone replay --into NAME makes them",
            EXIT_NOT_FOUND,
        )
    system.note("read", {CallRef(tenant, call or ALL_CALLS): f"comparison of run {first} with run {second}"})
    if as_json:
        write_json([found])
    else:
        print_out(Group(_figures(found), "", _changes(found)))


def _require_records(system: System, call: str | None, tenant: str | None, earliest_ms: int) -> None:
    """Return if the log holds anything to replay, before the networks are loaded for it.

    Raises:
        CommandError: it does not.
    """
    with closing(system.reader(TOPIC_MEDIA)) as log:
        if not any(concerns(record, tenant, call) for record in log.records(log.extents(), earliest_ms)):
            what = "that late" if call is None else f"of the call {call}"
            kept = f"it keeps {RETENTION_DAYS[TOPIC_MEDIA]} days; `undertone calls` lists the calls"
            raise CommandError(f"the log holds nothing {what}: {kept}", EXIT_NOT_FOUND)


def _deleted(system: System, calls: Collection[CallRef]) -> list[CallRef]:
    """Those of the calls that were deleted."""

    async def deleted(store: "Store") -> list[CallRef]:
        return [call for call in calls if await store.deleted(call)]

    return system.with_store(deleted, LIVE_RUN)


async def _replay(
    system: System, config: AppConfig, wanted: Mapping[str, Any], analyser: Any
) -> tuple[dict[str, int], set[CallRef]]:
    """What was read and stored, in figures, and the calls that were met."""
    from pipelines.ingest.worker import Worker, owner_name  # noqa: PLC0415  # imports kafka
    from pipelines.log.producer import SilentProducer  # noqa: PLC0415  # as above
    from pipelines.review.replay import ReplaySource  # noqa: PLC0415  # as above

    store, loop = system.store(config.run), asyncio.get_running_loop()

    def begin(call: CallRef) -> None:  # on the source's thread
        noted = note_by_hand(store, config, "replay", call, f"into run {config.run}")
        try:
            asyncio.run_coroutine_threadsafe(noted, loop).result(NOTE_S)
        except (StoreUnavailableError, TimeoutError) as error:
            raise SourceUnavailableError(f"the replay of {call} cannot be noted yet: {error}") from error

    source = ReplaySource(system.reader(TOPIC_MEDIA), begin=begin, **wanted)
    worker = Worker(
        source=source,
        producer=SilentProducer(),
        store=store,
        analyse=analyser,
        config=config,
        owner=owner_name(),
    )
    running = asyncio.create_task(worker.run())
    columns = (TextColumn("replaying"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} records"))
    with Progress(*columns, TimeRemainingColumn(), console=stderr(), transient=True) as progress:
        task = progress.add_task("")
        while not running.done() and not (source.exhausted and worker.idle):
            progress.update(task, total=source.total, completed=source.read)
            worker.check()
            await asyncio.wait([running], timeout=POLL_S)
    worker.stop()
    await running
    await store.close()
    families = worker.metrics.utterances.collect()
    new = sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))
    return {"records": source.read, "calls": len(source.calls), "utterances": round(new)}, source.calls


async def _pairs(
    store: "Store", runs: tuple[str, str], wanted: CallFilter, call_id: str | None
) -> AsyncIterator[tuple[Sequence[UtteranceSentiment], Sequence[UtteranceSentiment]]]:
    from pipelines.store.archive import PAGE_MAX  # noqa: PLC0415  # imports redis

    first, second = (store.of_run(run).archive for run in runs)
    smaller = first if runs[1] == LIVE_RUN else second  # a replay has fewer calls than there are
    cursor: str | None = None
    while True:
        page = await smaller.calls(wanted, cursor, PAGE_MAX)
        for call in page.items:
            if call_id in (None, call.call_id):
                pair = (await first.results(call.call), await second.results(call.call))
                if any(pair):
                    yield pair
        cursor = page.next_cursor
        if cursor is None:
            return


def _figures(found: Comparison) -> Table:
    table = Table("", *found.runs, "both", box=None, pad_edge=False)
    table.add_row("bundle", *(", ".join(names) for names in found.bundles), "")
    table.add_row("utterances only there", *map(str, found.only_in), str(found.utterances))
    table.add_row("judged", *map(str, found.judged_only_in), str(found.judged))
    if any(found.faults):
        table.add_row("missing by a fault", *map(_fault_words, found.faults), "")
    table.add_row("polarity agrees", "", "", _share(found.polarity_agreement))
    table.add_row("Cohen's kappa", "", "", "-" if found.polarity_kappa is None else f"{found.polarity_kappa:.2f}")
    table.add_row("emotion agrees", "", "", _share(found.emotion_agreement))
    moved = found.score_difference_mean_absolute
    table.add_row("score moves by", "", "", "-" if moved is None else f"{moved:.2f} (mean of absolutes)")
    table.add_row("scores moved by more than 0.5", "", "", str(found.scores_moved))
    return table


def _changes(found: Comparison) -> Group | str:
    if not found.changed:
        return "no utterance changed its polarity"
    rows = []
    for one in found.changed[:CHANGES_SHOWN_MAX]:
        said = [
            "not judged" if polarity is None or score is None else f"{polarity} {render.signed(score)}"
            for polarity, score in zip(one.polarities, one.scores, strict=True)
        ]
        at = f"{one.start_ms // 60_000}:{one.start_ms % 60_000 / 1000:04.1f}"
        rows.append((one.call_id, at, one.participant, *said, one.text))
    hidden = found.changed_polarity - CHANGES_SHOWN_MAX
    below = [Column(heading, below=True) for heading in (*found.runs, "words")]
    listed = Listing([Column("call"), Column("at"), Column("who"), *below], rows)
    return Group(listed, *([f"and {hidden} more: --json"] if hidden > 0 else []))


def _fault_words(faults: Faults) -> str:
    return ", ".join(f"{modality} {sum(counts.values())}" for modality, counts in faults.items()) or "-"


def _share(value: float | None) -> str:
    return (
        "-" if value is None else f"{math.floor(1000 * value) / 10:.4g} %"
    )  # rounded up, 100 % would hide what changed
