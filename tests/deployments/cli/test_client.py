import pytest

from deployments.cli.client import Event, call_path, gateway, get, read_events
from deployments.cli.console import CommandError
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
