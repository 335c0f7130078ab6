"""`undertone calls`, `show` and `watch`: what the gateway knows, as tables or JSON."""

from collections.abc import Mapping
from typing import Any

import httpx
from rich.console import Group

from deployments.cli import render
from deployments.cli.client import Event, call_path, events, gateway, get, pages
from deployments.cli.console import CommandError, aside, print_out, screen, settings, write_json
from pipelines.review.summary import CallSummary
from pipelines.types import UtteranceSentiment

CALL_COLUMNS = {"call_id": "call", "status": "status", "started_at": "started", "utterances": "utterances"}
UTTERANCES_MAX = 100_000


def calls(tenant: str, filters: Mapping[str, object], *, limit: int, as_json: bool) -> None:
    """List calls that match, newest first."""
    with gateway(settings().url) as client:
        rows = pages(client, "/v1/calls", {"tenant": tenant, **filters}, "calls", limit)
        if as_json:
            write_json(rows)
            return
        found = list(rows)
    print_out(render.calls(found, CALL_COLUMNS))
    if not found:
        aside().print("no call matches; send one with: undertone send PATH")


def show(call_id: str, tenant: str, *, as_json: bool) -> None:
    """One call: its transcript, its sentiment line and its summary.

    Raises:
        CommandError: there is no such call, or no gateway.
    """
    with gateway(settings().url) as client:
        call = get(client, call_path(call_id), {"tenant": tenant})
        found = utterances(client, call_id, tenant)
    if as_json:
        write_json([{**call, "utterances": [result.model_dump(mode="json") for result in found]}])
        return
    summary = render.summary(CallSummary.model_validate(call["summary"]))
    print_out(Group(render.transcript(found), "", render.sentiment_line(found), "", summary))


STILLNESS = {"call-stalled": "nothing comes of the call any more: stalled", "call-live": "the call goes on"}


def watch(call_id: str | None, tenant: str, *, as_json: bool) -> None:
    """Print what happens in a call as it happens, until its end; then its summary.

    Raises:
        CommandError: there is no such call, or no gateway.
    """
    with gateway(settings().url) as client:
        wanted = newest(client, tenant) if call_id is None else call_id
        for event in events(client, wanted, {"tenant": tenant}):
            if event.kind in STILLNESS:
                aside().print(STILLNESS[event.kind])
            result = utterance_of(event)
            if result is None:
                continue
            if as_json:
                write_json([result])
            else:
                screen().print(render.utterance(result))
        if not as_json:
            print_out(render.summary(summary_of(client, wanted, tenant)))


def newest(client: httpx.Client, tenant: str) -> str:
    """The id of the newest call that goes on.

    Raises:
        CommandError: none goes on.
    """
    for row in pages(client, "/v1/calls", {"tenant": tenant}, "calls", 100):
        if row["status"] == "live":
            return str(row["call_id"])
    raise CommandError("no call goes on now; name a past one (undertone calls), or send one with: undertone send PATH")


def utterances(client: httpx.Client, call_id: str, tenant: str) -> list[UtteranceSentiment]:
    """Every result of a call, in order of time."""
    rows = pages(client, call_path(call_id, "/utterances"), {"tenant": tenant}, "utterances", UTTERANCES_MAX)
    return sorted((UtteranceSentiment.model_validate(row) for row in rows), key=lambda result: result.start_ms)


def summary_of(client: httpx.Client, call_id: str, tenant: str) -> CallSummary:
    """The call's summary, live or final."""
    call: dict[str, Any] = get(client, call_path(call_id), {"tenant": tenant})
    return CallSummary.model_validate(call["summary"])


def utterance_of(event: Event) -> UtteranceSentiment | None:
    """The result that an event brings; None for events of another kind."""
    return UtteranceSentiment.model_validate_json(event.text) if event.kind == "utterance" else None
