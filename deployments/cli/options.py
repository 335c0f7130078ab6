"""Options and arguments that several commands take, each declared once, and the types of their values."""

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.cli.console import EXIT_USAGE, CommandError, hint
from models.errors import TranscriberError
from pipelines.customer import parse_reference
from pipelines.errors import BadFragmentError
from pipelines.settings import AppConfig, Settings

DEFAULTS = AppConfig()
"""Where a command's option is a field of the configuration, this holds its default."""

ASKS_GATEWAY = (
    "\n\nAsks the gateway at UNDERTONE_URL (http://127.0.0.1:8000 where it is not set), with the token in UNDERTONE_TOKEN "
    "(else that of `undertone serve` on this machine)."
)
"""What the help of such a command ends with."""

LogName = Literal["kafka", "redis"]


class Pace(StrEnum):
    """How fast media is sent: as it was spoken, or as fast as the log takes it."""

    REALTIME = "realtime"
    FAST = "fast"


Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table, one object a line.")]
Tenant = Annotated[str, typer.Option(help="Whose calls.")]
DirectTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        help="Whose calls; `default` where it is not given. The log and the store are reached without a token, so that none says it.",
    ),
]
AskedTenant = Annotated[
    str | None, typer.Option("--tenant", help="Whose calls; by default the token's own, else `default`.")
]
Paths = Annotated[list[Path], typer.Argument(help="One file that FFmpeg opens, or one mono file per participant.")]
Participants = Annotated[
    str | None,
    typer.Option(
        help="Who is on which channel, in order: `agent,customer`, or who is heard and seen alone: `customer`. Of two files: who is in "
        "which. By default a file is `mixed`: both may be heard on any channel, and only words are judged."
    ),
]
Consent = Annotated[
    str | None,
    typer.Option(
        help="Who may be judged by what, such as `customer=audio+video+text;agent=text`; who is not named is not analysed. "
        "What the tenant's policy forbids stays forbidden."
    ),
]
PaceOption = Annotated[Pace, typer.Option("--pace", help="As it was spoken, or as fast as it goes.")]
Source = Annotated[
    LogName | None,
    typer.Option(help="The log of fragments; Kafka where UNDERTONE_KAFKA is set, else Redis Streams."),
]
TRANSCRIBER_HELP = "A Whisper model: `base` or `tiny.en`, which are installed; another name (fetched) or path."
Transcriber = Annotated[str, typer.Option(help=TRANSCRIBER_HELP)]
Bundle = Annotated[str, typer.Option(help="`embedded`, or the folder of another bundle.")]
Interim = Annotated[
    bool | None,
    typer.Option(
        "--interim/--no-interim",
        help="Show the words of an utterance that has lasted 3 s before it ends. Without either option: only where Whisper runs on a GPU.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The Serve config file of the live system: its limits and policies hold here too."),
]
OnlyTenant = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant; a call id is its tenant's own.")]
OnlyCall = Annotated[str | None, typer.Option("--call", help="Only this call.")]
Customer = Annotated[
    str | None,
    typer.Option(
        help="The customer whose call it is, as you know them (an account number, say); `-` asks for it, or reads it from standard "
        "input, so that it stands in no history. Kept as a keyed hash only."
    ),
]
LogSince = Annotated[
    str | None, typer.Option("--since", help="Only what the log took since then, like 2026-11-21T08:00:00Z.")
]


def require_named(transcriber: str) -> None:
    """Return if there is a transcriber of that name, before anything is started or loaded for it.

    Raises:
        CommandError: there is none.
    """
    from models.encoders.speech import require_transcriber  # noqa: PLC0415  # imports numpy, which `--help` spares

    try:
        require_transcriber(transcriber)
    except TranscriberError as error:
        raise CommandError(f"--transcriber: {error}", EXIT_USAGE) from None


def token_says_nothing(where: Settings, meant: str = "of tenant default") -> None:
    """Say so to whoever has named a token, and no tenant, to a command that asks no gateway: whose tenant's it is, only one knows."""
    if where.token.get_secret_value():
        hint(
            f"this is {meant}: the log and the store are reached without the gateway, and UNDERTONE_TOKEN says nothing there; "
            "name a tenant with --tenant"
        )


def tenant_option(tenant: str, where: Settings) -> str:
    """How a command that asks the gateway is told the tenant, for a hint: not at all where it would take that one by itself."""
    return "" if tenant == "default" and not where.token.get_secret_value() else f" --tenant {tenant}"


def moment(option: str, written: str | None) -> str | None:
    """The value of an option that names a moment (ISO 8601), with its zone: where none is written, this machine's.

    Raises:
        CommandError: it is no date, with or without a time.
    """
    if written is None:
        return None
    try:
        return datetime.fromisoformat(written).astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        raise CommandError(
            f"{option} {written!r} is no moment; write 2026-11-21T08:00:00Z, or 2026-11-21", EXIT_USAGE
        ) from None


def since_ms(since: str | None) -> int:
    """The value of `--since` as ms since 1970; 0 when it is not given. Raises as `moment`."""
    at = moment("--since", since)
    return 0 if at is None else round(datetime.fromisoformat(at).timestamp() * 1000)


def reference_of(customer: str) -> str:
    """The value of `--customer`, or where that is `-` what is typed unseen, or the next line of standard input.

    Raises:
        CommandError: it is no reference; the message does not repeat it.
    """
    if customer == "-":
        is_typed = sys.stdin.isatty()
        customer = typer.prompt("Customer", hide_input=True, err=True) if is_typed else sys.stdin.readline()
    try:
        return parse_reference(customer)
    except BadFragmentError as error:
        raise CommandError(error.message_for("--customer"), EXIT_USAGE) from None
