"""A model is added by three new files and two changed lines: trained, sealed and served, in a copy of the sources."""

import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy"
PACKAGES = ("deployments", "models", "pipelines")
NEW_FILES = {
    "models/encoders/toy.py": TOY / "network.py",
    "models/recipes/toy.py": TOY / "recipe.py",
    "models/cards/toy.md": TOY / "card.md",
}
FAMILY = '"toy": Family("models.encoders.toy", "ToyConfig", "ToyNetwork", "ToyEncoder", Modality.TEXT, "models.encoders.toy:prepare"),'
CHANGED = {
    "models/families.py": ("FAMILIES: dict[str, Family] = {\n", f"    {FAMILY}\n"),
    "models/recipes/__init__.py": ("RECIPES = {\n", '    "toy": "models.recipes.toy:toy",\n'),
}

UNDERTONE = "from deployments.cli.main import app; app()"
JUDGED = """
import asyncio, json, sys
import numpy as np
from deployments.serve.embedded import local_analyser
from models.types import Modality
from pipelines.settings import AppConfig
from pipelines.types import Participant, Utterance

analyser = local_analyser(AppConfig(bundle=sys.argv[1]))
for text in sys.argv[2:]:
    said = Utterance("c", "default", "main", Participant.CUSTOMER, 0, 900, frozenset(Modality), np.zeros(0, np.float32), (), text)
    print(asyncio.run(analyser(said)).model_dump_json())
"""
SERVED = """
import sys
import httpx
from deployments.http.tokens import token_of
from deployments.serve.embedded import embedded
from pipelines.settings import AppConfig

if __name__ == "__main__":
    with embedded(AppConfig(bundle=sys.argv[1]), port=8127) as system:
        held = {"Authorization": f"Bearer {token_of(system.settings)}"}
        for text in sys.argv[2:]:
            answer = httpx.post(f"{system.url}/v1/analyze", json={"text": text}, headers=held, timeout=120)
            print(answer.text)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with the toy added."""
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in NEW_FILES.items():
        assert not (copy / name).exists()
        shutil.copy(source, copy / name)
    for name, (before, line) in CHANGED.items():
        text = (copy / name).read_text()
        assert text.count(before) == 1
        (copy / name).write_text(text.replace(before, before + line))
    return copy


def run(tree: Path, *arguments: str) -> str:
    """What a Python process prints in which the tree's sources are imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "UNDERTONE_CACHE_DIR": str(tree / "cache"),
        "UNDERTONE_REDIS": "",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tree: Path) -> Path:
    """The embedded bundle with the trained toy as its text encoder."""
    trained = json.loads(
        run(tree, "-c", UNDERTONE, "train", "toy", "--data", str(tree), "--out", str(tree / "out"), "--json")
    )
    assert trained["kept"]["accuracy"] == 1
    folder = tree / "toys"
    folder.mkdir()
    for part in ("audio", "video", "fusion"):
        shutil.copy(ROOT / "models" / "bundles" / "embedded" / f"{part}.safetensors", folder)
    shutil.copy(tree / "out" / "toy.safetensors", folder / "text.safetensors")
    assert run(tree, "-m", "models.bundles", str(folder), "toys", "1").startswith("toys@1")
    return folder


def words_of(result: dict[str, Any]) -> dict[str, Any]:
    assert result["bundle"] == "toys@1"
    assert result["judgement"] is not None
    found: dict[str, Any] = result["modalities"]["text"]
    assert found["model"].startswith("toys/text@")
    return found


def test_two_lines_change() -> None:
    changes = 0
    for name, (before, line) in CHANGED.items():
        old = (ROOT / name).read_text()
        diff = difflib.unified_diff(old.splitlines(), old.replace(before, before + line).splitlines(), n=0)
        changes += sum(one[0] in "+-" and one[:3] not in ("+++", "---") for one in diff)
        assert all(len(one) <= 140 for one in line.splitlines())
    assert changes == 2
    assert len(NEW_FILES) == 3


def test_the_new_model_judges_in_one_process(tree: Path, bundle: Path) -> None:
    angry, glad, silent = (
        json.loads(line) for line in run(tree, "-c", JUDGED, str(bundle), "furious", "lovely", "123").splitlines()
    )
    assert words_of(angry)["judgement"]["emotion"] == "anger"
    assert words_of(glad)["judgement"]["emotion"] == "joy"
    assert silent["modalities"]["text"]["missing"] == "unusable"


@pytest.mark.ray
def test_the_new_model_serves_live(tree: Path, bundle: Path) -> None:
    script = tree / "served.py"
    script.write_text(SERVED)
    angry, glad = (
        json.loads(line)["results"][0] for line in run(tree, str(script), str(bundle), "furious", "lovely").splitlines()
    )
    assert words_of(angry)["judgement"]["emotion"] == "anger"
    assert words_of(glad)["judgement"]["emotion"] == "joy"
