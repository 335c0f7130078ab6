"""The command line, `undertone`. Each command is declared, with its options and examples, in the file of its group.

What a command needs that takes long to import (Ray, torch, Kafka, Redis) is imported when it runs: `--help` is quick.
"""

from importlib.metadata import version
from typing import Annotated, Any

import typer

from deployments.cli import (
    accesses,
    analyze,
    audit,
    calls,
    demo,
    dlq,
    doctor,
    forget,
    recipes,
    replay,
    send,
    serve,
    token,
    train,
    watch,
)
from deployments.cli.console import EXIT_CODES, as_typed, command_name, print_out

EPILOG = (
    "The first minute: undertone demo\n\n"
    "The commands ask the gateway at UNDERTONE_URL (http://127.0.0.1:8000 where it is not set) with the token in "
    "UNDERTONE_TOKEN (else that of `undertone serve` on this machine); every variable: docs/environment.md\n\n"
    "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
)

app = typer.Typer(
    name="undertone",
    help="Live sentiment of customer-service calls from voice, face and words.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for group in (demo, serve, send, calls, watch, forget, analyze, recipes, train, audit, accesses, replay, doctor):
    app.add_typer(group.commands)
app.add_typer(dlq.commands, name="dlq")
app.add_typer(token.commands, name="token")


def _print_version(wanted: bool) -> None:
    if wanted:
        print_out(f"undertone {version('undertone')}")
        raise typer.Exit


@app.callback()
def undertone(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Live sentiment of customer-service calls from voice, face and words."""


def main() -> None:
    """The entry point: usage, examples and hints name the command as it was typed, each example on a line of its own."""
    command = typer.main.get_command(app)
    _as_typed(command)
    command(prog_name=command_name())


def _as_typed(command: Any) -> None:
    for name in ("help", "epilog"):
        if text := getattr(command, name):
            setattr(command, name, as_typed(text))
    if command.epilog:
        command.epilog = command.epilog.replace(" · ", "\n\n")
    for parameter in command.params:
        if text := getattr(parameter, "help", None):
            parameter.help = as_typed(text)
    for below in getattr(command, "commands", {}).values():
        _as_typed(below)
