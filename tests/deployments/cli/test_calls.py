import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import calls
from deployments.cli.calls import ListedCall
from deployments.cli.console import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_UNREAD, EXIT_USAGE, stdout
from deployments.cli.main import app
from deployments.http.tokens import TokenFile, new_token
from pipelines.review.summary import CallSummary, summarise
from pipelines.store.store import Store
from pipelines.types import (
    Participant,
    UtteranceSentiment,
)
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


def seen(rows: list[ListedCall]) -> list[str]:
    """A list of calls as it is printed, line by line."""
    console = stdout()
    with console.capture() as printed:
        console.print(calls.listed(rows))
    return printed.get().splitlines()


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CliRunner]:
    with reading(redis_url, monkeypatch, tmp_path) as cli:
        yield cli


def test_calls_are_listed_as_a_table_and_as_json(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "angry:1", CALL)
    keep(redis_url, "calm", CALL[:1])

    table = cli.invoke(app, ["calls"])
    lines = cli.invoke(app, ["calls", "--json"]).stdout.splitlines()
    filtered = cli.invoke(
        app, ["calls", "--participant", "customer", "--max-score", "-2", "--json"]
    ).stdout.splitlines()

    assert table.exit_code == 0
    assert "angry:1" in table.stdout
    assert {json.loads(line)["call_id"] for line in lines} == {"angry:1", "calm"}
    assert [json.loads(line)["call_id"] for line in filtered] == ["angry:1"]


def test_the_first_of_an_order_are_looked_for_among_all_that_match(
    cli: CliRunner, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(redis_url, "angry", CALL[1:2])
    for number in range(3):
        keep(redis_url, f"later{number}", CALL[2:])

    (line,) = cli.invoke(app, ["calls", "--sort", "score", "--limit", "1", "--json"]).stdout.splitlines()
    assert json.loads(line)["call_id"] == "angry"
    monkeypatch.setattr(calls, "SORTED_MAX", 2)
    assert "of the newest 2 calls" in cli.invoke(app, ["calls", "--sort", "score"]).stderr


def test_a_moment_needs_no_zone_and_no_time(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "a", CALL)

    for moment, found in (("2000-01-01", 1), ("2000-01-01T10:00:00", 1), ("2999-01-01", 0)):
        listed = cli.invoke(app, ["calls", "--since", moment, "--json"])
        assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, found)
    refused = cli.invoke(app, ["calls", "--until", "yesterday"])
    assert refused.exit_code == EXIT_USAGE
    assert "--until 'yesterday'" in refused.stderr


def test_calls_are_sorted_by_what_is_asked_and_say_what_they_were_like(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "angry", CALL[1:2])
    keep(redis_url, "nobody", CALL[:1])
    keep(redis_url, "long", CALL)

    def order(*words: str) -> list[str]:
        lines = cli.invoke(app, ["calls", *words, "--json"]).stdout.splitlines()
        return [json.loads(line)["call_id"] for line in lines]

    assert order("--sort", "score") == ["angry", "long", "nobody"]
    assert order("--sort", "length") == ["long", "angry", "nobody"]
    assert order("--sort", "utterances")[0] == "long"
    assert set(order()) == {"angry", "nobody", "long"}
    shown = cli.invoke(app, ["calls", "--sort", "length"]).stdout
    assert "0:14" in shown.splitlines()[1]
    assert "The customer was unhappy" in shown
    assert cli.invoke(app, ["calls", "--sort", "colour"]).exit_code == EXIT_USAGE


def test_a_call_that_was_deleted_is_told_from_one_that_never_was(cli: CliRunner, redis_url: str) -> None:
    async def delete() -> None:
        store = Store.connect(redis_url)
        await store.delete_call(default("gone"))
        await store.close()

    keep(redis_url, "gone", CALL)
    asyncio.run(delete())
    for words in (["show", "gone"], ["watch", "gone"]):
        ended = cli.invoke(app, words)
        assert (ended.exit_code, ended.stdout) == (EXIT_NOT_FOUND, "")
        assert "was deleted" in ended.stderr


def row(call_id: str, call: CallSummary | None) -> ListedCall:
    return ListedCall.model_validate(
        {
            "call_id": call_id,
            "status": "final",
            "started_at": "2026-11-30T22:15:59Z",
            "last_ms": 65_432,
            "length_ms": 71_500,
            "utterances": 3,
            "summary": None if call is None else call.model_dump(mode="json"),
        }
    )


def test_calls_show_length_score_and_headline_and_a_dash_where_nobody_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    call = summarise(CALL, final=True)
    head, first, *headline, other, status = seen([row("a" * 32, call), row("b", None)])

    assert head.split() == ["call", "started", "(UTC)", "length", "customer", "utterances"]
    assert first.split() == ["a" * 32, "2026-11-30", "22:15", "1:11", "+0.1", "3"]
    assert " ".join(" ".join(headline).split()) == f"final {call.headline}"
    assert other.split() == ["b", "2026-11-30", "22:15", "1:11", "-", "3"]
    assert status.split() == ["final"]


@pytest.mark.parametrize("words", [["calls"], ["calls", "--json"], ["show", "a"], ["watch", "a"]])
def test_output_that_nobody_reads_ends_a_command_without_a_word(
    cli: CliRunner, redis_url: str, words: list[str]
) -> None:
    assert cli
    keep(redis_url, "a", CALL)
    reader, writer = os.pipe()
    os.close(reader)  # as head does when it has seen enough
    command = [sys.executable, "-c", "from deployments.cli import run; run()", *words]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (EXIT_UNREAD, b"")


def test_no_calls_is_an_empty_table_and_a_hint(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["calls"])

    assert ended.exit_code == 0
    assert "undertone send" in ended.stderr


def test_a_filter_that_the_gateway_refuses_is_one_clear_line(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["calls", "--polarity", "bad"])

    assert ended.exit_code == EXIT_USAGE
    assert "polarity" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_show_prints_the_transcript_and_the_summary(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "angry:1", CALL)

    ended = cli.invoke(app, ["show", "angry:1"])

    assert ended.exit_code == 0
    for part in ("nobody helps me", "-2.1", "+2.2", "Call summary", "customer", "judged by "):
        assert part in ended.stdout


def test_words_of_a_stored_call_steer_no_terminal(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "angry:1", [result(0, "one \x1b[2J two \u202e three [red]four[/red] \x9b31m", -2.1)])

    for command in (
        ["show", "angry:1"],
        ["watch", "angry:1"],
        ["show", "angry:1", "--json"],
        ["watch", "angry:1", "--json"],
    ):
        ended = cli.invoke(app, command)
        assert ended.exit_code == 0
        assert not {letter for letter in ended.output if not letter.isprintable()} - {"\n"}
        assert "[red]four[/red]" in ended.output


def test_show_as_json_is_one_object_with_every_result(cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "angry:1", CALL)

    shown = json.loads(cli.invoke(app, ["show", "angry:1", "--json"]).stdout)

    assert [UtteranceSentiment.model_validate(each).start_ms for each in shown["utterances"]] == [
        1000,
        4000,
        8000,
        12_000,
    ]
    assert shown["summary"]["final"] is True


def test_an_unknown_call_is_one_clear_line(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["show", "nobody"])

    assert ended.exit_code == EXIT_NOT_FOUND
    assert "There is no call 'nobody'" in ended.stderr
    assert "undertone calls" in ended.stderr
    assert "GET" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_token_a_command_says_how_to_get_one(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, said in (("", "undertone token create"), ("ut_wrong", "unknown, expired or revoked")):
        monkeypatch.setenv("UNDERTONE_TOKEN", token)
        done = cli.invoke(app, ["calls"])
        assert done.exit_code == EXIT_FAILED
        assert said in done.stderr
        assert "UNDERTONE_TOKEN" in done.stderr
        assert "ut_wrong" not in done.stderr


def test_a_token_for_one_tenant_needs_no_other_word_for_it(
    cli: CliRunner, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep(redis_url, "a", CALL)
    token, grant = new_token("default", frozenset({"read"}))
    TokenFile(tmp_path / "tokens").add(grant)
    monkeypatch.setenv("UNDERTONE_TOKEN", token)
    for words in (["calls"], ["show", "a"], ["watch", "a"]):
        assert cli.invoke(app, words).exit_code == 0
    other, of_acme = new_token("acme", frozenset({"read"}))
    TokenFile(tmp_path / "tokens").add(of_acme)
    monkeypatch.setenv("UNDERTONE_TOKEN", other)
    assert cli.invoke(app, ["calls"]).exit_code == 0
    assert "no call 'a' of tenant 'acme'" in cli.invoke(app, ["show", "a"]).stderr
