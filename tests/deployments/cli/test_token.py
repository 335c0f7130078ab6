import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.http.tokens import ALL_SCOPES, TokenFile
from tests.deployments.cli.running import json_lines


def test_a_token_is_made_listed_and_revoked(cli: CliRunner, tmp_path: Path) -> None:
    file = str(tmp_path / "tokens")
    (made,) = json_lines(cli, "token", "create", "--tenant", "acme", "--scope", "read", "--days", "90", "--file", file)

    now = datetime.now(UTC)
    grant = TokenFile(tmp_path / "tokens").find(made["token"], now)
    assert grant is not None
    assert (grant.tenant, grant.scopes) == ("acme", frozenset({"read"}))
    assert grant.expires_at is not None
    assert 89 < (grant.expires_at - now).days + 1 <= 91
    (listed,) = json_lines(cli, "token", "list", "--file", file)
    assert listed == {name: value for name, value in made.items() if name != "token"}
    assert "acme" in cli.invoke(app, ["token", "list", "--file", file]).stdout
    assert cli.invoke(app, ["token", "revoke", made["id"], "--file", file]).exit_code == 0
    assert TokenFile(tmp_path / "tokens").find(made["token"], now) is None


def test_a_token_is_printed_alone(cli: CliRunner, tmp_path: Path) -> None:
    every = [word for scope in ALL_SCOPES for word in ("--scope", scope)]
    done = cli.invoke(app, ["token", "create", *every, "--file", str(tmp_path / "tokens")])

    grant = TokenFile(tmp_path / "tokens").find(done.stdout.strip(), datetime.now(UTC))
    assert grant is not None
    assert (grant.tenant, grant.scopes, grant.expires_at) == ("default", ALL_SCOPES, None)


def test_the_hint_how_to_revoke_a_token_can_be_typed_as_it_is(cli: CliRunner, tmp_path: Path) -> None:
    made = cli.invoke(app, ["token", "create", "--scope", "read", "--file", str(tmp_path / "my tokens")])
    words = shlex.split(made.stderr.partition("revoked by: undertone ")[2])

    assert cli.invoke(app, words).exit_code == 0
    assert cli.invoke(app, ["token", "list", "--file", str(tmp_path / "gone")]).exit_code == 3
    again = cli.invoke(app, words)
    assert again.exit_code == 3
    assert f"undertone token list --file '{tmp_path}/my tokens'" in again.stderr


def test_the_environment_names_the_file(cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_TOKENS", str(tmp_path / "tokens"))

    assert cli.invoke(app, ["token", "create", "--scope", "read"]).exit_code == 0
    assert len(json_lines(cli, "token", "list")) == 1


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["create", "--scope", "read"], 2, "UNDERTONE_TOKENS"),
        (["create", "--file", "gone"], 2, "--scope"),
        (["create", "--file", "gone", "--scope", "read", "--days", "nan"], 2, "--days"),
        (["create", "--file", "gone", "--scope", "everything"], 2, "--scope everything"),
        (["create", "--file", "gone", "--scope", "read", "--tenant", "a/b"], 2, "--tenant"),
        (["list", "--file", "gone"], 3, "gone"),
        (["revoke", "000000000000", "--file", "gone"], 3, "gone"),
        (["create", "--file", "/proc/tokens", "--scope", "read"], 3, "/proc"),
    ],
)
def test_what_cannot_be_done_is_said(cli: CliRunner, words: list[str], exit_code: int, said: str) -> None:
    done = cli.invoke(app, ["token", *words])

    assert done.exit_code == exit_code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_revoked_token_is_said_as_json_too(cli: CliRunner, tmp_path: Path) -> None:
    file = ["--file", str(tmp_path / "tokens")]
    (made,) = map(
        json.loads, cli.invoke(app, ["token", "create", "--scope", "read", "--json", *file]).stdout.splitlines()
    )

    revoked = cli.invoke(app, ["token", "revoke", made["id"], "--json", *file])

    assert json.loads(revoked.stdout) == {"id": made["id"], "revoked": True}
