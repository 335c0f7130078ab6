"""Deleting a call: what is stored of it in every run and the keys to its records in the log, and a tombstone for what still comes.

A server that keeps an append-only file has everything in it that was ever written, until it writes the file anew.
"""

import logging
import time
import uuid
from collections import defaultdict
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from pipelines.store.client import chunks, run_ids, servers
from pipelines.store.keys import REWRITE, REWRITER, CallKeys, calls_key, customer_key, open_key, trend_key
from pipelines.store.trends import empty_trend
from pipelines.types import LIVE_RUN, RETENTION_DAYS, CallRef

logger = logging.getLogger(__name__)

TOMBSTONE_TTL_S = (max(RETENTION_DAYS.values()) + 1) * 86_400
"""Longer than any topic keeps its records."""
_SEALS = tuple(f"seals:{topic}" for topic in RETENTION_DAYS)
_CALL_KEYS = (
    "call",
    "streams",
    "results",
    "order",
    "digests",
    "kinds",
    "events",
    "letters",
    "letter-counts",
    "runs",
    "unstored",
)
_FIRST_KEYS = ("call", "streams", "runs", "senders", "customers", "letters", *_SEALS)
"""One of these is there as long as anything is known of a call."""
_SETTLE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
_ERASING, _ERASED = "erasing", "erased"
"""What a tombstone says: the first as long as not all is erased, and marked in the server's file for good."""
_CLAIM_S, _AGAIN_S = 60, 60.0
"""How long one process sees to the rewriting after it was last seen; when a rewriting that failed is tried again."""


async def holds(client: Any, call: CallRef) -> bool:
    """Whether anything is known of the call: what is stored, or only that somebody sends it."""
    keys = CallKeys(call)
    return bool(await client.exists(*map(keys, _FIRST_KEYS))) or await client.get(keys("deleted")) == _ERASING


async def delete_call(client: Any, call: CallRef, *, expected: bool = False) -> bool:
    """Set the tombstone, then erase the call in every run; the live one last, so that an interrupted deletion goes on.

    False if the call is unknown; one that is `expected`, since its fragments are on their way, gets its tombstone all the same.
    """
    keys = CallKeys(call)
    if not expected and not await holds(client, call):
        return False
    await client.set(keys("deleted"), _ERASING, ex=TOMBSTONE_TTL_S)
    await client.delete(*map(keys, _SEALS))  # first: whatever fails after it, the log is closed
    for run in [*await client.smembers(keys("runs")), LIVE_RUN]:
        await _erase(client, CallKeys(call, run))
    await _leave_customers(client, call)
    await client.set(REWRITE, uuid.uuid4().hex)
    await client.set(keys("deleted"), _ERASED, ex=TOMBSTONE_TTL_S)
    return True


async def _leave_customers(client: Any, call: CallRef) -> None:
    """Forget whose call it was, and last take it out of their indexes: of what is left in between, forgetting them finds the rest."""
    key = CallKeys(call)("customers")
    customers = await client.smembers(key)
    await client.delete(key)
    for customer in customers:
        await client.zrem(customer_key(call.tenant, customer), call.call_id)


async def _erase(client: Any, keys: CallKeys) -> None:
    tenant, call_id = keys.call.tenant, keys.call.call_id
    started_ms = await client.hget(keys("call"), "started_ms")
    if started_ms is not None:
        await _empty_trends(client, keys, int(started_ms))
        await client.zrem(calls_key(keys.run, tenant), call_id)
    streams = await client.hkeys(keys("streams"))
    for stream in streams:
        partition = await client.hget(keys(f"stream:{stream}"), "partition")
        if partition is not None:
            await client.zrem(open_key(keys.run, int(partition)), f"{tenant}/{call_id}/{stream}")
    await client.delete(*map(keys, (*_CALL_KEYS, "senders", *(f"stream:{stream}" for stream in streams))))


async def _empty_trends(client: Any, keys: CallKeys, started_ms: int) -> None:
    """Take the call's utterances out of the buckets: those that are stored, and one that was about to be when its worker died."""
    tenant, call_id = keys.call.tenant, keys.call.call_id
    buckets = defaultdict[str, set[str]](set)
    for name in [*await client.hkeys(keys("digests")), *await client.smembers(keys("unstored"))]:
        start_ms, participant, stream = name.split("/")
        trend = trend_key(keys.run, tenant, started_ms + int(start_ms))
        buckets[trend].add(f"{call_id}/{stream}/{participant}/{int(start_ms)}")
    for trend, utterance_ids in buckets.items():
        for some in chunks(sorted(utterance_ids)):
            await empty_trend(client, trend, some)


class FileRewriting:
    """Has the servers' append-only files written anew after deletions: one process does, one rewriting at a time."""

    def __init__(self, client: Any) -> None:
        self._redis, self._name = client, uuid.uuid4().hex
        self._settle = client.register_script(_SETTLE)
        self._begun: tuple[str, str] | None = None
        """The mark for which this process has begun a rewriting, and the servers that it asked for it."""
        self._begun_s = 0.0

    async def go_on(self) -> None:
        """Begin a rewriting where one is wanted, or see that it has ended; the mark stays until then, whoever dies."""
        wanted = await self._redis.get(REWRITE)
        if wanted is None or not await self._is_mine():
            return
        told = await servers(self._redis)
        if any(int(one.get(name, 0)) for one in told for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled")):
            return
        if not any(int(one.get("aof_enabled", 0)) for one in told):
            await self._settle(keys=[REWRITE], args=[wanted])
        elif self._begun != (wanted, run_ids(told)):  # a server that was started again may have begun and not ended
            await self._begin(wanted, run_ids(told))
        elif all(one.get("aof_last_bgrewrite_status", "ok") == "ok" for one in told):
            await self._settle(keys=[REWRITE], args=[wanted])
        elif time.monotonic() - self._begun_s > _AGAIN_S:  # no room on the disk, say
            await self._begin(wanted, run_ids(told))

    async def _is_mine(self) -> bool:
        """Whether this process is the one that sees to it."""
        if not await self._redis.set(REWRITER, self._name, nx=True, ex=_CLAIM_S):
            if await self._redis.get(REWRITER) != self._name:
                return False
            await self._redis.expire(REWRITER, _CLAIM_S)
        return True

    async def _begin(self, wanted: str, asked: str) -> None:
        is_cluster = isinstance(self._redis, redis.asyncio.RedisCluster)
        options = {"target_nodes": self._redis.get_primaries()} if is_cluster else {}
        try:
            await self._redis.execute_command("BGREWRITEAOF", **options)
        except ResponseError as error:
            if "in progress" in str(error):  # the server's own, since a moment ago
                return
            logger.warning("the server's file keeps what was deleted until it is written anew; BGREWRITEAOF: %s", error)
            await self._settle(keys=[REWRITE], args=[wanted])
        else:
            self._begun, self._begun_s = (wanted, asked), time.monotonic()
