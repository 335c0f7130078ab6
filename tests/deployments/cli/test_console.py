import json

import pytest
import typer

from deployments.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandError, clear_errors, write_json
from pipelines.errors import MediaError


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (CommandError("name a file", EXIT_USAGE), 2, "undertone: name a file\n"),
        (CommandError("it is\n  away"), EXIT_FAILED, "undertone: it is away\n"),
        (MediaError("no media"), EXIT_FAILED, "undertone: no media\n"),
        (PermissionError(), EXIT_FAILED, "undertone: PermissionError\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "undertone: stopped\n"),
    ],
)
def test_an_error_that_can_be_foreseen_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, exit_code: int, said: str
) -> None:
    @clear_errors
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()

    assert ended.value.exit_code == exit_code
    assert capsys.readouterr() == ("", said)


def test_an_error_that_cannot_be_foreseen_keeps_its_traceback() -> None:
    @clear_errors
    def command() -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        command()


def test_json_is_one_value_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json([{"a": "é"}, 2])

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"a": "é"}, 2]
