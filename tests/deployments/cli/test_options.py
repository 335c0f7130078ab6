from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.console import EXIT_NOT_FOUND, EXIT_USAGE, CommandError
from deployments.cli.main import app
from deployments.cli.options import require_named, since_ms
from deployments.sample import ANGRY_TO_CONTENT


def test_a_moment_is_counted_from_1970() -> None:
    assert since_ms(None) == 0
    assert since_ms("1970-01-01T00:00:01.5Z") == since_ms("1970-01-01T01:00:01.5+01:00") == 1_500


def test_what_is_no_moment_is_a_usage_error_with_an_example() -> None:
    with pytest.raises(CommandError, match="2026-11-21T08:00:00Z") as refused:
        since_ms("yesterday")
    assert refused.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("words", [["serve"], ["analyze", str(ANGRY_TO_CONTENT)], ["replay", "--call", "a"]])
def test_a_transcriber_that_is_none_is_named_before_anything_starts(cli: CliRunner, words: list[str]) -> None:
    ended = cli.invoke(app, [*words, "--transcriber", "nonsense"])

    assert ended.exit_code == EXIT_USAGE
    assert "no transcriber 'nonsense'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_transcriber_is_a_name_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.pt").touch()
    for name in ("base", "tiny.en", "small.en", str(tmp_path / "own.pt")):
        require_named(name)
    for name in ("nonsense", str(tmp_path), str(tmp_path / "another.pt"), ""):
        with pytest.raises(CommandError, match="--transcriber"):
            require_named(name)


def test_a_bundle_that_is_not_there_is_not_found(cli: CliRunner, tmp_path: Path) -> None:
    ended = cli.invoke(app, ["analyze", str(ANGRY_TO_CONTENT), "--bundle", str(tmp_path / "mine")])

    assert ended.exit_code == EXIT_NOT_FOUND
    assert "mine" in ended.stderr
