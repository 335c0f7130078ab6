"""Deleting a call: what is stored of it in every run, and a tombstone that refuses what still comes of it."""

from collections import defaultdict
from typing import Any

from pipelines.store.client import chunks
from pipelines.store.keys import CallKeys, calls_key, customer_key, trend_key
from pipelines.store.trends import empty_trend
from pipelines.types import LIVE_RUN, CallRef

TOMBSTONE_TTL_S = 30 * 86_400
"""Longer than the log keeps fragments."""
_CALL_KEYS = ("call", "streams", "results", "order", "digests", "kinds", "events", "letters", "letter-counts", "runs")


async def delete_call(client: Any, call: CallRef, *, expected: bool = False) -> bool:
    """Set the tombstone, then erase the call in every run; the live one last, so that an interrupted deletion goes on.

    False if the call is unknown; one that is `expected`, since its fragments are on their way, gets its tombstone all the same.
    """
    keys = CallKeys(call)
    if not expected and not await client.exists(*map(keys, ("call", "streams", "runs"))):
        return False
    await client.set(keys("deleted"), "1", ex=TOMBSTONE_TTL_S)
    for run in [*await client.smembers(keys("runs")), LIVE_RUN]:
        await _erase(client, CallKeys(call, run))
    await _leave_customers(client, call)
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
        buckets = defaultdict[str, list[str]](list)
        for name in await client.hkeys(keys("digests")):
            start_ms, participant, stream = name.split("/")
            trend = trend_key(keys.run, tenant, int(started_ms) + int(start_ms))
            buckets[trend].append(f"{call_id}/{stream}/{participant}/{int(start_ms)}")
        for trend, utterance_ids in buckets.items():
            for some in chunks(utterance_ids):
                await empty_trend(client, trend, some)
        await client.zrem(calls_key(keys.run, tenant), call_id)
    streams = await client.hkeys(keys("streams"))
    of_streams = (f"{kind}:{name}" for name in streams for kind in ("stream", "sender"))
    await client.delete(*map(keys, (*_CALL_KEYS, *of_streams)))
