"""`undertone dlq`: the records that could not be analysed: list them, send them again, or drop them."""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.connect import System, connect
from deployments.cli.console import EXIT_NOT_FOUND, CommandError, clear_errors, hint, print_out, write_json
from deployments.cli.listing import listing, values
from deployments.cli.options import ConfigFile, Json, OnlyTenant, Source, since_ms
from pipelines.checkpoints import Checkpoint
from pipelines.errors import CallDeletedError, SealError
from pipelines.log.producer import Producer
from pipelines.log.records import call_of, concerns, fragment_headers
from pipelines.store.keys import letter_name
from pipelines.types import LIVE_RUN, TOPIC_DEAD_LETTER, TOPIC_MEDIA, CallRef, Coordinates, MediaFragment

if TYPE_CHECKING:  # all three import kafka or redis, which `undertone --help` spares
    from pipelines.log.dead_letter import Letter
    from pipelines.review.redrive import Redrive
    from pipelines.store.store import Store

PLACES_NAMED_MAX = 8

Place = Annotated[str, typer.Argument(help="Where the record stood in the log: PARTITION:OFFSET.")]
OnlyPlace = Annotated[str | None, typer.Option("--place", help="Only the record at PARTITION:OFFSET.")]
OfCall = Annotated[str | None, typer.Option("--call", help="Only of this call.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only refused for this reason.")]
Since = Annotated[str | None, typer.Option("--since", help="Only what the log took since then.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

commands = typer.Typer(
    help="Dead letters: records that could not be analysed.",
    epilog="Examples: undertone dlq list · undertone dlq show 3:1207 · undertone dlq redrive --reason killed --dry-run",
    no_args_is_help=True,
)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters a command is about; None leaves a condition out. `decided` includes those redriven or dropped."""

    call_id: str | None = None
    tenant: str | None = None
    reason: str | None = None
    since: str | None = None
    place: str | None = None
    decided: bool = False


@commands.command("list", epilog="Examples: undertone dlq list · undertone dlq list --reason undecodable --json")
@clear_errors
def list_letters(
    *,
    call: OfCall = None,
    tenant: OnlyTenant = None,
    reason: Reason = None,
    since: Since = None,
    decided: Annotated[bool, typer.Option("--all", help="Also those that were redriven or dropped.")] = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """List dead letters with their places and reasons."""
    found = _select(connect(source), LetterFilter(call, tenant, reason, since, decided=decided))
    rows = [_row(letter, state) for letter, state in found]
    first = {"place": "place", "call_id": "call", "reason": "reason", "state": "state"}
    below = {"tenant": "tenant", "attempts": "attempts", "bytes": "bytes", "detail": "refused because"}
    _print_rows(rows, first, below, as_json=as_json)


@commands.command(epilog="Example: undertone dlq show 3:1207")
@clear_errors
def show(place: Place, *, source: Source = None, as_json: Json = False) -> None:
    """Show one dead letter: why it was refused, after how many attempts, and its headers."""
    system = connect(source)
    found = _select(system, LetterFilter(place=place, decided=True))
    if not found:
        raise CommandError(
            f"there is no dead letter of the record {place}; `undertone dlq list --all` shows the places",
            EXIT_NOT_FOUND,
        )
    letter, state = found[0]
    system.note("read", _noted([letter]))
    row, headers = _row(letter, state), {name: value.decode(errors="replace") for name, value in letter.record.headers}
    if as_json:
        write_json([{**row, "headers": headers}])
    else:
        print_out(values({**row, "headers": "\n".join(f"{name}: {value}" for name, value in headers.items())}))


@commands.command(
    epilog="Examples: undertone dlq redrive --reason killed --dry-run · undertone dlq redrive --call demo-1"
)
@clear_errors
def redrive(
    *,
    place: OnlyPlace = None,
    call: OfCall = None,
    tenant: OnlyTenant = None,
    reason: Reason = None,
    since: Since = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were redriven or dropped before.")] = False,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Send dead letters again: their utterances come to stand where they were spoken."""
    from pipelines.review.redrive import redrives  # noqa: PLC0415  # imports kafka

    system = connect(source, config)
    found = _select(system, LetterFilter(call, tenant, reason, since, place, decided=again))
    letters = [letter for letter, _ in found]
    states = {letter.record.at: state for letter, state in found if state is not None}

    async def asked(store: "Store") -> tuple[dict[CallRef, dict[str, Checkpoint]], list[CallRef]]:
        calls = list(_noted(letters))
        known = {named: await store.checkpoints(named) for named in calls}
        return known, [named for named in calls if await store.deleted(named)]

    known, deleted = system.with_store(asked, LIVE_RUN)
    plan = list(redrives(letters, known, system.config.stream.limits, states, deleted))
    if not dry_run:
        plan = send_again(system, plan)
    _print_plan(plan, "would be sent" if dry_run else "sent", as_json=as_json)


@commands.command(epilog="Example: undertone dlq drop --reason bad_header --dry-run")
@clear_errors
def drop(
    *,
    place: OnlyPlace = None,
    call: OfCall = None,
    tenant: OnlyTenant = None,
    reason: Reason = None,
    since: Since = None,
    dry_run: DryRun = False,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Decide that nothing is to be done about dead letters: they are not listed any more."""
    system = connect(source)
    letters = [letter for letter, _ in _select(system, LetterFilter(call, tenant, reason, since, place))]
    if not dry_run:
        system.note("drop", _noted(letters))
        _record_decisions(system, {letter.record.at: "dropped" for letter in letters})
    done = "would be dropped" if dry_run else "dropped"
    if as_json:
        write_json({**_row(letter, None), "state": done} for letter in letters)
    else:
        print_out(f"{len(letters)} dead letter(s) {done}")


def _select(system: System, wanted: LetterFilter) -> list[tuple["Letter", str | None]]:
    from pipelines.review.redrive import BEGUN  # noqa: PLC0415  # imports kafka

    earliest_ms = since_ms(wanted.since)
    sealed = [
        letter
        for letter in system.letters()
        if concerns(letter.record, wanted.tenant, wanted.call_id)
        and wanted.reason in (None, letter.reason)
        and letter.record.appended_ms >= earliest_ms
        and wanted.place in (None, letter_name(letter.record.at))
    ]
    letters = system.with_store(partial(_opened, sealed), LIVE_RUN)
    states = system.with_store(lambda store: store.ledger.decisions([one.record.at for one in letters]), LIVE_RUN)
    both = [(letter, states.get(letter.record.at)) for letter in letters]
    return [(letter, state) for letter, state in both if wanted.decided or state is None or state.startswith(BEGUN)]


async def _opened(letters: "Sequence[Letter]", store: "Store") -> list["Letter"]:
    """The letters with what they hold, each record once; those that nobody can open any more are left out, and counted."""
    from pipelines.log.dead_letter import open_letter  # noqa: PLC0415  # imports kafka

    opened: dict[Coordinates, Letter] = {}
    for letter in letters:
        call = call_of(letter.record)
        if letter.seal is None or call is None:
            opened.setdefault(letter.record.at, letter)
        elif seal := await store.seals.find(call, TOPIC_DEAD_LETTER, letter.seal):
            with suppress(SealError):
                opened.setdefault(letter.record.at, open_letter(letter, seal))
    forgotten = len({letter.record.at for letter in letters} - opened.keys())
    if forgotten:
        hint(f"{forgotten} dead letter(s) cannot be opened any more and are left out: their calls were forgotten")
    return list(opened.values())


def send_again(system: System, plan: Sequence["Redrive"]) -> list["Redrive"]:
    """Send what the plan says, call by call, so that a failure leaves those before it done; the plan as it was carried out.

    A call that was deleted since the plan was made is left out, and no other for it.
    """
    from pipelines.review.redrive import of_deleted_call  # noqa: PLC0415  # imports kafka

    by_call: dict[CallRef, list[tuple[Letter, MediaFragment]]] = {}
    for one in plan:
        if one.fragment is not None:
            by_call.setdefault(one.fragment.call, []).append((one.letter, one.fragment))
    deleted: set[CallRef] = set()
    with closing(system.producer()) as producer:
        for call, sent in by_call.items():
            try:
                _send_call(system, producer, call, sent)
            except CallDeletedError:
                deleted.add(call)
    return [
        of_deleted_call(one.letter) if one.fragment is not None and one.fragment.call in deleted else one
        for one in plan
    ]


def _send_call(
    system: System, producer: Producer, call: CallRef, sent: Sequence[tuple["Letter", MediaFragment]]
) -> None:
    from pipelines.review.redrive import begun  # noqa: PLC0415  # imports kafka

    with system.sealing(call) as seal_fragment:
        system.note("redrive", _noted([letter for letter, _ in sent]))
        _record_decisions(system, {letter.record.at: begun(fragment) for letter, fragment in sent})
        for _, fragment in sent:
            whole = seal_fragment(fragment)
            producer.send(TOPIC_MEDIA, whole.call_id, whole.media, fragment_headers(whole))
        producer.flush()
    _record_decisions(system, {letter.record.at: "redriven" for letter, _ in sent})


def _record_decisions(system: System, states: Mapping[Coordinates, str]) -> None:
    system.with_store(lambda store: store.ledger.record_decisions(states), LIVE_RUN)


def _print_plan(plan: Sequence["Redrive"], done: str, *, as_json: bool) -> None:
    rows = [
        {
            "place": letter_name(one.letter.record.at),
            "tenant": _tenant(one.letter),
            "call_id": (one.letter.record.key or b"").decode(errors="replace"),
            "stream": None if one.fragment is None else one.fragment.stream,
            "start_ms": None if one.fragment is None else one.fragment.start_ms,
            "outcome": done if one.obstacle is None else one.obstacle,
            "detail": one.detail,
        }
        for one in plan
    ]
    first = {"place": "place", "call_id": "call", "outcome": "outcome"}
    below = {"tenant": "tenant", "stream": "stream", "start_ms": "start", "detail": ""}
    _print_rows(rows, first, below, as_json=as_json)


def _print_rows(
    rows: Sequence[Mapping[str, object]], first: Mapping[str, str], below: Mapping[str, str], *, as_json: bool
) -> None:
    if as_json:
        write_json(rows)
        return
    print_out(listing(rows, first, below))
    if not rows:
        hint("no dead letter matches")


def _row(letter: "Letter", state: str | None) -> dict[str, object]:
    return {
        "place": letter_name(letter.record.at),
        "tenant": _tenant(letter),
        "call_id": (letter.record.key or b"").decode(errors="replace"),
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "bytes": len(letter.record.value),
        "appended_ms": letter.record.appended_ms,
        "whole": letter.whole,
        "state": (state or "open").split()[0],
    }


def _noted(letters: Sequence["Letter"]) -> dict[CallRef, str]:
    """The calls that the letters are of, and for each, in the few words for which its trail has room, which letters."""
    places: dict[CallRef, list[str]] = {}
    for letter in letters:
        if (call := call_of(letter.record)) is not None:
            places.setdefault(call, []).append(letter_name(letter.record.at))
    return {
        call: f"dead letter {', '.join(some[:PLACES_NAMED_MAX])}"
        + (f" and {len(some) - PLACES_NAMED_MAX} more" if len(some) > PLACES_NAMED_MAX else "")
        for call, some in places.items()
    }


def _tenant(letter: "Letter") -> str:
    """Whose record it was; empty where it does not say."""
    whose = call_of(letter.record)
    return "" if whose is None else whose.tenant
