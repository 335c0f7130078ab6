from pathlib import Path

import numpy as np
import pytest

from models.data import sentences
from models.data.tables import Row, collect
from models.errors import DataError
from models.types import Modality

ROW: Row = ([np.zeros(2, dtype=np.float32)], 1, "a")


def test_what_is_broken_is_skipped_and_counted() -> None:
    table = collect([ROW, None, ROW], [Modality.AUDIO], 2, Path("here"))

    assert (table.measured[Modality.AUDIO].shape, table.labels.tolist(), table.skipped) == ((2, 2), [1, 1], 3)


def test_nothing_and_too_much_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no usable row of this split in here \(1 skipped\)"):
        collect([None], [Modality.AUDIO], 0, Path("here"))
    monkeypatch.setattr(sentences, "ROWS_MAX", 2)
    with pytest.raises(DataError, match="more than 2 rows in here"):
        collect([ROW, None, ROW], [Modality.AUDIO], 0, Path("here"))
