import pytest

from deployments.cli.console import EXIT_USAGE, CommandError
from deployments.cli.options import since_ms


def test_a_moment_is_counted_from_1970() -> None:
    assert since_ms(None) == 0
    assert since_ms("1970-01-01T00:00:01.5Z") == since_ms("1970-01-01T01:00:01.5+01:00") == 1_500


def test_what_is_no_moment_is_a_usage_error_with_an_example() -> None:
    with pytest.raises(CommandError, match="2026-11-21T08:00:00Z") as refused:
        since_ms("yesterday")
    assert refused.value.exit_code == EXIT_USAGE
