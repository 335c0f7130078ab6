import json
import re

import pytest
import typer
from rich.color import ColorSystem
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deployments.cli.console import (
    EXIT_AWAY,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    SafeConsole,
    as_typed,
    clear_errors,
    shown,
    stderr,
    stdout,
    steps,
    write_json,
)
from pipelines.errors import CallDeletedError, MediaError, SourceUnavailableError, StoreUnavailableError


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (CommandError("name a file", EXIT_USAGE), 2, "undertone: name a file\n"),
        (CommandError("it is\n  away"), EXIT_FAILED, "undertone: it is away\n"),
        (MediaError("no media"), EXIT_FAILED, "undertone: no media\n"),
        (PermissionError(), EXIT_FAILED, "undertone: PermissionError\n"),
        (FileNotFoundError("gone"), EXIT_NOT_FOUND, "undertone: gone\n"),
        (CallDeletedError("it was deleted"), EXIT_NOT_FOUND, "undertone: it was deleted\n"),
        (StoreUnavailableError("away"), EXIT_AWAY, "undertone: away\n"),
        (SourceUnavailableError("away"), EXIT_AWAY, "undertone: away\n"),
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


def test_what_is_started_is_a_line_a_step_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as begin:
        begin("the store")
        begin("Ray")
    assert capsys.readouterr() == ("", "   0 s  starting the store …\n   0 s  starting Ray …\n")


@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "undertone"), ("./undertone", "./undertone"), ("/a b/undertone", "'/a b/undertone'")],
)
def test_commands_in_a_hint_are_named_as_they_were_typed_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    monkeypatch.setenv("UNDERTONE_COMMAND", typed)
    hint = "`undertone serve`, undertone --help; another undertone runs, my_undertone serve, ./undertone calls"
    assert as_typed(hint) == (
        f"`{said} serve`, {said} --help; another undertone runs, my_undertone serve, ./undertone calls"
    )


def test_json_is_one_value_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json([{"a": "é"}, 2])

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"a": "é"}, 2]


HOSTILE = (
    "red \x1b[31m clear \x1b[2J title \x1b]0;owned\x07 link \x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\ c1 \x9b31m \x9d0;x\x9c "
    "back \b\b\b del \x7f nul \0 bidi \u202egnp.exe\u2066 mark \u200f [red]no markup[/red] [link=http://evil.example]x[/link] :bomb:"
)


def steers(text: str) -> set[str]:
    """What in `text` a terminal would obey."""
    return {letter for letter in text if not letter.isprintable() and letter not in "\n\u200c\u200d"}


def hostile_renderables() -> list[RenderableType]:
    table = Table("name", title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE))
    return [
        HOSTILE,
        Text(HOSTILE),
        table,
        Group(HOSTILE, Text(HOSTILE)),
        Panel(Text(HOSTILE)),
        Columns([HOSTILE, HOSTILE]),
    ]


@pytest.mark.parametrize("renderable", hostile_renderables())
def test_what_others_wrote_is_shown_and_steers_nothing(
    capsys: pytest.CaptureFixture[str], renderable: RenderableType
) -> None:
    stdout().print(renderable)
    stderr().print(renderable)
    for printed in capsys.readouterr():
        assert not steers(printed)
        said = "".join(letter for letter in printed if letter not in " \n│")
        for part in ("\u241b[31m", "\u241b]8;;http://evil.example", "gnp.exe", "[red]nomarkup[/red]", ":bomb:"):
            assert part in said


def test_the_colours_are_those_of_the_command_and_no_others() -> None:
    console = SafeConsole(on_stderr=False)
    console._color_system = ColorSystem.STANDARD
    console._force_terminal = True
    with console.capture() as captured:
        console.print(Text(f"{HOSTILE} by us", style="green"))
    written = re.sub(r"\x1b\[(?:32|0)m", "", captured.get())
    assert written != captured.get()
    assert not steers(written)


def test_letters_that_are_joined_or_wide_are_left_as_they_are() -> None:
    for said in ("\u0645\u06cc\u200c\u062e", "क्\u200dष", "👩\u200d💻", "日本語", "naïve", "a\nb"):
        assert shown(said) == said
    assert shown("a\u00a0b\tc\rd") == "a b c d"


@pytest.mark.parametrize("value", [HOSTILE, {HOSTILE: HOSTILE}, [HOSTILE, "\u2028", "\U000e0001"]])
def test_json_steers_nothing_and_says_the_same(capsys: pytest.CaptureFixture[str], value: object) -> None:
    write_json([value])
    (line,) = capsys.readouterr().out.splitlines()
    assert not steers(line)
    assert json.loads(line) == value


def test_an_error_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    @clear_errors
    def command() -> None:
        raise CommandError(HOSTILE)

    with pytest.raises(typer.Exit):
        command()
    assert not steers(capsys.readouterr().err)
