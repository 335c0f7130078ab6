import asyncio
import getpass
import json
import os
import pwd
import socket

import pytest
import redis
from typer.testing import CliRunner

from deployments.cli.main import app
from pipelines.store.chain import ALL_CALLS, Action, CallAccess
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.deployments.cli.running import json_lines

KEPT_S = 86_400
EVIL = "subject:\x1b[2J\u202eevil"


@pytest.fixture
def trail(redis_url: str) -> str:
    """The URL of a Redis in which somebody did something with three calls, and another tenant with one."""

    async def leave() -> None:
        store = Store.connect(redis_url)
        did: tuple[tuple[Action, str, str], ...] = (
            ("read", "a", "token:1"),
            ("watch", ALL_CALLS, "token:2"),
            ("delete", "b", EVIL),
        )
        for action, call_id, who in did:
            await store.accesses.note(CallAccess(action, CallRef("default", call_id), who, "192.0.2.7", "what"), KEPT_S)
        await store.accesses.note(CallAccess("forget", CallRef("acme", "a"), "token:3", "192.0.2.8"), KEPT_S)
        await store.close()

    asyncio.run(leave())
    return redis_url


def test_accesses_are_listed_by_call_and_tenant_the_latest_first(redis_cli: CliRunner, trail: str) -> None:
    assert trail
    assert [(one["action"], one["call_id"]) for one in json_lines(redis_cli, "accesses")] == [
        *(("delete", "b"), ("watch", "*"), ("read", "a"))
    ]
    of_a = json_lines(redis_cli, "accesses", "--call", "a")
    assert [(one["action"], one["who"], one["origin"]) for one in of_a] == [
        *(("watch", "token:2", "192.0.2.7"), ("read", "token:1", "192.0.2.7"))
    ]
    assert [one["action"] for one in json_lines(redis_cli, "accesses", "--tenant", "acme")] == ["forget"]
    assert [one["number"] for one in json_lines(redis_cli, "accesses", "--limit", "2")] == [3, 2]
    assert json_lines(redis_cli, "accesses", "--since", "2999-01-01T00:00:00Z") == []


def test_what_others_wrote_steers_no_terminal(redis_cli: CliRunner, trail: str) -> None:
    assert trail
    shown = redis_cli.invoke(app, ["accesses"])
    as_json = redis_cli.invoke(app, ["accesses", "--json"])
    assert shown.exit_code == 0
    for part in ("192.0.2.7", "token:1", "watch", "*", "what", "evil"):
        assert part in shown.stdout
    for printed in (shown.stdout, as_json.stdout):
        assert all(letter.isprintable() for letter in printed.replace("\n", ""))
    assert json.loads(as_json.stdout.splitlines()[0])["who"] == EVIL


def test_a_trail_without_such_an_access_says_so(redis_cli: CliRunner) -> None:
    shown = redis_cli.invoke(app, ["accesses", "--tenant", "nobody"])
    assert shown.exit_code == 0
    assert "nobody" in shown.stderr


def test_a_whole_trail_is_verified_and_its_noted_head_found_again(redis_cli: CliRunner, trail: str) -> None:
    (report,) = json_lines(redis_cli, "accesses", "--verify")
    assert report["whole"]
    assert report["entries"] == 3
    (again,) = json_lines(redis_cli, "accesses", "--verify", "--expect", report["head"])
    assert again["expected"] == "contained"
    printed = redis_cli.invoke(app, ["accesses", "--verify"])
    assert printed.exit_code == 0
    assert report["head"] in printed.stdout
    with redis.Redis.from_url(trail) as server:
        server.delete("ut:accesses:{default}:head", "ut:accesses:{default}:entries")
    (anew,) = json_lines(redis_cli, "accesses", "--verify", "--expect", report["head"], exit_code=1)
    assert (anew["expected"], anew["findings"]) == ("not_contained", [])
    assert "NOT part" in redis_cli.invoke(app, ["accesses", "--verify", "--expect", report["head"]]).stdout


def test_a_trail_that_is_not_there_is_not_whole(redis_cli: CliRunner) -> None:
    printed = redis_cli.invoke(app, ["accesses", "--verify", "--tenant", "nobody"])
    assert printed.exit_code == 3
    assert "there is no trail" in printed.stdout
    assert "nothing was altered" not in printed.stdout
    (report,) = json_lines(redis_cli, "accesses", "--verify", "--tenant", "nobody", exit_code=3)
    assert not report["whole"]


def test_a_trail_from_which_something_was_removed_ends_with_1(redis_cli: CliRunner, trail: str) -> None:
    with redis.Redis.from_url(trail) as server:
        server.xdel("ut:accesses:{default}:entries", server.xrange("ut:accesses:{default}:entries")[1][0])
    (report,) = json_lines(redis_cli, "accesses", "--verify", exit_code=1)
    assert [(one["kind"], one["number"]) for one in report["findings"]] == [("removed", 2)]
    printed = redis_cli.invoke(app, ["accesses", "--verify"])
    assert printed.exit_code == 1
    assert "removed" in printed.stdout


def test_entries_that_cannot_be_read_are_pointed_at(redis_cli: CliRunner, trail: str) -> None:
    with redis.Redis.from_url(trail) as server:
        server.xadd("ut:accesses:{default}:entries", {"entry": "nonsense"})
    listed = redis_cli.invoke(app, ["accesses"])
    assert "--verify" in listed.stderr
    assert "token:1" in listed.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--expect", "5:" + "a" * 64], "--verify"),
        (["--verify", "--expect", "5120"], "NUMBER:HASH"),
        (["--since", "yesterday"], "2026-11-21T08:00:00Z"),
    ],
)
def test_a_wrong_question_says_how_to_ask(redis_cli: CliRunner, words: list[str], says: str) -> None:
    done = redis_cli.invoke(app, ["accesses", *words])
    assert done.exit_code == 2
    assert says in done.stderr


def test_what_is_done_with_dead_letters_is_noted_and_a_dry_run_or_a_list_is_not(
    redis_cli: CliRunner, analysed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert analysed
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):  # which anybody may set
        monkeypatch.setenv(name, "somebody else")
    assert getpass.getuser() == "somebody else"
    json_lines(redis_cli, "dlq", "list")
    json_lines(redis_cli, "dlq", "redrive", "--dry-run")
    json_lines(redis_cli, "dlq", "drop", "--dry-run")
    json_lines(redis_cli, "audit")
    assert json_lines(redis_cli, "accesses") == []
    json_lines(redis_cli, "dlq", "show", "0:2")
    json_lines(redis_cli, "dlq", "redrive")
    json_lines(redis_cli, "dlq", "drop")
    noted = json_lines(redis_cli, "accesses")
    assert [(one["action"], one["call_id"], one["detail"]) for one in noted] == [
        ("drop", "c1", "dead letter 0:5"),
        ("redrive", "c1", "dead letter 0:2"),
        ("read", "c1", "dead letter 0:2"),
    ]
    user = f"user:{pwd.getpwuid(os.getuid()).pw_name}"
    assert {(one["who"], one["origin"]) for one in noted} == {(user, f"command line on {socket.gethostname()}")}


def test_what_cannot_be_noted_is_not_done(redis_cli: CliRunner, analysed: str) -> None:
    with redis.Redis.from_url(analysed) as server:
        server.config_set("maxmemory", 1)
        try:
            for words in (["show", "0:2"], ["redrive"], ["drop"]):
                done = redis_cli.invoke(app, ["dlq", *words])
                assert (done.exit_code, done.stdout) == (4, "")
        finally:
            server.config_set("maxmemory", 0)
        assert server.xlen("ut:log:{call-media}") == 6
    assert len(json_lines(redis_cli, "dlq", "list")) == 2


def test_the_command_line_keeps_a_trail_as_long_as_the_live_service_says(redis_cli: CliRunner, analysed: str) -> None:
    with redis.Redis.from_url(analysed) as server:
        server.set("ut:tenants", '{"default": {"accesses_ttl_s": 864000}}')
        json_lines(redis_cli, "dlq", "drop")
        assert round(server.ttl("ut:accesses:{default}:entries") / 86_400) == 10
