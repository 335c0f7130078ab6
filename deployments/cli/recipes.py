"""`undertone recipes`: what can be trained."""

import typer

from deployments.cli.console import clear_errors, print_out, write_json
from deployments.cli.listing import Column, Listing
from deployments.cli.options import Json

commands = typer.Typer()


@commands.command(epilog="Examples: undertone recipes · undertone recipes --json")
@clear_errors
def recipes(*, as_json: Json = False) -> None:
    """List what `undertone train` can train, and whether it can be cross-validated (--folds)."""
    from models.recipes import FOLDS, RECIPES, described  # noqa: PLC0415  # imports torch

    rows = [{"recipe": name, "folds": name in FOLDS, "what": described(name)} for name in sorted(RECIPES)]
    if as_json:
        write_json(rows)
        return
    cells = ((str(row["recipe"]), "--folds" if row["folds"] else "", str(row["what"])) for row in rows)
    print_out(Listing((Column("recipe"), Column(""), Column("", below=True)), cells))
