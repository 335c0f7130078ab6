import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.ingest.sandbox import trial
from pipelines.settings import StreamSettings
from tests.pipelines.streams import fragment


def test_media_that_decodes_or_is_refused_kills_nobody() -> None:
    sound = fragment(0, 0, np.zeros((2, 8000), np.float32))
    assert trial(sound, StreamSettings()) is None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("bytes(5 << 30)", "more than 4 GiB"),
    ],
)
def test_media_that_ends_the_process_is_told_with_how(
    fault: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in (verdict_with(fault, tmp_path, monkeypatch) or "")


def test_a_process_that_fails_for_reasons_of_its_own_says_nothing_about_the_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict_with("raise ImportError('the environment is broken')", tmp_path, monkeypatch) is None


def verdict_with(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Every Python process of this test decodes with a fault."""
    source = f"import os\nfrom pipelines.media.demux import Demuxer\ndef fault(self, fragment):\n    {fault}\nDemuxer.feed = fault\n"
    (folder / "sitecustomize.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path.cwd()}")
    return trial(fragment(0, 0, np.zeros((2, 8000), np.float32)), StreamSettings())
