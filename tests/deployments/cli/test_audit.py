import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.main import app
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.types import TOPIC_MEDIA
from tests.pipelines.working import call, results, send, working


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    monkeypatch.delenv("UNDERTONE_KAFKA", raising=False)
    return CliRunner()


def lines(cli: CliRunner, *words: str, exit_code: int = 0) -> list[dict[str, Any]]:
    done = cli.invoke(app, [*words, "--json"])
    assert done.exit_code == exit_code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def analysed(redis_url: str) -> str:
    """A silent call with a fragment that cannot be decoded and a record that is none."""

    async def analyse() -> None:
        fragments = call(np.zeros((2, 5 * 8000), np.float32), "c1")
        fragments[2] = replace(fragments[2], media=b"noise", content_type="audio/x-matroska")
        producer = RedisStreamProducer(redis_url)
        send(producer, fragments)
        producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
        async with working(redis_url, worker=WorkerSettings(commit_delay_s=0, commit_interval_s=0.05)):
            await results(redis_url, "c1")
            with redis.Redis.from_url(redis_url) as client:
                while int(client.hget("ut:log:{call-media}:group:undertone", "committed") or 0) < len(fragments) + 1:
                    await asyncio.sleep(0.01)

    asyncio.run(analyse())
    return redis_url


def test_an_audit_that_adds_up_says_so(cli: CliRunner, analysed: str) -> None:
    assert analysed
    (report,) = lines(cli, "audit")
    assert report["clean"]
    assert (report["records"], report["analysed"]) == (6, 4)
    assert report["dead_lettered"] == {"undecodable": 1, "unknown_version": 1}
    printed = cli.invoke(app, ["audit"])
    assert printed.exit_code == 0
    assert "everything adds up" in printed.stdout


def test_an_audit_that_finds_something_missing_ends_with_1(cli: CliRunner, analysed: str) -> None:
    with redis.Redis.from_url(analysed) as client:
        client.hincrby("ut:{c1}:stream:phone", "n:analysed", -1)
    (report,) = lines(cli, "audit", "--call", "c1", exit_code=1)
    assert [one["kind"] for one in report["findings"]] == ["fragments_missing"]
    printed = cli.invoke(app, ["audit"])
    assert printed.exit_code == 1
    assert "fragments_missing" in printed.stdout


def test_an_audit_of_a_call_that_the_log_does_not_hold_is_a_wrong_question(cli: CliRunner, analysed: str) -> None:
    assert analysed
    done = cli.invoke(app, ["audit", "--call", "another"])
    assert done.exit_code == 2
    assert "undertone calls" in done.stderr


def test_a_time_that_is_none_is_a_wrong_question(cli: CliRunner) -> None:
    done = cli.invoke(app, ["audit", "--since", "yesterday"])
    assert done.exit_code == 2
    assert "2026-11-21T08:00:00Z" in done.stderr


def test_dead_letters_are_listed_filtered_and_shown(cli: CliRunner, analysed: str) -> None:
    assert analysed
    assert [(one["place"], one["reason"]) for one in lines(cli, "dlq", "list")] == [
        ("0:2", "undecodable"),
        ("0:5", "unknown_version"),
    ]
    assert [one["place"] for one in lines(cli, "dlq", "list", "--reason", "unknown_version")] == ["0:5"]
    assert lines(cli, "dlq", "list", "--call", "another") == []
    (shown,) = lines(cli, "dlq", "show", "0:2")
    assert shown["headers"]["seq"] == "2"
    assert "no media that FFmpeg can open" in cli.invoke(app, ["dlq", "show", "0:2"]).stdout
    assert cli.invoke(app, ["dlq", "show", "0:77"]).exit_code == 2


def test_a_dropped_letter_is_decided_and_a_dry_run_decides_nothing(cli: CliRunner, analysed: str) -> None:
    assert analysed
    lines(cli, "dlq", "drop", "--reason", "undecodable", "--dry-run")
    assert len(lines(cli, "dlq", "list")) == 2
    lines(cli, "dlq", "drop", "--reason", "undecodable")
    assert [one["place"] for one in lines(cli, "dlq", "list")] == ["0:5"]
    assert [one["state"] for one in lines(cli, "dlq", "list", "--all")] == ["dropped", "open"]
    assert lines(cli, "audit")[0]["clean"]


def test_redriving_sends_what_can_be_sent_once(cli: CliRunner, analysed: str) -> None:
    planned = lines(cli, "dlq", "redrive", "--dry-run")
    assert [(one["place"], one["outcome"]) for one in planned] == [("0:5", "still_refused"), ("0:2", "would be sent")]
    sent = lines(cli, "dlq", "redrive")
    assert [(one["stream"], one["start_ms"]) for one in sent if one["outcome"] == "sent"] == [("phone.r2", 2000)]
    assert [one["place"] for one in lines(cli, "dlq", "list")] == ["0:5"]
    with redis.Redis.from_url(analysed) as client:
        assert client.xlen("ut:log:{call-media}") == 7
    assert "still_refused" in cli.invoke(app, ["dlq", "redrive"]).stdout
