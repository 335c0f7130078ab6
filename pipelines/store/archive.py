"""Reading the stored calls: lists, pages of results, events as they come, trends."""

import re
import time
from collections.abc import Sequence
from typing import Any

from pipelines.errors import BadCursorError, CorruptResultError
from pipelines.store.client import CHUNK, chunks, clock_ms, lua, redis_errors
from pipelines.store.keys import CallKeys, calls_key, read_call, read_digests, read_event, trend_key
from pipelines.store.queries import (
    MINUTE_MS,
    CallEvent,
    CallFilter,
    CallInfo,
    Page,
    TrendMinute,
    read_call_cursor,
    read_member_cursor,
    trend_minute,
    write_cursor,
)
from pipelines.store.tenant_events import TenantEvents
from pipelines.store.trends import read_sums
from pipelines.types import CallRef, Participant, UtteranceSentiment, read_result

PAGE_MAX = 500
CALLS_SCANNED_MAX = 2_000
"""How many calls one page looks at; a page with fewer matches than its limit may still be followed by another."""
TREND_MINUTES_MAX = 7 * 24 * 60
_BLOCK_MAX_MS = 3_000


class Archive:
    """The results and calls of one run; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any, run: str) -> None:
        """`run` is the name under which results were written."""
        self._redis, self._run = client, run
        self._page_script = client.register_script(lua("call_page"))

    async def call(self, call: CallRef) -> CallInfo | None:
        """What is known of a call; None when it is unknown, expired or deleted."""
        with redis_errors():
            return (await self._call_infos(call.tenant, [call.call_id]))[0]

    async def utterances(self, call: CallRef, cursor: str | None = None, limit: int = 100) -> Page[UtteranceSentiment]:
        """The call's results in the order of `start_ms`, then participant; none for an unknown call.

        While the call is live, a later result may sort before a page already read; `events` misses none.

        Raises:
            BadCursorError: `cursor` is not one of a page's.
        """
        keys, limit = CallKeys(call, self._run), max(1, min(limit, PAGE_MAX))
        after = "-" if cursor is None else f"({read_member_cursor(cursor)}"
        with redis_errors():
            members = await self._redis.zrangebylex(keys("order"), after, "+", start=0, num=limit)
            texts = await self._redis.hmget(keys("results"), members) if members else []
        items, corrupt = [], []
        for name, text in zip(members, texts, strict=True):
            try:
                items.append(read_result(text or ""))
            except CorruptResultError:
                corrupt.append(name)
        return Page(tuple(items), write_cursor(members[-1]) if len(members) == limit else None, tuple(corrupt))

    async def results(self, call: CallRef) -> list[UtteranceSentiment]:
        """All of the call's results, in the order of `utterances`; unreadable ones are left out."""
        found: list[UtteranceSentiment] = []
        cursor: str | None = None
        while True:
            page = await self.utterances(call, cursor, PAGE_MAX)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def calls(self, wanted: CallFilter, cursor: str | None = None, limit: int = 50) -> Page[CallInfo]:
        """Calls that match, the latest first. A page may hold fewer than `limit` and still have a next one.

        Raises:
            BadCursorError: `cursor` is not one of a page's.
        """
        limit = max(1, min(limit, PAGE_MAX))
        place = None if cursor is None else read_call_cursor(cursor)
        key = calls_key(self._run, wanted.tenant)
        found: list[CallInfo] = []
        expired: list[str] = []
        more = True
        with redis_errors():
            for _ in range(0, CALLS_SCANNED_MAX, CHUNK):
                listed = await self._listed(key, wanted, place)
                calls = await self._call_infos(wanted.tenant, [call_id for _, call_id in listed])
                expired += [call_id for (_, call_id), call in zip(listed, calls, strict=True) if call is None]
                found += await self._matching(wanted, [call for call in calls if call is not None])
                place = listed[-1] if listed else place
                more = len(listed) == CHUNK
                if len(found) >= limit or not more:
                    break
            if expired:
                await self._redis.zrem(key, *expired)
        if len(found) >= limit:
            last = found[limit - 1]
            return Page(tuple(found[:limit]), write_cursor(last.started_ms, last.call_id))
        return Page(tuple(found), write_cursor(*place) if more and place is not None else None)

    async def _listed(self, key: str, wanted: CallFilter, place: tuple[int, str] | None) -> list[tuple[int, str]]:
        """The next `CHUNK` calls of the index after `place`: when they started, and their ids."""
        until = "+inf" if wanted.until_ms is None else wanted.until_ms
        answer = await self._page_script(keys=[key], args=[*(place or ("", "")), until, CHUNK])
        listed = [(int(ms), call_id) for call_id, ms in zip(answer[::2], answer[1::2], strict=True)]
        return [one for one in listed if wanted.since_ms is None or one[0] >= wanted.since_ms]

    async def events(self, call: CallRef, last_id: str = "0-0", block_ms: int = 0) -> tuple[CallEvent, ...]:
        """What happened in a call after the event `last_id`, at most 100; waits up to `block_ms` for the first.

        A call keeps about its last 10,000 events. One whose result is gone or unreadable comes as `unreadable`.

        Raises:
            BadCursorError: `last_id` is not an event's id.
        """
        if not re.fullmatch(r"\d{1,18}-\d{1,18}", last_id):
            raise BadCursorError(f"{last_id[:80]!r} is not the id of an event: start with 0-0")
        keys = CallKeys(call, self._run)
        deadline_s = time.monotonic() + block_ms / 1000
        with redis_errors():
            while True:
                left_ms = min(_BLOCK_MAX_MS, round((deadline_s - time.monotonic()) * 1000))
                found = await self._redis.xread({keys("events"): last_id}, count=CHUNK, block=max(1, left_ms))
                if found or left_ms <= 0:
                    break
            entries = found[0][1] if found else []
            names = [fields["member"] for _, fields in entries if "member" in fields]
            texts = await self._redis.hmget(keys("results"), names) if names else []
        results = dict(zip(names, texts, strict=True))
        return tuple(read_event(entry, results) for entry in entries)

    def follow(self, tenant: str, after_ms: int) -> TenantEvents:
        """What happens in all calls of a tenant, from the events that were written after `after_ms` on."""
        return TenantEvents(self._redis, self._run, tenant, after_ms)

    async def clock_ms(self) -> int:
        """The time by which events are written, ms since 1970."""
        with redis_errors():
            return await clock_ms(self._redis)

    async def trends(
        self, tenant: str, since_ms: int, until_ms: int, participant: Participant | None = None
    ) -> tuple[TrendMinute, ...]:
        """The minutes in `[since_ms, until_ms)`, ms since 1970, that have judged utterances, in order.

        Raises:
            ValueError: the range holds more than `TREND_MINUTES_MAX` minutes.
        """
        minutes = range(since_ms // MINUTE_MS * MINUTE_MS, until_ms, MINUTE_MS)
        if len(minutes) > TREND_MINUTES_MAX:
            raise ValueError(f"the range holds {len(minutes)} minutes: ask for at most {TREND_MINUTES_MAX} (a week)")
        trends: list[TrendMinute] = []
        with redis_errors():
            for chunk in chunks(minutes):
                sums = await read_sums(self._redis, [trend_key(self._run, tenant, minute_ms) for minute_ms in chunk])
                trends += [trend_minute(minute, one, participant) for minute, one in zip(chunk, sums, strict=True)]
        return tuple(trend for trend in trends if trend.utterances)

    async def _call_infos(self, tenant: str, call_ids: Sequence[str]) -> list[CallInfo | None]:
        calls = [CallRef(tenant, call_id) for call_id in call_ids]
        pipe = self._redis.pipeline(transaction=False)
        for call in calls:
            pipe.hgetall(CallKeys(call, self._run)("call"))
            pipe.hgetall(CallKeys(call, self._run)("streams"))
        answers = await pipe.execute() if calls else []
        return [
            read_call(call, fields, streams)
            for call, fields, streams in zip(calls, answers[::2], answers[1::2], strict=True)
        ]

    async def _matching(self, wanted: CallFilter, calls: Sequence[CallInfo]) -> list[CallInfo]:
        """Those of which an utterance meets every condition, told by the kinds of their utterances, seldom by each."""
        if not wanted.asks_for_utterances or not calls:
            return list(calls)
        pipe = self._redis.pipeline(transaction=False)
        for call in calls:
            pipe.hgetall(CallKeys(call.call, self._run)("kinds"))
        found = []
        for call, kinds in zip(calls, await pipe.execute(), strict=True):
            verdict = wanted.accepts_kinds(kinds)
            if verdict or (verdict is None and await self._one_matches(wanted, call.call)):
                found.append(call)
        return found

    async def _one_matches(self, wanted: CallFilter, call: CallRef) -> bool:
        """Whether one of the call's utterances meets every condition; looks at some of them at a time."""
        digests = CallKeys(call, self._run)("digests")
        async for _, text in self._redis.hscan_iter(digests, count=CHUNK):
            if any(wanted.accepts(digest) for digest in read_digests([text])):
                return True
        return False
