import hashlib
from pathlib import Path

import pytest

from models.hashing import sha256_of


def test_a_file_and_its_content_have_the_same_hash(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)

    assert sha256_of(tmp_path / "a") == sha256_of(content) == hashlib.sha256(content).hexdigest()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "a")
