"""Writing the trend buckets: one digest an utterance, so that adding it again changes nothing (a sum would not be so)."""

from typing import Any

from pipelines.store.keys import CallKeys, trend_key
from pipelines.types import UtteranceSentiment


async def fill_trend(client: Any, keys: CallKeys, result: UtteranceSentiment, digest: str, ttl_s: int) -> str | None:
    """Put the result's digest into the bucket of its minute, which then lives `ttl_s`.

    Returns:
        The bucket's key; None where the call is unknown: deleted, or never opened.
    """
    started_ms = await client.hget(keys("call"), "started_ms")
    if started_ms is None:
        return None
    trend = trend_key(keys.run, result.tenant, int(started_ms) + result.start_ms)
    pipe = client.pipeline(transaction=False)
    pipe.hset(trend, result.utterance_id, digest)
    pipe.expire(trend, ttl_s)
    await pipe.execute()
    return trend


async def correct_trend(client: Any, digests: str, name: str, trend: str, utterance_id: str) -> None:
    """After a step that was refused had filled the bucket: put there what is stored of the utterance, if anything is."""
    stored = await client.hget(digests, name)
    if stored is None:
        await client.hdel(trend, utterance_id)
    else:
        await client.hset(trend, utterance_id, stored)
