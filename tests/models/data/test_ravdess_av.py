import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from models.data import ravdess_av
from models.errors import DataError
from models.types import Modality

VOICE = [f"voice{number}" for number in range(69)]
FACE = [f"AU{number:02}_{kind}" for number in range(28) for kind in ("mean", "std")]


def row(actor: str = "20", emotion: str = "happy", **changed: str) -> dict[str, str]:
    measured = {name: str(place) for place, name in enumerate(VOICE + FACE)}
    return measured | {"file": "a", "emotion": emotion, "intensity": "1", "actor": actor, "gender": "male"} | changed


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_splits_are_by_actor(tmp_path: Path) -> None:
    write(tmp_path / "ravdess_av" / "any.csv", [row("1"), row("19", "calm"), row("24"), row("55")])

    counts = {split: len(ravdess_av.read(tmp_path, split)) for split in ("train", "validation", "test", "all")}

    assert counts == {"train": 1, "validation": 1, "test": 1, "all": 4}
    table = ravdess_av.read(tmp_path, "validation")
    assert {modality: values.shape for modality, values in table.measured.items()} == {
        Modality.AUDIO: (1, 69),
        Modality.VIDEO: (1, 56),
    }
    assert (table.labels.tolist(), table.groups.tolist()) == ([1], ["19"])


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [row()])
    write(tmp_path / "b.csv", [dict(reversed(row().items()))])

    one, other = (ravdess_av.read(tmp_path / name, "all").measured for name in ("a.csv", "b.csv"))

    assert all((one[modality] == other[modality]).all() for modality in one)


@pytest.mark.parametrize("value", ["", "nan", "none", "inf", "1e39"])
def test_a_missing_measurement_is_nan(tmp_path: Path, value: str) -> None:
    write(tmp_path / "a.csv", [row(voice3=value)])

    assert np.isnan(ravdess_av.read(tmp_path, "all").measured[Modality.AUDIO]).sum() == 1


@pytest.mark.parametrize(
    "changed", [{"emotion": "bored"}, {"actor": ""}, {"actor": "-1"}, dict.fromkeys(VOICE + FACE, "")]
)
def test_a_row_that_says_nothing_is_skipped_and_counted(tmp_path: Path, changed: Mapping[str, str]) -> None:
    write(tmp_path / "a.csv", [row(), row() | dict(changed)])

    table = ravdess_av.read(tmp_path, "all")

    assert (len(table), table.skipped) == (1, 1)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [row() | {"more": "1"}])

    with pytest.raises(DataError, match="70 columns of the voice and 56"):
        ravdess_av.read(tmp_path, "all")


def test_tables_of_any_depth_count_and_foreign_ones_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "RAVDESS_AV" / "test" / "held.csv", [row("22")])
    write(tmp_path / "RAVDESS_AV" / "a.csv", [row("1")])
    write(tmp_path / "RAVDESS_AV" / "foreign.csv", [{"a": "1"}, {"a": "2"}])
    write(tmp_path / "outside.csv", [row("2")])
    (tmp_path / "RAVDESS_AV" / "link.csv").symlink_to(tmp_path / "outside.csv")

    table = ravdess_av.read(tmp_path, "all")

    assert (sorted(table.groups), table.skipped) == (["1", "22"], 2)


def test_a_row_that_is_no_csv_costs_only_itself(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [row(), row(voice3="x" * 200_000), row(actor="1")])

    table = ravdess_av.read(tmp_path, "all")

    assert (table.groups.tolist(), table.skipped) == (["20", "1"], 1)


@pytest.mark.parametrize("split", ["all", "nonsense"])
def test_nothing_there_and_no_such_split_are_named(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"no usable row|choose one of train"):
        ravdess_av.read(tmp_path, split)


def test_the_published_table(data_dir: Path) -> None:
    table = ravdess_av.read(data_dir, "all")

    assert (len(table), len(set(table.groups)), table.skipped) == (315, 21, 0)
    assert np.isnan(table.measured[Modality.AUDIO]).sum() == 448
    assert not np.isnan(table.measured[Modality.VIDEO]).any()
