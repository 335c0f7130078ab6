from typing import Any

import pytest
import redis.asyncio
import redis.exceptions

from pipelines.errors import BadFragmentError, CallDeletedError, StoreUnavailableError
from pipelines.store.customers import CustomerCall
from pipelines.store.queries import CallFilter
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.pipelines.stored import MINUTE_MS, STARTED_MS, acme, stored_call

REFERENCE = "Zo\u00eb 4711"
DAY_S = 86_400


@pytest.fixture
async def customer(store: Store) -> str:
    return await store.customers.hash("acme", REFERENCE)


async def listed(store: Store, customer: str, tenant: str = "acme") -> dict[str, int]:
    found = await store.customers.calls(tenant, customer, 100)
    assert await store.customers.count(tenant, customer) == len(found)
    return {one.call_id: one.utterances for one in found}


async def test_one_tenants_hash_is_the_same_everywhere_and_no_other_tenants(store: Store, redis_url: str) -> None:
    another = Store.connect(redis_url)
    first = await store.customers.hash("acme", REFERENCE)
    assert await another.customers.hash("acme", " Zoe\u0308 4711 ") == first
    assert await store.customers.hash("acme", "4712") != first
    assert await store.customers.hash("rival", REFERENCE) != first
    await another.close()


async def test_the_key_is_256_bits_that_nobody_chose(store: Store, raw: Any) -> None:
    await store.customers.hash("acme", "1")
    await store.customers.hash("rival", "1")
    keys = {raw.get(name) for name in ("ut:customer-key:acme", "ut:customer-key:rival")}
    assert {len(bytes.fromhex(key)) for key in keys} == {32}
    assert len(keys) == 2


async def test_what_is_no_reference_makes_no_key(store: Store, raw: Any) -> None:
    with pytest.raises(BadFragmentError):
        await store.customers.hash("acme", "a\nb")
    assert not list(raw.scan_iter("ut:*"))


async def test_a_customers_calls_are_forgotten_and_no_others(store: Store, customer: str, raw: Any) -> None:
    for name in ("mine", "mine too", "another's"):
        call_id = name.replace(" ", "-").replace("'", "")
        await stored_call(store, call_id, STARTED_MS, -1.0, 2.0)
        other = await store.customers.hash("acme", "another")
        await store.customers.note(acme(call_id), customer if name.startswith("mine") else other)
    shadow = store.of_run("shadow")
    await stored_call(shadow, "mine", STARTED_MS, 1.0)
    assert await listed(store, customer) == {"mine": 3, "mine-too": 2}

    for one in await store.customers.calls("acme", customer, 100):
        await store.customers.forget(acme(one.call_id), customer)

    assert await listed(store, customer) == {}
    assert [call.call_id for call in (await store.archive.calls(CallFilter("acme"))).items] == ["anothers"]
    assert [call.call_id for call in (await shadow.archive.calls(CallFilter("acme"))).items] == []
    (minute,) = await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert minute.utterances == 2
    left = set(raw.scan_iter("ut:*mine*"))
    assert left == {"ut:{acme/mine}:deleted", "ut:{acme/mine-too}:deleted"}
    assert not raw.exists(f"ut:customer:acme:{customer}")


async def test_a_call_that_nobody_has_read_yet_is_forgotten_before_it_is(store: Store, customer: str) -> None:
    await store.customers.note(acme("c"), customer)
    assert await listed(store, customer) == {"c": 0}
    await store.customers.forget(acme("c"), customer)
    with pytest.raises(CallDeletedError):
        await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    with pytest.raises(CallDeletedError):
        await store.customers.note(acme("c"), customer)
    assert await listed(store, customer) == {}


async def test_a_call_that_comes_later_is_taken_and_known(store: Store, customer: str) -> None:
    await store.customers.note(acme("c"), customer)
    await store.customers.forget(acme("c"), customer)
    await store.customers.note(acme("later"), customer)
    await stored_call(store, "later", STARTED_MS, 1.0)
    assert await listed(store, customer) == {"later": 1}


async def test_a_call_of_two_customers_is_forgotten_for_both(store: Store, customer: str) -> None:
    other = await store.customers.hash("acme", "other")
    for one in (customer, other):
        await store.customers.note(acme("c"), one)
    await store.customers.note(acme("d"), other)
    await store.customers.forget(acme("c"), customer)
    assert await listed(store, other) == {"d": 0}


async def test_a_deleted_call_leaves_its_customers_index(store: Store, customer: str, raw: Any) -> None:
    await store.customers.note(acme("c"), customer)
    await stored_call(store, "c", STARTED_MS, 1.0)
    assert await store.delete_call(acme("c"))
    assert await listed(store, customer) == {}
    assert list(raw.scan_iter("ut:{acme/c}:*")) == ["ut:{acme/c}:deleted"]


async def test_another_tenants_calls_are_not_seen(store: Store, customer: str) -> None:
    await store.customers.note(CallRef("rival", "c"), customer)
    assert await listed(store, customer) == {}
    assert await listed(store, customer, "rival") == {"c": 0}


async def test_an_index_lives_as_long_as_what_is_kept_of_its_calls_and_no_longer(
    store: Store, customer: str, raw: Any
) -> None:
    index = f"ut:customer:acme:{customer}"
    await store.customers.note(acme("short"), customer)
    assert 37 * DAY_S < raw.ttl(index) < 39 * DAY_S
    await store.customers.note(acme("long"), customer, ttl_s=365 * DAY_S)
    await store.customers.note(acme("short"), customer)
    for key in (index, "ut:{acme/long}:customers"):
        assert raw.ttl(key) > 365 * DAY_S
    assert 37 * DAY_S < raw.ttl("ut:{acme/short}:customers") < 39 * DAY_S
    raw.zadd(index, {f"expired-{number}": 1 for number in range(1000)})
    assert await listed(store, customer) == {"short": 0, "long": 0}
    await store.customers.note(acme("short"), customer)
    assert raw.zcard(index) == 2


async def test_pages_are_bounded(store: Store, customer: str) -> None:
    for number in range(5):
        await store.customers.note(acme(f"c{number}"), customer)
    assert len(await store.customers.calls("acme", customer, 2)) == 2
    assert await store.customers.count("acme", customer) == 5


class Failing(redis.asyncio.Redis):
    """A Redis that is lost after so many commands."""

    left = 1 << 30

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise redis.exceptions.ConnectionError("lost")
        self.left -= 1
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py ships no type


async def test_forgetting_that_broke_off_anywhere_goes_on(
    store: Store, customer: str, redis_url: str, raw: Any
) -> None:
    other = await store.customers.hash("acme", "other")
    for commands in range(100):
        name = f"c{commands}"
        tombstone = [f"ut:{{acme/{name}}}:deleted"]
        for one in (customer, other):
            await store.customers.note(acme(name), one)
        for run in (store, store.of_run("shadow")):
            await stored_call(run, name, STARTED_MS, 1.0)
        client: Any = Failing.from_url(redis_url, decode_responses=True)
        client.left = commands
        broke_off = False
        try:
            await Store(client).customers.forget(acme(name), customer)
        except StoreUnavailableError:
            broke_off = True
            if list(raw.scan_iter(f"ut:*{name}*")) not in ([], tombstone):
                assert name in await listed(store, customer)  # whoever asks again finds it
        finally:
            await client.aclose()
        await store.customers.forget(acme(name), customer)
        assert list(raw.scan_iter(f"ut:*{name}*")) == tombstone
        assert await listed(store, customer) == {}
        assert await listed(store, other) in ({}, {name: 0})  # an entry too many does no harm
        await store.customers.forget(acme(name), other)
        assert await listed(store, other) == {}
        assert await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS) == ()
        if not broke_off:
            assert commands > 10
            return
    pytest.fail("it never ended")


@pytest.mark.slow  # servers of its own
async def test_a_customer_is_forgotten_on_a_cluster(redis_cluster: str) -> None:
    store = Store.connect(redis_cluster)
    customer = await store.customers.hash("acme", REFERENCE)
    for number in range(6):
        await store.customers.note(acme(f"c{number}"), customer)
        await stored_call(store, f"c{number}", STARTED_MS, 1.0)
    found = await store.customers.calls("acme", customer, 100)
    assert {one.call_id for one in found} == {f"c{number}" for number in range(6)}
    assert found[0] == CustomerCall(found[0].call_id, 1)
    for one in found:
        await store.customers.forget(acme(one.call_id), customer)
    assert await store.customers.count("acme", customer) == 0
    assert (await store.archive.calls(CallFilter("acme"))).items == ()
    await store.close()
