import json

import pytest
from typer.testing import CliRunner

from deployments.cli.console import stdout
from deployments.cli.doctor import Finding, table
from deployments.cli.main import app


def test_doctor_says_what_is_there_and_how_to_mend_what_is_not(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["doctor", "--json"])

    findings = {finding["name"]: finding for finding in map(json.loads, ended.stdout.splitlines())}
    assert findings["python"]["state"] == "ok"
    assert findings["kafka"]["state"] == "optional"
    assert findings["redis"]["found"].startswith("embedded, Valkey ")
    assert findings["gateway"]["mend"] == "undertone serve"
    missing = [name for name, finding in findings.items() if finding["state"] == "missing"]
    assert ended.exit_code == (1 if missing else 0)
    assert all(findings[name]["mend"] for name in missing)


def test_doctor_fails_when_the_redis_it_is_told_of_is_away(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_REDIS", "redis://127.0.0.1:9")

    ended = cli.invoke(app, ["doctor"])

    assert ended.exit_code == 1
    assert "redis" in ended.stderr
    assert "UNDERTONE_REDIS" in ended.stdout


def test_nothing_that_is_to_be_copied_is_cut_in_a_narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("UNDERTONE_COMMAND", "./undertone")
    path = "/a/long/path/" + "x" * 60
    console = stdout()
    with console.capture() as captured:
        console.print(table([Finding("disk", "missing", path, "undertone serve")]))
    assert captured.get().count("x") == 60
    assert "./undertone serve" in captured.get()
