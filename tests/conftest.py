"""What every test may ask for, and the one rule for what a machine lacks: skip and say so, or fail when all is required."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

pytest_plugins = ["tests.servers"]

# As in the Makefile: where it is set, every one of Ray's processes compiles torch anew, and a start takes twice as long.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# xdist tells its workers how wide the terminal is; what goes into a pipe is as wide as the command line makes it.
os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test come first: of two processes neither is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def missing(reason: str) -> NoReturn:
    """Skips the running test, or fails it under `UNDERTONE_REQUIRE=all`; `reason` says what is missing and how to get it."""
    if os.environ.get("UNDERTONE_REQUIRE") == "all":
        pytest.fail(f"required but missing: {reason}", pytrace=False)
    pytest.skip(f"skipped: {reason}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real calls, clips and data sets; its own README says what is in it."""
    folder = os.environ.get("UNDERTONE_DATA", "")
    if not folder:
        missing("no real data; set UNDERTONE_DATA to the folder that holds calls/, clips/ and meld/")
    path = Path(folder)
    if not path.is_dir():
        missing(f"UNDERTONE_DATA={folder} is not a folder; point it at the one that holds calls/, clips/ and meld/")
    return path
