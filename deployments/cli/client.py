"""A client of the gateway's HTTP API."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deployments.cli.console import EXIT_AWAY, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE, CommandError
from deployments.http.tokens import token_of
from pipelines.review.summary import CallSummary
from pipelines.settings import Settings, is_loopback
from pipelines.store.queries import InterimText
from pipelines.types import UtteranceSentiment

if TYPE_CHECKING:
    import httpx

ANSWER_S = 30.0
KEEP_ALIVE_MAX_S = 60.0
"""The gateway sends a comment far more often than this on an event stream without events."""
RECONNECTS_MAX = 5
RECONNECT_PAUSE_S = 1.0
POLL_S = 0.3
UTTERANCES_MAX = 100_000
_EXIT_BY_STATUS: dict[int, int] = {
    HTTPStatus.BAD_REQUEST: EXIT_USAGE,
    HTTPStatus.NOT_FOUND: EXIT_NOT_FOUND,
    HTTPStatus.GONE: EXIT_NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY: EXIT_USAGE,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: its place in the stream, its kind, and its JSON text."""

    id: str
    kind: str
    text: str

    @property
    def utterance(self) -> UtteranceSentiment | None:
        """The result that it brings; None for an event of another kind."""
        return UtteranceSentiment.model_validate_json(self.text) if self.kind == "utterance" else None

    @property
    def interim(self) -> InterimText | None:
        """The words so far that it brings; None for an event of another kind."""
        return InterimText.model_validate_json(self.text) if self.kind == "interim" else None


@contextmanager
def gateway(where: Settings) -> "Iterator[httpx.Client]":
    """A client of the gateway that the settings name, with the token that they name or find; one of this machine without a proxy."""
    import httpx  # noqa: PLC0415  # a third of the time that `undertone --help` would take

    try:
        token = token_of(where)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(
            base_url=where.url, timeout=ANSWER_S, headers=headers, trust_env=not is_loopback(where.url)
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise CommandError(f"UNDERTONE_URL={where.url!r} is no address: {error}", EXIT_USAGE) from error
    with client:
        yield client


def get(client: "httpx.Client", path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The JSON object at `path`; query values that are None are left out.

    Raises:
        CommandError: nothing answers, or it answers with a problem, whose detail is the message.
    """
    return ask(client, "GET", path, query)


def ask(
    client: "httpx.Client",
    method: str,
    path: str,
    query: Mapping[str, object] | None = None,
    *,
    body: Mapping[str, object] | None = None,
    timeout_s: float = ANSWER_S,
) -> dict[str, Any]:
    """The JSON object that a request is answered with, empty where the answer is; `body` is sent as JSON. Raises as `get`."""
    import httpx  # noqa: PLC0415  # a third of the time that `undertone --help` would take

    asked = {name: str(value) for name, value in (query or {}).items() if value is not None}
    try:
        answer = client.request(method, path, params=asked, json=body, timeout=timeout_s)
        if not answer.is_success:
            raise refusal(answer)
        found: dict[str, Any] = answer.json() if answer.content else {}
    except (httpx.HTTPError, ValueError) as error:
        raise _away(client, error) from error
    return found


def pages(
    client: "httpx.Client", path: str, query: Mapping[str, object], name: str, limit: int
) -> Iterator[dict[str, Any]]:
    """At most `limit` of the items under `name`, page by page."""
    cursor: str | None = None
    left = limit
    while left > 0:
        page = get(client, path, {**query, "cursor": cursor, "limit": min(left, 100)})
        items = page[name][:left]
        yield from items
        left -= len(items)
        cursor = page["next_cursor"]
        if cursor is None:
            return


def call_path(call_id: str, rest: str = "") -> str:
    """The path of a call, or of what belongs to it."""
    return f"/v1/calls/{quote(call_id, safe='')}{rest}"


def utterances(client: "httpx.Client", call_id: str, tenant: str | None) -> list[UtteranceSentiment]:
    """Every result of a call, in order of time."""
    rows = pages(client, call_path(call_id, "/utterances"), {"tenant": tenant}, "utterances", UTTERANCES_MAX)
    return sorted((UtteranceSentiment.model_validate(row) for row in rows), key=lambda result: result.start_ms)


def summary_of(client: "httpx.Client", call_id: str, tenant: str | None) -> CallSummary:
    """The call's summary, live or final."""
    return CallSummary.model_validate(get(client, call_path(call_id), {"tenant": tenant})["summary"])


def await_call(client: "httpx.Client", call_id: str, query: Mapping[str, str], timeout_s: float) -> None:
    """Wait until the gateway knows the call, which it does once the first fragment is read.

    Raises:
        CommandError: it does not within `timeout_s`.
    """
    import httpx  # noqa: PLC0415  # a third of the time that `undertone --help` would take

    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with suppress(httpx.HTTPError):
            if client.get(call_path(call_id), params=query).is_success:
                return
        time.sleep(POLL_S)
    raise CommandError(
        f"nothing has read the call {call_id} within {timeout_s:.0f} s: is an ingest worker running?", EXIT_AWAY
    )


def events(
    client: "httpx.Client", call_id: str, query: Mapping[str, str], *, while_unknown: Callable[[], None] | None = None
) -> Iterator[Event]:
    """The call's events from its start, then live; a torn connection is resumed where it tore. Ends after `call-final`.

    A call that nobody knows yet is asked for again after each `while_unknown`, where there is one.

    Raises:
        CommandError: the gateway stays away, or answers with a problem.
    """
    import httpx  # noqa: PLC0415  # a third of the time that `undertone --help` would take

    last_id: str | None = None
    failures, has_listened = 0, False
    while True:
        headers = {"Accept": "text/event-stream"} | ({} if last_id is None else {"Last-Event-ID": last_id})
        timeout = httpx.Timeout(ANSWER_S, read=KEEP_ALIVE_MAX_S)
        path = call_path(call_id, "/events")
        try:
            with client.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    if while_unknown is not None and _reason(answer) == "unknown_call":
                        while_unknown()
                        continue
                    if has_listened and not _reason(answer):  # what stands before a gateway that stops
                        raise httpx.ReadError(f"{answer.status_code} {answer.reason_phrase}")
                    raise refusal(answer)
                has_listened = True
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return  # everything was sent before: the call is over
                for event in read_events(answer.iter_lines()):
                    last_id, failures = event.id or last_id, 0
                    yield event
                    if event.kind == "call-final":
                        return
        except httpx.HTTPError as error:
            failures += 1
            if failures > RECONNECTS_MAX:
                raise (_stopped(client, call_id, error) if has_listened else _away(client, error)) from error
        time.sleep(RECONNECT_PAUSE_S)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Parse `text/event-stream` (WHATWG HTML, 9.2.6); comments and events without data are dropped."""
    event_id, kind = "", "message"
    text: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if text:
                yield Event(event_id, kind, "\n".join(text))
            kind, text = "message", []
        elif field == "id":
            event_id = value
        elif field == "event":
            kind = value
        elif field == "data":
            text.append(value)


def refusal(answer: "httpx.Response") -> CommandError:
    """What a refused request ends a command with: the detail of its problem (RFC 9457), else its status."""
    code = _EXIT_BY_STATUS.get(answer.status_code, EXIT_AWAY if answer.is_server_error else EXIT_FAILED)
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        said = f"{answer.url} answers {answer.status_code} {answer.reason_phrase}; is that an Undertone gateway, and does it run?"
        return CommandError(said, EXIT_AWAY if code == EXIT_NOT_FOUND else code)  # what was named was not looked for
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        detail = f"{detail}; a command takes its token from UNDERTONE_TOKEN=ut_…"
    # The gateway speaks to programs: of routes, where a command is meant here.
    return CommandError(detail.replace("GET /v1/calls lists", "`undertone calls` lists"), code)


def _reason(answer: "httpx.Response") -> str:
    """The stable word of a gateway's problem; empty for the answer of something else."""
    try:
        return str(answer.json()["reason"])
    except (ValueError, KeyError, TypeError):
        return ""


def _stopped(client: "httpx.Client", call_id: str, error: Exception) -> CommandError:
    why = f"the gateway at {client.base_url} stopped while {call_id} went on ({error}): watch again when it runs"
    return CommandError(why, EXIT_AWAY)


def _away(client: "httpx.Client", error: Exception) -> CommandError:
    return CommandError(
        f"no gateway answers at {client.base_url} ({error}): start one with `undertone serve`, "
        "or set UNDERTONE_URL to where it is",
        EXIT_AWAY,
    )
