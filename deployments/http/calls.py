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
    TrendMinuteOut,
    Trends,
    UtterancePage,
    account_out,
    call_fields,
)
from deployments.http.caller import Deleter, Identity, Reader
from deployments.http.problems import ProblemError
from deployments.http.receipts import ForgottenCall, Receipt
from models.types import EMOTIONS, POLARITIES, SCORE_MAX, SCORE_MIN
from pipelines.review.summary import CallSummary, summarise
from pipelines.store.archive import PAGE_MAX
from pipelines.store.chain import ALL_CALLS, Action
from pipelines.store.queries import CallFilter, CallInfo, Page, write_cursor
from pipelines.store.store import Store
from pipelines.types import CALL_ID_PATTERN, LIVE_RUN, NAME_PATTERN, CallRef, Participant

TREND_DEFAULT = timedelta(days=1)
SUMMARISED_MAX = 2_000
"""Utterances that a page of summaries reads, beside those of its first call: about forty calls of five minutes."""

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
        summary: Annotated[
            Literal["true", "false"],
            Query(description="With each call's summary: a page may be shorter, and is noted as an access to calls."),
        ] = "false",
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
        if summary == "true":
            return await _with_summaries(store, caller, page)
        return CallPage(calls=[CallOut(**call_fields(call)) for call in page.items], next_cursor=page.next_cursor)


async def _with_summaries(store: Store, caller: Identity, page: Page[CallInfo]) -> CallPage:
    """The page, or its beginning where its calls have so many utterances that one request should not read them all."""
    await caller.note("read", ALL_CALLS, "list with summaries")
    calls: list[CallOut] = []
    read = 0
    for call in page.items:
        read += call.utterances
        if calls and read > SUMMARISED_MAX:
            last = page.items[len(calls) - 1]
            return CallPage(calls=calls, next_cursor=write_cursor(last.started_ms, last.call_id))
        calls.append(CallOut(**call_fields(call), summary=await call_summary(store, call)))
    return CallPage(calls=calls, next_cursor=page.next_cursor)


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
    async def deletion(call_id: CallIdPath, caller: Deleter) -> Receipt:
        """Nothing is removed, and nothing noted: it shows how much there is, none of it. Also of a call that no worker has opened yet."""
        return await _receipt(store, CallRef(caller.tenant, call_id), dry_run=True)

    @routes.delete("/calls/{call_id}", summary="Forget a call")
    async def delete(call_id: CallIdPath, caller: Deleter) -> Receipt:
        """Removes its results and its part of the trends, makes what the log holds of it unreadable, and refuses what still comes."""
        call = CallRef(caller.tenant, call_id)
        receipt = await _receipt(store, call, dry_run=False)
        await caller.note("delete", call_id)
        await store.delete_call(call)
        return receipt


async def _receipt(store: Store, call: CallRef, *, dry_run: bool) -> Receipt:
    """What is stored of a call, also of one that no worker has opened yet."""
    if not await store.holds(call):
        raise await absent(store, call)
    gone = ForgottenCall(call_id=call.call_id, utterances=await store.customers.utterances(call))
    return Receipt.of(call.tenant, [gone], dry_run=dry_run)


async def known_call(
    store: Store, caller: Identity, call_id: str, action: Action, detail: str = "", *, run: str = LIVE_RUN
) -> CallInfo:
    """The caller's call, whose access is noted from now on: every route that shows one call gets it here, and nowhere else.

    Raises:
        ProblemError: it is unknown (404 `unknown_call`), was deleted (410 `call_deleted`), or of no account to `run` (404 `unknown_run`): a name that anybody may make
            up would make an entry of its own.
        StoreUnavailableError: nothing is known of it now, or what is done with it cannot be noted.
    """
    call = CallRef(caller.tenant, call_id)
    found = await store.archive.call(call)
    if found is None:
        raise await absent(store, call)
    if run != LIVE_RUN and await store.of_run(run).archive.call(call) is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "unknown_run",
            f"No run {run!r} holds the call {call_id!r} of tenant {call.tenant!r}; leave `run` out for the live results. A replay or a "
            "shadow holds a call when it has read its first fragment.",
        )
    await caller.note(action, call_id, detail)
    return found


async def absent(store: Store, call: CallRef) -> ProblemError:
    """Why nothing of a call can be shown: it was deleted (410, known for 31 days), or the store knows nothing of it (404)."""
    if await store.deleted(call):
        return ProblemError(
            HTTPStatus.GONE,
            "call_deleted",
            f"The call {call.call_id!r} of tenant {call.tenant!r} was deleted: nothing of it is stored any more.",
        )
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "unknown_call",
        f"There is no call {call.call_id!r} of tenant {call.tenant!r}; GET /v1/calls lists the calls there are. "
        "A call that was sent through the log itself appears when an ingest worker has read its first fragment.",
    )


async def call_summary(store: Store, call: CallInfo) -> CallSummary:
    """What the call's results come to: final when it is over."""
    found = await store.archive.results(call.call)
    length_ms = call.length_ms
    if not found and length_ms is not None:  # who may not be heard may have spoken all the time
        accounts = (checkpoint.account for checkpoint in (await store.checkpoints(call.call)).values())
        length_ms = None if any("not_consented" in account.skipped for account in accounts) else length_ms
    return await asyncio.to_thread(
        summarise, found, final=call.over, length_ms=length_ms
    )  # a call may have many thousands


def epoch_ms(moment: datetime) -> int:
    """A moment as ms since 1970."""
    return round(moment.timestamp() * 1000)
