import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.http.tokens import ALL_SCOPES, Scope, TokenFile, new_token
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
        (b"\n" * ((1 << 20) + 1), "more than"),
    ],
)
def test_a_file_that_is_none_lets_nobody_in_and_says_where_it_is_wrong(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)

    with pytest.raises(TokenFileError, match=said):
        TokenFile(path).find(new_token("acme", READ)[0], NOW)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_told_at_once_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "tokens")
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("acme", READ)
    for ask in (lambda: file.find(token, NOW), lambda: file.add(grant), lambda: file.revoke(grant.id)):
        with pytest.raises(TokenFileError, match=r"is no file|Is a directory"):
            ask()


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    link, target = tmp_path / "tokens", tmp_path / "elsewhere" / "own"
    target.parent.mkdir()
    link.symlink_to(target)
    token, grant = new_token("acme", READ)
    _, other = new_token("acme", READ)
    TokenFile(link).add(grant)
    TokenFile(link).add(other)
    assert TokenFile(link).revoke(other.id)
    assert link.readlink() == target
    assert TokenFile(target).find(token, NOW) == grant
    assert {one.name for one in tmp_path.iterdir()} == {"tokens", "elsewhere"}

    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(TokenFileError, match="cannot be written"):
        TokenFile(tmp_path / "circle").add(grant)


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".tokens.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(TokenFileError, match=r"cannot be written: .*\.tokens\.lock"):
        TokenFile(tmp_path / "tokens").add(new_token("acme", READ)[1])
    assert not (tmp_path / "precious").exists()


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens")
    _, grant = new_token("acme", READ)
    file.add(grant)
    line = file.path.read_text()
    many = [f"{number:012x}" for number in range((1 << 20) // len(line))]
    file.path.write_text("".join(line.replace(grant.id, token_id) for token_id in many))
    before = file.path.read_bytes()
    with pytest.raises(TokenFileError, match="revoke tokens"):
        file.add(grant)
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("tenant", ["", "a/b", "**", "a" * 65, "a\n"])
def test_a_tenant_that_is_no_name_gets_no_token(tenant: str) -> None:
    with pytest.raises(ValidationError):
        new_token(tenant, READ)
