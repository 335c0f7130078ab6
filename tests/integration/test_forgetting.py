"""A deleted call searched for in every byte that is left: of the store, its files, and the log's."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
import pytest
import redis
from pydantic import SecretStr

from deployments.http.api import create_api
from deployments.http.bodies import Health
from models.types import FloatArray
from pipelines.consent import granted
from pipelines.ingest.worker import Worker
from pipelines.log.choose import open_producer, open_reader, open_source
from pipelines.log.producer import Producer
from pipelines.log.records import call_of, fragment_headers, open_fragment, parse_record, seal_fragment
from pipelines.seal import Seal
from pipelines.settings import AppConfig, MediaLimits, Settings
from pipelines.store.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    RETENTION_DAYS,
    TOPIC_MEDIA,
    CallRef,
    MediaFragment,
    Participant,
    Record,
    TranscriptOut,
    Utterance,
    UtteranceSentiment,
)
from tests.deployments.http.site import Everyone, wav
from tests.eventually import eventually
from tests.pipelines.conftest import vowels_of
from tests.pipelines.stored import default
from tests.pipelines.working import judge, results, running, speech
from tests.servers import OwnRedis, start_broker
from tools.kafka.broker import stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORDS = "confidential words of the customer"
REFERENCE = "Zo\u00eb 47110815"
LETTER = b"a confidential picture that no decoder takes"
FORGOTTEN, KEPT, UNASKED = default("forgotten"), default("kept"), default("unasked")


@dataclass
class System:
    """Store, log, gateway and worker, and the folders in which their servers write."""

    folders: tuple[Path, ...]
    redis_url: str
    config: AppConfig
    settings: Settings
    store: Store
    producer: Producer
    http: httpx.AsyncClient

    def records(self) -> Iterator[tuple[str, Record]]:
        """Everything in the log, with its topic."""
        for topic in RETENTION_DAYS:
            reader = open_reader(self.config, self.settings, topic)
            for record in reader.records(reader.extents()):
                yield topic, record
            reader.close()

    async def opened(self, call: CallRef) -> list[bytes]:
        """What the log gives of a call to whoever asks a store that trusts nothing from before."""
        fresh, found = Store.connect(self.redis_url), []
        for topic, record in self.records():
            if call_of(record) != call:
                continue
            headers = dict(record.headers)
            seal_id = headers.get("seal") or headers.get("dlq-seal")
            seal = seal_id and await fresh.seals.find(call, topic, seal_id.decode())
            if not isinstance(seal, Seal):
                found.append(b"" if seal_id else record.value)
            elif topic == TOPIC_MEDIA:
                found.append(open_fragment(parse_record(record, MediaLimits()), seal).media)
            else:
                found.append(seal.open(record.value))
        await fresh.close()
        return found

    def bytes_kept(self) -> Iterator[bytes]:
        """Every key of the store with its value, and every file of the servers."""
        with redis.Redis.from_url(self.redis_url) as client:
            for key in client.scan_iter():
                yield key + (client.dump(key) or b"")
        for folder in self.folders:
            yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file())

    def is_rewritten(self) -> bool:
        """Whether the store's file was written anew after the last deletion."""
        with redis.Redis.from_url(self.redis_url) as client:
            return not client.exists("ut:rewrite")

    def left_of(self, secrets: Iterable[bytes]) -> list[bytes]:
        """Those of the secrets that stand anywhere."""
        wanted = set(secrets)
        return [secret for secret in wanted if any(secret in kept for kept in self.bytes_kept())]


async def speaks(utterance: Utterance) -> UtteranceSentiment:
    said = TranscriptOut(text=WORDS, language="en", engine="test", reliable=True)
    return (await judge(utterance)).model_copy(update={"transcript": said})


async def well() -> Health:
    return Health(transcriber=None, bundle=None, parts=[])


@asynccontextmanager
async def built(kind: Literal["redis", "kafka"], folders: list[Path]) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        server = OwnRedis(folders[0], "--appendonly", "yes")
        stack.callback(server.kill)
        address = ""
        if kind == "kafka":
            broker = start_broker(folders[1])
            stack.callback(stop, broker.pid, kill=True)
            address = broker.address
        config = AppConfig(source=kind)
        settings = Settings(redis=SecretStr(server.url), kafka=address, kafka_partitions=1)
        store, producer = Store.connect(server.url), open_producer(config, settings)
        stack.push_async_callback(store.close)
        stack.callback(producer.close)
        api = create_api(store=store, producer=producer, analyse=speaks, health=well, config=config, access=Everyone())
        await stack.enter_async_context(api.router.lifespan_context(api))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://127.0.0.1")
        http = await stack.enter_async_context(client)
        worker_store = Store.connect(server.url)
        worker = Worker(
            source=open_source(config, settings),
            producer=open_producer(config, settings),
            store=worker_store,
            analyse=speaks,
            config=config,
            owner="w",
        )
        await stack.enter_async_context(running(worker, worker_store))
        yield System(tuple(folders), server.url, config, settings, store, producer, http)


async def upload(system: System, call: CallRef, sound: FloatArray, **fields: str) -> None:
    params = {"call_id": call.call_id, "participants": "agent,customer", **fields}
    answer = await system.http.post(
        "/v1/calls", params=params, content=wav(sound), headers={"content-type": "audio/wav"}
    )
    assert answer.status_code == 202, answer.text


def broken(call: CallRef) -> MediaFragment:
    who = (Participant.CUSTOMER,)
    return MediaFragment(call.call_id, call.tenant, "cam", 0, 0, "video/mp4", who, None, final=True, media=LETTER)


@pytest.fixture
def sound() -> FloatArray:
    return speech(vowels_of)


@pytest.mark.parametrize("kind", ["redis", "kafka"])
async def test_nothing_of_a_forgotten_call_is_left_in_any_byte(
    kind: Literal["redis", "kafka"], sound: FloatArray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = [tmp_path_factory.mktemp("r"), tmp_path_factory.mktemp("k")]
    async with built(kind, folders) as system:
        noise = np.random.default_rng(1).normal(0, 0.1, sound.shape).astype(np.float32)
        for call in (FORGOTTEN, KEPT):
            await upload(system, call, sound, **({"customer": REFERENCE} if call == KEPT else {}))
            seal = await system.store.seals.of_call(call, TOPIC_MEDIA)
            letter = seal_fragment(broken(call), seal, granted(None, DEFAULT_CONSENT))
            system.producer.send(TOPIC_MEDIA, call.call_id, letter.media, fragment_headers(letter))
            system.producer.flush()
        await upload(system, UNASKED, sound + noise, consent="")
        for call in (FORGOTTEN, KEPT, UNASKED):
            stored = await results(system.redis_url, call.call_id)
            assert bool(stored) == (call != UNASKED)
        await eventually(lambda: system.store.ledger.dead_letter_counts(FORGOTTEN))
        await eventually(lambda: system.store.ledger.dead_letter_counts(KEPT))

        # Before: who has the keys can play and read it; of what nobody may analyse there never was any sound.
        before = {call: await system.opened(call) for call in (FORGOTTEN, KEPT, UNASKED)}
        pcm = max(before[FORGOTTEN], key=len)
        sounds = [pcm[at : at + 64] for at in range(len(pcm) // 4, len(pcm) // 4 + 2048, 64)]
        sounds = [one for one in sounds if len(set(one)) > 16]
        assert len(sounds) > 8
        for call in (FORGOTTEN, KEPT):
            assert any(LETTER in one for one in before[call])
            assert any(WORDS.encode() in one for one in before[call])
        assert set(before[UNASKED]) == {b""}
        seals = [await system.store.seals.of_call(FORGOTTEN, topic) for topic in RETENTION_DAYS]
        keys = [form for seal in seals for form in (seal.key, seal.key.hex().encode())]
        assert system.left_of([WORDS.encode()])  # in the store and its file
        assert system.left_of([LETTER, REFERENCE.encode(), *sounds]) == []  # in clear nowhere
        assert set(system.left_of(keys)) == {seal.key.hex().encode() for seal in seals}

        for call in (FORGOTTEN, UNASKED):
            answer = await system.http.delete(f"/v1/calls/{call.call_id}")
            assert answer.status_code == 200, answer.text

        await eventually(system.is_rewritten)
        assert system.left_of(keys) == []
        assert set(await system.opened(FORGOTTEN)) == {b""}
        assert await system.opened(KEPT) == before[KEPT]
        answer = await system.http.post("/v1/forget", json={"customer": REFERENCE, "dry_run": False})
        assert [one["call_id"] for one in answer.json()["calls"]] == [KEPT.call_id]
        await eventually(system.is_rewritten)
        assert system.left_of([WORDS.encode(), LETTER, REFERENCE.encode(), *sounds, *keys]) == []
