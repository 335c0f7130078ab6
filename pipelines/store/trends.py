"""The trend buckets: one digest an utterance, so that adding it again changes nothing, and beside them the sums that a query reads.

A query must not look at every utterance: a day of 20,000 calls has 300,000 of them, and 1,440 minutes. Digests and sums of a
minute change in one step (`lua/trend.lua`), so that they always agree.
"""

import json
from collections.abc import Sequence
from typing import Any

from pipelines.store.client import lua
from pipelines.store.keys import CallKeys, member, trend_key
from pipelines.types import UtteranceSentiment

SUMS = "#"
"""The field of a bucket that holds its sums; no utterance has this id."""


async def fill_trend(client: Any, keys: CallKeys, result: UtteranceSentiment, digest: str, ttl_s: int) -> str | None:
    """Put the result's digest into the bucket of its minute, which then lives `ttl_s`.

    Returns:
        The bucket's key; None where the call is unknown: deleted, or never opened.
    """
    note = client.register_script(lua("unstored"))
    name = member(result.start_ms, result.participant, result.stream)
    started_ms = await note(keys=[keys("call"), keys("unstored")], args=[name, ttl_s])
    if started_ms is None:
        return None
    trend = trend_key(keys.run, result.tenant, int(started_ms) + result.start_ms)
    await _change(client, trend, ttl_s, result.utterance_id, digest)
    return trend


async def correct_trend(client: Any, digests: str, name: str, trend: str, utterance_id: str) -> None:
    """After a step that was refused had filled the bucket: put there what is stored of the utterance, if anything is."""
    stored = await client.hget(digests, name)
    await _change(client, trend, "", utterance_id, stored or "")


async def empty_trend(client: Any, trend: str, utterance_ids: Sequence[str]) -> None:
    """Take utterances out of a bucket."""
    await _change(client, trend, "", *(part for utterance_id in utterance_ids for part in (utterance_id, "")))


async def read_sums(client: Any, trends: Sequence[str]) -> list[dict[str, Any]]:
    """The sums of these buckets, as `lua/trend.lua` describes them.

    A bucket that a worker of an earlier version has written gets its sums here.
    """
    pipe = client.pipeline(transaction=False)
    for trend in trends:
        pipe.hget(trend, SUMS)
        pipe.hlen(trend)
    answers = await pipe.execute()
    found = []
    for trend, text, held in zip(trends, answers[::2], answers[1::2], strict=True):
        sums = json.loads(text or '{"size": 0}')
        agree = held == (0 if text is None else sums["size"] + 1)
        found.append(sums if agree else json.loads(await _change(client, trend, "")))
    return found


async def _change(client: Any, trend: str, ttl_s: int | str, *changes: str) -> str:
    """The bucket's sums after `changes`: utterance ids, each with its digest, which is empty where it is taken out."""
    sums: str = await client.register_script(lua("trend"))(keys=[trend], args=[ttl_s, *changes])
    return sums
