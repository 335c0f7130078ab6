import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.console import EXIT_NOT_FOUND
from deployments.cli.main import app
from deployments.sample import ANGRY_TO_CONTENT
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.deployments.cli.running import json_lines
from tests.deployments.results import keep, result


def leave_policies(redis_url: str) -> None:
    """As the live service does."""

    async def leave() -> None:
        store = Store.connect(redis_url)
        await store.service.set_tenants(AppConfig().tenants_text())
        await store.close()

    asyncio.run(leave())


def test_without_a_live_service_nobody_knows_what_may_be_replayed(redis_cli: CliRunner) -> None:
    done = redis_cli.invoke(app, ["replay", "--call", "c1"])
    assert done.exit_code == 1
    assert "policies" in done.stderr


@pytest.mark.slow  # loads the networks of the embedded bundle
@pytest.mark.timeout(600)
def test_two_replays_of_the_sample_call_are_compared(redis_cli: CliRunner, redis_url: str) -> None:
    leave_policies(redis_url)
    json_lines(redis_cli, "send", str(ANGRY_TO_CONTENT), "--participants", "agent,customer", "--call-id", "c1")
    for name in ("one", "two"):
        (done,) = json_lines(redis_cli, "replay", "--call", "c1", "--into", name)
        assert (done["run"], done["calls"]) == (name, 1)
        assert done["utterances"] >= 15
    replays = [(one["action"], one["call_id"], one["detail"]) for one in json_lines(redis_cli, "accesses")]
    assert replays == [("replay", "c1", "into run two"), ("replay", "c1", "into run one")]
    (found,) = json_lines(redis_cli, "compare", "one", "two")
    assert found["utterances"] >= 15
    assert (found["polarity_agreement"], found["score_difference_mean_absolute"], found["changed"]) == (1, 0, [])
    assert json_lines(redis_cli, "replay", "--call", "c1", "--into", "one")[0]["utterances"] == 0


def test_a_comparison_prints_where_the_runs_differ(redis_cli: CliRunner, redis_url: str) -> None:
    keep(redis_url, "a", [result(0, "nobody helps me", -2.0)])
    keep(redis_url, "a", [result(0, "nobody helps me", 1.5)], run="mine")
    printed = redis_cli.invoke(app, ["compare", "live", "mine"])
    assert printed.exit_code == 0, printed.output
    assert "negative -2.0" in printed.stdout
    assert "positive +1.5" in printed.stdout
    assert "nobody helps me" in printed.stdout
    (entry,) = json_lines(redis_cli, "accesses")
    assert (entry["action"], entry["call_id"], entry["detail"]) == ("read", "*", "comparison of run live with run mine")


@pytest.mark.parametrize("words", [["--call", "nosuch"], ["--since", "2999-01-01T00:00:00Z"]])
def test_a_replay_of_what_the_log_does_not_hold_ends_at_once_and_is_not_noted(
    redis_cli: CliRunner, analysed: str, words: list[str]
) -> None:
    leave_policies(analysed)
    done = redis_cli.invoke(app, ["replay", *words, "--into", "x"])
    assert (done.exit_code, done.stdout) == (EXIT_NOT_FOUND, "")
    assert "the log holds nothing" in done.stderr
    assert json_lines(redis_cli, "accesses") == []


@pytest.mark.slow  # loads the networks of the embedded bundle
@pytest.mark.timeout(600)
def test_a_replay_of_a_deleted_call_says_so(redis_cli: CliRunner, analysed: str) -> None:
    leave_policies(analysed)

    async def delete() -> None:
        store = Store.connect(analysed)
        assert await store.delete_call(CallRef("default", "c1"))
        await store.close()

    asyncio.run(delete())
    done = redis_cli.invoke(app, ["replay", "--call", "c1", "--into", "x"])
    assert (done.exit_code, done.stdout) == (EXIT_NOT_FOUND, "")
    assert "the call c1 was deleted" in done.stderr
    (all_calls,) = json_lines(redis_cli, "replay", "--since", "2000-01-01T00:00:00Z", "--into", "y")
    assert (all_calls["deleted"], all_calls["utterances"]) == (["c1"], 0)


def test_runs_that_share_no_call_are_not_found(redis_cli: CliRunner) -> None:
    done = redis_cli.invoke(app, ["compare", "live", "mine"])
    assert done.exit_code == EXIT_NOT_FOUND
    assert "undertone replay --into" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay"], "--call ID"),
        (["replay", "--call", "c1", "--into", "live"], "name of the live results"),
        (["replay", "--call", "c1", "--into", "no name!"], "gives no configuration"),
        (["replay", "--call", "c1", "--into", "x", "--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_replay_that_cannot_be_says_why(redis_cli: CliRunner, words: list[str], says: str) -> None:
    done = redis_cli.invoke(app, words)
    assert done.exit_code != 0
    assert says in done.stderr


def test_a_replay_keeps_the_consent_policies_of_the_file(redis_cli: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications:\n- args: {tenants: {shop: {consent: nonsense}}}\n")
    done = redis_cli.invoke(app, ["replay", "--call", "c1", "--into", "x", "--config", str(path)])
    assert done.exit_code == 2
    assert "consent" in done.stderr


def test_what_one_run_could_not_judge_is_seen_in_the_figures(redis_cli: CliRunner, redis_url: str) -> None:
    call = [result(number * 3_000, "a", 1.0) for number in range(300)]
    keep(redis_url, "c1", call)
    keep(redis_url, "c1", [result(0, "a", None), *call[1:]], run="mine")

    shown = redis_cli.invoke(app, ["compare", "live", "mine"]).stdout

    assert "99.6 %" in shown
    assert "100" not in shown.partition("changed")[0].partition("polarity agrees")[2].partition("\n")[0]
    assert "not judged" in shown
    assert "missing by a fault" in shown
    (found,) = json_lines(redis_cli, "compare", "live", "mine")
    assert (found["judged"], found["judged_only_in"], found["changed_polarity"]) == (299, [1, 0], 1)
    assert found["faults"] == [{"audio": {"timeout": 300}}] * 2
