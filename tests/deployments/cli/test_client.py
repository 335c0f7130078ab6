import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deployments.cli.client import Event, call_path, gateway, get, read_events
from deployments.cli.console import EXIT_USAGE, CommandError, settings
from deployments.cli.doctor import _gateway
from pipelines.settings import Settings


def test_events_are_read_from_their_lines() -> None:
    lines = [
        ": hello",
        "",
        "id: 7",
        "event: utterance",
        'data: {"a":',
        "data: 1}",
        "",
        "event: call-final",
        "id:8",
        "data: {}",
        "",
    ]

    assert list(read_events(lines)) == [Event("7", "utterance", '{"a":\n1}'), Event("8", "call-final", "{}")]


def test_an_event_that_is_not_finished_is_not_given_out() -> None:
    assert list(read_events(["id: 1", "event: utterance", "data: {"])) == []


def test_a_call_id_is_quoted_in_its_path() -> None:
    assert call_path("a:b", "/events") == "/v1/calls/a%3Ab/events"


def test_a_gateway_that_is_not_there_is_an_error_that_says_how_to_start_one() -> None:
    nowhere = Settings(url="http://127.0.0.1:9")
    with gateway(nowhere) as client, pytest.raises(CommandError, match=r"undertone serve.*UNDERTONE_URL"):
        get(client, "/v1/calls")


@pytest.mark.parametrize(
    "url", ["foo", "foo:8000", "http://", "http://host:port", "http://host:99999", "redis://host:1", ""]
)
def test_an_address_that_is_none_is_a_wrong_environment(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("UNDERTONE_URL", url)
    with pytest.raises(CommandError, match="UNDERTONE_URL") as raised:
        settings()
    assert raised.value.exit_code == EXIT_USAGE


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the proxy of the environment is asked for, with which token."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            asked.append(f"{self.path} {self.headers.get('Authorization', '')}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Proxy)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield asked
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_no_proxy_hears_the_token_for_this_machine(proxied: list[str], host: str) -> None:
    where = Settings.model_validate({"url": f"http://{host}:9", "token": "ut_secret"})
    with gateway(where) as client, pytest.raises(CommandError, match="no gateway answers"):
        get(client, "/v1/calls")
    assert _gateway(where.url).state == "optional"
    assert proxied == []


def test_another_machine_is_asked_through_the_proxy_of_the_environment(proxied: list[str]) -> None:
    with gateway(Settings.model_validate({"url": "http://gateway.invalid", "token": "ut_x"})) as client:
        assert get(client, "/v1/calls") == {}
    assert proxied == ["http://gateway.invalid/v1/calls Bearer ut_x"]
