"""What every command shares: standard output and error, JSON, errors and exit codes.

An expected failure is one line on stderr that says what to do next; a traceback is a bug.
"""

import functools
import json
import os
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from pipelines.errors import (
    CallDeletedError,
    ParticipantsError,
    SourceUnavailableError,
    StoreUnavailableError,
    TopicMissingError,
    UndertoneError,
)
from pipelines.settings import Settings

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_AWAY, EXIT_INTERRUPTED, EXIT_UNREAD = 1, 2, 3, 4, 130, 141
EXIT_CODES = {
    0: "done",
    EXIT_FAILED: "it failed, or found what should not be (audit, accesses --verify, doctor)",
    EXIT_USAGE: "the command line, the environment or a value in them is wrong",
    EXIT_NOT_FOUND: "what was named is not there: a call, also a forgotten one, a run, dead letter, token, trail, recipe or file",
    EXIT_AWAY: "the gateway, the store or the log does not answer, so that nothing could be looked at",
    EXIT_INTERRUPTED: "stopped by Ctrl-C",
    EXIT_UNREAD: "whoever read the output has stopped, such as head",
}
"""What each exit code means; docs/command_line.md#exit-codes and `--help` say the same."""
_EXIT_BY_ERROR: dict[type[UndertoneError], int] = {
    StoreUnavailableError: EXIT_AWAY,
    SourceUnavailableError: EXIT_AWAY,
    TopicMissingError: EXIT_AWAY,
    CallDeletedError: EXIT_NOT_FOUND,
    ParticipantsError: EXIT_USAGE,
}
PIPED_WIDTH = 120
"""Columns of a table that goes into a file or a pipe, where there is no window to fit, unless `COLUMNS` says otherwise."""
COMMAND_NAMES = (
    *(
        "accesses",
        "analyze",
        "audit",
        "calls",
        "compare",
        "delete",
        "demo",
        "dlq",
        "doctor",
        "evaluate",
        "forget",
        "recipes",
    ),
    *("replay", "send", "serve", "show", "token", "train", "watch"),
)
_COMMAND = re.compile(rf"(?<![\w./-])undertone(?= (?:{'|'.join(COMMAND_NAMES)}|--[a-z]+)\b)")

P = ParamSpec("P")
R = TypeVar("R")


class CommandError(Exception):
    """A command cannot do what it was asked; the message says what to do next."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        """`exit_code` is `EXIT_USAGE` where the command line itself was wrong."""
        super().__init__(message)
        self.exit_code = exit_code


def shown(text: str) -> str:
    """`text` with a sign in the place of each character that would steer the terminal: ESC, C1, bidirectional overrides.

    Call ids, words, names of files and answers of servers are written by others. Line feeds stay, and the two characters
    without a width by which Persian, Indic and emoji letters are joined.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if letter.isprintable() or letter in "\n\u200c\u200d":
        return letter
    if letter in "\t\r" or unicodedata.category(letter) == "Zs":
        return " "
    code = ord(letter)
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"  # Unicode has pictures of the first 32


def command_name() -> str:
    """How this command line was typed: `./undertone` of a checkout (the launcher says so), else `undertone`."""
    return shlex.quote(os.environ.get("UNDERTONE_COMMAND") or "undertone")


def as_typed(text: str) -> str:
    """`text` with every `undertone COMMAND` in it as it has to be typed here, so that a hint can be copied."""
    name = command_name()
    return text if name == "undertone" else _COMMAND.sub(lambda _: name, text)


class SafeConsole(Console):
    """A console that shows what would steer it, and knows no markup and no names of emoji."""

    def __init__(self, *, on_stderr: bool) -> None:
        stream = sys.stderr if on_stderr else sys.stdout
        width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdecimal() else PIPED_WIDTH
        super().__init__(stderr=on_stderr, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Nobody reads on; Rich would end with 1."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """What is printed as a string, before it is laid out."""
        return super().render_str(shown(as_typed(text)), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed comes through here; what Rich itself steers by are segments of another kind."""
        if isinstance(renderable, Text) and not renderable.plain.isprintable():
            renderable = renderable.copy()
            renderable.plain = shown(
                renderable.plain
            )  # before it is laid out, letter by letter: its styles stay where they are
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def stdout() -> Console:
    """A console on standard output, for results."""
    return SafeConsole(on_stderr=False)


def stderr() -> Console:
    """A console on standard error, for progress and hints, which must not mix with results."""
    return SafeConsole(on_stderr=True)


def print_out(renderable: RenderableType) -> None:
    """Print something rendered; a text is not broken into lines, and nothing that is too wide is cut."""
    stdout().print(renderable, soft_wrap=isinstance(renderable, str), crop=False)


def counted(number: int, what: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def hint(text: str) -> None:
    """Print on standard error what to do next, not broken into lines, so that it can be copied."""
    stderr().print(text, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """What is yielded says which step is taken now: on a terminal with the seconds that pass, in a log one line a step."""
    console, begun_s = stderr(), time.monotonic()
    if not console.is_terminal:
        yield lambda step: console.print(f"{time.monotonic() - begun_s:4.0f} s  starting {step} …")
        return
    columns = (SpinnerColumn(), TextColumn("starting {task.description} …"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        yield lambda step: progress.update(task, description=step)


def write_json(values: Iterable[object]) -> None:
    """Print JSON, one value a line, each as soon as it is there."""
    for value in values:
        line = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value, ensure_ascii=False)
        if not line.isprintable():
            # What is not printable stands within strings, and JSON has a form for it that steers no terminal.
            line = "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def settings() -> Settings:
    """The settings from `UNDERTONE_…`.

    Raises:
        CommandError: a variable has a value that it may not have.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"UNDERTONE_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise CommandError(f"the environment is wrong: {wrong}", EXIT_USAGE) from error


def clear_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors end it with one line on stderr and an exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except CommandError as error:
            raise _fail(str(error), error.exit_code) from None
        except BrokenPipeError:
            raise _unread() from None
        except (UndertoneError, OSError) as error:
            raise _fail(str(error) or type(error).__name__, exit_code_of(error)) from None
        except KeyboardInterrupt:
            raise _fail("stopped", EXIT_INTERRUPTED) from None

    return guarded


def exit_code_of(error: BaseException) -> int:
    """What an error that can be foreseen ends a command with: by its kind, else by whether a file was not there."""
    for kind, code in _EXIT_BY_ERROR.items():
        if isinstance(error, kind):
            return code
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, FileNotFoundError):
        cause = cause.__cause__
    return EXIT_FAILED if cause is None else EXIT_NOT_FOUND


def _unread() -> typer.Exit:
    """Nobody reads what is printed: end as other commands do, and let Python not complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return typer.Exit(EXIT_UNREAD)


def _fail(message: str, exit_code: int) -> typer.Exit:
    sys.stderr.write(f"undertone: {shown(as_typed(' '.join(message.split())))}\n")
    return typer.Exit(exit_code)
