"""`undertone token`: who may ask the gateway."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from deployments.cli.console import (
    EXIT_NOT_FOUND,
    EXIT_USAGE,
    CommandError,
    clear_errors,
    hint,
    print_out,
    settings,
    write_json,
)
from deployments.cli.listing import Column, Listing
from deployments.cli.options import Json
from deployments.http.tokens import ALL_SCOPES, ANY_TENANT, Scope, TokenFile, new_token

commands = typer.Typer(
    help="Make, list and revoke the tokens with which the gateway is asked.",
    epilog="Examples: undertone token create --tenant acme --scope read --days 90 --file tokens.jsonl · "
    "undertone token list --file tokens.jsonl",
    no_args_is_help=True,
)

File = Annotated[Path | None, typer.Option(help="The file of tokens; by default UNDERTONE_TOKENS.")]


@commands.command(
    epilog="Examples: undertone token create --tenant acme --scope read --scope send --days 90 · "
    "undertone token create --file tokens.jsonl --scope operate --note prometheus"
)
@clear_errors
def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whose calls; `*` is those of any tenant.")] = "default",
    scope: Annotated[list[str], typer.Option(help=f"{', '.join(sorted(ALL_SCOPES))}; repeat it.")],
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Taken for so long; without it for ever.")
    ] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    file: File = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it, once: the file keeps its hash."""
    scopes = _scopes(scope)
    try:
        expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
        token, grant = new_token(tenant, scopes, expires_at, note)
    except (ValueError, OverflowError) as error:
        if not isinstance(error, ValidationError):
            raise CommandError(f"--days {days}: {error}", EXIT_USAGE) from error
        wrong = "; ".join(f"--{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise CommandError(wrong, EXIT_USAGE) from error
    _file(file).add(grant)
    if as_json:
        write_json([{**grant.model_dump(mode="json", exclude={"sha256"}), "token": token}])
    else:
        print_out(token)
        whose = "any tenant" if tenant == ANY_TENANT else f"tenant {tenant}"
        hint(
            f"for {whose}: {', '.join(sorted(scopes))}; it is shown this once, and revoked by: "
            f"undertone token revoke {grant.id}{_option(file)}"
        )


@commands.command("list", epilog="Example: undertone token list --json")
@clear_errors
def list_(*, file: File = None, as_json: Json = False) -> None:
    """List what the tokens allow, without the tokens."""
    grants = sorted(_file(file).grants().values(), key=lambda one: one.created_at)
    if as_json:
        write_json(grant.model_dump(mode="json", exclude={"sha256"}) for grant in grants)
        return
    now = datetime.now(UTC)
    rows = []
    for one in grants:
        until = "-" if one.expires_at is None else f"{one.expires_at:%Y-%m-%d %H:%M}"
        expired = " (expired)" if one.expired(now) else ""
        scopes = " ".join(sorted(one.scopes))
        rows.append((one.id, one.tenant, f"{one.created_at:%Y-%m-%d}", until + expired, scopes, one.note))
    below = (Column("scopes", below=True), Column("note", below=True))
    print_out(Listing((Column("id"), Column("tenant"), Column("made"), Column("until"), *below), rows))


@commands.command(epilog="Example: undertone token revoke 3f9a1c20b7de")
@clear_errors
def revoke(
    token_id: Annotated[str, typer.Argument(help="As `undertone token list` shows it.")],
    *,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Take a token back: a running gateway refuses it from its next request on."""
    if not _file(file).revoke(token_id):
        raise CommandError(f"there is no token {token_id}: undertone token list{_option(file)}", EXIT_NOT_FOUND)
    if as_json:
        write_json([{"id": token_id, "revoked": True}])
    else:
        print_out(f"{token_id} is revoked")


def _option(file: Path | None) -> str:
    """What has to be said again for another command to mean the same file."""
    return "" if file is None else f" --file {shlex.quote(str(file))}"


def _file(path: Path | None) -> TokenFile:
    chosen = path or settings().tokens
    if chosen is None:
        raise CommandError("name the file of tokens: --file tokens.jsonl, or UNDERTONE_TOKENS=tokens.jsonl", EXIT_USAGE)
    return TokenFile(chosen)


def _scopes(names: list[str]) -> frozenset[Scope]:
    found: frozenset[Scope] = frozenset(one for one in ALL_SCOPES if one in names)
    unknown = sorted(set(names) - ALL_SCOPES)
    if unknown:
        raise CommandError(f"--scope {unknown[0]}: one of {', '.join(sorted(ALL_SCOPES))}", EXIT_USAGE)
    return found
