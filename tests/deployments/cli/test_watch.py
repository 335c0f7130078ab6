"""Following a call: one that goes on, one that is over, and one that has not begun."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import client
from deployments.cli.console import EXIT_AWAY
from deployments.cli.main import app
from pipelines.store.store import Store
from pipelines.types import Participant
from tests.deployments.cli.running import reading
from tests.deployments.results import keep, result
from tests.pipelines.stored import default

AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER
CALL = [
    result(1000, "how can i help you", 0.3, AGENT),
    result(4000, "nobody helps me", -2.1),
    result(8000, "i am sorry", -0.2, AGENT),
    result(12_000, "thank you so much", 2.2),
]


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CliRunner]:
    with reading(redis_url, monkeypatch, tmp_path) as cli:
        yield cli


def test_watch_follows_a_call_until_it_ends(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "live", CALL[:2], final=False)
    later = threading.Timer(0.5, keep, [redis_url, "live", CALL], {"first": 2})
    later.start()

    ended = cli.invoke(app, ["watch", "--json"])
    later.join()

    assert ended.exit_code == 0
    assert [json.loads(line)["start_ms"] for line in ended.stdout.splitlines()] == [1000, 4000, 8000, 12_000]
    assert "watching live" in ended.stderr


def test_watching_a_call_that_is_over_shows_all_of_it(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "over", CALL)

    ended = cli.invoke(app, ["watch", "over"])

    assert ended.exit_code == 0
    assert "nobody helps me" in ended.stdout
    assert "Call summary" in ended.stdout


def test_watch_says_when_a_call_falls_silent_and_when_it_goes_on(cli: CliRunner, redis_url: str) -> None:
    async def stall() -> None:
        store = Store.connect(redis_url)
        await store.set_state(default("quiet"), "main", "stalled", owner="w1")
        await store.close()

    keep(redis_url, "quiet", CALL[:2], final=False)
    asyncio.run(stall())
    keep(redis_url, "quiet", CALL, first=2)

    ended = cli.invoke(app, ["watch", "quiet"])

    assert ended.exit_code == 0
    assert ended.stderr.index("stalled") < ended.stderr.index("goes on")


@contextmanager
def watching(*words: str) -> Iterator["subprocess.Popen[str]"]:
    """`undertone watch` in a process of its own."""
    command = [sys.executable, "-c", "from deployments.cli.main import main; main()", "watch", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("before", [[], ["over"]])
@pytest.mark.parametrize("final", [True, False])
def test_where_no_call_goes_on_the_next_one_is_waited_for(
    cli: CliRunner, redis_url: str, before: list[str], *, final: bool
) -> None:
    assert cli
    for call_id in before:
        keep(redis_url, call_id, CALL[:1])
    with watching("--json") as process:
        assert process.stderr is not None
        assert "waiting for the next one (Ctrl-C stops)" in process.stderr.readline()
        keep(redis_url, "fresh", CALL[:2], final=final)  # a fast `send` is over before anybody looks
        assert "watching fresh" in process.stderr.readline()
        if not final:
            keep(redis_url, "fresh", CALL, first=2)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line)["start_ms"] for line in out.splitlines()] == [1000, 4000, 8000, 12_000][
        : 2 if final else 4
    ]


def test_a_call_that_has_not_begun_is_waited_for_by_its_name(cli: CliRunner, redis_url: str) -> None:
    assert cli
    with watching("fresh", "--json") as process:
        assert process.stderr is not None
        assert "there is no call fresh yet: waiting for it" in process.stderr.readline()
        keep(redis_url, "another", CALL[:1])
        keep(redis_url, "fresh", CALL)
        out, left = process.communicate(timeout=60)
    assert (process.returncode, left) == (0, "")
    assert {json.loads(line)["call_id"] for line in out.splitlines()} == {"fresh"}


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a watch meets while `serve` stops: its stream ends, and Serve's proxy knows no route any more."""
    asked: list[str] = []

    class Stopping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            asked.append(self.path)
            self.send_response(404 if len(asked) > 1 else 200)
            self.end_headers()
            self.wfile.write(b"Not Found" if len(asked) > 1 else b": listening\n\n")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stopping)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    monkeypatch.setenv("UNDERTONE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(client, "RECONNECT_PAUSE_S", 0.0)
    yield
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.mark.usefixtures("stopping")
def test_a_gateway_that_stops_is_said_to_have_stopped() -> None:
    ended = CliRunner().invoke(app, ["watch", "dying"])
    assert ended.exit_code == EXIT_AWAY
    assert "stopped while dying went on (404 Not Found)" in ended.stderr


@pytest.mark.usefixtures("stopping")
def test_what_is_no_gateway_is_not_a_call_that_is_not_there() -> None:
    for _ in range(2):
        ended = CliRunner().invoke(app, ["calls"])
    assert ended.exit_code == EXIT_AWAY
    assert "is that an Undertone gateway" in ended.stderr
