import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.http.tokens import ALL_SCOPES, FILE_MAX_BYTES, Scope, TokenFile, new_token
from pipelines.errors import TokenFileError

NOW = datetime.now(UTC)
READ: frozenset[Scope] = frozenset({"read"})


def test_a_token_is_found_by_itself_alone_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("acme", READ)
    other, _ = new_token("acme", READ)
    file.add(grant)

    assert file.find(token, NOW) == grant
    kind, token_id, secret = token.split("_")
    for wrong in (
        other,
        "",
        "ut",
        f"ut_{token_id}",
        f"ut_{token_id}_",
        f"no_{token_id}_{secret}",
        f"{token}0",
        token[:-1],
    ):
        assert file.find(wrong, NOW) is None
    assert kind == "ut"
    assert secret not in file.path.read_text()
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_token_is_taken_until_it_expires_or_is_revoked(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("acme", READ, NOW + timedelta(hours=1))
    lasting, other = new_token("acme", ALL_SCOPES)
    file.add(grant)
    file.add(other)

    assert file.find(token, NOW) == grant
    assert file.find(token, NOW + timedelta(hours=1)) is None
    assert file.revoke(other.id)
    assert not file.revoke(other.id)
    assert file.find(lasting, NOW) is None
    assert file.find(token, NOW) == grant


def test_a_running_service_sees_what_another_process_writes(tmp_path: Path) -> None:
    serving, writing = TokenFile(tmp_path / "tokens"), TokenFile(tmp_path / "tokens")
    token, grant = new_token("acme", READ)
    with pytest.raises(TokenFileError, match="cannot be read"):
        serving.find(token, NOW)
    writing.add(grant)
    assert serving.find(token, NOW) == grant
    writing.revoke(grant.id)
    assert serving.find(token, NOW) is None


def test_tokens_made_at_once_are_all_kept(tmp_path: Path) -> None:
    grants = [new_token("acme", READ)[1] for _ in range(20)]
    threads = [threading.Thread(target=TokenFile(tmp_path / "tokens").add, args=(grant,)) for grant in grants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(TokenFile(tmp_path / "tokens").grants()) == {grant.id for grant in grants}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}\n", "line 1"),
        (b"\n\nnonsense\n", "line 3"),
        (b'{"id": "0123456789ab", "sha256": "00", "scopes": ["read"], "created_at": "2026-01-01T00:00:00Z"}', "sha256"),
        (b"\xff\xfe\x00", "line 1"),
        (b" " * (FILE_MAX_BYTES + 1), "more than"),
    ],
)
def test_a_file_that_is_none_lets_nobody_in_and_says_where_it_is_wrong(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)

    with pytest.raises(TokenFileError, match=said):
        TokenFile(path).find(new_token("acme", READ)[0], NOW)


@pytest.mark.parametrize("tenant", ["", "a/b", "**", "a" * 65, "a\n"])
def test_a_tenant_that_is_no_name_gets_no_token(tenant: str) -> None:
    with pytest.raises(ValidationError):
        new_token(tenant, READ)
