"""What every command shares: standard output and error, JSON, errors and exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C. An expected failure is one line on stderr that
says what to do next; a traceback is a bug.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console, RenderableType

from pipelines.errors import UndertoneError
from pipelines.settings import Settings

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PIPED_WIDTH = 120
"""Columns of a table that goes into a file or a pipe, where there is no window to fit."""

P = ParamSpec("P")
R = TypeVar("R")


class CommandError(Exception):
    """A command cannot do what it was asked; the message says what to do next."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        """`exit_code` is `EXIT_USAGE` where the command line itself was wrong."""
        super().__init__(message)
        self.exit_code = exit_code


def stdout() -> Console:
    """A console on standard output, for results."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False)


def stderr() -> Console:
    """A console on standard error, for progress and hints, which must not mix with results."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH, highlight=False, markup=False)


def print_out(renderable: RenderableType) -> None:
    """Print something rendered; a text is not broken into lines."""
    stdout().print(renderable, soft_wrap=isinstance(renderable, str))


def write_json(values: Iterable[object]) -> None:
    """Print JSON, one value a line, each as soon as it is there."""
    for value in values:
        line = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value, ensure_ascii=False)
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
        except (UndertoneError, OSError) as error:
            raise _fail(str(error) or type(error).__name__, EXIT_FAILED) from None
        except KeyboardInterrupt:
            raise _fail("stopped", EXIT_INTERRUPTED) from None

    return guarded


def _fail(message: str, exit_code: int) -> typer.Exit:
    sys.stderr.write(f"undertone: {' '.join(message.split())}\n")
    return typer.Exit(exit_code)
