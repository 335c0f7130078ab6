import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from models.types import FloatArray
from pipelines.errors import BadFragmentError
from pipelines.ingest.worker import Worker
from pipelines.log.records import fragment_headers, parse_record
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, MediaLimits
from pipelines.store.customers import Customers
from pipelines.store.store import Store
from pipelines.types import TOPIC_DEAD_LETTER, TOPIC_MEDIA, Headers, MediaFragment
from tests.eventually import eventually
from tests.pipelines.searching import keys_with
from tests.pipelines.stored import default
from tests.pipelines.working import call, counter, judge, letters, records, results, running, send, working

REFERENCE = "Zo\u00eb 47110815"
MEDIA_LOG = "ut:log:{call-media}"


def send_of(url: str, reference: str, fragments: Sequence[MediaFragment], *more: tuple[str, bytes]) -> None:
    """Sends as a foreign producer does, which writes the reference itself."""
    producer = RedisStreamProducer(url)
    for fragment in fragments:
        headers: Headers = (*fragment_headers(fragment), ("customer", reference.encode()), *more)
        producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, headers)
    producer.flush()


async def known(store: Store, reference: str = REFERENCE) -> dict[str, int]:
    """The customer's calls, and how many utterances are stored of each."""
    customer = await store.customers.hash("default", reference)
    return {one.call_id: one.utterances for one in await store.customers.calls("default", customer, 100)}


async def forget(store: Store, *call_ids: str, reference: str = REFERENCE) -> None:
    customer = await store.customers.hash("default", reference)
    for call_id in call_ids:
        await store.customers.forget(default(call_id), customer)


async def test_a_foreign_producers_reference_stands_in_its_own_records_and_nowhere_else(
    redis_url: str, store: Store, sound: FloatArray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fragments = call(sound, "c1")
    fragments[2] = replace(fragments[2], media=b"noise", content_type="audio/x-matroska")
    send_of(redis_url, f" {REFERENCE} ", fragments)
    send_of(redis_url, REFERENCE, [fragments[0]], ("v", b"1"))
    async with working(redis_url):
        stored = await results(redis_url, "c1")
        await eventually(lambda: len(records(redis_url, TOPIC_DEAD_LETTER)) == 2)
        await eventually(store.service.metrics)
        assert keys_with(redis_url, REFERENCE) == {MEDIA_LOG}
    assert await known(store) == {"c1": len(stored)}
    assert "47110815" not in caplog.text


async def test_calls_of_a_customer_are_forgotten_and_what_still_comes_of_them_is_skipped(
    redis_url: str, store: Store, sound: FloatArray
) -> None:
    fragments = call(sound, "c1")
    async with working(redis_url) as worker:
        send_of(redis_url, REFERENCE, fragments[:15])
        send_of(redis_url, "another", call(sound, "c2"))
        await results(redis_url, "c2")
        assert "c1" in await known(store)
        await forget(store, "c1")
        send_of(redis_url, REFERENCE, [*fragments[15:], *call(sound, "later")])
        assert len(await results(redis_url, "later")) == 4
        assert counter(worker.metrics.fragments_skipped.labels("call_deleted")) > 0
    assert await store.archive.call(default("c1")) is None
    assert await known(store) == {"later": 4}
    assert await known(store, "another") == {"c2": 4}


async def test_who_is_forgotten_before_anybody_read_the_call_is_forgotten(
    redis_url: str, store: Store, sound: FloatArray
) -> None:
    customer = await store.customers.hash("default", REFERENCE)
    await store.customers.note(default("the-call"), customer)
    named = [replace(one, customer=customer) for one in call(sound, "the-call")]
    send(RedisStreamProducer(redis_url), named)
    await forget(store, "the-call")
    async with working(redis_url) as worker:
        await eventually(lambda: counter(worker.metrics.fragments_skipped.labels("call_deleted")) >= len(named))
    assert keys_with(redis_url, "the-call") == {MEDIA_LOG, "ut:{default/the-call}:deleted"}
    assert await known(store) == {}


class HeldCustomers(Customers):
    """A store that is slow to take whose call it is."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.gate, self.asked = asyncio.Event(), asyncio.Event()

    async def note(self, *args: Any) -> None:
        self.asked.set()
        await self.gate.wait()
        await super().note(*args)


async def test_whose_call_it_is_is_known_before_anything_of_it_is_stored(redis_url: str, sound: FloatArray) -> None:
    store = Store.connect(redis_url)
    customers = store.customers = HeldCustomers(store._redis)
    worker = Worker(
        source=RedisStreamSource(redis_url),
        producer=RedisStreamProducer(redis_url),
        store=store,
        analyse=judge,
        config=AppConfig(),
        owner="w",
    )
    send_of(redis_url, REFERENCE, call(sound, "the-call"))
    async with running(worker, store):
        await customers.asked.wait()
        assert keys_with(redis_url, "the-call") == {MEDIA_LOG}
        customers.gate.set()
        assert len(await results(redis_url, "the-call")) == 4


async def test_two_streams_and_a_change_within_one_are_of_all_whom_they_name(
    redis_url: str, store: Store, sound: FloatArray
) -> None:
    phone, webcam = call(sound, "c1"), [replace(one, stream="webcam") for one in call(sound, "c1")]
    async with working(redis_url):
        send_of(redis_url, "first", phone[:5])
        send(RedisStreamProducer(redis_url), phone[5:8])
        send_of(redis_url, "second", phone[8:])
        send_of(redis_url, "third", webcam)
        await results(redis_url, "c1")
    for reference in ("first", "second", "third"):
        assert set(await known(store, reference)) == {"c1"}
    await forget(store, "c1", reference="second")
    for reference in ("first", "second", "third"):
        assert await known(store, reference) == {}


async def test_a_dead_letter_carries_the_hash_and_comes_back_with_it(
    redis_url: str, store: Store, sound: FloatArray
) -> None:
    noise = replace(call(sound, "c1")[0], media=b"noise", content_type="audio/x-matroska")
    send_of(redis_url, REFERENCE, [noise])
    async with working(redis_url):
        (letter,) = await eventually(lambda: letters(redis_url))
    assert parse_record(letter.record, MediaLimits()).customer == await store.customers.hash("default", REFERENCE)


async def test_a_call_of_nothing_but_dead_letters_is_known_and_forgotten(
    redis_url: str, store: Store, sound: FloatArray
) -> None:
    first, second = (replace(one, content_type="none") for one in call(sound, "c1")[:2])
    async with working(redis_url) as worker:
        send_of(redis_url, REFERENCE, [first])
        await eventually(lambda: len(records(redis_url, TOPIC_DEAD_LETTER)) == 1)
        assert await known(store) == {"c1": 0}
        await forget(store, "c1")
        send_of(redis_url, REFERENCE, [second])
        await eventually(lambda: counter(worker.metrics.fragments_skipped.labels("call_deleted")))
    assert len(records(redis_url, TOPIC_DEAD_LETTER)) == 1
    assert await known(store) == {}


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ((("customer", b"47110815\x1b"),), "47110815"),
        ((("customer", b"47110815\xff"),), "47110815"),
        ((("customer", b"47110815" * 40),), "47110815"),
        ((("customer", b"47110815"), ("customer", b"47110815")), "47110815"),
        ((("customer", b"47110815"), ("customer-hash", b"0" * 64)), "47110815"),
        ((("customer-hash", b"47110815"),), ""),
    ],
)
async def test_a_reference_that_is_none_is_refused_without_being_repeated(
    redis_url: str, sound: FloatArray, headers: Headers, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    fragment = call(sound, "c1")[0]
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c1", fragment.media, (*fragment_headers(fragment), *headers))
    producer.flush()
    async with working(redis_url):
        (letter,) = await eventually(lambda: letters(redis_url))
    assert letter.reason == "bad_header"
    with pytest.raises(BadFragmentError):  # nor is it redriven as nobody's
        parse_record(letter.record, MediaLimits())
    if secret:
        assert keys_with(redis_url, secret) == {MEDIA_LOG}
        assert secret not in caplog.text
        assert secret not in f"{letter.record.headers} {letter.detail}"
