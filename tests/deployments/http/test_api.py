import asyncio
import contextlib
import io
import json
import struct
import wave
import zlib
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import av
import httpx
import numpy as np
import pytest
import pytest_asyncio
import redis
import uvicorn
import websockets
from fastapi import FastAPI

from deployments.http.api import create_api
from deployments.http.bodies import Accepted, CallPage, CallWithSummary, Health, Links, Part, Trends, UtterancePage
from deployments.http.uploads import HttpLimits
from deployments.sample import ANGRY_TO_CONTENT
from models.types import EMOTIONS, POLARITIES, FloatArray, Modality
from pipelines.errors import EncoderUnavailableError, SourceUnavailableError, StoreUnavailableError
from pipelines.log.records import parse_record
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, MediaLimits, TenantSettings
from pipelines.store.store import Store
from pipelines.types import (
    Headers,
    Judgement,
    MediaFragment,
    ModalityOut,
    Participant,
    Utterance,
    UtteranceSentiment,
)
from tests.pipelines.media_files import film, sound
from tests.pipelines.stored import AGENT, CUSTOMER, STARTED_MS, advance, fragment, store_call

PROBLEM = "application/problem+json"
AS_JSON = {"content-type": "application/json"}
LIMITS = HttpLimits(
    upload_max_bytes=400_000,
    chunk_max_bytes=100_000,
    idle_max_s=30,
    analyze_max_bytes=300_000,
    analyze_max_ms=7_000,
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
        """Everything in the log, from its start."""
        source = RedisStreamSource(self.redis_url)
        assert source.poll(0.05, 100).assigned  # the first poll takes the partition, and only that
        found: list[MediaFragment] = []
        while records := source.poll(0.05, 100).records:
            found += [parse_record(record, MediaLimits()) for record in records]
        source.close()
        return found


@pytest_asyncio.fixture
async def site(redis_url: str) -> AsyncIterator[Site]:
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    parts = [Part(name="redis", ok=True)]

    async def health() -> Health:
        await store.ping()
        return Health(transcriber="pocketsphinx-5.1", bundle="embedded-1", parts=parts)

    config = AppConfig(tenants={"quiet": TenantSettings(consent="customer=text")})
    api = create_api(store=store, producer=producer, analyse=judge, health=health, config=config, limits=LIMITS)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        yield Site(api, store, redis_url, client, parts)
    await store.close()
    producer.close()


@pytest_asyncio.fixture
async def address(site: Site) -> AsyncIterator[str]:
    """The same gateway on a real port: what a stream of events or a WebSocket needs."""
    server = uvicorn.Server(
        uvicorn.Config(site.api, port=0, log_level="warning", lifespan="off", ws="websockets-sansio")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


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
    assert found["instance"] == answer.request.url.path
    assert found["title"]
    assert found["detail"]
    return found


# ---- media in


async def test_an_upload_becomes_fragments_in_the_log(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls",
        params={"call_id": "a-17", "participants": "agent,customer", "consent": "agent=text;customer=audio+text"},
        content=wav(sound(2.5, 8000, 2)),
        headers={"content-type": "audio/wav"},
    )

    assert answer.status_code == 202
    accepted = Accepted.model_validate(answer.json())
    assert accepted.links == Links.of("a-17")
    found = site.fragments()
    assert accepted.fragments == len(found) >= 2
    assert [piece.seq for piece in found] == list(range(len(found)))
    assert [piece.final for piece in found] == [False] * (len(found) - 1) + [True]
    assert {piece.call_id for piece in found} == {"a-17"}
    assert found[0].participants == (AGENT, CUSTOMER)
    assert found[0].consent == {AGENT: frozenset({Modality.TEXT}), CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}


async def test_a_form_with_its_file_last_is_an_upload_too(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls",
        data={"participants": "customer", "stream": "webcam", "tenant": "acme", "start_ms": "5000"},
        files={"file": ("call.wav", wav(sound(1.5, 8000)), "text/plain")},
    )

    accepted = Accepted.model_validate(answer.json())
    found = site.fragments()
    assert accepted.stream == "webcam"
    assert {(piece.call_id, piece.tenant, piece.stream) for piece in found} == {(accepted.call_id, "acme", "webcam")}
    assert {piece.consent for piece in found} == {None}
    assert found[0].start_ms == 5000


async def test_raw_sound_is_cut_by_its_content_type(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?participants=agent,customer",
        content=bytes(16_000 * 2),
        headers={"content-type": "audio/PCMU;rate=8000;channels=2"},
    )

    assert answer.status_code == 202
    found = site.fragments()
    assert [len(piece.media) for piece in found] == [16_000, 16_000]
    assert found[0].content_type == "audio/PCMU;rate=8000;channels=2"


async def test_an_upload_is_in_the_log_before_it_has_all_come(site: Site) -> None:
    """Streamed, not buffered: the body's second half is only sent once the first is in the log."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(32_000)
        while not await asyncio.to_thread(site.fragments):
            pass
        yield bytes(8_000)

    answer = await site.client.post(
        "/v1/calls?participants=customer", content=body(), headers={"content-type": "audio/PCMU"}
    )

    assert answer.status_code == 202
    assert Accepted.model_validate(answer.json()).fragments == 5


@pytest.mark.parametrize(
    ("query", "body", "status", "reason"),
    [
        ("participants=customer", b"", 400, "no_body"),
        ("", b"abc", 422, "invalid_input"),
        ("participants=bob", b"abc", 422, "invalid_input"),
        ("participants=customer&consent=customer:all", b"abc", 422, "invalid_input"),
        ("participants=customer&call_id=a%20b", b"abc", 422, "invalid_input"),
        ("participants=customer&call_id=" + "a" * 129, b"abc", 422, "invalid_input"),
        ("participants=customer&colour=red", b"abc", 422, "invalid_input"),
        ("participants=customer", b"This is a text file named .mp4.\n" * 100, 415, "undecodable"),
    ],
)
async def test_a_bad_upload_is_refused_by_name(site: Site, query: str, body: bytes, status: int, reason: str) -> None:
    answer = await site.client.post(f"/v1/calls?{query}", content=body, headers={"content-type": "video/mp4"})

    problem(answer, status, reason)
    assert site.fragments() == []


async def test_an_upload_without_a_body_is_told_what_to_send(site: Site) -> None:
    detail = problem(await site.client.post("/v1/calls"), 400, "no_body")["detail"]

    assert "curl" in detail


async def test_an_upload_over_the_limit_is_refused_before_anything_of_it_is_taken(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?participants=customer", content=bytes(500_000), headers={"content-type": "audio/PCMU"}
    )

    problem(answer, 413, "oversize")
    assert site.fragments() == []


async def test_an_upload_of_unknown_length_is_analysed_up_to_the_limit(site: Site) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(10_000)

    answer = await site.client.post(
        "/v1/calls?participants=customer", content=body(), headers={"content-type": "audio/PCMU"}
    )

    problem(answer, 413, "oversize")
    found = site.fragments()
    assert sum(len(piece.media) for piece in found) == 400_000
    assert found[-1].final


async def test_the_fields_of_a_form_may_not_follow_its_file(site: Site) -> None:
    parts: list[tuple[str, tuple[str | None, bytes]]] = [
        ("file", ("a.wav", wav(sound(0.5, 8000)))),
        ("participants", (None, b"customer")),
    ]
    answer = await site.client.post("/v1/calls?participants=customer", files=parts)

    assert "last" in problem(answer, 400, "bad_form")["detail"]


@pytest.mark.parametrize("path", ["/v1/calls?participants=customer", "/v1/analyze"])
@pytest.mark.parametrize("value", ["", "x" * 100])
async def test_what_stands_before_the_file_of_a_form_is_bounded(site: Site, path: str, value: str) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(10_000):
            part = f'--x\r\nContent-Disposition: form-data; name="{number:0100}"\r\n\r\n{value}\r\n'.encode()
            read += len(part)
            yield part

    answer = await site.client.post(path, content=body(), headers={"content-type": "multipart/form-data; boundary=x"})

    problem(answer, 413, "oversize")
    assert read < 70_000


async def test_media_over_the_limit_is_not_analysed_before_anything_of_it_is_read(site: Site) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b""
        raise AssertionError("the body was read")

    answer = await site.client.post(
        "/v1/analyze", content=body(), headers={"content-length": str(10 << 20), "content-type": "audio/wav"}
    )

    problem(answer, 413, "oversize")


async def test_a_form_cut_off_is_refused(site: Site) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    answer = await site.client.post(
        "/v1/calls?participants=customer",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )

    problem(answer, 400, "bad_form")


async def test_a_call_of_another_tenant_or_a_stream_that_is_over_takes_no_media(site: Site) -> None:
    await site.call(final=True)
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"

    other = await site.client.post(f"{path}&tenant=acme", content=media)
    again = await site.client.post(path, content=media)
    more = await site.client.post(f"{path}&stream=webcam", content=media)

    problem(other, 409, "call_id_taken")
    problem(again, 409, "stream_exists")
    assert more.status_code == 202


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


async def test_a_record_lost_fails_every_upload_that_was_on_its_way(redis_url: str) -> None:
    """A producer drops all that waits in it when it loses one record, whoever's it is."""
    store = Store.connect(redis_url)
    api = create_api(store=store, producer=LosingProducer(), analyse=judge, health=_never, config=AppConfig())
    begun, lost = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(20_000)
        begun.set()
        await lost.wait()
        yield bytes(20_000)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        headers = {"content-type": "audio/PCMU"}
        waiting = asyncio.create_task(client.post("/v1/calls?participants=customer", content=slow(), headers=headers))
        await begun.wait()
        unlucky = await client.post(
            "/v1/calls?participants=customer&call_id=unlucky", content=bytes(9_000), headers=headers
        )
        lost.set()
        other = await waiting

    problem(unlucky, 503, "source_unavailable")
    problem(other, 503, "source_unavailable")
    await store.close()


async def _never() -> Health:
    raise StoreUnavailableError("Redis does not answer")


# ---- live media


async def test_live_bytes_become_fragments_until_the_end_is_said(site: Site, address: str) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/L16;rate=8000"}))
        assert json.loads(await socket.recv())["links"]["events"] == "/v1/calls/a-17/events"
        for _ in range(25):
            await socket.send(bytes(1_600))
        await socket.send('{"end": true}')
        accepted = Accepted.model_validate_json(await socket.recv())

    found = site.fragments()
    assert accepted.fragments == len(found)
    assert sum(len(piece.media) for piece in found) == 40_000
    assert found[-1].final


async def test_a_browsers_webm_is_live_media_too_and_a_lost_connection_ends_the_stream(
    site: Site, address: str
) -> None:
    media = film("webm", sound_codec="libopus", samples=sound(3.0, 48_000), rate_hz=48_000)
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer", "content_type": "audio/webm;codecs=opus"}')
        await socket.recv()
        for at in range(0, len(media), 4_000):
            await socket.send(media[at : at + 4_000])
        socket.transport.abort()

    while not (found := await asyncio.to_thread(site.fragments)) or not found[-1].final:
        pass
    assert {piece.content_type for piece in found} == {"audio/x-matroska"}


@pytest.mark.parametrize(
    ("path", "messages", "reason", "code"),
    [
        ("a%20b", [], "invalid_input", 1008),
        ("a-17", ["hello"], "no_order", 1008),
        ("a-17", [b"\0\0"], "no_order", 1008),
        ("a-17", ['{"participants": "bob"}'], "invalid_input", 1008),
        ("a-17", ['{"participants": "customer", "call_id": "other"}'], "invalid_input", 1008),
        ("a-17", ['{"participants": "customer"}', "what?"], "bad_message", 1008),
        ("a-17", ['{"participants": "customer"}', bytes(100_001)], "oversize", 1009),
        ("a-17", ['{"participants": "customer"}', b"no media " * 5_000, '{"end": true}'], "undecodable", 1003),
    ],
)
async def test_a_bad_live_stream_is_told_its_problem_and_closed(  # noqa: PLR0917  # pytest passes by name
    site: Site, address: str, path: str, messages: list[str | bytes], reason: str, code: int
) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/{path}/media") as socket:
        for message in messages:
            await socket.send(message)
        said = []
        with contextlib.suppress(websockets.ConnectionClosedError):
            async for message in socket:
                said.append(json.loads(message))  # noqa: PERF401  # extend would lose all of it when the close raises

    assert said[-1]["reason"] == reason
    assert socket.close_code == code
    assert site.fragments() == []


async def test_a_live_stream_that_is_there_already_is_refused(site: Site, address: str) -> None:
    await site.call()

    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer"}')
        assert json.loads(await socket.recv())["reason"] == "stream_exists"


# ---- calls out


async def test_a_call_comes_with_its_summary(site: Site) -> None:
    await site.call(result(0, -2.0), result(3_000, -1.0, participant=AGENT))

    call = CallWithSummary.model_validate((await site.client.get("/v1/calls/a-17")).json())

    assert call.status == "live"
    assert call.started_at == datetime.fromtimestamp(STARTED_MS / 1000, UTC)
    assert call.utterances == 2
    assert call.summary.headline.startswith("The customer was unhappy.")
    assert not call.summary.final


async def test_utterances_come_in_pages(site: Site) -> None:
    stored = [result(at * 1000) for at in range(5)]
    await site.call(*stored)

    first = UtterancePage.model_validate((await site.client.get("/v1/calls/a-17/utterances?limit=3")).json())
    rest = await site.client.get("/v1/calls/a-17/utterances", params={"cursor": first.next_cursor or ""})

    assert first.utterances + UtterancePage.model_validate(rest.json()).utterances == stored


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["glad", "angry"]),
        ({"polarity": "negative"}, ["angry"]),
        ({"emotion": "joy"}, ["glad"]),
        ({"min_score": "1"}, ["glad"]),
        ({"max_score": "-1", "participant": "customer"}, ["angry"]),
        ({"participant": "agent"}, []),
        ({"tenant": "acme"}, []),
        ({"since": "2025-10-09T08:53:20Z"}, ["glad", "angry"]),
        ({"since": "2025-10-09T08:53:21+00:00"}, []),
        ({"until": "2025-10-09T10:53:20+02:00"}, []),
    ],
)
async def test_calls_are_filtered(site: Site, query: dict[str, str], found: list[str]) -> None:
    await site.call(result(0, -2.0, call_id="angry"), call_id="angry")
    await site.call(result(0, 2.0, call_id="glad"), call_id="glad")

    page = CallPage.model_validate((await site.client.get("/v1/calls", params=query)).json())

    assert [call.call_id for call in page.calls] == found


async def test_calls_come_in_pages(site: Site) -> None:
    for name in "abc":
        await site.call(call_id=name)

    first = CallPage.model_validate((await site.client.get("/v1/calls?limit=2")).json())
    rest = await site.client.get("/v1/calls", params={"cursor": first.next_cursor or "", "limit": 2})

    assert [call.call_id for call in first.calls] == ["c", "b"]
    assert [call.call_id for call in CallPage.model_validate(rest.json()).calls] == ["a"]


async def test_trends_are_by_minute_and_at_most_a_week(site: Site) -> None:
    await site.call(result(0, -2.0), result(1_000, 1.0), result(200_000, 3.0))
    since = {"since": "2025-10-09T00:00:00Z", "until": "2025-10-10T00:00:00Z"}

    trends = Trends.model_validate((await site.client.get("/v1/trends", params=since)).json())
    now = Trends.model_validate((await site.client.get("/v1/trends")).json())
    long = await site.client.get("/v1/trends", params={**since, "until": "2025-11-09T00:00:00Z"})

    assert [(minute.utterances, minute.score_mean) for minute in trends.minutes] == [(2, -0.5), (1, 3.0)]
    assert now.minutes == []
    problem(long, 422, "range_too_long")


async def test_a_deleted_call_is_gone(site: Site) -> None:
    await site.call(result(0))

    assert (await site.client.delete("/v1/calls/a-17?tenant=acme")).status_code == 404
    answer = await site.client.delete("/v1/calls/a-17")

    assert (answer.status_code, answer.content) == (204, b"")
    problem(await site.client.get("/v1/calls/a-17"), 404, "unknown_call")
    problem(await site.client.delete("/v1/calls/a-17"), 404, "unknown_call")


async def test_media_for_a_deleted_call_is_refused_and_for_another_it_is_not(site: Site, address: str) -> None:
    await site.call(result(0))
    await site.client.delete("/v1/calls/a-17")
    media = wav(sound(1.0, 8000))

    told = problem(
        await site.client.post("/v1/calls?call_id=a-17&participants=customer", content=media), 410, "call_deleted"
    )
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer"}')
        live = json.loads(await socket.recv())

    assert "another call id" in told["detail"]
    assert (live["status"], live["reason"]) == (410, "call_deleted")
    assert site.fragments() == []
    assert (await site.client.post("/v1/calls?call_id=a-18&participants=customer", content=media)).status_code == 202


# ---- events


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


async def test_events_come_live_and_end_with_the_call(site: Site, address: str) -> None:
    early, late = result(0), result(2_000, 1.0)
    await site.call(early)
    events = list[Heard]()
    async with (
        httpx.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("GET", "/v1/calls/a-17/events") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for event in heard(answer):
            if event.comment == "heartbeat" and len(events) == 1:
                first = fragment("a-17", tenant="default")
                await advance(site.store, late, early.end_ms * 16, late.end_ms * 16, first=first)
                await site.store.set_state("a-17", "main", "final", owner="w1")
            if event.kind is not None:
                events.append(event)

    assert [event.kind for event in events] == ["utterance", "utterance", "call-final"]
    assert [UtteranceSentiment.model_validate_json(event.data or "") for event in events[:2]] == [early, late]
    assert json.loads(events[-1].data or "")["final"] is True

    resumed = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": events[0].id or ""})
    over = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": events[-1].id or ""})
    assert late.model_dump_json() in resumed.text
    assert early.model_dump_json() not in resumed.text
    assert over.status_code == 204


async def test_a_call_that_began_again_has_only_its_last_end(site: Site) -> None:
    await site.call(result(0), final=True)
    await site.store.open_stream("a-17", "default", "webcam", "w", 0)
    await site.store.set_state("a-17", "webcam", "final", owner="w")

    text = (await site.client.get("/v1/calls/a-17/events")).text

    assert text.count("event: call-final") == 1


async def test_what_is_unreadable_at_the_end_of_a_call_is_passed_once(site: Site, redis_url: str) -> None:
    await site.call(result(0), final=True)
    first, last = await site.store.archive.events("a-17")
    with redis.Redis.from_url(redis_url) as client:
        client.hset("ut:{a-17}:results", client.hkeys("ut:{a-17}:results")[0], "nonsense")
        client.xdel("ut:{a-17}:events", last.id)

    listened = await asyncio.wait_for(site.client.get("/v1/calls/a-17/events"), 30)
    again = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": first.id})

    assert f": unreadable\nid: {first.id}\n\n" in listened.text
    assert listened.text.count("unreadable") == 1
    assert again.status_code == 204


async def test_the_events_of_a_deleted_call_end(site: Site, address: str) -> None:
    await site.call(result(0))
    async with (
        httpx.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("GET", "/v1/calls/a-17/events") as answer,
    ):
        async for event in heard(answer):
            if event.comment == "heartbeat":
                await site.client.delete("/v1/calls/a-17")


# ---- analyse


async def test_a_text_is_judged_at_once(site: Site) -> None:
    as_json = await site.client.post("/v1/analyze", json={"text": "Three weeks!"})
    as_form = await site.client.post("/v1/analyze", files={"text": (None, "Three weeks!")})

    assert as_json.status_code == 200
    (judged,) = [UtteranceSentiment.model_validate(found) for found in as_json.json()["results"]]
    assert judged.modalities[Modality.TEXT].used
    assert judged.participant is CUSTOMER
    assert as_form.json() == as_json.json()


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (2000, 3)])
async def test_a_picture_is_one_utterance(site: Site, size: tuple[int, int]) -> None:
    answer = await site.client.post("/v1/analyze", content=png(*size), headers={"content-type": "image/png"})

    (judged,) = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert judged.modalities[Modality.VIDEO].used
    assert not judged.modalities[Modality.AUDIO].used


@pytest.fixture(scope="module")
def speech() -> FloatArray:
    """Two seconds of the sample call in which the agent speaks: mono (32000,) at 16 kHz."""
    with av.open(str(ANGRY_TO_CONTENT)) as container:
        resampler = av.AudioResampler("fltp", "stereo", 16_000)
        blocks = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(blocks, axis=1)[0, 16_000:48_000].astype(np.float32)


async def test_each_utterance_of_a_recording_is_judged(site: Site, speech: FloatArray) -> None:
    pause = np.zeros(16_000, np.float32)
    media = wav(np.concatenate([speech, pause, speech, pause])[None], 16_000)

    answer = await site.client.post(
        "/v1/analyze?participants=agent", content=media, headers={"content-type": "application/octet-stream"}
    )

    judged = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert len(judged) == 2
    assert judged[0].end_ms < judged[1].start_ms
    assert all(found.modalities[Modality.AUDIO].used for found in judged)
    assert all(found.consent == (Modality.TEXT,) for found in judged)


async def test_a_film_in_a_form_is_analysed(site: Site, speech: FloatArray) -> None:
    media = film(
        "mp4",
        sound_codec="aac",
        samples=np.concatenate([speech, np.zeros(16_000, np.float32)])[None],
        picture_codec="mpeg4",
        seconds=3.0,
    )

    answer = await site.client.post("/v1/analyze", files={"file": ("film.mp4", media, "image/png")})

    (judged,) = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert judged.modalities[Modality.AUDIO].used
    assert judged.modalities[Modality.VIDEO].used


@pytest.mark.parametrize(
    ("params", "consent"),
    [
        ({"tenant": "quiet"}, ["text"]),
        ({"tenant": "quiet", "consent": "customer=audio"}, ["audio"]),
        ({"tenant": "another"}, ["audio", "text", "video"]),
    ],
)
async def test_the_tenants_policy_holds_where_the_request_says_nothing(
    site: Site, speech: FloatArray, params: dict[str, str], consent: list[str]
) -> None:
    recording = wav(np.concatenate([speech, np.zeros(16_000, np.float32)])[None], 16_000)

    of_text = await site.client.post("/v1/analyze", params=params, json={"text": "Three weeks!"})
    of_sound = await site.client.post("/v1/analyze", params=params, content=recording)

    judged = [*of_text.json()["results"], *of_sound.json()["results"]]
    assert [found["consent"] for found in judged] == [consent, consent]


async def test_a_recording_in_which_nobody_speaks_gives_nothing(site: Site) -> None:
    answer = await site.client.post("/v1/analyze", content=wav(np.zeros((1, 8000), np.float32)))

    assert answer.json() == {"results": []}


@pytest.mark.parametrize(
    ("content_type", "body", "status", "reason"),
    [
        ("application/json", b"", 400, "no_body"),
        ("application/json", b"{", 400, "bad_json"),
        ("application/json", b"\xff\xfe", 400, "bad_json"),
        ("application/json", b"[" * 200_000, 400, "bad_json"),
        ("application/json", b"[]", 422, "invalid_input"),
        ("application/json", b'{"text": ""}', 422, "invalid_input"),
        ("application/json", b'{"text": "a", "voice": "b"}', 422, "invalid_input"),
        ("application/json", json.dumps({"text": "a" * 10_001}).encode(), 422, "invalid_input"),
        ("application/json", b'{"text": "fail"}', 503, "encoder_unavailable"),
        ("image/png", b"not a picture at all", 415, "undecodable"),
        ("image/png", png(40, 40)[:60], 415, "undecodable"),
        ("image/png", png(9000, 9000), 415, "undecodable"),
        ("audio/L16", b"1234", 415, "undecodable"),
        ("audio/L16;rate=8000", bytes(300_001), 413, "oversize"),
        ("audio/PCMU", bytes(64_000), 413, "too_long"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400, "no_body"),
        ("multipart/form-data", b"--x--\r\n", 400, "bad_form"),
    ],
)
async def test_what_cannot_be_analysed_is_refused_by_name(
    site: Site, content_type: str, body: bytes, status: int, reason: str
) -> None:
    answer = await site.client.post("/v1/analyze", content=body, headers={"content-type": content_type})

    problem(answer, status, reason)


# ---- every error, and operation


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/calls/unknown", 404, "unknown_call"),
        ("GET", "/v1/calls/unknown/utterances", 404, "unknown_call"),
        ("GET", "/v1/calls/unknown/events", 404, "unknown_call"),
        ("GET", "/v1/calls/a%20b", 422, "invalid_input"),
        ("GET", "/v1/calls/a%00b", 422, "invalid_input"),
        ("GET", "/v1/calls/caf%C3%A9", 422, "invalid_input"),
        ("GET", "/v1/calls?limit=0", 422, "invalid_input"),
        ("GET", "/v1/calls?polarity=furious", 422, "invalid_input"),
        ("GET", "/v1/calls?since=yesterday", 422, "invalid_input"),
        ("GET", "/v1/calls?since=1763700000", 422, "invalid_input"),
        ("GET", "/v1/calls?min_score=nan", 422, "invalid_input"),
        ("GET", "/v1/calls?tenant=a%2Fb", 422, "invalid_input"),
        ("GET", "/v1/trends?until=0001-01-01T00:00:00Z", 422, "invalid_input"),
        ("GET", "/v1/trends?since=0001-01-01T00:00:00%2B14:00", 422, "range_too_long"),
        ("GET", "/v1/calls?cursor=invented", 422, "bad_cursor"),
        ("PUT", "/v1/calls", 405, "method_not_allowed"),
        ("GET", "/v1/analyze", 405, "method_not_allowed"),
    ],
)
async def test_every_error_is_a_problem(site: Site, method: str, path: str, status: int, reason: str) -> None:
    problem(await site.client.request(method, path), status, reason)


async def test_a_wrong_method_is_told_all_that_the_path_takes(site: Site) -> None:
    answer = await site.client.put("/v1/calls")

    assert answer.headers["allow"] == "GET, POST"
    assert problem(answer, 405, "method_not_allowed")["detail"] == "/v1/calls takes GET, POST."


async def test_a_query_that_is_no_text_is_a_problem_like_others(site: Site) -> None:
    async def api(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await site.api({**scope, "query_string": b"a=\xff"}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        problem(await client.get("/nothing"), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/calls?participants=customer", "/v1/analyze"])
async def test_a_length_of_thousands_of_digits_is_too_long(site: Site, path: str) -> None:
    answer = await site.client.post(path, content=b"a", headers={"content-length": "9" * 5_000})

    assert len(problem(answer, 413, "oversize")["detail"]) < 200


async def test_json_may_be_as_long_as_the_longest_text_and_no_longer(site: Site) -> None:
    text = "\N{GRINNING FACE}" * 10_000

    assert (await site.client.post("/v1/analyze", content=json.dumps({"text": text}), headers=AS_JSON)).is_success
    problem(await site.client.post("/v1/analyze", content=b" " * 300_000, headers=AS_JSON), 413, "oversize")


async def test_media_that_cannot_be_read_is_refused_while_it_is_awaited(address: str) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer", "content_type": "audio/L16"}')
        await socket.recv()
        assert json.loads(await socket.recv())["reason"] == "undecodable"


async def test_an_event_id_that_is_none_is_refused_before_the_stream_begins(site: Site) -> None:
    await site.call()

    problem(await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": "x"}), 422, "bad_cursor")


async def test_a_failure_inside_tells_nothing_of_the_inside(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(site.redis_url) as raw:
        raw.set("ut:calls:default", "not a sorted set")
    wrong_type = await site.client.get("/v1/calls")
    assert wrong_type.headers["content-type"] == PROBLEM

    async def broken(_utterance: Utterance) -> UtteranceSentiment:
        raise KeyError("secret")

    api = create_api(
        store=site.store, producer=LosingProducer(), analyse=broken, health=_never, config=AppConfig(), limits=LIMITS
    )
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        answer = await client.post("/v1/analyze", json={"text": "hello"})

    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "secret" in caplog.text


async def test_without_redis_the_gateway_lives_but_is_not_ready() -> None:
    store = Store.connect("unix:///nowhere/redis.sock")

    async def health() -> Health:
        await store.ping()
        raise AssertionError("unreachable")

    api = create_api(store=store, producer=LosingProducer(), analyse=judge, health=health, config=AppConfig())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        assert (await client.get("/healthz")).json() == {"status": "alive", "transcriber": None, "bundle": None}
        problem(await client.get("/readyz"), 503, "not_ready")
        answer = await client.get("/v1/calls")
        problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"]
    with contextlib.suppress(StoreUnavailableError):
        await store.close()


async def test_health_names_the_models_and_readiness_the_part_that_is_not_well(site: Site) -> None:
    assert (await site.client.get("/healthz")).json()["transcriber"] == "pocketsphinx-5.1"
    assert (await site.client.get("/readyz")).json()["bundle"] == "embedded-1"

    site.parts.append(Part(name="Transcriber", ok=False, detail="no replica"))

    assert "Transcriber: no replica" in problem(await site.client.get("/readyz"), 503, "not_ready")["detail"]
    assert (await site.client.get("/healthz")).status_code == 200


async def test_metrics_are_those_of_the_workers(site: Site) -> None:
    await site.store.publish_metrics("w-1", "# TYPE undertone_fenced counter\nundertone_fenced_total 3.0\n", 15)

    answer = await site.client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert 'undertone_fenced_total{worker="w-1"} 3.0' in answer.text


async def test_the_openapi_page_documents_every_route_and_the_problem(site: Site) -> None:
    page = (await site.client.get("/openapi.json")).json()

    assert set(page["paths"]) == {
        "/v1/calls",
        "/v1/calls/{call_id}",
        "/v1/calls/{call_id}/utterances",
        "/v1/calls/{call_id}/events",
        "/v1/trends",
        "/v1/analyze",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert "reason" in page["components"]["schemas"]["Problem"]["properties"]
    assert "HTTPValidationError" not in json.dumps(page["paths"])
    upload = page["paths"]["/v1/calls"]["post"]
    assert "participants" in [parameter["name"] for parameter in upload["parameters"]]
    assert upload["responses"]["422"]["content"][PROBLEM]
