"""Running a command in a test and reading what it printed."""

import json
from typing import Any

from typer.testing import CliRunner

from deployments.cli.main import app


def json_lines(cli: CliRunner, *words: str, exit_code: int = 0) -> list[dict[str, Any]]:
    """The objects that the command prints with `--json`, one a line."""
    done = cli.invoke(app, [*words, "--json"])
    assert done.exit_code == exit_code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]
