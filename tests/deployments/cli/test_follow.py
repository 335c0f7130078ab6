"""A call on standard output: results, and the words so far of utterances that go on."""

import json

import pytest

from deployments.cli.client import Event
from deployments.cli.follow import follow
from pipelines.store.queries import InterimText
from pipelines.types import Participant, UtteranceSentiment
from tests.deployments.results import result

SAID = result(4000, "nobody helps me today", -2.1)
SO_FAR = InterimText(
    call_id=SAID.call_id,
    stream=SAID.stream,
    participant=SAID.participant,
    start_ms=4000,
    end_ms=7000,
    text="nobody helps\x1b[2J",
    language="en",
    engine="test",
)
OTHER = SO_FAR.model_copy(update={"participant": Participant.AGENT, "text": "one moment"})
EVENTS = [
    Event("", "interim", SO_FAR.model_dump_json()),
    Event("", "interim", OTHER.model_dump_json()),
    Event("1-0", "utterance", SAID.model_dump_json()),
    Event("2-0", "call-final", "{}"),
]


def test_as_json_both_are_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = follow(EVENTS, as_json=True)

    lines = capsys.readouterr().out.splitlines()
    assert found == [SAID]
    assert [InterimText.model_validate_json(line) for line in lines[:2]] == [SO_FAR, OTHER]
    assert [json.loads(line).get("interim") for line in lines] == [True, True, None]
    assert UtteranceSentiment.model_validate_json(lines[2]) == SAID


def test_in_a_file_only_results_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(EVENTS, as_json=False) == [SAID]

    out = capsys.readouterr().out
    assert "nobody helps me today" in out
    assert "one moment" not in out
    assert "\x1b" not in out


def test_words_so_far_that_come_after_their_result_are_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    later = SO_FAR.model_copy(update={"start_ms": 9000, "text": "and now"})
    shown = [Event("", "interim", one.model_dump_json()) for one in (SO_FAR, later)]

    follow([EVENTS[2], shown[0], shown[1], EVENTS[2], EVENTS[3]], as_json=False)

    _, _, after = capsys.readouterr().out.partition("nobody helps me today")
    again = after.partition("nobody helps me today")[2]
    assert "nobody helps" not in after.partition("nobody helps me today")[0]
    assert "and now" in again  # a result of before does not end what is said now


def test_on_a_terminal_the_words_so_far_go_when_the_utterance_is_judged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    assert follow(EVENTS, as_json=False) == [SAID]

    before, judged, after = capsys.readouterr().out.partition("nobody helps me today")
    assert judged
    assert "nobody helps" in before
    assert "one moment" in before
    assert "\x1b[2K" in before  # the line is erased before the result takes its place
    assert "\x1b[2J" not in before  # what somebody said does not steer the terminal
    assert "nobody helps" not in after
    assert "one moment" in after  # it goes on
    assert after.rstrip("\n\r").endswith(("\x1b[2K", "\x1b[?25h"))  # nothing of it is left at the end
