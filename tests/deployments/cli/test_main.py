import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from deployments.cli.console import EXIT_INTERRUPTED
from deployments.cli.main import app
from deployments.sample import ANGRY_TO_CONTENT

COMMANDS = (
    "serve",
    "send",
    "calls",
    "show",
    "watch",
    "analyze",
    "demo",
    "train",
    "recipes",
    "evaluate",
    "audit",
    "accesses",
    "dlq",
    "replay",
    "compare",
    "doctor",
    "token",
    "forget",
    "delete",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: CliRunner, command: str) -> None:
    shown = cli.invoke(app, [command, "--help"])

    assert shown.exit_code == 0
    assert f"undertone {command}" in " ".join(shown.output.split("Example")[-1].split())


@pytest.mark.parametrize("command", [[], ["calls"], ["show"], ["watch"], ["forget"], ["delete"]])
def test_help_says_where_a_command_asks(cli: CliRunner, command: list[str]) -> None:
    shown = " ".join(cli.invoke(app, [*command, "--help"]).output.split())
    assert "UNDERTONE_URL" in shown
    assert "UNDERTONE_TOKEN" in shown


def test_the_version_is_that_of_the_package(cli: CliRunner) -> None:
    assert cli.invoke(app, ["--version"]).output == f"undertone {version('undertone')}\n"


def test_importing_every_command_loads_nothing_that_takes_long() -> None:
    code = (
        "import sys, deployments.cli.main; "
        "print(*{'ray', 'torch', 'fastapi', 'kafka', 'redis', 'onnxruntime', 'httpx'} & sys.modules.keys(), end='')"
    )

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert loaded == ""


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        (["send", "gone.wav"], 3, "no such file: gone.wav"),
        (["send", str(ANGRY_TO_CONTENT), str(ANGRY_TO_CONTENT)], 2, "--participants agent,customer"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "boss"], 2, "--participants"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer", "--consent", "all"], 2, "--consent"),
        (["send", str(ANGRY_TO_CONTENT), "--call-id", "a b"], 2, "--call-id"),
        (["send", str(ANGRY_TO_CONTENT), "--resume"], 2, "--call-id"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer", "--source", "kafka"], 2, "UNDERTONE_KAFKA"),
        (["send", str(ANGRY_TO_CONTENT), "--participants", "customer"], 4, "undertone serve"),
        (["calls"], 4, "undertone serve"),
        (["show", "a"], 4, "undertone serve"),
        (["watch"], 4, "undertone serve"),
        (["analyze", "gone.wav"], 3, "no such file"),
        (["analyze", __file__], 1, "no media"),
        (["train", "nothing", "--data", ".", "--out", "out"], 3, "debug"),
        (["train", "debug", "--data", "gone", "--out", "out"], 3, "--data"),
        (["train", "debug", "--data", ".", "--out", "out", "--folds"], 3, "no recipe with folds 'debug'"),
        (["train", "debug", "--data", ".", "--out", "/dev/null"], 1, "another folder"),
        (["evaluate", "audio", "--dataset", "nothing", "--data", "."], 1, "ravdess"),
        (["evaluate", "audio", "--dataset", "ravdess", "--data", "gone"], 3, "--data"),
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


def test_a_wrong_environment_variable_is_named(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_KAFKA_PARTITIONS", "many")

    ended = cli.invoke(app, ["calls"])

    assert ended.exit_code == 2
    assert "UNDERTONE_KAFKA_PARTITIONS" in ended.stderr


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from deployments.cli import run; run()"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert (ended.returncode, ended.stdout, ended.stderr) == (EXIT_INTERRUPTED, "", "undertone: stopped\n")
