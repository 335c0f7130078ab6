"""`undertone calls` and `show`: what the gateway knows, as tables or JSON."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import AwareDatetime, BaseModel
from rich.console import Group
from rich.text import Text

from deployments.cli import render
from deployments.cli.client import call_path, gateway, get, pages, utterances
from deployments.cli.console import clear_errors, hint, print_out, settings, write_json
from deployments.cli.listing import Column, Listing
from deployments.cli.options import ASKS_GATEWAY, AskedTenant, Json, moment
from pipelines.review.summary import CallSummary
from pipelines.types import Participant


class ListedCall(BaseModel):
    """A call of `GET /v1/calls?summary=true`, as far as a list shows it."""

    call_id: str
    status: str
    started_at: AwareDatetime
    last_ms: int
    length_ms: int | None = None
    utterances: int
    summary: CallSummary | None = None

    @property
    def reaches_ms(self) -> int:
        """How long it is, as far as that is known."""
        return max(self.last_ms, self.length_ms or 0)

    @property
    def headline(self) -> str:
        """The summary's; empty where the gateway gave none."""
        return "" if self.summary is None else self.summary.headline

    @property
    def customer_score(self) -> float | None:
        """The customer's mean score; None where no customer was judged."""
        parts = () if self.summary is None else self.summary.participants
        return next((part.score_mean for part in parts if part.participant is Participant.CUSTOMER), None)


class Order(StrEnum):
    """By what `calls` sorts."""

    STARTED = "started"
    SCORE = "score"
    LENGTH = "length"
    UTTERANCES = "utterances"


ORDERS: dict[Order, Callable[[ListedCall], float]] = {
    Order.STARTED: lambda call: -call.started_at.timestamp(),
    Order.SCORE: lambda call: 4.0 if call.customer_score is None else call.customer_score,
    Order.LENGTH: lambda call: -call.reaches_ms,
    Order.UTTERANCES: lambda call: -call.utterances,
}
"""What of a call decides its place, the smallest first: a call without a score comes after all that have one."""

SORTED_MAX = 2_000
"""So many calls, the newest that match, are looked at for those that are to come first."""

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone calls · undertone calls --participant customer --max-score -2 · "
    f"undertone calls --since 2026-11-21 --sort score --limit 20{ASKS_GATEWAY}"
)
@clear_errors
def calls(
    *,
    tenant: AskedTenant = None,
    participant: Annotated[str | None, typer.Option(help="agent, customer or mixed.")] = None,
    polarity: Annotated[str | None, typer.Option(help="negative, neutral or positive.")] = None,
    emotion: Annotated[str | None, typer.Option(help="neutral, joy, sadness, anger, surprise, fear, disgust.")] = None,
    min_score: Annotated[float | None, typer.Option(min=-3, max=3, help="Of that utterance, at least.")] = None,
    max_score: Annotated[float | None, typer.Option(min=-3, max=3, help="Of that utterance, at most.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Started at or after: 2026-11-21T08:00:00Z, or 2026-11-21 in this machine's zone."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Started before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most: the first of the order.")] = 50,
    sort: Annotated[
        Order,
        typer.Option(
            metavar="ORDER",
            help="Which come first: started (the newest), score (the unhappiest customers), length, utterances (the most); of "
            f"the newest {SORTED_MAX} that match.",
        ),
    ] = Order.STARTED,
    as_json: Json = False,
) -> None:
    """List calls with their length, the customer's mean score and the summary's headline, newest first.

    A call matches when ONE of its utterances has the participant, polarity, emotion and score that are asked for.
    """
    query: dict[str, object] = {"tenant": tenant, "participant": participant, "polarity": polarity, "emotion": emotion}
    query |= {"since": moment("--since", since), "until": moment("--until", until), "summary": "true"}
    query |= {"min_score": min_score, "max_score": max_score}
    with gateway(settings()) as client:
        rows = pages(client, "/v1/calls", query, "calls", limit if sort is Order.STARTED else SORTED_MAX + 1)
        if sort is not Order.STARTED:
            seen = list(rows)
            rows = iter(sorted(seen[:SORTED_MAX], key=lambda row: ORDERS[sort](ListedCall.model_validate(row)))[:limit])
            if len(seen) > SORTED_MAX:
                hint(f"of the newest {SORTED_MAX} calls that match; --since and --until ask for others")
        if as_json:
            write_json(rows)
            return
        found = [ListedCall.model_validate(row) for row in rows]
    print_out(listed(found))
    if not found:
        hint("no call matches; send one with: undertone send PATH")


@commands.command(epilog=f"Example: undertone show demo-1{ASKS_GATEWAY}")
@clear_errors
def show(
    call: Annotated[str, typer.Argument(help="The call's id, as `undertone calls` shows it.")],
    *,
    tenant: AskedTenant = None,
    as_json: Json = False,
) -> None:
    """Show a call: who said what, how it was meant, by which modality, and the summary."""
    with gateway(settings()) as client:
        about = get(client, call_path(call), {"tenant": tenant})
        found = utterances(client, call, tenant)
    if as_json:
        write_json([{**about, "utterances": [result.model_dump(mode="json") for result in found]}])
        return
    summary = render.summary(CallSummary.model_validate(about["summary"]))
    models = render.names_of_models(found)
    print_out(Group(render.Transcript(found), "", render.sentiment_line(found), "", summary, models))


def listed(rows: Sequence[ListedCall]) -> Listing:
    """Calls as the gateway lists them, each with its headline."""
    columns = [
        *(Column("call"), Column("started (UTC)"), Column("length", right=True), Column("customer", right=True)),
        *(Column("utterances", right=True), Column("", below=True), Column("", below=True)),
    ]
    return Listing(
        columns,
        (
            [
                *(row.call_id, f"{row.started_at:%Y-%m-%d %H:%M}", render.clock(row.reaches_ms).partition(".")[0]),
                *(render.score(row.customer_score), str(row.utterances), Text(row.status, style="dim"), row.headline),
            ]
            for row in rows
        ),
    )
