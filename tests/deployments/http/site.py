"""A gateway over a Redis of its own, in the test's process, and what tests send to it."""

import contextlib
import io
import struct
import wave
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI

from deployments.http.access import Grantee
from deployments.http.analyze import Analyse
from deployments.http.api import create_api
from deployments.http.bodies import Health, Part
from deployments.http.limits import HttpLimits
from deployments.http.tokens import ALL_SCOPES, ANY_TENANT
from models.types import EMOTIONS, POLARITIES, FloatArray, Modality
from pipelines.errors import EncoderUnavailableError, SourceUnavailableError, StoreUnavailableError
from pipelines.log.records import parse_record
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, HttpSettings, MediaLimits
from pipelines.store.store import Store
from pipelines.tenants import TenantSettings
from pipelines.types import (
    Headers,
    Judgement,
    MediaFragment,
    ModalityOut,
    Participant,
    Utterance,
    UtteranceSentiment,
)
from tests.pipelines.stored import CUSTOMER, store_call
from tests.pipelines.working import opened

PROBLEM = "application/problem+json"
LIMITS = HttpLimits(
    upload_max_bytes=400_000,
    chunk_max_bytes=100_000,
    idle_max_s=30,
    analyze_max_bytes=300_000,
    analyze_max_ms=7_000,
    analyze_held_max_bytes=400_000,
    heartbeat_ms=50,
)


def result(
    start_ms: int, score: float = -1.5, *, call_id: str = "a-17", participant: Participant = CUSTOMER
) -> UtteranceSentiment:
    polarity = "negative" if score < 0 else "positive"
    return UtteranceSentiment(
        utterance_id=f"{call_id}/main/{participant}/{start_ms}",
        call_id=call_id,
        tenant="default",
        stream="main",
        participant=participant,
        start_ms=start_ms,
        end_ms=start_ms + 900,
        consent=tuple(Modality),
        judgement=Judgement(
            score=score,
            polarity=polarity,
            polarity_probabilities={label: float(label == polarity) for label in POLARITIES},
            emotion="anger" if score < 0 else "joy",
            emotion_probabilities=dict.fromkeys(EMOTIONS, 1 / 7),
        ),
        modalities={Modality.TEXT: ModalityOut(used=True)},
        bundle="test",
        analysed_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


async def judge(utterance: Utterance) -> UtteranceSentiment:
    """A stage in the models' place: what an utterance brings is what was used of it."""
    brought = {
        Modality.AUDIO: bool(utterance.samples.size),
        Modality.VIDEO: bool(utterance.frames),
        Modality.TEXT: utterance.text is not None,
    }
    if utterance.text == "fail":
        raise EncoderUnavailableError("fusion: no replica answers")
    judged = result(utterance.start_ms, participant=utterance.participant)
    return judged.model_copy(
        update={
            "consent": tuple(sorted(utterance.consent)),
            "end_ms": utterance.end_ms,
            "modalities": {modality: ModalityOut(used=used) for modality, used in brought.items()},
        }
    )


@dataclass
class Site:
    """One gateway over a Redis of its own."""

    api: FastAPI
    store: Store
    redis_url: str
    client: httpx.AsyncClient
    parts: list[Part] = field(default_factory=list)

    async def call(self, *results: UtteranceSentiment, final: bool = False, call_id: str = "a-17") -> None:
        """Stores results as a worker does."""
        await store_call(self.store, call_id, results, final=final)

    def fragments(self) -> list[MediaFragment]:
        """Everything in the log, from its start, opened."""
        source = RedisStreamSource(self.redis_url)
        assert source.poll(0.05, 100).assigned  # the first poll takes the partition, and only that
        found: list[MediaFragment] = []
        while records := source.poll(0.05, 100).records:
            found += [opened(self.redis_url, parse_record(record, MediaLimits())) for record in records]
        source.close()
        return found


@contextlib.asynccontextmanager
async def serving(
    redis_url: str, limits: HttpLimits = LIMITS, at_once: HttpSettings | None = None, analyse: Analyse = judge
) -> AsyncIterator[Site]:
    """A gateway over this Redis until the block ends."""
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    parts = [Part(name="redis", ok=True)]

    async def health() -> Health:
        await store.ping()
        return Health(transcriber="whisper-tiny.en/ctranslate2-4.8", bundle="embedded-1", parts=parts)

    tenants = {
        "default": TenantSettings(),
        "quiet": TenantSettings(consent="customer=text+audio", accesses_ttl_s=7 * 86_400),
    }
    api = create_api(
        store=store,
        producer=producer,
        analyse=analyse,
        health=health,
        config=AppConfig(tenants=tenants, http=at_once or HttpSettings()),
        access=Everyone(),
        hosts=frozenset({"t"}),
        limits=limits,
    )
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        yield Site(api, store, redis_url, client, parts)
    await store.close()
    producer.close()


class Everyone:
    """An access that takes any token, and none, for every tenant: for tests of something else."""

    async def grantee(self, token: str | None, client: str) -> Grantee:
        del token, client
        return Grantee("everyone", ANY_TENANT, ALL_SCOPES)


class LosingProducer:
    """A log that loses a record: the contract of `Producer`, broken at one call."""

    def __init__(self) -> None:
        self.lose_next = False

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        del topic, value, headers
        if key == "unlucky":
            raise SourceUnavailableError("a record was not acknowledged")

    def flush(self) -> None: ...

    def close(self) -> None: ...


async def never_healthy() -> Health:
    raise StoreUnavailableError("Redis does not answer")


def wav(samples: FloatArray, rate_hz: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[0])
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80\x40\x20" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The problem of an answer, checked for the form of RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    found: dict[str, Any] = answer.json()
    assert found["reason"] == reason
    assert found["status"] == status
    assert found["type"] == f"urn:undertone:problem:{reason}"
    path = answer.request.url.path
    assert found["instance"] == ("/v1/customers" if path.startswith("/v1/customers") else path)  # never whom
    assert found["title"]
    assert found["detail"]
    return found


@dataclass
class Heard:
    id: str | None = None
    kind: str | None = None
    data: str | None = None
    comment: str | None = None


async def heard(answer: httpx.Response) -> AsyncIterator[Heard]:
    one = Heard()
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        match name:
            case "":
                if line == "":
                    yield one
                    one = Heard()
                else:
                    one.comment = value
            case "id":
                one.id = value
            case "event":
                one.kind = value
            case "data":
                one.data = value
