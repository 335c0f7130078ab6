"""Interim texts: they reach whoever follows the tenant at that moment, on one server and on a Cluster, and Redis keeps none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from pipelines.errors import StoreUnavailableError
from pipelines.store.queries import InterimText
from pipelines.store.store import Store
from pipelines.types import Participant
from tests.eventually import eventually
from tests.servers import OwnRedis


def interim(number: int, call_id: str = "a-17") -> InterimText:
    return InterimText(
        call_id=call_id,
        stream="main",
        participant=Participant.CUSTOMER,
        start_ms=1000,
        end_ms=4000 + number,
        text=f"and then {number}",
        language="en",
        engine="test",
    )


@asynccontextmanager
async def following(store: Store, tenant: str) -> AsyncIterator[list[InterimText]]:
    """What comes of the tenant's, as long as the store answers."""
    heard: list[InterimText] = []

    async def follow() -> None:
        with suppress(StoreUnavailableError):
            async for text in store.interim.follow(tenant):
                heard.append(text)  # noqa: PERF401  # each is looked at before the next one comes

    task = asyncio.create_task(follow())
    yield heard
    task.cancel()
    await asyncio.wait([task])


async def test_a_text_reaches_those_who_follow_its_tenant_and_redis_keeps_nothing(store: Store, raw: Any) -> None:
    async with following(store, "ours") as one, following(store, "ours") as two, following(store, "rival") as rival:
        await eventually(
            lambda: [count for _, count in raw.pubsub_numsub("ut:interim:ours", "ut:interim:rival")] == [2, 1]
        )
        for number in range(3):
            await store.interim.publish("ours", interim(number))
        await store.interim.publish("rival", interim(0, "b"))
        await eventually(lambda: len(one) == len(two) == 3 and len(rival) == 1)

    assert one == two == [interim(number) for number in range(3)]
    assert rival == [interim(0, "b")]
    assert raw.keys() == []
    await eventually(lambda: raw.pubsub_channels() == [])


async def test_what_is_no_interim_text_is_left_out(store: Store, raw: Any) -> None:
    async with following(store, "ours") as heard:
        await eventually(lambda: raw.publish("ut:interim:ours", "noise"))
        raw.publish("ut:interim:ours", '{"event":"interim","text":7}')
        await store.interim.publish("ours", interim(0))
        await eventually(lambda: heard)

    assert heard == [interim(0)]


async def test_texts_of_another_run_are_not_those_of_the_live_one(store: Store, raw: Any) -> None:
    async with following(store, "ours") as heard:
        await eventually(raw.pubsub_channels)
        await store.of_run("shadow").interim.publish("ours", interim(1))
        await store.interim.publish("ours", interim(2))
        await eventually(lambda: heard)

    assert heard == [interim(2)]


async def test_while_redis_is_away_both_ends_say_so(own_redis: OwnRedis) -> None:
    store = Store.connect(own_redis.url)
    texts = store.interim.follow("ours")
    own_redis.kill()
    with pytest.raises(StoreUnavailableError):
        await anext(texts)
    with pytest.raises(StoreUnavailableError):
        await store.interim.publish("ours", interim(0))
    await store.close()


@pytest.mark.slow  # servers of its own
async def test_on_a_cluster_a_text_reaches_those_who_follow(redis_cluster: str) -> None:
    here, there = Store.connect(redis_cluster), Store.connect(redis_cluster)
    for tenant in ("default", "shop", "bank"):  # their channels have slots on different masters
        async with following(there, tenant) as heard:

            async def sent(tenant: str = tenant, heard: list[InterimText] = heard) -> bool:
                await here.interim.publish(tenant, interim(0))
                return bool(heard)

            await eventually(sent)
        assert set(heard) == {interim(0)}
    await here.close()
    await there.close()
