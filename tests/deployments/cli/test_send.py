import asyncio
import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.console import EXIT_FAILED, EXIT_USAGE
from deployments.cli.main import app
from deployments.sample import ANGRY_TO_CONTENT
from models.types import Modality
from pipelines.errors import SourceUnavailableError
from pipelines.log.records import parse_record
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, MediaLimits
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, CallRef, MediaFragment, Participant
from tests.eventually import wait_until
from tests.pipelines.searching import keys_with
from tests.pipelines.working import opened, records


@pytest.fixture
def half_minute(tmp_path: Path) -> Path:
    path = tmp_path / "half minute.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.random.default_rng(0).integers(-99, 99, 30 * 8000, dtype=np.int16).astype("<i2").tobytes())
    return path


def sent_to(url: str) -> list[MediaFragment]:
    """Every fragment in the log at `url`, in order."""
    with redis.Redis.from_url(url) as client:
        wanted = int(client.xlen(f"ut:log:{{{TOPIC_MEDIA}}}"))
    source = RedisStreamSource(url, group="test")
    found: list[MediaFragment] = []
    while len(found) < wanted:
        found += [opened(url, parse_record(record, MediaLimits())) for record in source.poll(1, 100).records]
    source.close()
    return found


def test_send_puts_the_whole_call_into_the_log(redis_cli: CliRunner, redis_url: str) -> None:
    options = ["--participants", "agent,customer", "--call-id", "a:1", "--tenant", "shop", "--consent", "customer=text"]

    ended = redis_cli.invoke(app, ["send", str(ANGRY_TO_CONTENT), *options, "--json"])

    assert ended.exit_code == 0
    found = sent_to(redis_url)
    assert json.loads(ended.stdout) == {"call_id": "a:1", "stream": "main", "tenant": "shop", "fragments": len(found)}
    assert [fragment.seq for fragment in found] == list(range(len(found)))
    assert [fragment.final for fragment in found] == [False] * (len(found) - 1) + [True]
    assert {fragment.call_id for fragment in found} == {"a:1"}
    assert {fragment.tenant for fragment in found} == {"shop"}
    assert found[0].consent == {Participant.CUSTOMER: frozenset({Modality.TEXT})}


def test_what_no_service_has_forbidden_yet_is_sent_sealed(
    redis_cli: CliRunner, redis_url: str, half_minute: Path
) -> None:
    """An empty store: whoever runs the service may have configured this tenant."""
    words = ["send", str(half_minute), "--call-id", "a", "--tenant", "acme", "--participants", "agent"]
    ended = redis_cli.invoke(app, words)

    assert ended.exit_code == 0, ended.output
    raw = [parse_record(record, MediaLimits()) for record in records(redis_url, TOPIC_MEDIA)]
    assert {(fragment.seal is not None, fragment.withheld) for fragment in raw} == {(True, False)}
    assert sum(len(fragment.media) for fragment in sent_to(redis_url)) >= 30 * 16_000


def test_what_the_call_itself_forbids_is_withheld_whoever_runs(
    redis_cli: CliRunner, redis_url: str, half_minute: Path
) -> None:
    words = ["send", str(half_minute), "--participants", "agent", "--consent", "customer=text"]
    ended = redis_cli.invoke(app, words)

    assert ended.exit_code == 0, ended.output
    assert {(fragment.media, fragment.withheld) for fragment in sent_to(redis_url)} == {(b"", True)}


def test_two_files_are_sent_as_one_stream_of_two_tracks(
    redis_cli: CliRunner, redis_url: str, half_minute: Path
) -> None:
    ended = redis_cli.invoke(app, ["send", str(half_minute), str(half_minute), "--participants", "agent,customer"])

    assert ended.exit_code == 0
    found = sent_to(redis_url)
    assert {fragment.content_type for fragment in found} == {"audio/x-matroska"}
    assert {fragment.participants for fragment in found} == {(Participant.AGENT, Participant.CUSTOMER)}
    assert {fragment.consent for fragment in found} == {None}
    assert len(found) == 30


@pytest.mark.parametrize(("word", "typed"), [("Zo\u00eb 47110815", ""), ("-", " Zo\u00eb 47110815 \n")])
def test_a_customer_is_sent_as_a_hash_and_known_before(
    redis_cli: CliRunner, redis_url: str, half_minute: Path, word: str, typed: str
) -> None:
    words = ["send", str(half_minute), "--call-id", "a", "--tenant", "shop", "--customer", word]
    ended = redis_cli.invoke(app, words, input=typed)

    assert ended.exit_code == 0, ended.output
    assert "47110815" not in ended.output
    (named,) = {fragment.customer for fragment in sent_to(redis_url)}
    assert keys_with(redis_url, "47110815") == set()
    assert keys_with(redis_url, str(named)) == {
        "ut:log:{call-media}",
        "ut:{shop/a}:customers",
        f"ut:customer:shop:{named}",
    }

    async def known() -> tuple[str, list[str]]:
        store = Store.connect(redis_url)
        customer = await store.customers.hash("shop", "Zoe\u0308 47110815")
        calls = await store.customers.calls("shop", customer, 10)
        await store.close()
        return customer, [one.call_id for one in calls]

    assert asyncio.run(known()) == (named, ["a"])


def test_an_interrupted_send_remembers_no_reference(
    redis_cli: CliRunner, half_minute: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SourceUnavailableError("the log is away")

    monkeypatch.setattr(RedisStreamProducer, "send", broken)
    words = ["send", str(half_minute), "--call-id", "a", "--customer", "47110815"]
    ended = redis_cli.invoke(app, words)

    assert ended.exit_code == 1
    assert "--customer -" in ended.stderr
    assert "47110815" not in ended.output
    (journal,) = (tmp_path / "cache" / "sends").glob("*.json")
    assert "47110815" not in journal.read_text()
    monkeypatch.undo()


def test_a_customer_needs_the_store(cli: CliRunner, half_minute: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA", "127.0.0.1:9")
    ended = cli.invoke(app, ["send", str(half_minute), "--customer", "47110815"])

    assert ended.exit_code == 4
    assert "UNDERTONE_REDIS" in ended.stderr
    assert "47110815" not in ended.output


def test_a_reference_that_is_none_is_not_repeated(redis_cli: CliRunner, half_minute: Path) -> None:
    ended = redis_cli.invoke(app, ["send", str(half_minute), "--customer", "4711\n0815"])

    assert ended.exit_code == 2
    assert "--customer has to be 1 to 256 bytes" in ended.stderr
    assert "4711" not in ended.output


@pytest.mark.slow  # waits for the clock
def test_an_interrupted_send_says_how_to_go_on_and_goes_on(redis_url: str, half_minute: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "UNDERTONE_REDIS": redis_url,
        "UNDERTONE_CACHE_DIR": str(tmp_path),
        "UNDERTONE_KAFKA": "",
    }
    command = [
        sys.executable,
        "-c",
        # A shell that runs the tests in the background has SIGINT ignored; whoever presses Ctrl-C has not.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from deployments.cli.main import app; app()",
        "send",
        str(half_minute),
        "--call-id",
        "c",
    ]
    with redis.Redis.from_url(redis_url) as client:
        sending = subprocess.Popen([*command, "--pace", "realtime"], env=environment, stderr=subprocess.PIPE, text=True)
        log = f"ut:log:{{{TOPIC_MEDIA}}}"
        wait_until(lambda: int(client.xlen(log)) >= 2 or sending.poll() is not None)
        assert sending.poll() is None
        sending.send_signal(signal.SIGINT)
        _, hint = sending.communicate(timeout=60)

    assert sending.returncode == 130
    assert "Traceback" not in hint
    assert f"undertone send '{half_minute}' --call-id c --pace realtime --resume" in hint

    resumed = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0
    found = sent_to(redis_url)
    assert sorted({fragment.seq for fragment in found}) == list(range(30))
    assert (found[0].recorded, found[-1].recorded) == (False, True)  # what is sent at once is waited for by nobody
    assert len(found) <= 31  # the one that was under way when Ctrl-C came may stand there twice


def test_what_has_media_already_takes_no_other_recording(
    redis_cli: CliRunner, redis_url: str, half_minute: Path
) -> None:
    words = ["send", str(half_minute), "--call-id", "a"]
    first = redis_cli.invoke(app, words)
    sent = sent_to(redis_url)
    again = redis_cli.invoke(app, ["send", str(ANGRY_TO_CONTENT), "--participants", "agent,customer", "--call-id", "a"])
    beside = redis_cli.invoke(app, [*words, "--stream", "second"])
    of_another_tenant = redis_cli.invoke(app, [*words, "--tenant", "acme"])

    assert (first.exit_code, again.exit_code) == (0, EXIT_FAILED)
    assert "has a stream 'main' already, and nothing was sent" in again.stderr
    assert again.stdout == ""
    assert (beside.exit_code, of_another_tenant.exit_code) == (0, 0)
    assert len(sent_to(redis_url)) == 3 * len(sent)


def test_a_stream_that_others_put_into_the_log_takes_no_recording(
    redis_cli: CliRunner, redis_url: str, half_minute: Path
) -> None:
    async def opened_by_a_worker() -> None:
        store = Store.connect(redis_url)
        await store.open_stream(CallRef("default", "a"), "main", "worker", 0)
        await store.close()

    asyncio.run(opened_by_a_worker())
    ended = redis_cli.invoke(app, ["send", str(half_minute), "--call-id", "a", "--customer", "4711"])

    assert ended.exit_code == EXIT_FAILED
    assert "has a stream 'main' already" in ended.stderr
    assert sent_to(redis_url) == []
    assert keys_with(redis_url, "ut:customer:") == set()  # whose call it is stays what it was


def test_an_interrupted_send_goes_on_by_resume_alone(
    redis_cli: CliRunner, redis_url: str, half_minute: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sends = RedisStreamProducer.send, iter(range(20))

    def breaking_off(producer: RedisStreamProducer, *record: Any) -> None:
        if next(sends, None) is None:
            raise SourceUnavailableError("the log is away")
        send(producer, *record)

    words = ["send", str(half_minute), "--call-id", "a"]
    with monkeypatch.context() as patches:
        patches.setattr(RedisStreamProducer, "send", breaking_off)
        interrupted = redis_cli.invoke(app, words)
    anew = redis_cli.invoke(app, words)
    resumed = redis_cli.invoke(app, [*words, "--resume"])

    assert "after 16 acknowledged fragments" in interrupted.stderr
    assert anew.exit_code == EXIT_FAILED
    assert "goes on with --resume" in anew.stderr
    assert resumed.exit_code == 0, resumed.output
    found = [fragment.seq for fragment in sent_to(redis_url)]
    assert found == [*range(20), *range(16, 30)]


def test_what_is_no_media_or_another_s_channels_reserves_nothing(
    redis_cli: CliRunner, half_minute: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.wav").write_text("Dear Madam or Sir, nobody helps me.")
    no_media = redis_cli.invoke(app, ["send", str(tmp_path / "letter.wav"), "--call-id", "a"])
    words = ["send", str(half_minute), "--call-id", "a", "--participants"]
    two_on_one = redis_cli.invoke(app, [*words, "agent,customer"])
    right = redis_cli.invoke(app, [*words, "customer"])

    assert (no_media.exit_code, two_on_one.exit_code, right.exit_code) == (EXIT_FAILED, EXIT_USAGE, 0)
    assert "sending" not in no_media.stderr + two_on_one.stderr
    assert "name one for each channel" in two_on_one.stderr


def test_a_receipt_says_whose_call_it_is(
    redis_cli: CliRunner, half_minute: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = redis_cli.invoke(app, ["send", str(half_minute), "--call-id", "a"])
    monkeypatch.setenv("UNDERTONE_TOKEN", "ut_of_acme")
    with_token = redis_cli.invoke(app, ["send", str(half_minute), "--call-id", "b"])
    of_acme = redis_cli.invoke(app, ["send", str(half_minute), "--call-id", "b", "--tenant", "acme"])

    assert "of tenant default; see it with: undertone show a\n" in plain.stdout
    assert "UNDERTONE_TOKEN" not in plain.stderr
    assert "undertone show b --tenant default\n" in with_token.stdout
    assert "UNDERTONE_TOKEN says nothing" in with_token.stderr
    assert "of tenant acme; see it with: undertone show b --tenant acme\n" in of_acme.stdout
    assert "UNDERTONE_TOKEN" not in of_acme.stderr


def test_consent_that_comes_to_nothing_is_said(redis_cli: CliRunner, redis_url: str, half_minute: Path) -> None:
    async def told() -> None:
        store = Store.connect(redis_url)
        await store.service.set_tenants(AppConfig().tenants_text())
        await store.close()

    words = ["send", str(half_minute), "--consent"]
    of_nobody_there = redis_cli.invoke(app, [*words, "customer=text", "--participants", "mixed"])
    asyncio.run(told())
    against_policy = redis_cli.invoke(app, [*words, "agent=audio+text", "--participants", "agent"])
    as_it_may = redis_cli.invoke(app, [*words, "agent=text", "--participants", "agent"])

    assert "--consent names customer, who is on no channel" in of_nobody_there.stderr
    assert "nothing of mixed may be judged" in of_nobody_there.stderr
    assert "--consent asks for audio of agent, which the tenant's policy does not let" in against_policy.stderr
    assert "may be judged" not in against_policy.stderr
    assert "--consent" not in as_it_may.stderr
