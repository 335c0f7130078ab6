import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.sandbox import trial
from pipelines.settings import StreamSettings
from tests.pipelines.streams import fragment


def test_media_that_decodes_or_is_refused_kills_nobody() -> None:
    sound = fragment(0, 0, np.zeros((2, 8000), np.float32))
    assert trial(sound, StreamSettings()) is None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("os.kill(os.getpid(), 11)", "ended with -11"),
        ("bytes(5 << 30)", "MemoryError"),
        ("raise SystemExit(3)", "ended with 3"),
    ],
)
def test_media_that_ends_the_process_is_told_with_how(
    fault: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python process of this test decodes with a fault."""
    source = f"import os\nfrom pipelines.demux import Demuxer\ndef fault(self, fragment):\n    {fault}\nDemuxer.feed = fault\n"
    (tmp_path / "sitecustomize.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    verdict = trial(fragment(0, 0, np.zeros((2, 8000), np.float32)), StreamSettings())
    assert verdict is not None
    assert says in verdict
