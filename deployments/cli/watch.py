"""`undertone watch`: a call while it happens; the one that is named, or the next one."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli import render
from deployments.cli.client import events, gateway, pages, summary_of
from deployments.cli.console import clear_errors, hint, print_out, settings
from deployments.cli.follow import follow
from deployments.cli.options import ASKS_GATEWAY, AskedTenant, Json

if TYPE_CHECKING:
    import httpx

LOOK_S = 0.5
"""How often it is looked whether a call has come."""
LOOKED_AT = 100
"""So many of the newest calls are known by their ids, to tell a new one."""

commands = typer.Typer()


@commands.command(epilog=f"Examples: undertone watch · undertone watch demo-1 --json{ASKS_GATEWAY}")
@clear_errors
def watch(
    call: Annotated[
        str | None,
        typer.Argument(help="The call's id; by default the newest call that goes on, and where none does, the next."),
    ] = None,
    *,
    tenant: AskedTenant = None,
    as_json: Json = False,
) -> None:
    """Follow a call while it happens, until it ends or Ctrl-C; a call that has not begun is waited for.

    Where the system shows interim texts (`undertone serve --interim`), the words so far stand below in grey until the
    utterance is judged; `--json` has them as objects with `"interim": true`.
    """
    with gateway(settings()) as client:
        wanted = next_call(client, tenant) if call is None else call
        query = {} if tenant is None else {"tenant": tenant}
        happening = events(client, wanted, query, while_unknown=_Once(f"there is no call {wanted} yet: waiting for it"))
        follow(happening, as_json=as_json)
        if not as_json:
            print_out(render.summary(summary_of(client, wanted, tenant)))


class _Once:
    """Says something the first time that it is called, and lets time pass each time."""

    def __init__(self, said: str) -> None:
        self._said = said

    def __call__(self) -> None:
        if self._said:
            hint(f"{self._said} (Ctrl-C stops)")
        self._said = ""
        time.sleep(LOOK_S)


def next_call(client: "httpx.Client", tenant: str | None) -> str:
    """The id of the newest call that goes on; where none does, of the next that comes, though it be over when it is seen."""
    waited = _Once("no call goes on now: waiting for the next one")
    known: set[str] | None = None
    newest = ""
    while True:
        rows = list(pages(client, "/v1/calls", {"tenant": tenant}, "calls", LOOKED_AT))
        for row in rows:
            if row["status"] == "live":
                hint(f"watching {row['call_id']}, the newest call that goes on")
                return str(row["call_id"])
            if known is not None and row["call_id"] not in known and str(row["started_at"]) >= newest:
                hint(f"watching {row['call_id']}, which has just come")
                return str(row["call_id"])
        # An older call comes into the page where a newer one was deleted.
        known = (known or set()) | {str(row["call_id"]) for row in rows}
        newest = max([newest, *(str(row["started_at"]) for row in rows)])
        waited()
