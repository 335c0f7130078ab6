"""Server-sent events: what happens in a call, and in all calls of a tenant, as it happens."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from deployments.http.admission import Seats, client_of
from deployments.http.caller import Reader, while_granted
from deployments.http.calls import CallIdPath, call_summary, known_call
from deployments.http.feed import TenantFeeds
from deployments.http.interim import InterimFeeds
from pipelines.errors import BadCursorError
from pipelines.review.summary import CallSummary
from pipelines.settings import HttpSettings
from pipelines.store.queries import CallEvent
from pipelines.store.store import Store
from pipelines.store.tenant_events import REACH_MS
from pipelines.types import CallRef, UtteranceSentiment

_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

LastEventId = Annotated[str, Header(description="Resume after this event.")]


class WatchedEvents(StreamingResponse):
    """A stream of events, which takes a watcher's place for as long as it is sent."""

    def __init__(self, events: AsyncIterator[bytes], watchers: Seats, client: str) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._watchers, self._client = watchers, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it.

        Raises:
            ProblemError: as many watch as may, before anything is sent.
        """
        with self._watchers.taken(self._client):
            await super().__call__(scope, receive, send)


def event_routes(store: Store, at_once: HttpSettings, heartbeat_ms: int) -> APIRouter:
    """The two routes that stream; a quiet stream says so every `heartbeat_ms`."""
    routes = APIRouter(prefix="/v1", tags=["calls"])
    interim = InterimFeeds(store.interim)
    watchers = Seats(
        at_once.watchers_max, at_once.watchers_per_client_max, reason="too_many_watchers", what="event streams"
    )
    _add_call_events(routes, store, interim, watchers, heartbeat_ms)
    _add_tenant_events(routes, store, interim, watchers, heartbeat_ms)
    return routes


def _add_call_events(
    routes: APIRouter, store: Store, interim: InterimFeeds, watchers: Seats, heartbeat_ms: int
) -> None:
    @routes.get(
        "/calls/{call_id}/events",
        summary="What happens in a call, as it happens",
        response_class=StreamingResponse,
        responses={
            200: _documented(
                "Server-sent events: `utterance` with a result, `call-stalled` and `call-live` when it falls "
                "silent and speaks again, at last `call-final` with the summary. "
                "`interim`, where the configuration shows them, has the words so far of an utterance that goes on and no "
                "id: it is stored nowhere, and the words of its `utterance` may differ. A quiet call sends comments.",
                "1763700000000-0",
            ),
            204: {"description": "Everything after `Last-Event-ID` has been sent: the call is over."},
        },
    )
    async def events(
        request: Request, call_id: CallIdPath, caller: Reader, last_event_id: LastEventId = "0-0"
    ) -> Response:
        """From the start of the call, or from `Last-Event-ID` on; ends after the call's end."""
        found = await known_call(store, caller, call_id, "watch")
        # An id that is none must be refused now: once the stream has begun there is no status to say so.
        first = await store.archive.events(found.call, last_event_id)
        if not first and found.over:
            return Response(status_code=HTTPStatus.NO_CONTENT)  # tells a browser not to connect again
        happened = _call_events(store, found.call, last_event_id, heartbeat_ms)
        watched = while_granted(interim.beside(happened, caller.tenant, call_id), caller)
        return WatchedEvents(watched, watchers, client_of(request))


def _add_tenant_events(
    routes: APIRouter, store: Store, interim: InterimFeeds, watchers: Seats, heartbeat_ms: int
) -> None:
    feeds = TenantFeeds(store.archive, heartbeat_ms)

    @routes.get(
        "/events",
        summary="What happens in all calls of a tenant, as it happens",
        response_class=StreamingResponse,
        responses={
            200: _documented(
                "Server-sent events: `utterance` with a result, `call-stalled`, `call-live` and `call-final` with "
                '`{"call_id": …, "status": …}`; `interim` as in a call. A quiet tenant sends comments.',
                "1763699999000.1763700000000-0.a-17",
            )
        },
    )
    async def tenant_events(request: Request, caller: Reader, last_event_id: LastEventId = "") -> Response:
        """From now on, or from `Last-Event-ID` on, which may be a day old; without an end.

        Events of a call come in their order, those of several calls about in the order of time. Whoever resumes misses
        nothing and may get the last ones again: what follows the first dot of an id names the event, and is then the
        same. Calls that started more than a day ago are left out.
        """
        now_ms = await store.archive.clock_ms()
        after_ms = _resume_ms(last_event_id, now_ms) if last_event_id else None
        await caller.note("watch")
        happened = feeds.watch(caller.tenant, after_ms, now_ms)
        watched = while_granted(interim.beside(happened, caller.tenant), caller)
        return WatchedEvents(watched, watchers, client_of(request))


def _resume_ms(last_event_id: str, now_ms: int) -> int:
    """Until when everything has been seen, ms since 1970."""
    found = re.fullmatch(r"(\d{1,18})(\..*)?", last_event_id)
    if found is None:
        raise BadCursorError(f"{last_event_id[:80]!r} is not the id of an event: connect without one")
    after_ms = min(int(found[1]), now_ms)
    if after_ms < now_ms - REACH_MS:
        raise BadCursorError(
            "the event was more than a day ago: connect without its id, and ask GET /v1/calls for what was since"
        )
    return after_ms


async def _call_events(store: Store, call: CallRef, last_id: str, heartbeat_ms: int) -> AsyncGenerator[bytes, None]:
    # The headers leave with the first bytes: a watcher of a quiet call knows at once that it listens.
    yield format_sse_event(comment="listening")
    while True:
        found = await store.archive.events(call, last_id, heartbeat_ms)
        for event in found:
            last_id = event.id
            if event.kind == "utterance" and event.utterance is not None:
                yield _sent(event, event.utterance)
            elif event.kind in ("call-live", "call-stalled"):
                data = json.dumps({"call_id": call.call_id, "status": event.kind.removeprefix("call-")})
                yield format_sse_event(data_str=data, event=event.kind, id=event.id)
            elif event.kind == "unreadable":
                yield format_sse_event(comment="unreadable", id=event.id)  # whoever connects again resumes after it
        info = await store.archive.call(call)
        if info is None:
            return  # deleted meanwhile
        # A call that ended may begin again with another stream: only the last end is one.
        ended = bool(found) and found[-1].kind == "call-final" and not await store.archive.events(call, last_id)
        if info.over and (ended or not found):
            if ended:
                yield _sent(found[-1], await call_summary(store, info))
            return
        if not found:
            yield format_sse_event(comment="heartbeat")


def _sent(event: CallEvent, content: UtteranceSentiment | CallSummary) -> bytes:
    return format_sse_event(data_str=content.model_dump_json(), event=event.kind, id=event.id)


def _documented(description: str, event_id: str) -> dict[str, Any]:
    """The OpenAPI page's answer of a stream."""
    example = f'event: utterance\ndata: {{"v":1,"utterance_id":"a-17/main/customer/1200"}}\nid: {event_id}\n\n'
    return {
        "description": description,
        "content": {"text/event-stream": {"itemSchema": _EVENT, "example": example}},
    }
