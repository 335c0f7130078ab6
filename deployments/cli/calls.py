"""`undertone calls` and `show`: what the gateway knows, as tables or JSON."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Group

from deployments.cli import render
from deployments.cli.client import call_path, gateway, get, pages, utterances
from deployments.cli.console import clear_errors, hint, print_out, settings, write_json
from deployments.cli.options import ASKS_GATEWAY, AskedTenant, Json
from pipelines.review.summary import CallSummary


class Order(StrEnum):
    """By what `calls` sorts."""

    STARTED = "started"
    SCORE = "score"
    LENGTH = "length"
    UTTERANCES = "utterances"


ORDERS: dict[Order, Callable[[render.ListedCall], float]] = {
    Order.STARTED: lambda call: -call.started_at.timestamp(),
    Order.SCORE: lambda call: 4.0 if call.customer_score is None else call.customer_score,
    Order.LENGTH: lambda call: -call.last_ms,
    Order.UTTERANCES: lambda call: -call.utterances,
}
"""What of a call decides its place, the smallest first: a call without a score comes after all that have one."""

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone calls · undertone calls --polarity negative --max-score -1 · "
    f"undertone calls --since 2026-11-21T08:00:00Z --sort score --limit 200{ASKS_GATEWAY}"
)
@clear_errors
def calls(
    *,
    tenant: AskedTenant = None,
    participant: Annotated[str | None, typer.Option(help="agent, customer or mixed.")] = None,
    polarity: Annotated[str | None, typer.Option(help="negative, neutral or positive.")] = None,
    emotion: Annotated[str | None, typer.Option(help="neutral, joy, sadness, anger, surprise, fear, disgust.")] = None,
    min_score: Annotated[float | None, typer.Option(min=-3, max=3)] = None,
    max_score: Annotated[float | None, typer.Option(min=-3, max=3)] = None,
    since: Annotated[str | None, typer.Option(help="Started at or after, like 2026-11-21T08:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Started before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most, the newest.")] = 50,
    sort: Annotated[
        Order,
        typer.Option(
            help="Of those: the newest first, the unhappiest customer, the longest call, the most utterances."
        ),
    ] = Order.STARTED,
    as_json: Json = False,
) -> None:
    """List calls with their length, the customer's mean score and the summary's headline, newest first."""
    query: dict[str, object] = {"tenant": tenant, "participant": participant, "polarity": polarity, "emotion": emotion}
    query |= {"since": since, "until": until, "min_score": min_score, "max_score": max_score, "summary": "true"}
    with gateway(settings()) as client:
        rows = pages(client, "/v1/calls", query, "calls", limit)
        if sort is not Order.STARTED:
            rows = iter(sorted(rows, key=lambda row: ORDERS[sort](render.ListedCall.model_validate(row))))
        if as_json:
            write_json(rows)
            return
        found = [render.ListedCall.model_validate(row) for row in rows]
    print_out(render.calls(found))
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
