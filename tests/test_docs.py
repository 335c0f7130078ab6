"""Every reference to a page of this repository leads somewhere: links between pages, and `docs/…#…` in code and errors."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MENTION = re.compile(r"\bdocs/[a-z_]+\.md(?:#[a-z0-9-]+)?")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("skipped: not a git checkout; the references are checked in one")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names under which GitHub reaches a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", CODE.sub("", page.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def broken(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    return not found.exists() or bool(anchor and anchor not in anchors(found))


def links() -> Iterator[tuple[Path, str]]:
    for page in tracked("*.md"):
        for target in LINK.findall(CODE.sub("", page.read_text())):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def mentions() -> Iterator[tuple[Path, str]]:
    for path in tracked("*.py", "*.lua", "*.md", "*.yaml", "*.toml", "Makefile"):
        for target in MENTION.findall(path.read_text()):
            yield path, target


def test_every_link_between_pages_leads_to_a_file_and_a_heading() -> None:
    found = list(links())
    assert found
    assert [f"{page.relative_to(ROOT)}: {target}" for page, target in found if broken(page, target)] == []


def test_every_page_that_code_and_errors_name_is_there_with_that_heading() -> None:
    found = list(mentions())
    assert found
    root_page = ROOT / "README.md"
    assert [f"{path.relative_to(ROOT)}: {target}" for path, target in found if broken(root_page, target)] == []


def test_every_file_and_test_that_a_page_names_is_there() -> None:
    named = re.compile(
        r"`((?:deployments|docs|models|pipelines|tests|tools)/[\w/.-]+\.(?:py|lua|md|yaml))(?:::(\w+))?`"
    )
    pages = tracked("*.md", ":!tests")  # a card under tests is that of a model made in the test
    found = [(page, path, name) for page in pages for path, name in named.findall(page.read_text())]
    assert any(name for *_, name in found)
    missing = [
        f"{page.relative_to(ROOT)}: {path}::{name}"
        for page, path, name in found
        if not (ROOT / path).is_file() or (name and f"def {name}(" not in (ROOT / path).read_text())
    ]
    assert missing == []
