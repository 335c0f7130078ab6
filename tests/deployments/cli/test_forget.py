import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.console import EXIT_NOT_FOUND
from deployments.cli.main import app
from deployments.http.customers import CALLS_AT_ONCE_MAX
from deployments.http.receipts import Receipt
from deployments.http.tokens import TokenFile, new_token
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.deployments.cli.running import gateway_of, json_lines
from tests.deployments.results import keep, result

REFERENCE = "Zo\u00eb /47110815"


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CliRunner]:
    """A command line, with a token that may delete; a customer has the calls a and b, and nobody c."""
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("default", frozenset({"delete"}))
    file.add(grant)
    monkeypatch.setenv("UNDERTONE_TOKEN", token)
    for call_id, count in (("a", 2), ("b", 1), ("c", 1)):
        keep(redis_url, call_id, [result(at * 1000, "hello", 1.0) for at in range(count)])
    note(redis_url, "a", "b")
    with gateway_of(redis_url, file) as url:
        monkeypatch.setenv("UNDERTONE_URL", url)
        yield CliRunner()


def note(redis_url: str, *call_ids: str) -> None:
    async def noted() -> None:
        store = Store.connect(redis_url)
        customer = await store.customers.hash("default", REFERENCE)
        for call_id in call_ids:
            await store.customers.note(CallRef("default", call_id), customer)
        await store.close()

    asyncio.run(noted())


def stored(redis_url: str) -> set[str]:
    async def found() -> set[str]:
        store = Store.connect(redis_url)
        calls = [name for name in "abc" if await store.archive.call(CallRef("default", name))]
        await store.close()
        return set(calls)

    return asyncio.run(found())


def actions(redis_url: str) -> list[str]:
    """What the trail of accesses says was done."""

    async def noted() -> list[str]:
        store = Store.connect(redis_url)
        page = await store.accesses.page("default")
        await store.close()
        return [entry.action for entry in page.items]

    return asyncio.run(noted())


def test_a_dry_run_says_what_would_go(cli: CliRunner, redis_url: str) -> None:
    ended = cli.invoke(app, ["forget", "--customer", REFERENCE, "--dry-run"])

    assert ended.exit_code == 0
    assert "2 calls would go; nothing was forgotten" in ended.stdout
    (plan,) = json_lines(cli, "forget", "--customer", REFERENCE, "--dry-run")
    assert {one["call_id"]: one["utterances"] for one in plan["calls"]} == {"a": 2, "b": 1}
    assert stored(redis_url) == {"a", "b", "c"}


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_who_does_not_say_yes_forgets_nobody(cli: CliRunner, redis_url: str, answer: str) -> None:
    for words in (["--customer", REFERENCE], ["--call", "a"]):
        ended = cli.invoke(app, ["forget", *words], input=answer)
        assert ended.exit_code == 1
        assert "forgotten" not in ended.stdout
        assert "--yes forgets without asking" in ended.stderr
        assert stored(redis_url) == {"a", "b", "c"}


def test_a_customer_is_forgotten_after_a_yes_and_the_receipt_names_nobody(cli: CliRunner, redis_url: str) -> None:
    ended = cli.invoke(app, ["forget", "--customer", "-"], input=f"{REFERENCE}\ny\n")

    assert ended.exit_code == 0, ended.output
    assert "Forget 2 calls" in ended.stderr
    assert "forgotten: 2 calls, 3 utterances" in ended.stdout
    assert "sha256" in ended.stdout
    assert "47110815" not in ended.output
    assert stored(redis_url) == {"c"}


def test_a_customer_of_many_calls_is_forgotten_with_a_receipt_a_request(cli: CliRunner, redis_url: str) -> None:
    note(redis_url, *(f"call-{number}" for number in range(CALLS_AT_ONCE_MAX)))

    receipts = [Receipt.model_validate(one) for one in json_lines(cli, "forget", "--customer", REFERENCE, "--yes")]

    assert [(len(one.calls), one.remaining) for one in receipts] == [(CALLS_AT_ONCE_MAX, 2), (2, 0)]
    assert sum(one.utterances for one in receipts) == 3
    assert all(one.digest == one.expected_digest() for one in receipts)
    assert stored(redis_url) == {"c"}


def test_a_customer_whom_nobody_knows_gets_a_receipt_without_a_question(cli: CliRunner) -> None:
    ended = cli.invoke(app, ["forget", "--customer", "nobody"])

    assert ended.exit_code == 0
    assert "forgotten: 0 calls, 0 utterances" in ended.stdout


def test_one_call_is_forgotten(cli: CliRunner, redis_url: str) -> None:
    plan = cli.invoke(app, ["forget", "--call", "a", "--dry-run"])
    assert "1 call would go; nothing was forgotten" in plan.stdout
    assert plan.stdout.splitlines()[1].split() == ["a", "2"]
    assert stored(redis_url) == {"a", "b", "c"}

    (done,) = json_lines(cli, "forget", "--call", "a", "--yes")

    receipt = Receipt.model_validate(done)
    assert (receipt.dry_run, receipt.utterances, receipt.digest) == (False, 2, receipt.expected_digest())
    assert stored(redis_url) == {"b", "c"}
    again = cli.invoke(app, ["forget", "--call", "a", "--yes"])
    assert again.exit_code == EXIT_NOT_FOUND
    assert "The call 'a' of tenant 'default' was deleted" in again.stderr
    (rest,) = json_lines(cli, "forget", "--customer", REFERENCE, "--dry-run")
    assert [one["call_id"] for one in rest["calls"]] == ["b"]


def test_a_call_that_no_worker_has_opened_is_forgotten(cli: CliRunner, redis_url: str) -> None:
    note(redis_url, "d")  # its sender has said whose it is, and nothing has read its fragments
    (plan,) = json_lines(cli, "forget", "--call", "d", "--dry-run")
    (done,) = json_lines(cli, "forget", "--call", "d", "--yes")

    assert (plan["calls"], plan["dry_run"]) == ([{"call_id": "d", "utterances": 0}], True)
    assert (done["calls"], done["dry_run"]) == (plan["calls"], False)
    assert "was deleted" in cli.invoke(app, ["forget", "--call", "d", "--yes"]).stderr


def test_delete_is_forget_by_another_name(cli: CliRunner, redis_url: str) -> None:
    plan = cli.invoke(app, ["delete", "a", "--dry-run"])
    assert plan.stdout == cli.invoke(app, ["forget", "--call", "a", "--dry-run"]).stdout
    asked = cli.invoke(app, ["delete", "a"], input="y\n")
    assert asked.exit_code == 0
    assert "forgotten: 1 call, 2 utterances" in asked.stdout
    assert "sha256" in asked.stdout
    assert stored(redis_url) == {"b", "c"}
    assert cli.invoke(app, ["delete", "nosuch", "--yes"]).exit_code == EXIT_NOT_FOUND


def test_a_dry_run_leaves_no_entry_and_forgetting_one(cli: CliRunner, redis_url: str) -> None:
    json_lines(cli, "forget", "--call", "a", "--dry-run")
    json_lines(cli, "forget", "--customer", REFERENCE, "--dry-run")
    assert actions(redis_url) == []
    json_lines(cli, "forget", "--call", "a", "--yes")
    assert actions(redis_url) == ["delete"]


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        ([], 2, "--customer REFERENCE"),
        (["--customer", "47110815", "--call", "a"], 2, "--customer REFERENCE"),
        (["--customer", "47110815\x1b"], 2, "256 bytes"),
        (["--customer", ""], 2, "256 bytes"),
        (["--customer", "47110815", "--tenant", "acme"], 1, "tenant 'default'"),
    ],
)
def test_what_cannot_be_done_is_one_line_without_the_reference(
    cli: CliRunner, words: list[str], exit_code: int, said: str
) -> None:
    ended = cli.invoke(app, ["forget", *words])

    assert ended.exit_code == exit_code
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "47110815" not in ended.output


def test_a_token_that_may_not_delete_forgets_nobody(
    cli: CliRunner, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, grant = new_token("default", frozenset({"read"}))
    TokenFile(tmp_path / "tokens").add(grant)
    monkeypatch.setenv("UNDERTONE_TOKEN", token)
    for words in (["--customer", REFERENCE], ["--call", "a"]):
        ended = cli.invoke(app, ["forget", *words, "--yes"])
        assert ended.exit_code == 1
        assert "delete" in ended.stderr
    assert stored(redis_url) == {"a", "b", "c"}
