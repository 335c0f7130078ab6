import asyncio

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.console import EXIT_AWAY, EXIT_NOT_FOUND
from deployments.cli.main import app
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.types import TOPIC_MEDIA
from tests.deployments.cli.running import json_lines
from tests.deployments.results import keep, result
from tests.eventually import eventually
from tests.pipelines.working import call, records, send, working


def test_an_audit_that_adds_up_says_so(redis_cli: CliRunner, analysed: str) -> None:
    assert analysed
    (report,) = json_lines(redis_cli, "audit")
    assert report["clean"]
    assert (report["records"], report["analysed"]) == (6, 4)
    assert report["dead_lettered"] == {"undecodable": 1, "unknown_version": 1}
    printed = redis_cli.invoke(app, ["audit"])
    assert printed.exit_code == 0
    assert "everything adds up" in printed.stdout
    of_nobody = redis_cli.invoke(app, ["audit", "--tenant", "nosuch"])
    assert "there is nothing to add up" in of_nobody.stdout
    assert "everything adds up" not in of_nobody.stdout


def test_what_came_after_a_stream_s_end_is_named(redis_cli: CliRunner, analysed: str) -> None:
    """As a producer of another make may send a second recording under the same call id."""

    async def analyse_again() -> None:
        before = len(records(analysed, TOPIC_MEDIA))
        send(RedisStreamProducer(analysed), call(np.zeros((2, 5 * 8000), np.float32), "c1"))
        with redis.Redis.from_url(analysed) as client:
            group = "ut:log:{call-media}:group:undertone"
            async with working(analysed, worker=WorkerSettings(commit_delay_s=0, commit_interval_s=0.05)):
                await eventually(lambda: int(client.hget(group, "committed") or 0) == before + 5)

    asyncio.run(analyse_again())
    (report,) = json_lines(redis_cli, "audit")
    (one,) = report["repeated"]
    assert report["clean"]
    assert (one["tenant"], one["call_id"], one["stream"], one["count"]) == ("default", "c1", "phone", 5)
    printed = redis_cli.invoke(app, ["audit", "--call", "c1"])
    assert printed.exit_code == 0
    assert "everything adds up" not in printed.stdout
    assert "c1, stream phone of tenant default: 5 of a part that was stored already" in printed.stdout
    assert "another recording under the same call id and stream is lost" in " ".join(printed.stdout.split())


def test_an_audit_of_all_tenants_says_so_to_whoever_named_a_token(
    redis_cli: CliRunner, analysed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert analysed
    monkeypatch.setenv("UNDERTONE_TOKEN", "ut_of_acme")
    of_all = redis_cli.invoke(app, ["audit"])
    of_one = redis_cli.invoke(app, ["audit", "--tenant", "default"])
    assert "this is of all tenants" in of_all.stderr
    assert "UNDERTONE_TOKEN" not in of_one.stderr


def test_an_audit_that_finds_something_missing_ends_with_1(redis_cli: CliRunner, analysed: str) -> None:
    with redis.Redis.from_url(analysed) as client:
        client.hincrby("ut:{default/c1}:stream:phone", "n:analysed", -1)
    (report,) = json_lines(redis_cli, "audit", "--call", "c1", exit_code=1)
    assert [one["kind"] for one in report["findings"]] == ["fragments_missing"]
    printed = redis_cli.invoke(app, ["audit"])
    assert printed.exit_code == 1
    assert "fragments_missing" in printed.stdout


def test_results_that_lack_a_modality_by_a_fault_do_not_add_up(redis_cli: CliRunner, analysed: str) -> None:
    keep(analysed, "c1", [result(0, "nobody helps me", -2.1)])
    (report,) = json_lines(redis_cli, "audit", exit_code=1)
    assert (report["clean"], report["findings"]) == (False, [])
    assert report["faults"] == {"audio": {"timeout": 1}}
    printed = redis_cli.invoke(app, ["audit"])
    assert printed.exit_code == 1
    assert "everything adds up" not in printed.stdout
    assert "1 utterance by a fault of the service (timeout 1)" in printed.stdout


def test_an_audit_that_could_not_look_is_told_from_one_that_found_something(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_runs = cli.invoke(app, ["audit"])
    monkeypatch.setenv("UNDERTONE_REDIS", "unix:///nowhere/redis.sock")
    nothing_answers = cli.invoke(app, ["audit"])
    assert "start `undertone serve`" in nothing_runs.stderr
    assert "UNDERTONE_REDIS" in nothing_answers.stderr
    assert [(done.exit_code, done.stdout) for done in (nothing_runs, nothing_answers)] == [(EXIT_AWAY, "")] * 2


def test_an_audit_of_a_call_that_the_log_does_not_hold_finds_no_such_call(redis_cli: CliRunner, analysed: str) -> None:
    assert analysed
    done = redis_cli.invoke(app, ["audit", "--call", "another"])
    assert done.exit_code == EXIT_NOT_FOUND
    assert "undertone calls" in done.stderr


def test_a_time_that_is_none_is_a_wrong_question(redis_cli: CliRunner) -> None:
    done = redis_cli.invoke(app, ["audit", "--since", "yesterday"])
    assert done.exit_code == 2
    assert "2026-11-21T08:00:00Z" in done.stderr
