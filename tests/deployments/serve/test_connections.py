"""Connections that send no request, half of one, or read no answer are closed; one client has not all of them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
import uvicorn.protocols.http.auto
import websockets
from starlette.types import Receive, Scope, Send

from deployments.serve.connections import ConnectionLimits, bound_connections
from tests.eventually import eventually

LIMITS = ConnectionLimits(head_max_s=0.3, idle_max_s=0.3, connections_per_client_max=3)
GIVEN_UP = asyncio.Event()
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells who the client is; sends more than is read at /endless; a WebSocket is accepted and kept."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-client", scope["client"][0].encode())]})
    if scope["path"] == "/endless":
        for _ in range(2_000):  # far more than the buffers between the two hold
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        GIVEN_UP.set()
    if scope["path"] == "/slow":
        await asyncio.sleep(4 * LIMITS.head_max_s)
    await send({"type": "http.response.body", "body": b"here"})


@contextlib.asynccontextmanager
async def served(
    limits: ConnectionLimits, monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """The port of a uvicorn with Serve's options."""
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", None)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    bound_connections(limits)
    server = uvicorn.Server(
        uvicorn.Config(app, host, port=0, log_level="critical", lifespan="off", timeout_keep_alive=90)
    )
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = server.force_exit = True
    await serving


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    async with served(LIMITS, monkeypatch) as at:
        yield at


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the other side closes."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 30)
    return b""


async def drip(writer: asyncio.StreamWriter, what: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(3_000):
            writer.write(what)
            await writer.drain()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (HEAD, b""),
        (HEAD, b"X: a\r\n"),
        (HEAD + b"\r\n", b""),
        (HEAD + b"\r\n", b"G"),
        (HEAD + b"\r\n" + HEAD, b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"a"),
    ],
    ids=["nothing", "line", "head", "dripping", "idle", "next-dripping", "next-half", "body-after-the-answer"],
)
async def test_whoever_does_not_finish_a_request_is_cut_off(port: int, begin: bytes, more: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begin)
    dripping = asyncio.create_task(drip(writer, more))
    answer = await ended(reader)
    assert answer.count(b"here") == begin.count(b"\r\n\r\n")
    dripping.cancel()
    writer.close()


async def test_a_client_that_reads_no_answer_is_cut_off(port: int) -> None:
    GIVEN_UP.clear()
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(GIVEN_UP.wait(), 60)


async def test_an_answer_and_a_websocket_may_take_longer_than_a_head(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/slow")).text == "here"
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as live:
            assert (await client.get("/slow")).text == "here"
            await live.send("still open")


async def test_a_websocket_on_a_connection_that_had_a_request_may_take_longer_than_a_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(replace(LIMITS, idle_max_s=60), monkeypatch) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at)
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"here\r\n0\r\n\r\n")
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        writer.write(HEAD + upgrade + b"AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{at}") as client:
            assert (await client.get("/slow")).text == "here"
        writer.write(b"\x89\x80\0\0\0\0")  # a ping (RFC 6455 §5.5.2), which is answered by a pong
        assert await asyncio.wait_for(reader.readexactly(2), 30) == b"\x8a\0"
        writer.close()


async def test_one_client_has_so_many_connections_and_no_more(port: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(websockets.connect(f"ws://127.0.0.1:{port}/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        assert await ended(reader) == b""
        writer.close()
    # Every one that was closed counts no more, one that was a WebSocket neither.
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await eventually(lambda: _answers(client))


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
async def test_a_network_of_64_bits_is_one_client_unless_it_is_a_trusted_proxys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for trusted, client in (("", "::/64"), ("::1", "::1")):
        async with served(replace(LIMITS, trusted_proxies=trusted), monkeypatch, "::1") as at:
            connection: Any = uvicorn.protocols.http.auto.AutoHTTPProtocol
            async with websockets.connect(f"ws://[::1]:{at}/"):
                assert dict(connection.open_by_client) == {client: 1}


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/")).text == "here"
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("trusted", "named", "seen"),
    [
        ("", "203.0.113.7", "127.0.0.1"),
        ("127.0.0.0/8", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.0/8", "203.0.113.7, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "203.0.113.7", "127.0.0.1"),
    ],
)
async def test_only_a_trusted_proxy_says_who_the_client_is(
    monkeypatch: pytest.MonkeyPatch, trusted: str, named: str, seen: str
) -> None:
    async with served(replace(LIMITS, trusted_proxies=trusted), monkeypatch) as at, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{at}/", headers={"X-Forwarded-For": named})
        assert answer.headers["x-client"] == seen


async def test_a_trusted_proxy_has_more_connections_than_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = replace(LIMITS, trusted_proxies="127.0.0.1", connections_max=5)
    async with served(trusting, monkeypatch) as at, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(websockets.connect(f"ws://127.0.0.1:{at}/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", at)
        assert await ended(reader) == b""
        writer.close()
