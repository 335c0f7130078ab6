"""`undertone accesses`: who read, deleted, replayed or redrove which call, and whether the trail of it is whole."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table

from deployments.cli.connect import System, connect
from deployments.cli.console import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    hint,
    print_out,
    write_json,
)
from deployments.cli.listing import listing
from deployments.cli.options import DirectTenant, Json, since_ms, token_says_nothing
from pipelines.store.chain import Entry, Mark
from pipelines.store.chain_check import TrailReport
from pipelines.types import LIVE_RUN

if TYPE_CHECKING:  # imports redis, which `undertone --help` spares
    from pipelines.store.store import Store

PAGE = 500

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone accesses --call demo-1 · undertone accesses --tenant acme --since 2026-11-21T08:00:00Z --json · "
    "undertone accesses --verify --expect 5120:9f86d081…"
)
@clear_errors
def accesses(
    *,
    call: Annotated[str | None, typer.Option("--call", help="Only what concerned this call, or all calls (*).")] = None,
    tenant: DirectTenant = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was noted since then, like 2026-11-21T08:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 50,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Whether nothing was altered or removed: exit code 1 if it was, 3 if there is no trail."
        ),
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="NUMBER:HASH that an earlier --verify printed: it must still be in the trail."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List who read, watched, deleted, replayed or redrove calls, the latest first; or verify the trail."""
    if expect is not None and not verify:
        raise CommandError("--expect goes with --verify", EXIT_USAGE)
    earliest_ms, system = since_ms(since), connect(None)
    if tenant is None:
        token_says_nothing(system.settings)
    whose = tenant or "default"
    if verify:
        _verify(system, whose, expect, as_json=as_json)
        return

    async def listed(store: "Store") -> list[Entry]:
        return [entry async for entry in _entries(store, whose, call, earliest_ms, limit)]

    found = system.with_store(listed, LIVE_RUN)
    if as_json:
        write_json(found)
        return
    rows = [{**one.model_dump(), "when": _moment(one.at_ms)} for one in found]
    first = {"when": "when", "action": "action", "call_id": "call"}
    print_out(listing(rows, first, {"who": "who", "origin": "from", "detail": "what"}))
    if not found:
        hint(f"the trail of tenant {whose} holds no such access")


async def _entries(store: "Store", tenant: str, call: str | None, earliest_ms: int, limit: int) -> AsyncIterator[Entry]:
    cursor: str | None = None
    while limit:
        page = await store.accesses.page(tenant, cursor, min(limit, PAGE), call_id=call, since_ms=earliest_ms)
        if page.corrupt:
            hint(f"{len(page.corrupt)} entries cannot be read: undertone accesses --tenant {tenant} --verify")
        for entry in page.items:
            yield entry
        limit -= len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _verify(system: System, tenant: str, expect: str | None, *, as_json: bool) -> None:
    try:
        expected = None if expect is None else Mark.read(expect)
    except ValueError as error:
        raise CommandError(f"--expect: {error}", EXIT_USAGE) from None
    report = system.with_store(lambda store: store.accesses.verify(tenant, expected), LIVE_RUN)
    if as_json:
        write_json([{**report.model_dump(), "whole": report.whole and _is_there(report)}])
    else:
        print_out(Group(*_said(report)))
    if report.whole:
        raise typer.Exit(0 if _is_there(report) else EXIT_NOT_FOUND)
    raise typer.Exit(EXIT_FAILED)


def _is_there(report: TrailReport) -> bool:
    """Whether anything was ever noted: of what never was nobody can say that it is whole."""
    return report.head is not None or report.entries > 0


def _said(report: TrailReport) -> list[Table | str]:
    said: list[Table | str] = [f"{report.entries} entries of tenant {report.tenant}"]
    if report.first_number is not None and report.first_number > 1:
        said.append(
            f"it begins with entry {report.first_number}: those before were past their retention, or are findings"
        )
    if report.head is not None:
        said.append(
            f"head {report.head}: note it where nobody who can write to the store can; --expect proves it later"
        )
    match report.expected:
        case "contained":
            said.append("the expected head is part of the trail")
        case "not_contained":
            said.append("the expected head is NOT part of the trail: it was written anew, or cut off")
        case "past_retention":
            said.append(
                "the expected head is past its retention, and proves nothing any more: note a newer one in time"
            )
    if not _is_there(report):
        said.append("there is no trail: nothing was noted in this store yet, or all of it was removed")
    elif not report.findings:
        said.append("nothing was altered or removed" if report.whole else "nothing else was found")
    if not report.findings:
        return said
    table = Table("finding", "entry", "detail", box=None, pad_edge=False)
    for one in report.findings:
        table.add_row(one.kind, str(one.number), one.detail)
    hidden = report.findings_in_all - len(report.findings)
    return [*said, "", table, *([f"and {hidden} more"] if hidden > 0 else [])]


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
