"""One client has its part of what goes on at once, and health is always told."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import redis
from starlette.requests import HTTPConnection

from deployments.http.admission import Seats, client_of
from deployments.http.problems import ProblemError
from pipelines.store.store import Store
from tests.deployments.gateway_process import GatewayProcess, gateway_process
from tests.deployments.results import result
from tests.eventually import wait_until
from tests.pipelines import stored


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("testclient", "testclient"),
        (None, "local"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_one_customer(address: str | None, client: str) -> None:
    scope: dict[str, Any] = {"type": "http", "headers": [], "client": None if address is None else (address, 1)}
    assert client_of(HTTPConnection(scope)) == client


def test_seats_are_given_back_and_one_client_never_has_all() -> None:
    seats = Seats(3, 2, reason="busy", what="things")
    first, second = seats.take("a"), seats.take("a")
    with pytest.raises(ProblemError) as refused:
        seats.take("a")
    assert (refused.value.status, refused.value.reason) == (429, "busy")
    with seats.taken("b"), pytest.raises(ProblemError) as full:
        seats.take("c")
    assert (full.value.status, full.value.reason) == (503, "busy")
    first()
    second()
    for client in "abc":
        seats.take(client)


@pytest.fixture(scope="module")
def gateway(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    few = {
        "requests_max": 12,
        "requests_per_client_max": 8,
        "watchers_max": 5,
        "watchers_per_client_max": 3,
        "media_streams_max": 3,
        "media_streams_per_client_max": 2,
        "heartbeat_ms": 50,
    }
    with gateway_process(redis_server, tmp_path_factory.mktemp("few"), few) as running:
        yield running


def client_at(host: str, gateway: GatewayProcess) -> httpx.Client:
    """A client of the gateway whose address is `host`, in 127.0.0.0/8."""
    return httpx.Client(base_url=gateway.url, transport=httpx.HTTPTransport(local_address=host), timeout=60)


async def store_call(redis_url: str, *, final: bool) -> None:
    store = Store.connect(redis_url)
    await stored.store_call(store, "a-17", [result(0, "What?", -1.0)], final=final)
    await store.close()


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, json.loads(answer.read())["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/events", "/v1/calls/a-17/events"])
def test_watchers_over_the_limit_are_refused_and_every_other_request_is_answered(
    gateway: GatewayProcess, redis_url: str, path: str
) -> None:
    asyncio.run(store_call(redis_url, final=False))
    with ExitStack() as stack:
        one, other = (stack.enter_context(client_at(host, gateway)) for host in ("127.0.0.2", "127.0.0.3"))
        watching = stack.enter_context(ExitStack())
        for client in (one, one, one, other, other):
            assert watching.enter_context(client.stream("GET", path)).status_code == 200
        with one.stream("GET", path) as answer:
            assert refused(answer) == (429, "too_many_watchers")
        with other.stream("GET", path) as answer:
            assert refused(answer) == (503, "too_many_watchers")
        for client in (one, other):
            for asked in ("/healthz", "/readyz", "/v1/calls", "/v1/calls/a-17"):
                assert client.get(asked).status_code == 200
        watching.close()
        wait_until(lambda: watches(one, path))


def watches(client: httpx.Client, path: str) -> bool:
    with client.stream("GET", path) as answer:
        return answer.status_code == 200


@pytest.mark.slow
def test_uploads_of_one_client_leave_room_for_another(gateway: GatewayProcess, redis_url: str) -> None:
    upload = "/v1/calls?participants=customer"
    raw = {"Content-Type": "audio/PCMU"}
    with ExitStack() as stack, redis.Redis.from_url(redis_url) as client:
        one, other = (stack.enter_context(client_at(host, gateway)) for host in ("127.0.0.2", "127.0.0.3"))
        for _ in range(2):
            open_upload = stack.enter_context(
                socket.create_connection(("127.0.0.1", gateway.port), 30, ("127.0.0.2", 0))
            )
            open_upload.sendall(
                f"POST {upload} HTTP/1.1\r\nHost: a\r\nContent-Type: audio/PCMU\r\nContent-Length: 9000000\r\n\r\n".encode()
            )
            open_upload.sendall(bytes(20_000))
        # Both are at work: else one of those below would take a seat, and an open one would be refused.
        wait_until(lambda: len({fields[b"key"] for _, fields in client.xrange("ut:log:{call-media}")}) == 2)
        wait_until(lambda: one.post(upload, content=bytes(8_000), headers=raw).status_code == 429)
        assert refused(one.post(upload, content=bytes(8_000), headers=raw)) == (429, "busy")
        assert other.post(upload, content=bytes(8_000), headers=raw).status_code == 202


@pytest.mark.slow
def test_requests_that_never_end_hold_up_neither_others_nor_health(gateway: GatewayProcess, redis_url: str) -> None:
    assert redis_url
    half = b"POST /v1/analyze HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        one, other = (stack.enter_context(client_at(host, gateway)) for host in ("127.0.0.2", "127.0.0.3"))
        for _ in range(8):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 30, ("127.0.0.2", 0)))
            slow.sendall(half)
        wait_until(lambda: one.get("/v1/calls").status_code == 429)
        assert refused(one.get("/v1/calls")) == (429, "busy")
        assert one.get("/healthz").status_code == one.get("/readyz").status_code == 200
        assert other.get("/v1/calls").status_code == 200
