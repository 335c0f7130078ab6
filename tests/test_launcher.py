"""`./undertone`, as a plain shell runs it: nothing on the PATH but the system, no home, from anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "UNDERTONE_URL": "http://127.0.0.1:9"}


def typed(name: str | Path, *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(name), *words]
    return subprocess.run(command, cwd=cwd, env=PLAIN, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that is not set up."""
    folder = tmp_path / "my checkout"
    folder.mkdir()
    shutil.copy2(ROOT / "undertone", folder)
    return folder


def set_up(checkout: Path) -> None:
    (checkout / ".venv").symlink_to(sys.prefix, target_is_directory=True)


def test_a_checkout_that_is_not_set_up_says_how(checkout: Path) -> None:
    done = typed("./undertone", "--version", cwd=checkout)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"make -C '{checkout}' setup" in done.stderr


def test_it_runs_from_any_folder_and_through_a_link_with_nothing_on_the_path(checkout: Path, tmp_path: Path) -> None:
    set_up(checkout)
    (tmp_path / "link").symlink_to(checkout / "undertone")

    for name, cwd in (("./undertone", checkout), (checkout / "undertone", Path("/")), ("./link", tmp_path)):
        done = typed(name, "--version", cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("undertone ")


def test_hints_and_examples_name_it_as_it_was_typed(checkout: Path) -> None:
    set_up(checkout)
    hint = typed("./undertone", "calls", cwd=checkout)
    usage = typed("./undertone", "calls", "--help", cwd=checkout)
    elsewhere = typed(checkout / "undertone", "calls", cwd=Path("/"))

    assert hint.returncode == 4
    assert "start one with `./undertone serve`" in hint.stderr
    assert "Usage: ./undertone calls" in usage.stdout
    assert "Examples: ./undertone calls" in usage.stdout
    assert f"start one with `'{checkout}/undertone' serve`" in elsewhere.stderr


def test_an_installed_wheel_names_it_as_it_is_on_the_path() -> None:
    environment = {**PLAIN, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{PLAIN['PATH']}"}
    done = subprocess.run(["undertone", "calls"], env=environment, capture_output=True, text=True, check=False)
    assert "start one with `undertone serve`" in done.stderr
