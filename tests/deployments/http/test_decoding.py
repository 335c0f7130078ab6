"""Media that costs far more than its bytes, at every way into the gateway."""

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
import websockets

from pipelines.media import opening
from tests.deployments.http.site import LIMITS, Site, problem, serving, wav
from tests.pipelines.hostile_pictures import h264_bomb
from tests.pipelines.media_files import sound

pytestmark = pytest.mark.slow  # computes for seconds


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Twenty seconds of work, and less than the limit of an analysis."""
    film = h264_bomb(10_000)
    assert len(film) < LIMITS.analyze_max_bytes
    return film


async def test_an_upload_that_does_not_open_is_refused_while_others_go_on(
    site: Site, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "OPEN_MAX_S", 1.0)
    path = "/v1/calls?participants=customer"
    refused = asyncio.create_task(site.client.post(path, content=bomb))
    for _ in range(3):
        taken = await site.client.post(path, content=wav(sound(0.5, 8000)))
        assert taken.status_code == 202
        assert (await site.client.get("/healthz")).is_success

    said = problem(await refused, 415, "undecodable")
    assert "more than 1 s of processor time" in said["detail"]
    assert {piece.content_type for piece in site.fragments()} == {"audio/x-matroska"}


async def test_live_media_that_does_not_open_is_told_so(
    site: Site, address: str, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "OPEN_MAX_S", 1.0)
    said = []
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media") as socket:
        await socket.send('{"participants": "customer"}')
        for at in range(0, len(bomb), 50_000):
            await socket.send(bomb[at : at + 50_000])
        await socket.send('{"end": true}')
        with contextlib.suppress(websockets.ConnectionClosedError):
            async for message in socket:
                said.append(json.loads(message))  # noqa: PERF401  # extend would lose all of it when the close raises

    assert "more than 1 s of processor time" in said[-1]["detail"]
    assert (said[-1]["reason"], socket.close_code) == ("undecodable", 1003)
    assert site.fragments() == []


async def test_an_analysis_that_does_not_end_is_refused(redis_url: str, bomb: bytes) -> None:
    async with serving(redis_url, replace(LIMITS, analyze_decode_max_s=0.1)) as site:
        refused = asyncio.create_task(site.client.post("/v1/analyze", content=bomb))
        assert (await site.client.get("/healthz")).is_success
        assert "processor time" in problem(await refused, 415, "undecodable")["detail"]
