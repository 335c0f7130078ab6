import asyncio
import contextlib
import json

import pytest
import websockets

from deployments.http.bodies import Accepted
from pipelines.types import MediaFragment
from tests.deployments.http.site import (
    Site,
    problem,
    result,
    wav,
)
from tests.eventually import eventually
from tests.pipelines.media_files import film, sound


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
    assert not any(piece.recorded for piece in found)  # somebody waits


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

    async def ended() -> list[MediaFragment]:
        found = await asyncio.to_thread(site.fragments)
        return found if found and found[-1].final else []

    found = await eventually(ended)
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


async def test_media_that_cannot_be_read_is_refused_while_it_is_awaited(address: str) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer", "content_type": "audio/L16"}')
        await socket.recv()
        assert json.loads(await socket.recv())["reason"] == "undecodable"
