import redis
from typer.testing import CliRunner

from deployments.cli.main import app
from tests.deployments.cli.running import json_lines


def test_dead_letters_are_listed_filtered_and_shown(redis_cli: CliRunner, analysed: str) -> None:
    assert analysed
    assert [(one["place"], one["reason"]) for one in json_lines(redis_cli, "dlq", "list")] == [
        ("0:2", "undecodable"),
        ("0:5", "unknown_version"),
    ]
    assert [one["place"] for one in json_lines(redis_cli, "dlq", "list", "--reason", "unknown_version")] == ["0:5"]
    assert json_lines(redis_cli, "dlq", "list", "--call", "another") == []
    (shown,) = json_lines(redis_cli, "dlq", "show", "0:2")
    assert shown["headers"]["seq"] == "2"
    assert "no media that FFmpeg can open" in redis_cli.invoke(app, ["dlq", "show", "0:2"]).stdout
    assert redis_cli.invoke(app, ["dlq", "show", "0:77"]).exit_code == 2


def test_a_dropped_letter_is_decided_and_a_dry_run_decides_nothing(redis_cli: CliRunner, analysed: str) -> None:
    assert analysed
    json_lines(redis_cli, "dlq", "drop", "--reason", "undecodable", "--dry-run")
    assert len(json_lines(redis_cli, "dlq", "list")) == 2
    json_lines(redis_cli, "dlq", "drop", "--reason", "undecodable")
    assert [one["place"] for one in json_lines(redis_cli, "dlq", "list")] == ["0:5"]
    assert [one["state"] for one in json_lines(redis_cli, "dlq", "list", "--all")] == ["dropped", "open"]
    assert json_lines(redis_cli, "audit")[0]["clean"]


def test_redriving_sends_what_can_be_sent_once(redis_cli: CliRunner, analysed: str) -> None:
    planned = json_lines(redis_cli, "dlq", "redrive", "--dry-run")
    assert [(one["place"], one["outcome"]) for one in planned] == [("0:5", "still_refused"), ("0:2", "would be sent")]
    sent = json_lines(redis_cli, "dlq", "redrive")
    assert [(one["stream"], one["start_ms"]) for one in sent if one["outcome"] == "sent"] == [("phone.r2", 2000)]
    assert [one["place"] for one in json_lines(redis_cli, "dlq", "list")] == ["0:5"]
    with redis.Redis.from_url(analysed) as client:
        assert client.xlen("ut:log:{call-media}") == 7
    assert "still_refused" in redis_cli.invoke(app, ["dlq", "redrive"]).stdout
