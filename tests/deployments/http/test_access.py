from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.http.access import CLIENTS_MAX, FAILURES_MAX, FAILURES_WINDOW_S, Grantee, TokenAccess
from deployments.http.problems import ProblemError
from deployments.http.tokens import ALL_SCOPES, Scope, TokenFile, new_token
from pipelines.settings import Settings

READ: frozenset[Scope] = frozenset({"read"})


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


async def refusal(access: TokenAccess, token: str | None, client: str = "10.0.0.1") -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        await access.grantee(token, client)
    return refused.value


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens")


async def test_a_token_says_who_asks_for_whom(file: TokenFile) -> None:
    token, grant = new_token("acme", READ)
    file.add(grant)

    assert await TokenAccess(file, None).grantee(token, "10.0.0.1") == Grantee(f"token:{grant.id}", "acme", READ)


async def test_without_a_token_or_with_a_wrong_one_nobody_is_let_in(file: TokenFile) -> None:
    file.add(new_token("acme", READ)[1])
    access = TokenAccess(file, None)

    none, wrong = await refusal(access, None), await refusal(access, new_token("acme", ALL_SCOPES)[0])

    assert (none.status, none.reason, wrong.status, wrong.reason) == (401, "no_token", 401, "bad_token")
    assert "undertone token create" in none.detail
    assert none.headers is not None
    assert none.headers["WWW-Authenticate"].startswith("Bearer")


async def test_where_no_tokens_are_named_nobody_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERTONE_TOKENS", raising=False)
    access = TokenAccess.of(Settings())

    for token in (None, new_token("acme", ALL_SCOPES)[0], "ey.j.wt", ""):
        assert (await refusal(access, token)).status == 401


async def test_whoever_guesses_has_to_wait_and_a_right_token_is_taken_all_the_same(file: TokenFile) -> None:
    good, grant = new_token("acme", READ)
    file.add(grant)
    clock = Clock()
    access = TokenAccess(file, None, clock)
    for _ in range(FAILURES_MAX):
        assert (await refusal(access, "ut_guess")).status == 401

    refused = await refusal(access, "ut_guess")
    assert (refused.status, refused.reason) == (429, "too_many_failures")
    assert (await access.grantee(good, "10.0.0.1")).tenant == "acme"
    assert (await refusal(access, "ut_guess", "10.0.0.2")).status == 401
    clock.now_s = FAILURES_WINDOW_S + 1
    assert (await refusal(access, "ut_guess")).status == 401


async def test_failures_of_many_clients_take_bounded_memory(file: TokenFile) -> None:
    file.add(new_token("acme", READ)[1])
    access = TokenAccess(file, None)
    for number in range(CLIENTS_MAX + 10):
        await refusal(access, "ut_guess", f"client-{number}")

    assert len(access._failures) == CLIENTS_MAX


def test_a_token_serves_its_tenant_and_its_scopes() -> None:
    own, any_tenant = Grantee("a", "acme", READ), Grantee("b", "*", ALL_SCOPES)

    assert [own.tenant_of(None), own.tenant_of("acme")] == ["acme", "acme"]
    assert [any_tenant.tenant_of(None), any_tenant.tenant_of("acme")] == ["default", "acme"]
    with pytest.raises(ProblemError) as other:
        own.tenant_of("rival")
    with pytest.raises(ProblemError) as more:
        own.require(["delete"])
    own.require(["read"])
    assert (other.value.status, other.value.reason) == (403, "wrong_tenant")
    assert (more.value.status, more.value.reason) == (403, "insufficient_scope")
