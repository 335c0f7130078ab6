"""Requests that nobody who means well sends, against a gateway in a process of its own over a real Redis."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import select
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.schemas import BaseSchema

from pipelines.log.records import parse_record
from pipelines.log.redis_streams import RedisStreamSource
from pipelines.settings import MediaLimits
from pipelines.store.store import Store
from pipelines.types import MediaFragment, Participant
from tests.deployments.gateway_process import GatewayProcess, gateway_process
from tests.deployments.results import result
from tests.eventually import wait_until
from tests.pipelines import stored
from tests.pipelines.working import opened

pytestmark = pytest.mark.slow  # servers of its own, and senders that take their time

CUSTOMER = Participant.CUSTOMER
SOME = settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
REDIS_CONNECTIONS = 40
"""How many a gateway may have opened in a test and keeps for others."""
MEMORY_MAX_BYTES = 96 << 20
"""What one request may make a gateway hold that takes 8 MiB; what has no end would soon be far beyond."""
MANY = settings(SOME, max_examples=100)

for kind in ("audio/wav", "audio/PCMU", "video/mp4"):
    schemathesis.serializer.alias(kind, "application/octet-stream")


async def store_call(redis_url: str, *, utterances: int = 1, final: bool = True) -> int:
    """The call a-17, which starts now, stored as a worker does; when, ms since 1970."""
    store = Store.connect(redis_url)
    now_ms = await store.archive.clock_ms()
    results = [result(number * 1_000, "What " * 1_000, -1.0) for number in range(utterances)]
    await stored.store_call(store, "a-17", results, started_ms=now_ms, final=final)
    await store.close()
    return now_ms


@pytest.fixture(scope="module")
def gateway(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that takes 8 MiB, so that a sender without an end shows."""
    limits = {
        "upload_max_bytes": 8 << 20,
        "analyze_max_bytes": 4 << 20,
        "analyze_max_ms": 3_600_000,
        "heartbeat_ms": 50,
    }
    with gateway_process(redis_server, tmp_path_factory.mktemp("gateway"), limits) as running:
        yield running


@pytest.fixture
def schema(gateway: GatewayProcess, redis_url: str) -> BaseSchema:
    asyncio.run(store_call(redis_url))
    found = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json", config=SchemathesisConfig(seed=17))
    return found.exclude(path="/v1/events")  # its answer never ends; test_feed.py has what it refuses


def keeps_its_word(case: Case[Any]) -> None:
    """Every check of schemathesis but one: no page can say which bytes are media, so that some it allows are refused."""
    # A wrong field of a form, such as an empty list, may come to be no field at all.
    is_form = case.media_type == "multipart/form-data"
    send(case, {"positive_data_acceptance", *(["negative_data_rejection"] if is_form else [])})


def keeps_its_word_on_a_known_call(case: Case[Any]) -> None:
    """The same, with an id that is known in place of the one that was made up, which may have been a wrong one."""
    case.path_parameters["call_id"] = "a-17"
    send(case, {"positive_data_acceptance", "negative_data_rejection"})


def send(case: Case[Any], unchecked: set[str]) -> None:
    left_out: list[Any] = [check for check in CHECKS.get_all() if check.__name__ in unchecked]
    case.call_and_validate(excluded_checks=left_out, timeout=60)


def attack(schema: BaseSchema, how_often: settings, answered: Callable[[Case[Any]], None] = keeps_its_word) -> None:
    """Sends what fits the page and what does not, made up by chance and, of every limit, what lies beside it."""
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        takes_something = operation.body or any(True for _ in operation.iter_parameters())
        modes = list(GenerationMode) if takes_something else [GenerationMode.POSITIVE]
        for case in schema.iter_coverage_cases(
            operation, generation_modes=modes, generation_config=schema.config.generation_for(operation=operation)
        ):
            answered(case)
        for mode in modes:
            how_often(given(case=operation.as_strategy(mode))(answered))()


@pytest.mark.timeout(1_200)
def test_whatever_is_sent_the_answer_is_one_that_the_page_promises(schema: BaseSchema) -> None:
    attack(schema, MANY)


def test_whatever_is_asked_of_a_known_call_the_answer_is_one_that_the_page_promises(schema: BaseSchema) -> None:
    attack(schema.include(method="GET", path_regex="call_id"), SOME, keeps_its_word_on_a_known_call)


# ---- slow and endless bodies


def head(path: str, content_type: str, *more: str) -> bytes:
    """The head of a POST whose body has no declared end, unless `more` says so."""
    length = () if any(line.startswith("Content-Length") for line in more) else ("Transfer-Encoding: chunked",)
    lines = (f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Type: {content_type}", *length, *more)
    return "\r\n".join((*lines, "", "")).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer_to(connection: socket.socket, begin: bytes, more: bytes, *, pause_s: float = 0.0) -> tuple[int, str]:
    """Sends `begin`, then `more` again and again until something comes back; the status and the reason of that."""
    connection.sendall(begin)
    with contextlib.suppress(ConnectionError):  # whoever answers may close at once
        while not select.select([connection], [], [], pause_s)[0]:
            connection.sendall(more)
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, json.loads(body)["reason"] if body.startswith(b"{") else body.decode()


def answer_and_end(gateway: GatewayProcess, begin: bytes, more: bytes) -> tuple[int, str]:
    """The answer to whoever sends on and on; the connection has been closed."""
    while True:
        # What is closed while more comes is reset, which may overtake the answer: another try shows it.
        with contextlib.suppress(ConnectionError, http.client.HTTPException), gateway.connected() as endless:
            answer = answer_to(endless, begin, more)
            assert is_closed(endless)
            return answer


def uploaded(gateway: GatewayProcess) -> httpx.Response:
    """A decent upload of a second."""
    return httpx.post(gateway.url + UPLOAD, content=bytes(8_000), headers={"Content-Type": "audio/PCMU"}, timeout=60)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, within its half minute."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


UPLOAD, ANALYZE = "/v1/calls?participants=customer", "/v1/analyze"
FORM = "multipart/form-data; boundary=x"
FIELD = b'--x\r\nContent-Disposition: form-data; name="participants"\r\n\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: audio/PCMU\r\n\r\n'


@pytest.fixture(scope="module")
def impatient(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with few threads and a small log, which waits for nobody longer than half a second."""
    limits = {
        "idle_max_s": 0.4,
        "media_streams_max": 2,
        "analyze_body_max_s": 1,
        "log_max_bytes": 1 << 20,
        "log_full_s": 0.2,
    }
    with gateway_process(redis_server, tmp_path_factory.mktemp("impatient"), limits) as running:
        yield running


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (head(UPLOAD, "audio/PCMU"), b""),
        (head(UPLOAD, "audio/PCMU", "Content-Length: 1000"), b""),
        (head(UPLOAD, "audio/PCMU", "Content-Length: 1000000"), b"a"),
        (head(UPLOAD, "audio/PCMU"), chunk(b"a")),
        (head(UPLOAD, "video/mp4"), chunk(b"a")),
        (head(UPLOAD, FORM), b""),
        (head(UPLOAD, FORM) + chunk(FIELD), chunk(b"a")),
        (head(UPLOAD, FORM) + chunk(FIELD + b"customer\r\n" + FILE), chunk(b"a")),
        (head(ANALYZE, "audio/PCMU"), b""),
        (head(ANALYZE, "audio/PCMU"), chunk(b"a")),
        (head(ANALYZE, "application/json"), chunk(b" ")),
        (head(ANALYZE, FORM) + chunk(FILE), chunk(b"a")),
    ],
    ids=[
        "nothing",
        "promised",
        "drop",
        "drip",
        "film",
        "form",
        "field",
        "file",
        "analysis",
        "analysis-drip",
        "json",
        "analysis-file",
    ],
)
def test_a_body_that_stalls_or_drips_ends_and_holds_up_nobody(
    impatient: GatewayProcess, redis_url: str, begin: bytes, more: bytes
) -> None:
    assert redis_url
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(impatient.connected()) for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            answers = [threads.submit(answer_to, one, begin, more, pause_s=0.01) for one in slow]
            assert httpx.get(f"{impatient.url}/readyz", timeout=60).status_code == 200
        assert [answer.result() for answer in answers] == [(408, "idle")] * 2
        assert all(map(is_closed, slow))
    # The threads end a moment after the answers.
    wait_until(lambda: uploaded(impatient).status_code != 503)
    assert uploaded(impatient).status_code == 202


def test_an_analysis_takes_no_longer_than_it_may_however_steadily_it_comes(redis_server: str, tmp_path: Path) -> None:
    limits = {"idle_max_s": 30, "analyze_body_max_s": 1}  # a busy machine pauses, too
    with gateway_process(redis_server, tmp_path, limits) as gateway, gateway.connected() as slow:
        steady = chunk(bytes(2_000))
        assert answer_to(slow, head(ANALYZE, "audio/PCMU"), steady, pause_s=0.01) == (408, "too_slow")


@pytest.mark.parametrize(
    ("begin", "more", "status", "reason"),
    [
        (head(UPLOAD, "audio/PCMU"), chunk(bytes(60_000)), 413, "oversize"),
        (head(UPLOAD, "audio/PCMU", f"Content-Length: {10**15}"), bytes(60_000), 413, "oversize"),
        (head(UPLOAD, "audio/PCMU", "Content-Length: " + "9" * 17), bytes(60_000), 413, "oversize"),
        (head(UPLOAD, FORM) + chunk(FILE), chunk(bytes(60_000)), 413, "oversize"),
        (head(UPLOAD, FORM) + chunk(FIELD), chunk(b"a" * 60_000), 413, "oversize"),
        (head(UPLOAD, FORM) + chunk(FILE + bytes(9_000) + b"\r\n--x--\r\n"), chunk(b"a" * 60_000), 413, "oversize"),
        (head(UPLOAD, "video/mp4"), chunk(b"no media " * 6_000), 415, "undecodable"),
        (head(ANALYZE, "audio/PCMU"), chunk(bytes(60_000)), 413, "oversize"),
        (head(ANALYZE, "application/json"), chunk(b"[" * 60_000), 413, "oversize"),
        (head(ANALYZE, FORM) + chunk(FILE), chunk(bytes(60_000)), 413, "oversize"),
    ],
    ids=[
        "raw",
        "promised-petabyte",
        "promised-more",
        "file",
        "field",
        "after-form",
        "garbage",
        "analysis",
        "json",
        "analysis-file",
    ],
)
def test_a_body_without_an_end_is_cut_off_at_the_limit(  # noqa: PLR0917  # pytest passes by name
    gateway: GatewayProcess, redis_url: str, begin: bytes, more: bytes, status: int, reason: str
) -> None:
    assert redis_url
    gateway.forget_peak()
    before_bytes = gateway.resident_bytes()
    assert answer_and_end(gateway, begin, more) == (status, reason)
    assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /", b"a" * 8_192),
        (b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nX: ", b"a" * 8_192),
        (b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n", b"X-1: a\r\n" * 1_024),
        (head(UPLOAD, "audio/PCMU") + chunk(bytes(9_000)) + b"0\r\n", b"X-1: a\r\n" * 1_024),
        (head(UPLOAD, "audio/PCMU") + b"1;", b"a" * 8_192),
    ],
    ids=["url", "header", "headers", "trailers", "chunk-extension"],
)
def test_what_stands_around_a_body_has_an_end_too(gateway: GatewayProcess, begin: bytes, more: bytes) -> None:
    gateway.forget_peak()
    before_bytes = gateway.resident_bytes()
    assert answer_and_end(gateway, begin, more)[0] == 400
    assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES


def test_hundreds_who_connect_and_say_nothing_hold_up_nobody(gateway: GatewayProcess) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(400):
            silent = stack.enter_context(gateway.connected())
            if number % 2:
                silent.sendall(b"POST /v1/calls?participants=customer HTTP/1.1\r\n")
        assert httpx.get(f"{gateway.url}/readyz", timeout=60).status_code == 200
        assert httpx.post(gateway.url + ANALYZE, json={"text": "hello"}, timeout=60).status_code == 200


def test_a_sender_that_goes_away_in_the_middle_of_a_body_is_no_failure(gateway: GatewayProcess, redis_url: str) -> None:
    before = gateway.open_files()
    for begin in (head(UPLOAD, "audio/PCMU"), head(UPLOAD, FORM), head(ANALYZE, "audio/PCMU")) * 20:
        with gateway.connected() as leaving:
            leaving.sendall(begin + chunk(bytes(9_000)))
    kept = read_log(redis_url, lambda found: len(found) == 20)
    wait_until(lambda: gateway.open_files() <= before + REDIS_CONNECTIONS)

    assert not any(piece.final for piece in kept)
    assert "Traceback" not in gateway.log.read_text()


# ---- live media

CONTINUED, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
END = b'{"end": true}'


def read_log(redis_url: str, ended: Callable[[list[MediaFragment]], bool]) -> list[MediaFragment]:
    """The fragments of the log, which are committed as they are read, until `ended` says of them that it is enough."""
    source = RedisStreamSource(redis_url)
    found: list[MediaFragment] = []

    def has_ended() -> bool:
        polled = source.poll(0.05, 100)
        found.extend(opened(redis_url, parse_record(record, MediaLimits())) for record in polled.records)
        source.commit({record.at.partition: record.at.offset + 1 for record in polled.records})
        return ended(found)

    wait_until(has_ended)
    source.close()
    return found


def until_final(redis_url: str) -> bytes:
    """The media of the log, once its last fragment is there."""
    found = read_log(redis_url, lambda found: bool(found) and found[-1].final)
    return b"".join(piece.media for piece in found)


def frame(kind: int, data: bytes, *, last: bool = True, masked: bool = True) -> bytes:
    """One of RFC 6455, masked with zeros."""
    length = bytes([masked << 7 | len(data)]) if len(data) < 126 else struct.pack(">BQ", masked << 7 | 127, len(data))
    return bytes([last << 7 | kind]) + length + bytes(4 * masked) + data


@contextlib.contextmanager
def live(gateway: GatewayProcess, *headers: str) -> Iterator[socket.socket]:
    """A connection on which the call a-17 has begun."""
    lines = (
        "GET /v1/calls/a-17/media HTTP/1.1",
        "Host: gateway",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *headers,
    )
    with gateway.connected() as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            said += connection.recv(1)
        assert said.startswith(b"HTTP/1.1 101")
        connection.sendall(frame(TEXT, b'{"participants": "customer", "content_type": "audio/PCMU"}'))
        assert next(heard(connection))  # the links, which may be compressed
        yield connection


def heard(connection: socket.socket) -> Iterator[bytes]:
    """What the gateway says until it closes, of which it says a code and a reason at last."""
    with contextlib.suppress(ConnectionError):
        while start := connection.recv(2, socket.MSG_WAITALL):
            length = start[1] & 127
            if length == 126:
                length = int.from_bytes(connection.recv(2, socket.MSG_WAITALL))
            data = connection.recv(length, socket.MSG_WAITALL)
            if start[0] & 15 in {TEXT, BINARY, CLOSE}:
                yield data
            if start[0] & 15 == CLOSE:
                return


def send_until_held_back(connection: socket.socket, message: bytes) -> tuple[int, bytes]:
    """Sends it again and again until no more is taken for a second; how often it went whole, and the rest of the last."""
    count, at = 0, 0
    connection.setblocking(False)
    while select.select([], [connection], [], 1.0)[1]:
        at += connection.send(message[at:])
        if at == len(message):
            count, at = count + 1, 0
    connection.settimeout(30)
    return count, message[at:] if at else b""


@pytest.mark.parametrize("how", ["uvicorn", pytest.param("serve", marks=pytest.mark.ray)])
def test_who_sends_faster_than_the_log_takes_is_held_back_and_loses_nothing(
    redis_url: str, tmp_path: Path, how: Literal["uvicorn", "serve"]
) -> None:
    with gateway_process(redis_url, tmp_path, {"log_max_bytes": 1 << 20}, how) as gateway, live(gateway) as flood:
        gateway.forget_peak()
        before_bytes = gateway.resident_bytes()
        count, rest = send_until_held_back(flood, frame(BINARY, bytes(60_000)))
        assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES
        assert httpx.get(f"{gateway.url}/readyz", timeout=60).status_code == 200

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            media = thread.submit(until_final, redis_url)
            flood.sendall(rest + frame(TEXT, END))
            accepted = json.loads(next(heard(flood)))
            assert len(media.result()) == (count + bool(rest)) * 60_000
        assert accepted["call_id"] == "a-17"


@pytest.mark.ray
def test_an_upload_through_ray_serve_is_cut_off_at_the_limit_too(redis_url: str, tmp_path: Path) -> None:
    with gateway_process(redis_url, tmp_path, {"upload_max_bytes": 256 << 20}, "serve") as gateway:
        gateway.forget_peak()
        before_bytes = gateway.resident_bytes()
        endless = head(UPLOAD, "audio/PCMU"), chunk(bytes(60_000))
        assert answer_and_end(gateway, *endless) == (413, "oversize")
        # Two processes hold a part each, and a faster machine more of it (93 to 99 MiB): half of what was sent is the bound.
        assert gateway.resident_bytes(peak=True) < before_bytes + (128 << 20)


def test_who_floods_a_log_that_stays_full_is_told_so_and_closed(impatient: GatewayProcess, redis_url: str) -> None:
    assert redis_url
    with live(impatient) as flood:
        with contextlib.suppress(ConnectionError):
            while not select.select([flood], [], [], 0)[0]:
                flood.sendall(frame(BINARY, bytes(60_000)))
        problem, closed = heard(flood)
    assert json.loads(problem)["reason"] == "source_unavailable"
    assert closed == (1013).to_bytes(2) + b"source_unavailable"


@pytest.mark.parametrize("how", ["reset", "end", "silence"])
def test_what_was_sent_by_who_vanishes_without_a_word_is_kept_and_ends(
    impatient: GatewayProcess, redis_url: str, how: str
) -> None:
    with live(impatient) as vanishing:
        vanishing.sendall(frame(BINARY, bytes(20_000)))
        if how == "reset":
            read_log(redis_url, lambda found: len(found) == 2)
            vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "silence":
            vanishing.close()
        kept = until_final(redis_url)
        if how == "silence":
            problem, closed = heard(vanishing)
            assert json.loads(problem)["reason"] == "idle"
            assert closed.endswith(b"idle")
    assert len(kept) == (4_000 if how == "reset" else 20_000)


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (frame(BINARY, b"abc", masked=False), 1002),
        (frame(3, b"abc"), 1002),
        (frame(CONTINUED, b"abc"), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (struct.pack(">BBQ", 0x82, 0xFF, 1 << 62) + bytes(4), 1009),
        (frame(BINARY, bytes(17 << 20)), 1009),
        (frame(BINARY, bytes(2 << 20)), 1009),
        (frame(BINARY, b"", last=False) + frame(CONTINUED, bytes(1 << 20), last=False) * 20, 1009),
        (frame(TEXT, b"[" * 100_000), 1008),
        (frame(BINARY, b"") * 10_000 + frame(TEXT, b"?"), 1008),
    ],
    ids=[
        "http",
        "unmasked",
        "unknown",
        "continuation",
        "long-ping",
        "text",
        "longest",
        "long",
        "over-the-limit",
        "in-pieces",
        "json",
        "empty",
    ],
)
def test_garbage_ends_a_live_stream_and_what_came_before_is_kept(
    gateway: GatewayProcess, redis_url: str, garbage: bytes, code: int
) -> None:
    gateway.forget_peak()
    before_bytes = gateway.resident_bytes()
    with live(gateway) as sender:
        sender.sendall(frame(BINARY, bytes(20_000)))
        read_log(redis_url, lambda found: len(found) == 2)
        with contextlib.suppress(ConnectionError):
            sender.sendall(garbage)
        *_, closed = heard(sender)
        assert int.from_bytes(closed[:2]) == code
    assert len(until_final(redis_url)) == 4_000
    assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES


def test_a_message_that_is_short_only_while_compressed_ends_a_live_stream(
    gateway: GatewayProcess, redis_url: str
) -> None:
    assert redis_url
    gateway.forget_peak()
    before_bytes = gateway.resident_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(512 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with live(gateway, "Sec-WebSocket-Extensions: permessage-deflate") as sender:
        compressed = bytearray(frame(BINARY, packed[:-4]))
        compressed[0] |= 0x40
        with contextlib.suppress(ConnectionError):
            sender.sendall(compressed)
        *_, closed = heard(sender)
        assert int.from_bytes(closed[:2]) == 1009
    assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES


# ---- events


@pytest.mark.parametrize("path", ["/v1/calls/a-17/events", "/v1/events"])
def test_watchers_who_never_read_hold_up_nobody_and_are_forgotten_when_they_go(
    gateway: GatewayProcess, redis_url: str, path: str
) -> None:
    begun_ms = asyncio.run(store_call(redis_url, utterances=1_000, final=False))
    last_id = "0-0" if "calls" in path else str(begun_ms - 1)
    before_files = gateway.open_files()
    gateway.forget_peak()
    before_bytes = gateway.resident_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            deaf = stack.enter_context(gateway.connected())
            deaf.sendall(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nLast-Event-ID: {last_id}\r\n\r\n".encode())
        headers = {"Last-Event-ID": last_id}
        with httpx.stream("GET", gateway.url + path, headers=headers, timeout=60) as reading:
            assert sum(line == "event: utterance" for line in until_heartbeat(reading)) == 1_000
        assert gateway.resident_bytes(peak=True) < before_bytes + MEMORY_MAX_BYTES
        assert httpx.get(f"{gateway.url}/readyz", timeout=60).status_code == 200
    wait_until(lambda: gateway.open_files() <= before_files + REDIS_CONNECTIONS)


def until_heartbeat(reading: httpx.Response) -> Iterator[str]:
    begun = False
    for line in reading.iter_lines():
        if line == ": heartbeat" and begun:
            return
        begun = begun or line.startswith("event")
        yield line
