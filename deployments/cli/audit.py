"""`undertone audit` and `undertone dlq`: do the books balance, and what became of records that could not be analysed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from rich.console import Group
from rich.table import Table

from deployments.cli.console import EXIT_FAILED, EXIT_USAGE, CommandError, aside, print_out, settings, write_json
from deployments.cli.serve import configuration, reaching, source_of
from pipelines.log.choose import open_producer, open_reader
from pipelines.log.dead_letter import Letter, read_letters
from pipelines.review.audit import AuditReport, LogIndex, audit
from pipelines.review.redrive import BEGUN, Redrive, begun, redrives
from pipelines.settings import AppConfig, Settings
from pipelines.store.keys import letter_name
from pipelines.store.store import Store
from pipelines.types import LIVE_RUN, TOPIC_DEAD_LETTER, TOPIC_MEDIA, Checkpoint, Coordinates

T = TypeVar("T")

LogName = Literal["kafka", "redis"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: of a call, of a reason, refused since, at a place; undecided ones unless `decided` too."""

    call_id: str | None = None
    reason: str | None = None
    since: str | None = None
    place: str | None = None
    decided: bool = False


@dataclass(frozen=True, slots=True)
class System:
    """The log and the store that the environment names."""

    config: AppConfig
    where: Settings

    def letters(self) -> Iterator[Letter]:
        """Every dead letter, once."""
        with closing(open_reader(self.config, self.where, TOPIC_DEAD_LETTER)) as reader:
            yield from read_letters(reader.records(reader.extents()))

    def with_store(self, work: Callable[[Store], Awaitable[T]], run: str) -> T:
        """What `work` makes of the store."""

        async def connected() -> T:
            store = Store.connect(self.where.redis.get_secret_value(), run)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(connected())


def system(source: LogName | None, config_file: Path | None = None) -> System:
    """The system that the environment names, or that `undertone serve` runs on this machine.

    Raises:
        CommandError: there is none, or the configuration that it is said to run with is wrong.
    """
    where = reaching(settings())
    return System(configuration(config_file, {"source": source_of(where, source)}), where)


def run_audit(
    call_id: str | None, since: str | None, *, run: str, config_file: Path | None, source: LogName | None, as_json: bool
) -> int:
    """Compare log, store and dead letters; 1 when something does not add up.

    Raises:
        CommandError: the log or the store cannot be reached.
    """
    here = system(source, config_file)
    of_run, books = here.config.model_copy(update={"run": run}), LogIndex(here.config.stream.limits)
    with (
        aside().status("reading the log …") as status,
        closing(open_reader(of_run, here.where, TOPIC_MEDIA)) as log,
    ):
        extents = log.extents()
        for record in log.records(extents, since_ms(since)):
            if call_id is None or record.key == call_id.encode():
                books.add(record)
                if books.records % 1_000 == 0:
                    status.update(f"reading the log … {books.records} records")
        if call_id is not None and not books.records:
            raise CommandError(
                f"the log holds nothing of the call {call_id}; `undertone calls` lists the calls", EXIT_USAGE
            )
        status.update("comparing with the store …")
        report = here.with_store(lambda store: audit(books, extents, store, here.letters, run), run)
    if as_json:
        write_json([{**report.model_dump(), "clean": report.clean}])
    else:
        print_out(Group(_totals(report), *_findings(report)))
    return 0 if report.clean else EXIT_FAILED


def list_letters(wanted: Wanted, *, source: LogName | None, as_json: bool) -> None:
    """Print the letters, the latest last."""
    here = system(source)
    found = _found(here, wanted)
    if as_json:
        write_json(_row(letter, state) for letter, state in found)
        return
    table = Table("place", "call", "reason", "attempts", "bytes", "refused because", "state", box=None, pad_edge=False)
    for letter, state in found:
        row = _row(letter, state)
        names = ("place", "call_id", "reason", "attempts", "bytes", "detail", "state")
        table.add_row(*(str(row[name]) for name in names))
    print_out(table)
    if not found:
        aside().print("no dead letter matches")


def show_letter(place: str, *, source: LogName | None, as_json: bool) -> None:
    """Print one letter with its headers.

    Raises:
        CommandError: there is no such letter.
    """
    found = _found(system(source), Wanted(place=place, decided=True))
    if not found:
        raise CommandError(
            f"there is no dead letter of the record {place}; `undertone dlq list --all` shows the places", EXIT_USAGE
        )
    letter, state = found[0]
    row = _row(letter, state)
    row["headers"] = {name: value.decode(errors="replace") for name, value in letter.record.headers}
    if as_json:
        write_json([row])
        return
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    for name, value in row.items():
        table.add_row(name, "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
    print_out(table)


def redrive(wanted: Wanted, *, dry_run: bool, config_file: Path | None, source: LogName | None, as_json: bool) -> None:
    """Send the letters' records again, to where they belong in their calls.

    Raises:
        CommandError: the log or the store cannot be reached.
    """
    here = system(source, config_file)
    found = _found(here, wanted)
    letters = [letter for letter, _ in found]
    states = {letter.record.at: state for letter, state in found if state is not None}
    calls = sorted({(letter.record.key or b"").decode(errors="replace") for letter in letters})

    async def known(store: Store) -> dict[str, dict[str, Checkpoint]]:
        return {call_id: await store.checkpoints(call_id) for call_id in calls}

    plan = list(redrives(letters, here.with_store(known, LIVE_RUN), here.config.stream.limits, states))
    if not dry_run:
        _send(here, plan)
    _print_plan(plan, "would be sent" if dry_run else "sent", as_json=as_json)


def drop(wanted: Wanted, *, dry_run: bool, source: LogName | None, as_json: bool) -> None:
    """Note that nothing is to be done about the letters; their bytes go when the topic's time is over."""
    here = system(source)
    letters = [letter for letter, _ in _found(here, wanted)]
    if not dry_run:
        _decide(here, {letter.record.at: "dropped" for letter in letters})
    done = "would be dropped" if dry_run else "dropped"
    if as_json:
        write_json({**_row(letter, None), "state": done} for letter in letters)
    else:
        print_out(f"{len(letters)} dead letter(s) {done}")


def _found(here: System, wanted: Wanted) -> list[tuple[Letter, str | None]]:
    earliest_ms = since_ms(wanted.since)
    letters = [
        letter
        for letter in here.letters()
        if (wanted.call_id is None or letter.record.key == wanted.call_id.encode())
        and wanted.reason in (None, letter.reason)
        and letter.record.appended_ms >= earliest_ms
        and wanted.place in (None, letter_name(letter.record.at))
    ]
    states = here.with_store(lambda store: store.ledger.decisions([one.record.at for one in letters]), LIVE_RUN)
    both = [(letter, states.get(letter.record.at)) for letter in letters]
    return [(letter, state) for letter, state in both if wanted.decided or state is None or state.startswith(BEGUN)]


def _send(here: System, plan: Sequence[Redrive]) -> None:
    sent = [(one, one.fragment) for one in plan if one.fragment is not None]
    _decide(here, {one.letter.record.at: begun(fragment) for one, fragment in sent})
    with closing(open_producer(here.config, here.where)) as producer:
        for one, fragment in sent:
            producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, one.headers)
        producer.flush()
    _decide(here, {one.letter.record.at: "redriven" for one, _ in sent})


def _decide(here: System, states: Mapping[Coordinates, str]) -> None:
    here.with_store(lambda store: store.ledger.record_decisions(states), LIVE_RUN)


def _print_plan(plan: Sequence[Redrive], done: str, *, as_json: bool) -> None:
    rows = [
        {
            "place": letter_name(one.letter.record.at),
            "call_id": (one.letter.record.key or b"").decode(errors="replace"),
            "stream": None if one.fragment is None else one.fragment.stream,
            "start_ms": None if one.fragment is None else one.fragment.start_ms,
            "outcome": done if one.obstacle is None else one.obstacle,
            "detail": one.detail,
        }
        for one in plan
    ]
    if as_json:
        write_json(rows)
        return
    table = Table("place", "call", "stream", "start", "outcome", "detail", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    print_out(table)
    if not plan:
        aside().print("no dead letter matches")


def _row(letter: Letter, state: str | None) -> dict[str, object]:
    return {
        "place": letter_name(letter.record.at),
        "call_id": (letter.record.key or b"").decode(errors="replace"),
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "bytes": len(letter.record.value),
        "appended_ms": letter.record.appended_ms,
        "whole": letter.whole,
        "state": (state or "open").split()[0],
    }


def _totals(report: AuditReport) -> Table:
    table = Table("fragments", "", box=None, pad_edge=False)
    for name in ("records", "analysed", "skipped", "dead_lettered", "deleted", "pending", "missing", "lost"):
        value = getattr(report, name)
        if isinstance(value, dict):
            parts = ", ".join(f"{reason} {count}" for reason, count in sorted(value.items()))
            table.add_row(name, f"{sum(value.values())}" + (f" ({parts})" if parts else ""))
        else:
            table.add_row(name, str(value))
    table.add_row("utterances", f"{report.utterances} in {report.calls} call(s), {report.streams} stream(s)")
    if report.streams_cut:
        table.add_row("not seen whole", f"{report.streams_cut} stream(s) that began before what was read of the log")
    return table


def _findings(report: AuditReport) -> list[Table | str]:
    if report.clean:
        return ["", "everything adds up"]
    table = Table("finding", "count", "call", "stream", "detail", box=None, pad_edge=False)
    for one in report.findings:
        table.add_row(one.kind, str(one.count), one.call_id, one.stream, one.detail)
    return ["", table]


def since_ms(since: str | None) -> int:
    """A moment as ms since 1970; 0 for none.

    Raises:
        CommandError: it is no moment.
    """
    if since is None:
        return 0
    try:
        return round(datetime.fromisoformat(since).astimezone().timestamp() * 1000)
    except ValueError:
        raise CommandError(f"--since {since!r} is no time; write 2026-11-21T08:00:00Z", EXIT_USAGE) from None
