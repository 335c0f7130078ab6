import os
from pathlib import Path

import pytest

from models.data import files
from models.data.files import files_below, is_drawn, set_folder
from models.errors import DataError

ANY: frozenset[str] = frozenset()


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_of_every_depth_come_in_order_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    wanted = [write(tmp_path / name) for name in ("a/1.WAV", "a/b/2.wav", "c/0.wav")]
    write(tmp_path / "c" / "notes.txt")
    write(tmp_path / ".cache" / "3.wav")
    write(tmp_path / "c" / "._0.wav")

    found = files_below(tmp_path, frozenset({".wav"}), 10)

    assert (found.paths, found.skipped) == (tuple(wanted), 0)


def test_links_out_of_the_folder_are_skipped_and_counted_and_links_inside_are_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside" / "secret.wav")
    inside = write(tmp_path / "set" / "real.wav")
    (tmp_path / "set" / "alias.wav").symlink_to(inside)
    (tmp_path / "set" / "out.wav").symlink_to(secret)
    (tmp_path / "set" / "nothing.wav").symlink_to(tmp_path / "nothing")
    (tmp_path / "set" / "self.wav").symlink_to(tmp_path / "set" / "self.wav")
    (tmp_path / "set" / "folder").symlink_to(secret.parent)

    found = files_below(tmp_path / "set", ANY, 10)

    assert [path.name for path in found.paths] == ["alias.wav", "real.wav"]
    assert found.skipped == 4


def test_large_files_and_pipes_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "large.wav", b"12345678901")
    os.mkfifo(tmp_path / "pipe.wav")

    assert files_below(tmp_path, ANY, 10) == files.Files((), 2)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for name in "abc":
        write(tmp_path / name)

    with pytest.raises(DataError, match="more than 2 files"):
        files_below(tmp_path, ANY, 10)


def test_a_sets_folder_is_found_in_any_case_and_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "one.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CK+48").symlink_to(tmp_path / "elsewhere")

    folder = set_folder(tmp_path / "data", "ckplus48", "ck+48")

    assert folder == tmp_path / "data" / "CK+48"
    assert len(files_below(folder, ANY, 10).paths) == 1
    assert set_folder(folder, "ckplus48", "ck+48") == folder


def test_no_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"emodb/, see docs/data\.md"):
        set_folder(tmp_path / "nothing", "emodb")


def test_a_hash_draws_its_share_and_always_the_same() -> None:
    drawn = [is_drawn(f"speaker {number}", 5) for number in range(5_000)]

    assert sum(drawn) == pytest.approx(1_000, rel=0.1)
    assert [name for name in "abcdefgh\udcff" if is_drawn(name, 5)] == ["g", "h"]
