"""The environment and the folder of a Ray of our own, and that Ray itself in an environment that speaks of another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.serve.local_ray import OF_A_CLUSTER, PRIVATE, has_dead_child, private_environment, private_folder

HELD = """
import sys
from deployments.serve.local_ray import private_folder
with private_folder() as folder:
    (folder / "note").write_text("words")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders are made, as in /tmp."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def test_the_environment_names_a_fresh_token_within_and_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray.example:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with private_environment():
        pass  # Ray is imported, which sets a variable of its own
    before, tokens = dict(os.environ), set()
    for _ in range(2):
        with private_environment():
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
            assert {name: os.environ[name] for name in PRIVATE} == PRIVATE
            assert not set(OF_A_CLUSTER) & set(os.environ)
            assert os.environ["MALLOC_ARENA_MAX"] == "7"
            assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert dict(os.environ) == before
    assert len(tokens - {"mine"}) == 2
    assert {len(token) for token in tokens} == {64}


def test_a_folder_is_its_users_alone_and_gone_at_the_end(base: Path) -> None:
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("words")
        with private_folder() as other:
            assert other != folder
            assert folder.exists()
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_at_the_next_start_and_nothing_else(base: Path) -> None:
    (base / "undertone-ray-file").write_text("no folder")
    precious = base / "precious"
    precious.mkdir()
    (base / "undertone-ray-link").symlink_to(precious)
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with private_folder():
            assert (left / "note").exists()  # its process lives
        process.kill()
    assert (left / "note").exists()
    with private_folder():
        assert not left.exists()
        assert precious.exists()
        assert (base / "undertone-ray-file").exists()


def test_folders_of_others_are_left_alone(base: Path) -> None:
    for name in ("undertone-fuzz", "undertone-backup", "undertone-chaos-x"):
        (base / name).mkdir()
        (base / name / "note").touch()
    with private_folder():
        pass
    assert {one.name for one in base.iterdir() if (one / "note").exists()} == {
        *("undertone-fuzz", "undertone-backup", "undertone-chaos-x")
    }


def test_a_child_that_has_died_is_seen_by_its_name() -> None:
    assert not has_dead_child("sleep")
    child = subprocess.Popen(["sleep", "0"])
    eventually_dead = time.monotonic() + 30
    while not has_dead_child("sleep"):
        assert time.monotonic() < eventually_dead
    child.wait()
    assert not has_dead_child("sleep")
