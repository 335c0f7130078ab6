"""`undertone forget` and `delete`: everything that is stored of a customer, or of one call."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.client import ask, call_path, gateway, get
from deployments.cli.console import (
    EXIT_USAGE,
    CommandError,
    clear_errors,
    counted,
    print_out,
    settings,
    stderr,
    write_json,
)
from deployments.cli.listing import Column, Listing
from deployments.cli.options import ASKS_GATEWAY, AskedTenant, Json, reference_of

if TYPE_CHECKING:
    import httpx

FORGET_S = 600.0
"""How long one request may take: a call of many thousands of utterances takes seconds."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone forget --customer - · undertone forget --customer 4711 --dry-run · "
    "undertone forget --call demo-1 · pass account/4711 | undertone forget --customer - --yes --json > receipt.json"
    f"{ASKS_GATEWAY}"
)
@clear_errors
def forget(
    *,
    customer: Annotated[
        str | None,
        typer.Option(
            help="The reference that their calls were sent with; `-` asks for it, or reads it from standard input, so that it "
            "stands in no history."
        ),
    ] = None,
    call: Annotated[str | None, typer.Option(help="The id of one call.")] = None,
    tenant: AskedTenant = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget all calls of a customer, or one call: show what would go, ask, delete, print a receipt.

    Needs a token with the scope `delete`. Calls that come later are taken as any others.
    """
    if (customer is None) == (call is None):
        which = "name one of both" if call else "name whom or what to forget"
        raise CommandError(f"{which}: --customer REFERENCE, or --call ID", EXIT_USAGE)
    with gateway(settings()) as client:
        if call is not None:
            _forget_call(client, call, tenant, dry_run=dry_run, yes=yes, as_json=as_json)
        elif customer is not None:
            _forget_customer(client, reference_of(customer), tenant, dry_run=dry_run, yes=yes, as_json=as_json)


@commands.command(epilog=f"Examples: undertone delete demo-1 · undertone delete demo-1 --dry-run{ASKS_GATEWAY}")
@clear_errors
def delete(
    call: Annotated[str, typer.Argument(help="The call's id, as `undertone calls` shows it.")],
    *,
    tenant: AskedTenant = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget one call: `undertone forget --call` by another name."""
    with gateway(settings()) as client:
        _forget_call(client, call, tenant, dry_run=dry_run, yes=yes, as_json=as_json)


def _forget_customer(
    client: "httpx.Client", reference: str, tenant: str | None, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    if dry_run or not yes:
        plan = _order(client, reference, tenant, dry_run=True)
        if dry_run:
            _print(iter([plan]), as_json=as_json)
            return
        count = len(plan["calls"]) + plan["remaining"]
        if count:
            stderr().print(_table(plan))
            _confirm(f"Forget {counted(count, 'call')} of this customer of tenant {plan['tenant']} for good?")
    _print(_receipts(client, reference, tenant), as_json=as_json)


def _receipts(client: "httpx.Client", reference: str, tenant: str | None) -> Iterator[dict[str, Any]]:
    """Forget until nothing remains; one request forgets only so many calls."""
    forgotten = 0
    while True:
        receipt = _order(client, reference, tenant, dry_run=False)
        yield receipt
        forgotten += len(receipt["calls"])
        if not receipt["remaining"] or not receipt["calls"]:
            return
        stderr().print(f"{counted(forgotten, 'call')} forgotten, {receipt['remaining']} remain …")


def _order(client: "httpx.Client", reference: str, tenant: str | None, *, dry_run: bool) -> dict[str, Any]:
    body = {"customer": reference, "dry_run": dry_run}
    return ask(client, "POST", "/v1/forget", {"tenant": tenant}, body=body, timeout_s=FORGET_S)


def _forget_call(
    client: "httpx.Client", call: str, tenant: str | None, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    if dry_run or not yes:
        plan = get(client, call_path(call, "/deletion"), {"tenant": tenant})
        if dry_run:
            _print(iter([plan]), as_json=as_json)
            return
        _confirm(
            f"Forget the call {call} of tenant {plan['tenant']}, {counted(plan['utterances'], 'utterance')} with those of replays, for good?"
        )
    receipt = ask(client, "DELETE", call_path(call), {"tenant": tenant}, timeout_s=FORGET_S)
    _print(iter([receipt]), as_json=as_json)


def _confirm(question: str) -> None:
    try:
        is_wanted = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or nobody who could answer
        is_wanted = False
    if not is_wanted:
        raise CommandError("nothing was forgotten; --yes forgets without asking")


def _print(receipts: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    """The receipts, each as soon as it is there, so that none is lost where a later request fails; then what they come to."""
    if as_json:
        write_json(receipts)
        return
    calls = utterances = 0
    for receipt in receipts:
        if receipt["calls"]:
            print_out(_table(receipt))
        if receipt["dry_run"]:
            more = f", {receipt['remaining']} of them not listed here" if receipt["remaining"] else ""
            print_out(
                f"{counted(len(receipt['calls']) + receipt['remaining'], 'call')} would go{more}; nothing was forgotten"
            )
            return
        print_out(f"receipt of {receipt['at']}, sha256 {receipt['digest']}")
        calls, utterances = calls + len(receipt["calls"]), utterances + receipt["utterances"]
    print_out(f"forgotten: {counted(calls, 'call')}, {counted(utterances, 'utterance')}")


def _table(receipt: dict[str, Any]) -> Listing:
    rows = [(one["call_id"], str(one["utterances"])) for one in receipt["calls"]]
    return Listing((Column("call"), Column("utterances", right=True)), rows)
