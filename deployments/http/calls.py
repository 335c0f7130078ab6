"""What can be asked of calls: lists, one call, its utterances, its events as they happen, trends, and forgetting it."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import AwareDatetime, BeforeValidator

from deployments.http.bodies import (
    CallOut,
    CallPage,
    CallWithSummary,
    TrendMinuteOut,
    Trends,
    UtterancePage,
    account_out,
    call_fields,
)
from deployments.http.problems import ProblemError
from models.types import SCORE_MAX, SCORE_MIN
from pipelines.review.summary import CallSummary, summarise
from pipelines.store.archive import PAGE_MAX
from pipelines.store.queries import CallEvent, CallFilter, CallInfo
from pipelines.store.store import Store
from pipelines.types import CALL_ID_PATTERN, LIVE_RUN, NAME_PATTERN, Participant, UtteranceSentiment

TREND_DEFAULT = timedelta(days=1)

_DATE = re.compile(r"\d{4}-\d\d-\d\d\D")
_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


def _no_number(written: object) -> object:
    """Refuse what pydantic would take for seconds, or for milliseconds when there are many of them."""
    if isinstance(written, str) and not _DATE.match(written):
        raise ValueError("write the date and the time, such as 2026-11-21T09:30:00Z")
    return written


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
CallIdPath = Annotated[str, Path(pattern=CALL_ID_PATTERN, examples=["a-17"])]
TenantQuery = Annotated[str, Query(pattern=NAME_PATTERN)]
Polarity = Literal["negative", "neutral", "positive"]
Emotion = Literal["neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust"]
ScoreQuery = Annotated[float | None, Query(ge=SCORE_MIN, le=SCORE_MAX)]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")]


def call_routes(store: Store, heartbeat_ms: int) -> APIRouter:
    """The routes over what is stored."""
    routes = APIRouter(prefix="/v1", tags=["calls"])
    _add_lists(routes, store)
    _add_call(routes, store)
    _add_events(routes, store, heartbeat_ms)
    return routes


def _add_lists(routes: APIRouter, store: Store) -> None:
    @routes.get("/calls", summary="List calls, the latest first")
    async def calls(  # noqa: PLR0917  # a query's parameters are never positional
        tenant: TenantQuery = "default",
        since: Annotated[Moment | None, Query(description="Started at or after.")] = None,
        until: Annotated[Moment | None, Query(description="Started before.")] = None,
        participant: Participant | None = None,
        polarity: Polarity | None = None,
        emotion: Emotion | None = None,
        min_score: ScoreQuery = None,
        max_score: ScoreQuery = None,
        cursor: Cursor = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
    ) -> CallPage:
        """A call matches when one of its utterances meets every condition on participant, label and score."""
        wanted = CallFilter(
            tenant=tenant,
            since_ms=None if since is None else _epoch_ms(since),
            until_ms=None if until is None else _epoch_ms(until),
            participant=participant,
            polarity=polarity,
            emotion=emotion,
            score_min=min_score,
            score_max=max_score,
        )
        page = await store.archive.calls(wanted, cursor, limit)
        return CallPage(calls=[CallOut(**call_fields(call)) for call in page.items], next_cursor=page.next_cursor)

    @routes.get("/trends", summary="Score and labels by minute")
    async def trends(
        tenant: TenantQuery = "default",
        since: Annotated[Moment | None, Query(description="By default a day before `until`.")] = None,
        until: Annotated[Moment | None, Query(description="By default now.")] = None,
        participant: Participant | None = None,
    ) -> Trends:
        """Minutes of wall-clock time over all calls of a tenant; at most a week at once."""
        until = until or datetime.now(UTC)
        try:
            since = since or until - TREND_DEFAULT
            minutes = await store.archive.trends(tenant, _epoch_ms(since), _epoch_ms(until), participant)
        except OverflowError as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input", f"no such range: {error}") from error
        except ValueError as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "range_too_long", str(error)) from error
        return Trends(since=since, until=until, minutes=[TrendMinuteOut.of(minute) for minute in minutes])


def _add_call(routes: APIRouter, store: Store) -> None:
    @routes.get("/calls/{call_id}", summary="One call with its summary")
    async def call(call_id: CallIdPath, tenant: TenantQuery = "default") -> CallWithSummary:
        """The summary is live while the call goes on, and final when it is over."""
        found = await _known(store, call_id, tenant)
        streams = await store.checkpoints(call_id)
        return CallWithSummary(
            **call_fields(found),
            summary=await _summary(store, found),
            fragments={stream: account_out(checkpoint.account) for stream, checkpoint in streams.items()},
            dead_letters=dict(await store.ledger.dead_letter_counts(call_id)),
        )

    @routes.get("/calls/{call_id}/utterances", summary="A call's results in the order of time")
    async def utterances(
        call_id: CallIdPath,
        tenant: TenantQuery = "default",
        cursor: Cursor = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
        run: Annotated[
            str, Query(pattern=NAME_PATTERN, description="A replay's or shadow's results instead.")
        ] = LIVE_RUN,
    ) -> UtterancePage:
        """While the call is live, a result may still come to stand before a page already read; `events` misses none."""
        await _known(store, call_id, tenant)
        page = await store.of_run(run).archive.utterances(call_id, cursor, limit)
        return UtterancePage(utterances=list(page.items), next_cursor=page.next_cursor, corrupt=[*page.corrupt])

    @routes.delete("/calls/{call_id}", status_code=HTTPStatus.NO_CONTENT, summary="Forget a call")
    async def delete(call_id: CallIdPath, tenant: TenantQuery = "default") -> None:
        """Removes its results, its part of the trends, and refuses what still comes of it."""
        await _known(store, call_id, tenant)
        await store.delete_call(call_id)


def _add_events(routes: APIRouter, store: Store, heartbeat_ms: int) -> None:
    @routes.get(
        "/calls/{call_id}/events",
        summary="What happens in a call, as it happens",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Server-sent events: `utterance` with a result, `call-stalled` and `call-live` when it falls "
                "silent and speaks again, at last `call-final` with the summary. "
                "A quiet call sends comments.",
                "content": {
                    "text/event-stream": {
                        "itemSchema": _EVENT,
                        "example": 'event: utterance\ndata: {"v":1,"utterance_id":"a-17/main/customer/1200"}\n'
                        "id: 1763700000000-0\n\n",
                    }
                },
            },
            204: {"description": "Everything after `Last-Event-ID` has been sent: the call is over."},
        },
    )
    async def events(
        call_id: CallIdPath,
        tenant: TenantQuery = "default",
        last_event_id: Annotated[str, Header(description="Resume after this event.")] = "0-0",
    ) -> Response:
        """From the start of the call, or from `Last-Event-ID` on; ends after the call's end."""
        found = await _known(store, call_id, tenant)
        # An id that is none must be refused now: once the stream has begun there is no status to say so.
        first = await store.archive.events(call_id, last_event_id)
        if not first and found.over:
            return Response(status_code=HTTPStatus.NO_CONTENT)  # tells a browser not to connect again
        happenings = _happenings(store, call_id, last_event_id, heartbeat_ms)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(happenings, media_type="text/event-stream", headers=headers)


async def _happenings(store: Store, call_id: str, last_id: str, heartbeat_ms: int) -> AsyncIterator[bytes]:
    # The headers leave with the first bytes: a watcher of a quiet call knows at once that it listens.
    yield format_sse_event(comment="listening")
    while True:
        found = await store.archive.events(call_id, last_id, heartbeat_ms)
        for event in found:
            last_id = event.id
            if event.kind == "utterance" and event.utterance is not None:
                yield _written(event, event.utterance)
            elif event.kind in ("call-live", "call-stalled"):
                data = json.dumps({"call_id": call_id, "status": event.kind.removeprefix("call-")})
                yield format_sse_event(data_str=data, event=event.kind, id=event.id)
            elif event.kind == "unreadable":
                yield format_sse_event(comment="unreadable", id=event.id)  # whoever connects again resumes after it
        call = await store.archive.call(call_id)
        if call is None:
            return  # deleted meanwhile
        # A call that ended may begin again with another stream: only the last end is one.
        ended = bool(found) and found[-1].kind == "call-final" and not await store.archive.events(call_id, last_id)
        if call.over and (ended or not found):
            if ended:
                yield _written(found[-1], await _summary(store, call))
            return
        if not found:
            yield format_sse_event(comment="heartbeat")


def _written(event: CallEvent, content: UtteranceSentiment | CallSummary) -> bytes:
    return format_sse_event(data_str=content.model_dump_json(), event=event.kind, id=event.id)


async def _known(store: Store, call_id: str, tenant: str) -> CallInfo:
    found = await store.archive.call(call_id)
    if found is None or found.tenant != tenant:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "unknown_call",
            f"There is no call {call_id!r} of tenant {tenant!r}; GET /v1/calls lists the calls there are. "
            "A call just sent appears when an ingest worker has read its first fragment.",
        )
    return found


async def _summary(store: Store, call: CallInfo) -> CallSummary:
    return summarise(await store.archive.results(call.call_id), final=call.over)


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
