import json
import os
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.analyze import call_id_of
from deployments.cli.console import CommandError
from deployments.cli.main import DATASETS_HELP, app
from deployments.cli.send import Journal, due
from deployments.sample import ANGRY_TO_CONTENT
from models.evaluate import DATASETS
from models.recipes import FOLDS
from models.recipes.debug import debug
from models.recipes.recipe import Recipe
from models.types import Modality
from pipelines.log.records import parse_record
from pipelines.log.redis_streams import RedisStreamSource
from pipelines.settings import MediaLimits
from pipelines.types import DEFAULT_CONSENT, TOPIC_MEDIA, MediaFragment, Participant

COMMANDS = ("serve", "send", "calls", "show", "watch", "analyze", "demo", "train", "evaluate", "audit", "dlq", "doctor")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("UNDERTONE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UNDERTONE_URL", NOWHERE)
    monkeypatch.delenv("UNDERTONE_KAFKA", raising=False)
    monkeypatch.delenv("UNDERTONE_REDIS", raising=False)
    return CliRunner()


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
        found += [parse_record(record, MediaLimits()) for record in source.poll(1, 100).records]
    source.close()
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: CliRunner, command: str) -> None:
    shown = cli.invoke(app, [command, "--help"])

    assert shown.exit_code == 0
    assert f"undertone {command}" in " ".join(shown.output.split("Example")[-1].split())


def test_help_loads_neither_ray_nor_torch() -> None:
    code = "import sys, deployments.cli.main; sys.exit(any(name in sys.modules for name in ('ray', 'torch', 'redis', 'kafka')))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        (["send", "gone.wav"], 2, "no such file: gone.wav"),
        (["send", str(ANGRY_TO_CONTENT)], 2, "--participants agent,customer"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "boss"], 2, "--participants"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer", "--consent", "all"], 2, "--consent"),
        (["send", str(ANGRY_TO_CONTENT), "--call-id", "a b"], 2, "--call-id"),
        (["send", str(ANGRY_TO_CONTENT), "--resume"], 2, "--call-id"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer", "--source", "kafka"], 2, "UNDERTONE_KAFKA"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer"], 1, "undertone serve"),
        (["calls"], 1, "undertone serve"),
        (["show", "a"], 1, "undertone serve"),
        (["watch"], 1, "undertone serve"),
        (["analyze", "gone.wav"], 2, "no such file"),
        (["analyze", __file__], 1, "no media"),
        (["train", "nothing", "--data", ".", "--out", "out"], 2, "debug"),
        (["train", "debug", "--data", "gone", "--out", "out"], 2, "--data"),
        (["train", "debug", "--data", ".", "--out", "out", "--folds"], 2, "no recipe with folds 'debug'"),
        (["train", "debug", "--data", ".", "--out", "/dev/null"], 1, "another folder"),
        (["evaluate", "audio", "--dataset", "nothing", "--data", "."], 1, "ravdess"),
        (["evaluate", "audio", "--dataset", "ravdess", "--data", "gone"], 2, "--data"),
        (["evaluate", "audio", "--dataset", "ravdess", "--data", ".", "--bundle", "gone"], 1, "embedded"),
    ],
)
def test_what_can_go_wrong_is_one_line_that_says_what_to_do(
    cli: CliRunner, command: list[str], exit_code: int, said: str
) -> None:
    ended = cli.invoke(app, command)

    assert ended.exit_code == exit_code
    assert ended.stdout == ""
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["train", "debug", "--out", "out"], ["evaluate", "audio", "--dataset", "ravdess"]])
def test_without_the_train_group_one_line_says_what_to_run(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)

    ended = cli.invoke(app, [*command, "--data", "."])

    assert ended.exit_code == 1
    assert "uv sync --group train" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_help_names_every_data_set() -> None:
    told = {
        (part.split(": ")[0], name)
        for part in DATASETS_HELP[:-1].split("; ")
        for name in part.split(": ")[1].split(", ")
    }

    assert told == {(modality, name) for modality, sets in DATASETS.items() for name in sets}


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    (tmp_path / "data" / "airline").mkdir(parents=True)
    table = "airline_sentiment,text\nnegative,this is the worst service ever\npositive,thank you so much\n"
    (tmp_path / "data" / "airline" / "kept_back.csv").write_text(table)
    return tmp_path / "data"


def test_evaluate_prints_one_json_object(cli: CliRunner, tweets: Path) -> None:
    ended = cli.invoke(
        app, ["evaluate", "text", "--dataset", "tweets", "--data", str(tweets), "--split", "all", "--json"]
    )

    assert ended.exit_code == 0
    assert len(ended.stdout.splitlines()) == 1
    found = json.loads(ended.stdout)
    assert list(found) == ["dataset", "split", "n", "skipped", "tasks"]
    assert (found["dataset"], found["split"], found["n"], found["skipped"]) == ("tweets", "all", 2, 0)
    assert {"labels", "metrics", "intervals", "constant"} <= set(found["tasks"]["polarity"])


def test_evaluate_shows_intervals_constant_classes_and_confusion_and_writes_a_report(
    cli: CliRunner, tweets: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "text", "--dataset", "tweets", "--data", str(tweets), "--split", "all"]

    ended = cli.invoke(app, [*command, "--report", str(tmp_path / "report")])

    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert lines[1].split() == ["task", "metric", "network", "95", "%", "interval", "constant"]
    assert lines[2].split()[:3] == ["polarity", "accuracy", "1.0000"]
    assert "polarity, by class" in ended.stdout
    assert "truth / answer" in ended.stdout
    assert (tmp_path / "report" / "report.json").is_file()
    assert (tmp_path / "report" / "polarity_roc.png").is_file()


def test_evaluate_all_shows_what_lies_there_in_one_table(cli: CliRunner, tweets: Path) -> None:
    command = ["evaluate", "all", "--data", str(tweets), "--split", "all"]

    table, as_json = cli.invoke(app, command), cli.invoke(app, [*command, "--json"])

    assert (table.exit_code, as_json.exit_code) == (0, 0)
    (row,) = [line.split() for line in table.stdout.splitlines() if line.split()[:2] == ["text", "tweets"]]
    assert row[2:6] == ["polarity", "2", "1.000", "(0.500)"]
    assert "audio emodb: no" in table.stderr
    judged = [one for one in json.loads(as_json.stdout)["evaluations"] if "tasks" in one]
    assert [(one["modality"], one["dataset"], one["n"]) for one in judged] == [("text", "tweets", 2)]


def test_a_wrong_environment_variable_is_named(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA_PARTITIONS", "many")

    ended = cli.invoke(app, ["calls"])

    assert ended.exit_code == 2
    assert "UNDERTONE_KAFKA_PARTITIONS" in ended.stderr


def test_send_puts_the_whole_call_into_the_log(cli: CliRunner, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)
    options = ["--participants", "agent,customer", "--call-id", "a:1", "--tenant", "shop", "--consent", "customer=text"]

    ended = cli.invoke(app, ["send", str(ANGRY_TO_CONTENT), *options, "--json"])

    assert ended.exit_code == 0
    found = sent_to(redis_url)
    assert json.loads(ended.stdout) == {"call_id": "a:1", "stream": "main", "tenant": "shop", "fragments": len(found)}
    assert [fragment.seq for fragment in found] == list(range(len(found)))
    assert [fragment.final for fragment in found] == [False] * (len(found) - 1) + [True]
    assert {fragment.call_id for fragment in found} == {"a:1"}
    assert {fragment.tenant for fragment in found} == {"shop"}
    assert found[0].consent == {Participant.CUSTOMER: frozenset({Modality.TEXT})}


def test_two_files_are_sent_as_one_stream_of_two_channels(
    cli: CliRunner, monkeypatch: pytest.MonkeyPatch, redis_url: str, half_minute: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", redis_url)

    ended = cli.invoke(app, ["send", str(half_minute), str(half_minute), "--participants", "agent,customer"])

    assert ended.exit_code == 0
    found = sent_to(redis_url)
    assert {fragment.content_type for fragment in found} == {"audio/L16;rate=16000;channels=2"}
    assert {fragment.consent for fragment in found} == {None}
    assert sum(len(fragment.media) for fragment in found) == 30 * 16_000 * 4


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
        while int(client.xlen(f"ut:log:{{{TOPIC_MEDIA}}}")) < 2:
            assert sending.poll() is None
            time.sleep(0.02)
        sending.send_signal(signal.SIGINT)
        _, hint = sending.communicate(timeout=60)

    assert sending.returncode == 130
    assert "Traceback" not in hint
    assert f"undertone send '{half_minute}' --call-id c --pace realtime --resume" in hint

    resumed = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0
    seqs = [fragment.seq for fragment in sent_to(redis_url)]
    assert sorted(set(seqs)) == list(range(30))
    assert len(seqs) <= 31  # the one that was under way when Ctrl-C came may stand there twice


def test_resume_refuses_another_file_and_a_call_that_was_not_interrupted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.json", {"files": [["a.wav", 10]]})

    with pytest.raises(CommandError, match="nothing to resume"):
        journal.next_seq()
    journal.write(7)
    assert journal.next_seq() == 7
    with pytest.raises(CommandError, match="something else"):
        replace(journal, sent={"files": [["b.wav", 10]]}).next_seq()


def test_in_real_time_a_fragment_is_due_when_it_has_been_spoken() -> None:
    assert [due_s for due_s, _ in due(fragments_at(5000, 6000, 7500))] == [1.0, 2.5, 4.0]
    assert [due_s for due_s, _ in due(fragments_at(300))] == [0.0]
    assert list(due([])) == []


def fragments_at(*starts_ms: int) -> Iterator[MediaFragment]:
    for seq, start_ms in enumerate(starts_ms):
        yield MediaFragment(
            call_id="c",
            tenant="default",
            stream="main",
            seq=seq,
            start_ms=start_ms,
            content_type="audio/x-matroska",
            participants=(Participant.CUSTOMER,),
            consent=DEFAULT_CONSENT,
            final=False,
            media=b"x",
        )


def test_a_file_name_becomes_a_call_id() -> None:
    assert call_id_of(Path("my call (1).wav")) == "my-call--1-"


@pytest.mark.slow
@pytest.mark.ray
def test_serve_prints_one_json_object_when_it_is_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    environment["UNDERTONE_CACHE_DIR"] = str(tmp_path_factory.mktemp("c"))  # short enough for a socket
    command = [sys.executable, "-c", "from deployments.cli.main import app; app()", "serve", "--json"]
    with subprocess.Popen(
        [*command, "--transcriber", "pocketsphinx", "--port", str(port)], env=environment, stdout=subprocess.PIPE
    ) as serving:
        try:
            assert serving.stdout is not None
            assert json.loads(serving.stdout.readline()) == {"url": f"http://127.0.0.1:{port}"}
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).is_success
        finally:
            serving.terminate()
            serving.wait(60)
    assert serving.returncode == 0


@pytest.mark.slow
def test_train_prints_one_json_object(cli: CliRunner, tmp_path: Path) -> None:
    ended = cli.invoke(app, ["train", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json"])

    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["recipe"] == "debug"
    assert (tmp_path / "out" / "debug.safetensors").is_file()


def debug_folds(data: Path) -> list[Callable[[], Recipe]]:
    return [partial(debug, data)] * 2


@pytest.mark.slow
def test_train_folds_prints_mean_and_standard_deviation(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FOLDS, "debug", f"{__name__}:debug_folds")
    ended = cli.invoke(app, ["train", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--folds"])

    assert ended.exit_code == 0
    assert "of 2 folds" in ended.stdout
    assert "accuracy 1.0000 ± 0.0000" in ended.stdout
    assert (tmp_path / "out" / "fold_2" / "debug.safetensors").is_file()


def test_doctor_says_what_is_there_and_how_to_mend_what_is_not(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["doctor", "--json"])

    findings = {finding["name"]: finding for finding in map(json.loads, ended.stdout.splitlines())}
    assert findings["python"]["state"] == "ok"
    assert findings["kafka"]["state"] == "optional"
    assert findings["gateway"]["mend"] == "undertone serve"
    missing = [name for name, finding in findings.items() if finding["state"] == "missing"]
    assert ended.exit_code == (1 if missing else 0)
    assert all(findings[name]["mend"] for name in missing)


def test_doctor_fails_when_the_redis_it_is_told_of_is_away(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", "redis://127.0.0.1:9")

    ended = cli.invoke(app, ["doctor"])

    assert ended.exit_code == 1
    assert "redis" in ended.stderr
    assert "UNDERTONE_REDIS" in ended.stdout
