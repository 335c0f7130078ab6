"""What `make` does before anything of the project runs."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = """#!/bin/sh
echo "$UV_COMPILE_BYTECODE $UV_COMPILE_BYTECODE_TIMEOUT $*" >> "$NOTED"
"""


def test_setup_compiles_what_it_installs(tmp_path: Path) -> None:
    """Else ten processes compile it at once, at the first start."""
    uv, noted = tmp_path / "uv", tmp_path / "noted"
    uv.write_text(UV)
    uv.chmod(0o700)
    environment = {**os.environ, "NOTED": str(noted)} | {"UV_COMPILE_BYTECODE": "0"}
    subprocess.run(["make", "setup", f"UV={uv}"], cwd=ROOT, env=environment, check=True, capture_output=True)
    sync = [line for line in noted.read_text().splitlines() if " sync " in line]
    assert [line.split()[0] for line in sync] == ["1"]
