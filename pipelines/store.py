"""The store: checkpoints, results and what is asked of them, in Redis 6.2 or later. `store_keys.py` lists the keys.

Run the server with `maxmemory-policy noeviction`: an evicted checkpoint would be a call analysed twice.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Self, TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from pipelines.errors import (
    BadCursorError,
    BadFragmentError,
    CallDeletedError,
    CorruptResultError,
    FencedError,
    StoreUnavailableError,
)
from pipelines.queries import (
    MINUTE_MS,
    CallEvent,
    CallFilter,
    CallInfo,
    Digest,
    Page,
    TrendMinute,
    read_call_cursor,
    read_member_cursor,
    read_result,
    trend_minute,
    write_cursor,
)
from pipelines.store_keys import (
    WORKERS,
    CallKeys,
    calls_key,
    member,
    read_call,
    read_checkpoint,
    read_digests,
    read_event,
    trend_key,
    worker_key,
)
from pipelines.types import Checkpoint, MediaFragment, Participant, ResumePoint, TrackCut, UtteranceSentiment

T = TypeVar("T")

EVENTS_MAX = 10_000
OPEN_TTL_S = 86_400
"""How long a call stays of which nothing was ever stored."""
TOMBSTONE_TTL_S = 30 * 86_400
PAGE_MAX = 500
CALLS_SCANNED_MAX = 2_000
"""How many calls one page looks at; a page that finds less than it may is followed by another."""
TREND_MINUTES_MAX = 7 * 24 * 60
_CHUNK = 100
_BLOCK_MAX_MS = 3_000
_SOCKET_TIMEOUT_S = 5.0
_CONNECTIONS_MAX = 10_000  # one for each watcher of a live call


class Store:
    """Everything that lasts. `Store.connect(url)` makes one; its methods may run concurrently on one event loop.

    Every method raises `StoreUnavailableError` when Redis does not answer, or refuses to write because it is full or
    read-only; all of them may then be called again.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._redis: Any = client  # redis-py types each reply as a union of all protocols
        self._open_script = client.register_script(_lua("open_stream"))
        self._advance_script = client.register_script(_lua("advance"))
        self._finish_script = client.register_script(_lua("finish_stream"))

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store at `redis://…`, `rediss://…` or `unix://…`; it connects at the first use."""
        return cls(
            redis.asyncio.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="replace",
                socket_timeout=_SOCKET_TIMEOUT_S,
                socket_connect_timeout=_SOCKET_TIMEOUT_S,
                max_connections=_CONNECTIONS_MAX,
            )
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Nothing, if Redis answers."""
        with _redis_errors():
            await self._redis.ping()

    async def open_stream(self, call_id: str, tenant: str, stream: str, owner: str, started_at_ms: int) -> Checkpoint:
        """Take ownership of a stream and read how far it is stored; whoever owned it is refused from now on.

        Args:
            call_id: the call.
            tenant: whose call it is.
            stream: one of its streams.
            owner: the writer's name, different from any other process's, ever.
            started_at_ms: when the call started if this is its first stream, ms since 1970; 0 means now.

        Raises:
            CallDeletedError: the call was deleted.
            BadFragmentError: the call belongs to another tenant (`bad_header`).
        """
        keys = CallKeys(call_id)
        with _redis_errors():
            word, *rest = await self._open_script(
                keys=keys.stream(stream), args=[owner, tenant, stream, started_at_ms, OPEN_TTL_S]
            )
            if word == "open":
                await self._redis.zadd(calls_key(tenant), {call_id: int(rest[0])}, nx=True)
        if word == "other tenant":
            raise BadFragmentError("bad_header", f"call {call_id} belongs to another tenant: use a call id of your own")
        _judge(word, call_id, stream)
        return read_checkpoint(dict(zip(rest[1::2], rest[2::2], strict=True)))

    async def advance(
        self,
        first: MediaFragment,
        *,
        owner: str,
        participant: Participant,
        believed_cut_sample: int,
        new: TrackCut,
        resume: ResumePoint,
        result: UtteranceSentiment | None,
        ttl_s: int,
    ) -> None:
        """Store `result` and move the track's cut to `new` in one step; again after a lost reply changes nothing.

        `first` is any fragment of the stream. The trend bucket is filled before: it is keyed by utterance, so a step
        that is refused or repeated leaves it as the utterance's true owner does.

        Raises:
            FencedError: `owner` does not own the stream any more, or the cut is neither where it believed nor at `new`.
            CallDeletedError: the call was deleted.
        """
        keys = CallKeys(first.call_id)
        name, text, digest = "", "", ""
        with _redis_errors():
            if result is not None:
                name = member(result.start_ms, result.participant, first.stream)
                text, digest = result.model_dump_json(), Digest.of(result).write()
                trend = await self._fill_trend(keys, result, digest, ttl_s)
            word = await self._advance_script(
                keys=[*keys.stream(first.stream), *map(keys, ("results", "order", "digests", "events"))],
                args=[
                    owner,
                    participant,
                    believed_cut_sample,
                    new.cut_sample,
                    new.utterances,
                    resume.offset,
                    resume.seq,
                    resume.start_sample,
                    ttl_s,
                    EVENTS_MAX,
                    name,
                    text,
                    digest,
                    0 if result is None else result.end_ms,
                ],
            )
            if word == "deleted" and result is not None and trend is not None:
                await self._redis.hdel(trend, result.utterance_id)
        _judge(word, first.call_id, first.stream)

    async def finish_stream(self, call_id: str, stream: str, *, owner: str) -> None:
        """The stream is stored to its end; when every known stream of the call is, the call becomes final.

        Raises:
            FencedError: `owner` does not own the stream any more.
            CallDeletedError: the call was deleted.
        """
        keys = CallKeys(call_id)
        with _redis_errors():
            word = await self._finish_script(
                keys=[*keys.stream(stream), keys("events")], args=[owner, stream, EVENTS_MAX]
            )
        _judge(word, call_id, stream)

    async def call(self, call_id: str) -> CallInfo | None:
        """What is known of a call; None when it is unknown, expired or deleted."""
        with _redis_errors():
            return (await self._call_infos([call_id]))[0]

    async def utterances(self, call_id: str, cursor: str | None = None, limit: int = 100) -> Page[UtteranceSentiment]:
        """The call's results in the order of `start_ms`, then participant; none for an unknown call.

        While the call is live, a result may still come to stand before a page already read; `events` misses none.

        Raises:
            BadCursorError: `cursor` is not one of a page's.
        """
        keys, limit = CallKeys(call_id), max(1, min(limit, PAGE_MAX))
        after = "-" if cursor is None else f"({read_member_cursor(cursor)}"
        with _redis_errors():
            members = await self._redis.zrangebylex(keys("order"), after, "+", start=0, num=limit)
            texts = await self._redis.hmget(keys("results"), members) if members else []
        items, corrupt = [], []
        for name, text in zip(members, texts, strict=True):
            try:
                items.append(read_result(text or ""))
            except CorruptResultError:
                corrupt.append(name)
        return Page(tuple(items), write_cursor(members[-1]) if len(members) == limit else None, tuple(corrupt))

    async def calls(self, wanted: CallFilter, cursor: str | None = None, limit: int = 50) -> Page[CallInfo]:
        """Calls that match, the latest first. A page may hold fewer than `limit` and still have a next one.

        Raises:
            BadCursorError: `cursor` is not one of a page's.
        """
        limit = max(1, min(limit, PAGE_MAX))
        place = None if cursor is None else read_call_cursor(cursor)
        key = calls_key(wanted.tenant)
        since = "-inf" if wanted.since_ms is None else str(wanted.since_ms)
        until = "+inf" if wanted.until_ms is None else f"({wanted.until_ms}"
        found: list[CallInfo] = []
        expired: list[str] = []
        with _redis_errors():
            for skip in range(0, CALLS_SCANNED_MAX, _CHUNK):
                listed = await self._redis.zrevrangebyscore(
                    key, until if place is None else str(place[0]), since, skip, _CHUNK, withscores=True
                )
                ids = [call_id for call_id, ms in listed if place is None or (int(ms), call_id) < place]
                calls = await self._call_infos(ids)
                expired += [call_id for call_id, call in zip(ids, calls, strict=True) if call is None]
                found += await self._matching(wanted, [call for call in calls if call is not None])
                if len(found) >= limit or len(listed) < _CHUNK:
                    break
            if expired:
                await self._redis.zrem(key, *expired)
        if len(found) >= limit:
            last = found[limit - 1]
            return Page(tuple(found[:limit]), write_cursor(last.started_ms, last.call_id))
        more = len(listed) == _CHUNK
        return Page(tuple(found), write_cursor(int(listed[-1][1]), listed[-1][0]) if more else None)

    async def events(self, call_id: str, last_id: str = "0-0", block_ms: int = 0) -> tuple[CallEvent, ...]:
        """What happened in a call after the event `last_id`, at most 100; waits up to `block_ms` for the first.

        A call keeps about its last 10,000 events. One whose result is gone or unreadable comes as `unreadable`.

        Raises:
            BadCursorError: `last_id` is not an event's id.
        """
        if not re.fullmatch(r"\d{1,18}-\d{1,18}", last_id):
            raise BadCursorError(f"{last_id[:80]!r} is not the id of an event: start with 0-0")
        keys = CallKeys(call_id)
        deadline_s = time.monotonic() + block_ms / 1000
        with _redis_errors():
            while True:
                left_ms = min(_BLOCK_MAX_MS, round((deadline_s - time.monotonic()) * 1000))
                found = await self._redis.xread({keys("events"): last_id}, count=_CHUNK, block=max(1, left_ms))
                if found or left_ms <= 0:
                    break
            entries = found[0][1] if found else []
            names = [fields["member"] for _, fields in entries if "member" in fields]
            texts = await self._redis.hmget(keys("results"), names) if names else []
        results = dict(zip(names, texts, strict=True))
        return tuple(read_event(entry, results) for entry in entries)

    async def trends(
        self, tenant: str, since_ms: int, until_ms: int, participant: Participant | None = None
    ) -> tuple[TrendMinute, ...]:
        """The minutes in `[since_ms, until_ms)`, ms since 1970, that hold judged utterances, in order.

        Raises:
            ValueError: the range holds more than `TREND_MINUTES_MAX` minutes.
        """
        minutes = range(since_ms // MINUTE_MS * MINUTE_MS, until_ms, MINUTE_MS)
        if len(minutes) > TREND_MINUTES_MAX:
            raise ValueError(f"the range holds {len(minutes)} minutes: ask for at most {TREND_MINUTES_MAX} (a week)")
        trends: list[TrendMinute] = []
        with _redis_errors():
            for chunk in _chunks(minutes):
                pipe = self._redis.pipeline(transaction=False)
                for minute_ms in chunk:
                    pipe.hvals(trend_key(tenant, minute_ms))
                for minute_ms, texts in zip(chunk, await pipe.execute(), strict=True):
                    trends.append(trend_minute(minute_ms, read_digests(texts), participant))
        return tuple(trend for trend in trends if trend.utterances)

    async def delete_call(self, call_id: str) -> bool:
        """Remove a call and its part of the trends, and refuse what still comes of it. False if it is unknown.

        Again after an error removes the rest.
        """
        keys = CallKeys(call_id)
        with _redis_errors():
            tenant, started_ms = await self._redis.hmget(keys("call"), "tenant", "started_ms")
            if tenant is None:
                return False
            await self._redis.set(keys("deleted"), "1", ex=TOMBSTONE_TTL_S)
            names = await self._redis.hkeys(keys("digests"))
            streams = await self._redis.hkeys(keys("streams"))
            for chunk in _chunks(names):
                pipe = self._redis.pipeline(transaction=False)
                for name in chunk:
                    start_ms, participant, stream = name.split("/")
                    trend = trend_key(tenant, int(started_ms) + int(start_ms))
                    pipe.hdel(trend, f"{call_id}/{stream}/{participant}/{int(start_ms)}")
                await pipe.execute()
            await self._redis.zrem(calls_key(tenant), call_id)
            own = ("call", "streams", "results", "order", "digests", "events", *(f"stream:{name}" for name in streams))
            await self._redis.delete(*map(keys, own))
        return True

    async def deleted(self, call_id: str) -> bool:
        """Whether a call of this id was deleted, so that nothing more is taken of it; known for 30 days."""
        with _redis_errors():
            return bool(await self._redis.exists(CallKeys(call_id)("deleted")))

    async def publish_metrics(self, worker_id: str, text: str, ttl_s: int) -> None:
        """Leave a worker's metrics, Prometheus text, for `ttl_s`."""
        now_ms = time.time() * 1000
        with _redis_errors():
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(worker_key(worker_id), text, ex=ttl_s)
            pipe.zadd(WORKERS, {worker_id: now_ms + ttl_s * 1000})
            pipe.zremrangebyscore(WORKERS, "-inf", now_ms)
            await pipe.execute()

    async def metrics(self) -> dict[str, str]:
        """What each living worker left last."""
        with _redis_errors():
            workers = await self._redis.zrange(WORKERS, 0, -1)
            texts = await self._redis.mget([worker_key(worker) for worker in workers]) if workers else []
        return {worker: text for worker, text in zip(workers, texts, strict=True) if text is not None}

    async def _fill_trend(self, keys: CallKeys, result: UtteranceSentiment, digest: str, ttl_s: int) -> str | None:
        started_ms = await self._redis.hget(keys("call"), "started_ms")
        if started_ms is None:
            return None  # deleted or never opened: the step itself will say so
        trend = trend_key(result.tenant, int(started_ms) + result.start_ms)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(trend, result.utterance_id, digest)
        pipe.expire(trend, ttl_s)
        await pipe.execute()
        return trend

    async def _call_infos(self, call_ids: Sequence[str]) -> list[CallInfo | None]:
        pipe = self._redis.pipeline(transaction=False)
        for call_id in call_ids:
            pipe.hgetall(CallKeys(call_id)("call"))
            pipe.hgetall(CallKeys(call_id)("streams"))
        answers = await pipe.execute() if call_ids else []
        return [
            read_call(call_id, fields, streams)
            for call_id, fields, streams in zip(call_ids, answers[::2], answers[1::2], strict=True)
        ]

    async def _matching(self, wanted: CallFilter, calls: Sequence[CallInfo]) -> list[CallInfo]:
        if not wanted.asks_for_utterances or not calls:
            return list(calls)
        pipe = self._redis.pipeline(transaction=False)
        for call in calls:
            pipe.hvals(CallKeys(call.call_id)("digests"))
        return [
            call
            for call, texts in zip(calls, await pipe.execute(), strict=True)
            if any(wanted.accepts(digest) for digest in read_digests(texts))
        ]


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(f"Redis: {error}; check UNDERTONE_REDIS and the server") from error


def _lua(name: str) -> str:
    return (files("pipelines") / "lua" / f"{name}.lua").read_text()


def _judge(word: str, call_id: str, stream: str) -> None:
    if word == "deleted":
        raise CallDeletedError(f"call {call_id} was deleted")
    if word == "fenced":
        raise FencedError(f"call {call_id}, stream {stream}: another writer owns it; drop its state")


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
