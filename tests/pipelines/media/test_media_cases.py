"""Media as it really comes is heard as it was said (the table: `python -m tests.pipelines.media.media_cases`)."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.pipelines.media.media_cases import FOLDER, SHARED, Case, faults, run
from tests.pipelines.media.media_variants import VARIANTS


def _param(case: Case) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason=case.pending)] if case.pending else []
    return pytest.param(case, id=f"{case.name} {case.sent}", marks=marks)


@pytest.mark.parametrize("case", [_param(case) for case in [*SHARED, *VARIANTS]])
def test_media_is_heard_as_it_was_said(data_dir: Path, case: Case) -> None:
    folder = data_dir / FOLDER
    if not folder.is_dir():
        missing(f"no {folder}; its inputs are part of the data folder")
    found = run(case, folder)
    assert faults(case, found) == [], found
