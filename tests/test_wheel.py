import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import av
import pytest

from models.bundles import PARTS
from tests.conftest import missing

ROOT = Path(__file__).parents[1]
PACKAGES = ("deployments", "models", "pipelines")
DATA = {
    "deployments/sample/angry_to_content.flac",
    "deployments/sample/angry_to_content.txt",
    "deployments/serve.yaml",
    "models/bundles/embedded/bundle.json",
    *(f"pipelines/store/lua/{script.name}" for script in (ROOT / "pipelines" / "store" / "lua").glob("*.lua")),
    *(f"models/bundles/embedded/{part}.safetensors" for part in PARTS),
    *(f"{package}/py.typed" for package in PACKAGES),
}


@pytest.mark.slow  # fetches the build backend where uv has not kept it
def test_the_wheel_holds_everything_that_runs_and_nothing_else(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        missing("no uv; make setup installs it")
    subprocess.run([uv, "build", "--wheel", "--out-dir", tmp_path, ROOT], check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        index = json.loads(wheel.read("models/bundles/embedded/bundle.json"))

    assert names >= DATA
    assert {f"models/bundles/embedded/{part['file']}" for part in index["parts"].values()} <= DATA
    assert {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")} <= names
    (metadata,) = {name.split("/")[0] for name in names} - set(PACKAGES)
    assert metadata.endswith(".dist-info")


def test_the_notice_names_every_library_that_comes_with_ffmpeg() -> None:
    libraries = Path(av.__file__).parents[1] / "av.libs"
    if not libraries.is_dir():
        missing("PyAV is not from a wheel for Linux")
    notice = (ROOT / "NOTICE").read_text()
    for library in libraries.iterdir():
        assert re.split(r"-[0-9a-f]{8}\.so", library.name)[0] in notice
