"""`undertone demo`, as `make demo` runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400)]


def test_the_demo_ends_by_itself_with_both_parties_and_a_summary(tmp_path: Path) -> None:
    undertone = Path(sys.executable).with_name("undertone")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(Path.home()),
        "UNDERTONE_CACHE_DIR": str(tmp_path),
        "COLUMNS": "100",
    }
    done = subprocess.run(
        [undertone, "demo"], capture_output=True, text=True, timeout=350, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    customer = [index for index, line in enumerate(lines) if re.match(r" +\d:\d\d\.\d customer ", line)]
    agent = [index for index, line in enumerate(lines) if re.match(r" +\d:\d\d\.\d agent ", line)]
    assert len(customer) + len(agent) >= 8
    assert min(len(customer), len(agent)) >= 4
    scores = [float(lines[index + 1].split()[0]) for index in customer]
    assert max(scores[:3]) < -1
    assert min(scores[-2:]) > 1
    assert all("words" in lines[index + 1] and "voice" in lines[index + 1] for index in customer)
    assert "Call summary" in done.stdout
    assert "left content" in done.stdout
    for step in ("starting the store", "starting Ray", "starting the gateway and the networks", "undertone serve\n"):
        assert step in done.stderr
