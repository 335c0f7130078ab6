import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from models import checkpoint, metadata
from models.errors import CheckpointError


@dataclass(frozen=True)
class Shape:
    width: int = 3


def test_the_header_alone_says_what_the_whole_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sha256 = checkpoint.save(path, {"w": torch.zeros(64, 64)}, Shape(), name="voice", about={"seed": 1})

    assert metadata.read(path, sha256) == checkpoint.load(path)[1]


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not an Undertone checkpoint"):
        metadata.read(tmp_path / "a.safetensors", "")


def test_a_missing_file_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="train it first"):
        metadata.read(Path("/nowhere/a.safetensors"), "")


@pytest.mark.parametrize("module", ["errors", "families", "hashing", "labels", "metadata", "tasks", "types"])
def test_the_ground_floor_imports_no_torch(module: str) -> None:
    code = f"import sys, models.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
