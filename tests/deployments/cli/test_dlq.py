import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.connect import connect
from deployments.cli.dlq import send_again
from deployments.cli.main import app
from pipelines.log.dead_letter import letter_of
from pipelines.log.records import fragment_headers
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.review.redrive import redrives
from pipelines.settings import MediaLimits
from pipelines.types import LIVE_RUN, TOPIC_DEAD_LETTER, TOPIC_MEDIA, CallRef, Coordinates, MediaFragment, Record
from tests.deployments.cli.running import json_lines
from tests.pipelines.stored import CUSTOMER
from tests.pipelines.working import letters, records


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
    assert redis_cli.invoke(app, ["dlq", "show", "0:77"]).exit_code == 3


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


@pytest.fixture
def three_calls(redis_url: str) -> str:
    """The URL of a Redis with a dead letter in clear of each of the calls aaa, bbb and ccc, of which the store knows bbb."""
    producer = RedisStreamProducer(redis_url)
    for offset, call_id in enumerate(("aaa", "bbb", "ccc")):
        fragment = MediaFragment(
            call_id, "default", "main", 0, 0, "audio/L16;rate=8000", (CUSTOMER,), None, final=True, media=bytes(16)
        )
        record = Record(Coordinates(0, offset), call_id.encode(), fragment.media, fragment_headers(fragment), 0)
        producer.send(TOPIC_DEAD_LETTER, call_id, *letter_of(record, "killed", "", 1, None))
    producer.flush()
    producer.close()
    return redis_url


def delete(redis_url: str, call_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    system, call = connect(None), CallRef("default", call_id)
    with system.sealing(call):
        pass  # which makes it known
    assert system.with_store(lambda store: store.delete_call(call), LIVE_RUN)


def sent_calls(redis_url: str) -> list[bytes | None]:
    return [record.key for record in records(redis_url, TOPIC_MEDIA)]


def redriven_calls(cli: CliRunner) -> list[str]:
    """What the trail of accesses says was redriven."""
    return sorted(one["call_id"] for one in json_lines(cli, "accesses") if one["action"] == "redrive")


def test_a_call_that_was_deleted_is_left_out_of_a_redrive_and_the_others_are_sent_once(
    redis_cli: CliRunner, three_calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete(three_calls, "bbb", monkeypatch)
    planned = json_lines(redis_cli, "dlq", "redrive", "--dry-run")
    assert {one["call_id"]: one["outcome"] for one in planned} == {
        "aaa": "would be sent",
        "bbb": "call_deleted",
        "ccc": "would be sent",
    }
    for _ in range(2):
        json_lines(redis_cli, "dlq", "redrive")

    assert sent_calls(three_calls) == [b"aaa", b"ccc"]
    listed = json_lines(redis_cli, "dlq", "list", "--all")
    assert {one["call_id"]: one["state"] for one in listed} == {"aaa": "redriven", "bbb": "open", "ccc": "redriven"}
    assert redriven_calls(redis_cli) == ["aaa", "ccc"]


def test_a_call_that_is_deleted_while_others_are_sent_is_left_out(
    redis_cli: CliRunner, three_calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = list(redrives(letters(three_calls), {}, MediaLimits()))
    delete(three_calls, "bbb", monkeypatch)

    done = send_again(connect(None), plan)

    assert [one.obstacle for one in done] == [None, "call_deleted", None]
    assert sent_calls(three_calls) == [b"aaa", b"ccc"]
    (left,) = json_lines(redis_cli, "dlq", "list")
    assert (left["call_id"], left["state"]) == ("bbb", "open")
    assert redriven_calls(redis_cli) == ["aaa", "ccc"]
