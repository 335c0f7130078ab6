"""The sums of a trend bucket are those of its digests, whatever is put in, again, or taken out."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.types import EMOTIONS, POLARITIES
from pipelines.store.queries import Digest, trend_minute
from pipelines.store.store import Store
from pipelines.store.trends import SUMS, _change, empty_trend, read_sums
from pipelines.types import Participant
from tests.pipelines.stored import MINUTE_MS, STARTED_MS, result, store_call

KEY = "ut:trend:acme:1"
DIGESTS = st.builds(
    Digest,
    st.sampled_from(Participant),
    st.sampled_from(POLARITIES),
    st.sampled_from(EMOTIONS),
    st.integers(-30_000, 30_000).map(lambda n: n / 10_000),
) | st.builds(Digest, st.sampled_from(Participant), st.none(), st.none())
STEPS = st.lists(
    st.tuples(st.sampled_from([f"c/main/customer/{n}" for n in range(6)]), st.none() | DIGESTS), max_size=25
)


@pytest_asyncio.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    made = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    yield made
    await made.aclose()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
async def test_sums_agree_with_digests_after_any_steps(client: Any, steps: list[tuple[str, Digest | None]]) -> None:
    await client.flushall()
    held: dict[str, Digest] = {}
    for utterance_id, digest in steps:
        if digest is None:
            held.pop(utterance_id, None)
            await empty_trend(client, KEY, [utterance_id])
        else:
            held[utterance_id] = digest
            await _change(client, KEY, "", utterance_id, digest.write())
    kept = await client.hgetall(KEY)
    assert (SUMS in kept) == bool(held)
    assert {name: text for name, text in kept.items() if name != SUMS} == {
        name: digest.write() for name, digest in held.items()
    }
    (sums,) = await read_sums(client, [KEY])
    for who in (None, *Participant):
        wanted = [one for one in held.values() if who in (None, one.participant) and one.score is not None]
        minute = trend_minute(0, sums, who)
        assert minute.utterances == len(wanted)
        assert minute.score_mean == pytest.approx(sum(one.score or 0 for one in wanted) / max(len(wanted), 1))
        assert sum(minute.polarities.values()) == sum(minute.emotions.values()) == len(wanted)


@pytest.mark.parametrize("begun_by_this_version", [False, True])
async def test_what_an_earlier_version_wrote_is_counted(client: Any, *, begun_by_this_version: bool) -> None:
    if begun_by_this_version:
        await _change(client, KEY, 60, "c/main/customer/0", "customer|positive|joy|1.0000")
    await client.hset(KEY, "c/main/customer/1", "customer|negative|anger|-1.5000")
    await client.hset(KEY, "c/main/customer/2", "what it is that I cannot say")
    (sums,) = await read_sums(client, [KEY])
    assert trend_minute(0, sums, None).utterances == 1 + begun_by_this_version
    assert trend_minute(0, sums, None).polarities["negative"] == 1


async def test_a_query_reads_no_digest(redis_url: str, client: Any) -> None:
    store = Store.connect(redis_url)
    await store_call(
        store,
        "c",
        [result(0, tenant="default"), result(1_000, tenant="default"), result(2_000, score=None, tenant="default")],
    )
    await client.config_resetstat()
    (minute,) = await store.archive.trends("default", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert (minute.utterances, minute.score_mean) == (2, -1.5)
    assert (
        not {"cmdstat_hgetall", "cmdstat_hvals", "cmdstat_hscan", "cmdstat_evalsha"}
        & (await client.info("commandstats")).keys()
    )
    await store.close()


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_a_bucket_without_sums_gets_those_of_all_its_digests(client: Any, number: int) -> None:
    for at in range(number):
        await client.hset(KEY, f"c/main/customer/{at}", Digest("customer", "negative", "anger", -1.0).write())

    (sums,) = await read_sums(client, [KEY])

    assert trend_minute(0, sums, None).utterances == number
    assert SUMS in await client.hgetall(KEY)
