from typing import Any

import pytest

from pipelines.errors import CallDeletedError, StoreUnavailableError
from pipelines.seal import Seal
from pipelines.store.store import Store
from pipelines.types import RETENTION_DAYS, TOPIC_DEAD_LETTER, TOPIC_MEDIA, TOPIC_SENTIMENT
from tests.pipelines.stored import acme
from tests.servers import OwnRedis

CALL = acme("c")


async def test_everybody_gets_the_same_seal_of_a_call_and_a_topic(redis_url: str, store: Store) -> None:
    seal = await store.seals.of_call(CALL, TOPIC_MEDIA)
    other = Store.connect(redis_url, "a-replay")
    assert await other.seals.of_call(CALL, TOPIC_MEDIA) == seal
    assert await other.seals.find(CALL, TOPIC_MEDIA, seal.id) == seal
    assert (await store.seals.of_call(CALL, TOPIC_SENTIMENT)).key != seal.key
    assert (await store.seals.of_call(acme("d"), TOPIC_MEDIA)).key != seal.key
    assert await store.seals.find(CALL, TOPIC_MEDIA, "none") is None
    assert await store.seals.find(acme("d"), TOPIC_MEDIA, seal.id) is None
    await other.close()


@pytest.mark.parametrize("topic", [TOPIC_MEDIA, TOPIC_SENTIMENT, TOPIC_DEAD_LETTER])
async def test_a_seal_goes_when_the_log_may_not_hold_anymore_what_it_opens(store: Store, raw: Any, topic: str) -> None:
    await store.seals.of_call(CALL, topic)
    assert 0 < raw.ttl(f"ut:{{acme/c}}:seals:{topic}") <= (RETENTION_DAYS[topic] + 1) * 86_400


async def test_a_deleted_call_has_no_seal_and_gets_none(redis_url: str, store: Store) -> None:
    seal = await store.seals.of_call(CALL, TOPIC_MEDIA)
    assert await store.delete_call(CALL)  # which no worker has opened yet
    fresh = Store.connect(redis_url)
    assert await fresh.seals.find(CALL, TOPIC_MEDIA, seal.id) is None
    with pytest.raises(CallDeletedError, match="call c of tenant acme"):
        await fresh.seals.of_call(CALL, TOPIC_MEDIA)
    with pytest.raises(CallDeletedError):
        await fresh.seals.keep(seal)
    assert await fresh.seals.find(CALL, TOPIC_MEDIA, seal.id) is None
    await fresh.close()


async def test_a_seal_that_the_store_lost_is_kept_again_beside_one_that_was_made_meanwhile(
    redis_url: str, store: Store, raw: Any
) -> None:
    seal = await store.seals.of_call(CALL, TOPIC_MEDIA)
    raw.flushall()
    later = Store.connect(redis_url)
    made = await later.seals.of_call(CALL, TOPIC_MEDIA)
    await store.seals.keep(seal)
    reader = Store.connect(redis_url)
    assert [await reader.seals.find(CALL, TOPIC_MEDIA, one.id) for one in (seal, made)] == [seal, made]
    for one in (later, reader):
        await one.close()


async def test_what_was_sealed_before_a_store_lost_its_seals_is_opened_after(
    redis_url: str, store: Store, raw: Any
) -> None:
    seal = await store.seals.of_call(CALL, TOPIC_SENTIMENT, trusting=True)
    deleted = await store.seals.of_call(acme("d"), TOPIC_SENTIMENT, trusting=True)
    raw.flushall()
    raw.set("ut:{acme/d}:deleted", "erased")
    assert await store.seals.of_call(CALL, TOPIC_SENTIMENT, trusting=True) == seal  # which is not there
    await store.seals.keep_again()
    fresh = Store.connect(redis_url)
    assert await fresh.seals.find(CALL, TOPIC_SENTIMENT, seal.id) == seal
    assert await fresh.seals.find(acme("d"), TOPIC_SENTIMENT, deleted.id) is None
    await fresh.close()


async def test_who_does_not_trust_asks_a_store_that_lost_everything(store: Store, raw: Any) -> None:
    seal = await store.seals.of_call(CALL, TOPIC_MEDIA)
    raw.flushall()
    assert await store.seals.of_call(CALL, TOPIC_MEDIA) != seal


async def test_a_key_that_is_none_is_the_stores_trouble(store: Store, raw: Any) -> None:
    raw.hset("ut:{acme/c}:seals:call-media", "id", "no hex")
    with pytest.raises(StoreUnavailableError, match="no key for seal"):
        await store.seals.of_call(CALL, TOPIC_MEDIA)
    with pytest.raises(StoreUnavailableError):
        await store.seals.find(CALL, TOPIC_MEDIA, "id")


@pytest.mark.parametrize(("fsync", "warned"), [("everysec", False), ("no", True)])
async def test_who_keeps_a_seal_waits_for_the_servers_file_and_says_where_it_does_not_come(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture, fsync: str, *, warned: bool
) -> None:
    server = OwnRedis(tmp_path_factory.mktemp("r"), "--appendonly", "yes", "--appendfsync", fsync)
    store = Store.connect(server.url)
    for number in range(3):  # connections of the pool that have nothing to wait for
        await store.seals.of_call(acme(f"c{number}"), TOPIC_MEDIA)
    seal = Seal.new(CALL, TOPIC_MEDIA)
    await store.seals.keep(seal)
    assert ("has not written the seal" in caplog.text) is warned
    server.restart()
    again = Store.connect(server.url)
    assert await again.seals.find(CALL, TOPIC_MEDIA, seal.id) == seal
    for one in (store, again):
        await one.close()
    server.kill()
