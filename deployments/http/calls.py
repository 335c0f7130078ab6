"""What can be asked of stored calls: lists, one call, its utterances, trends, and deleting it."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BeforeValidator

from deployments.http.bodies import (
    CallOut,
    CallPage,
    CallWithSummary,
    Deletion,
    TrendMinuteOut,
    Trends,
    UtterancePage,
    account_out,
    call_fields,
)
from deployments.http.caller import Deleter, Identity, Reader
from deployments.http.problems import ProblemError
from models.types import EMOTIONS, POLARITIES, SCORE_MAX, SCORE_MIN
from pipelines.review.summary import CallSummary, summarise
from pipelines.store.archive import PAGE_MAX
from pipelines.store.chain import Action
from pipelines.store.queries import CallFilter, CallInfo
from pipelines.store.store import Store
from pipelines.types import CALL_ID_PATTERN, LIVE_RUN, NAME_PATTERN, CallRef, Participant

TREND_DEFAULT = timedelta(days=1)

_DATE = re.compile(r"\d{4}-\d\d-\d\d\D")


def _no_number(written: object) -> object:
    """Refuse what pydantic would take for seconds, or for milliseconds when there are many of them."""
    if isinstance(written, str) and not _DATE.match(written):
        raise ValueError("write the date and the time, such as 2026-11-21T09:30:00Z")
    return written


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
CallIdPath = Annotated[str, Path(pattern=CALL_ID_PATTERN, examples=["a-17"])]
if TYPE_CHECKING:  # a type checker wants a literal's words written out; the page and the checks take them from `models`
    Polarity: TypeAlias = str
    Emotion: TypeAlias = str
else:
    Polarity, Emotion = Literal[POLARITIES], Literal[EMOTIONS]
ScoreQuery = Annotated[float | None, Query(ge=SCORE_MIN, le=SCORE_MAX)]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")]


def call_routes(store: Store) -> APIRouter:
    """The routes over what is stored."""
    routes = APIRouter(prefix="/v1", tags=["calls"])
    _add_list(routes, store)
    _add_trends(routes, store)
    _add_call(routes, store)
    return routes


def _add_list(routes: APIRouter, store: Store) -> None:
    @routes.get("/calls", summary="List calls, the latest first")
    async def calls(  # noqa: PLR0917  # a query's parameters are never positional
        caller: Reader,
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
            tenant=caller.tenant,
            since_ms=None if since is None else epoch_ms(since),
            until_ms=None if until is None else epoch_ms(until),
            participant=participant,
            polarity=polarity,
            emotion=emotion,
            score_min=min_score,
            score_max=max_score,
        )
        page = await store.archive.calls(wanted, cursor, limit)
        return CallPage(calls=[CallOut(**call_fields(call)) for call in page.items], next_cursor=page.next_cursor)


def _add_trends(routes: APIRouter, store: Store) -> None:
    @routes.get("/trends", summary="Score and labels by minute")
    async def trends(
        caller: Reader,
        since: Annotated[Moment | None, Query(description="By default a day before `until`.")] = None,
        until: Annotated[Moment | None, Query(description="By default now.")] = None,
        participant: Participant | None = None,
    ) -> Trends:
        """Minutes of wall-clock time over all calls of a tenant; at most a week at once."""
        until = until or datetime.now(UTC)
        try:
            since = since or until - TREND_DEFAULT
            minutes = await store.archive.trends(caller.tenant, epoch_ms(since), epoch_ms(until), participant)
        except OverflowError as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input", f"no such range: {error}") from error
        except ValueError as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "range_too_long", str(error)) from error
        return Trends(since=since, until=until, minutes=[TrendMinuteOut.of(minute) for minute in minutes])


def _add_call(routes: APIRouter, store: Store) -> None:
    @routes.get("/calls/{call_id}", summary="One call with its summary")
    async def call(call_id: CallIdPath, caller: Reader) -> CallWithSummary:
        """The summary is live while the call goes on, and final when it is over."""
        found = await known_call(store, caller, call_id, "read", "summary")
        streams = await store.checkpoints(found.call)
        return CallWithSummary(
            **call_fields(found),
            summary=await call_summary(store, found),
            fragments={stream: account_out(checkpoint.account) for stream, checkpoint in streams.items()},
            dead_letters=dict(await store.ledger.dead_letter_counts(found.call)),
        )

    @routes.get("/calls/{call_id}/utterances", summary="A call's results in the order of time")
    async def utterances(
        call_id: CallIdPath,
        caller: Reader,
        cursor: Cursor = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
        run: Annotated[
            str, Query(pattern=NAME_PATTERN, description="A replay's or shadow's results instead.")
        ] = LIVE_RUN,
    ) -> UtterancePage:
        """While the call is live, a result may still come to stand before a page already read; `events` misses none."""
        found = await known_call(store, caller, call_id, "read", f"utterances of run {run}", run=run)
        page = await store.of_run(run).archive.utterances(found.call, cursor, limit)
        return UtterancePage(utterances=list(page.items), next_cursor=page.next_cursor, corrupt=[*page.corrupt])

    @routes.get("/calls/{call_id}/deletion", summary="What forgetting a call would remove")
    async def deletion(call_id: CallIdPath, caller: Deleter) -> Deletion:
        """Nothing is removed, and nothing noted: it shows how much there is, none of it. Also of a call that no worker has opened yet."""
        call = CallRef(caller.tenant, call_id)
        if not await store.holds(call):
            raise unknown_call(call)
        found = await store.archive.call(call)
        return Deletion(tenant=call.tenant, call_id=call_id, utterances=0 if found is None else found.utterances)

    @routes.delete("/calls/{call_id}", status_code=HTTPStatus.NO_CONTENT, summary="Forget a call")
    async def delete(call_id: CallIdPath, caller: Deleter) -> None:
        """Removes its results and its part of the trends, makes what the log holds of it unreadable, and refuses what still comes."""
        call = CallRef(caller.tenant, call_id)
        if not await store.holds(call):  # also one that no worker has opened yet
            raise unknown_call(call)
        await caller.note("delete", call_id)
        await store.delete_call(call)


async def known_call(
    store: Store, caller: Identity, call_id: str, action: Action, detail: str = "", *, run: str = LIVE_RUN
) -> CallInfo:
    """The caller's call, whose access is noted from now on: every route that shows one call gets it here, and nowhere else.

    Raises:
        ProblemError: it is unknown (404 `unknown_call`), or of no account to `run` (404 `unknown_run`): a name that anybody may make
            up would make an entry of its own.
        StoreUnavailableError: nothing is known of it now, or what is done with it cannot be noted.
    """
    call = CallRef(caller.tenant, call_id)
    found = await store.archive.call(call)
    if found is None:
        raise unknown_call(call)
    if run != LIVE_RUN and await store.of_run(run).archive.call(call) is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "unknown_run",
            f"No run {run!r} holds the call {call_id!r} of tenant {call.tenant!r}; leave `run` out for the live results. A replay or a "
            "shadow holds a call when it has read its first fragment.",
        )
    await caller.note(action, call_id, detail)
    return found


def unknown_call(call: CallRef) -> ProblemError:
    """404: the store knows nothing of the call."""
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "unknown_call",
        f"There is no call {call.call_id!r} of tenant {call.tenant!r}; GET /v1/calls lists the calls there are. "
        "A call that was sent through the log itself appears when an ingest worker has read its first fragment.",
    )


async def call_summary(store: Store, call: CallInfo) -> CallSummary:
    """What the call's results come to: final when it is over."""
    found = await store.archive.results(call.call)
    return await asyncio.to_thread(summarise, found, final=call.over)  # a call may have many thousands


def epoch_ms(moment: datetime) -> int:
    """A moment as ms since 1970."""
    return round(moment.timestamp() * 1000)
