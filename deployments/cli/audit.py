"""`undertone audit`: do the log, the store and the dead letters add up."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table

from deployments.cli.connect import connect
from deployments.cli.console import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    CommandError,
    clear_errors,
    counted,
    print_out,
    stderr,
    write_json,
)
from deployments.cli.listing import Listing, listing
from deployments.cli.options import (
    ConfigFile,
    Json,
    LogSince,
    OnlyCall,
    OnlyTenant,
    Source,
    since_ms,
    token_says_nothing,
)
from pipelines.log.records import concerns
from pipelines.types import LIVE_RUN, TOPIC_MEDIA

if TYPE_CHECKING:  # imports kafka and redis, which `undertone --help` spares
    from pipelines.review.audit import AuditReport

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone audit · undertone audit --call demo-1 · undertone audit --since 2026-11-21T08:00:00Z --json"
)
@clear_errors
def audit(
    *,
    call: OnlyCall = None,
    tenant: OnlyTenant = None,
    since: LogSince = None,
    run: Annotated[str, typer.Option(help="Whose results: `live`, or the name of a replay or a shadow.")] = LIVE_RUN,
    config: ConfigFile = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Compare the log's offsets, the store and the dead letters.

    Exit code 1 if anything is missing or double, or an utterance lacks a modality by a fault of the service; 4 if one of them
    could not be looked at.
    """
    from pipelines.review import audit as review  # noqa: PLC0415  # imports kafka and redis

    system = connect(source, config)
    if tenant is None:
        token_says_nothing(system.settings, "of all tenants")
    index = review.LogIndex(system.config.stream.limits)
    with (
        stderr().status("reading the log …") as status,
        closing(system.reader(TOPIC_MEDIA, system.config.model_copy(update={"run": run}))) as log,
    ):
        extents = log.extents()
        for record in log.records(extents, since_ms(since)):
            if concerns(record, tenant, call):
                index.add(record)
                if index.records % 1_000 == 0:
                    status.update(f"reading the log … {index.records} records")
        if call is not None and not index.records:
            raise CommandError(
                f"the log holds nothing of the call {call}; `undertone calls` lists the calls", EXIT_NOT_FOUND
            )
        status.update("comparing with the store …")
        report = system.with_store(lambda store: review.audit(index, extents, store, system.letters, run), run)
    if as_json:
        write_json([{**report.model_dump(), "clean": report.clean}])
    else:
        print_out(Group(_totals(report), *_findings(report), *_repeated(report)))
    raise typer.Exit(0 if report.clean else EXIT_FAILED)


def _totals(report: "AuditReport") -> Table:
    table = Table("fragments", "", box=None, pad_edge=False)
    for name in ("records", "analysed", "skipped", "dead_lettered", "deleted", "pending", "missing", "lost"):
        value = getattr(report, name)
        if isinstance(value, dict):
            parts = ", ".join(f"{reason} {count}" for reason, count in sorted(value.items()))
            table.add_row(name, f"{sum(value.values())}" + (f" ({parts})" if parts else ""))
        else:
            table.add_row(name, str(value))
    table.add_row(
        "utterances", f"{report.utterances} in {counted(report.calls, 'call')}, {counted(report.streams, 'stream')}"
    )
    for modality, counts in report.faults.items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        table.add_row(
            f"without {modality}", f"{counted(sum(counts.values()), 'utterance')} by a fault of the service ({reasons})"
        )
    if report.streams_cut:
        table.add_row("not seen whole", f"{report.streams_cut} stream(s) that began before what was read of the log")
    return table


def _findings(report: "AuditReport") -> list[Listing | str]:
    if report.clean and report.repeated:
        return ["", "every fragment is accounted for, and not every one was analysed:"]
    if report.clean:
        nothing = "the log holds nothing of what was asked for: there is nothing to add up"
        return ["", "everything adds up" if report.records else nothing]
    if not report.findings:
        return [
            "",
            "every fragment is accounted for, and not every utterance was judged by all that it has: `undertone replay` does it again",
        ]
    first = {"kind": "finding", "count": "count", "call_id": "call"}
    below = {"tenant": "tenant", "stream": "stream", "detail": "detail"}
    return ["", listing([one.model_dump() for one in report.findings], first, below)]


def _repeated(report: "AuditReport") -> list[str]:
    """What came again, a line for each stream: sent twice, or lost."""
    from pipelines.review.audit import REPEATS  # noqa: PLC0415  # see above

    lines: list[str] = []
    for one in report.repeated:
        parts = ", ".join(f"{count} {REPEATS[reason]} ({reason})" for reason, count in sorted(one.reasons.items()))
        lines.append(f"{one.call_id}, stream {one.stream} of tenant {one.tenant}: {parts}")
    told = (
        "These were not analysed. A sender that is unsure sends a fragment again, which loses nothing; another recording under the "
        "same call id and stream is lost: send it under another."
    )
    return [*lines, told] if lines else []
