import csv
from pathlib import Path

import numpy as np
import pytest

from models.data import mosi
from models.errors import DataError
from models.types import Modality

VIDEOS = [f"video{number}" for number in range(20)]


def write(folder: Path, stem: str, videos: list[str], *, quote: bool = True) -> None:
    """Every row's measurements are its number; odd rows are positive."""
    for modality, length in mosi.LENGTHS.items():
        (folder / modality).mkdir(parents=True, exist_ok=True)
        with (folder / modality / f"{modality}_{stem}0.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL)
            writer.writerows([*[float(row)] * length, float(row % 2)] for row in range(len(videos)))
    with (folder / f"utterances_{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "utterance_id", "video_id", "transcript", "positive"])
        writer.writerows([row, f"{video}_{row}", video, "WORDS", row % 2] for row, video in enumerate(videos))


def test_rows_keep_their_video_label_and_measurements(tmp_path: Path) -> None:
    write(tmp_path / "mosi", "test", ["a", "a", "b"])

    table = mosi.read(tmp_path, "test")

    assert {modality: values.shape for modality, values in table.measured.items()} == {
        Modality.AUDIO: (3, 73),
        Modality.VIDEO: (3, 100),
        Modality.TEXT: (3, 100),
    }
    assert table.measured[Modality.TEXT][:, 0].tolist() == [0, 1, 2]
    assert (table.labels.tolist(), table.groups.tolist(), table.skipped) == ([0, 1, 0], ["a", "a", "b"], 0)


def test_no_video_stands_on_both_sides_of_the_split(tmp_path: Path) -> None:
    write(tmp_path, "train", VIDEOS * 2)

    train, validation = (mosi.read(tmp_path, split) for split in ("train", "validation"))

    assert set(train.groups).isdisjoint(validation.groups)
    assert len(train) + len(validation) == len(mosi.read(tmp_path, "all")) == 40


def test_all_is_every_file_there(tmp_path: Path) -> None:
    write(tmp_path, "test", ["a"])
    assert len(mosi.read(tmp_path, "all")) == 1
    write(tmp_path, "dev", ["b", "c"], quote=False)
    assert sorted(mosi.read(tmp_path, "all").groups) == ["a", "b", "c"]


@pytest.mark.parametrize("stem", ["held_out", "Test", "fold1"])
def test_a_stem_is_the_name_without_modality_and_number_in_any_case(tmp_path: Path, stem: str) -> None:
    write(tmp_path / "MOSI", stem, ["a", "b"])

    assert mosi.read(tmp_path, "all").groups.tolist() == mosi.read(tmp_path, stem).groups.tolist() == ["a", "b"]


def test_under_all_a_stem_without_all_its_files_costs_only_itself(tmp_path: Path) -> None:
    for stem in ("bad", "good", "short"):
        write(tmp_path, stem, [stem, stem])
    (tmp_path / "utterances_bad.csv").unlink()
    (tmp_path / "audio" / "audio_short0.csv").write_text("")

    table = mosi.read(tmp_path, "all")

    assert (table.groups.tolist(), table.skipped) == (["good", "good"], 2)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "mosi", "test", ["a"])
    (tmp_path / "mosi" / "text" / "text_test0.csv").rename(tmp_path / "outside.csv")
    (tmp_path / "mosi" / "text" / "text_test0.csv").symlink_to(tmp_path / "outside.csv")

    with pytest.raises(DataError, match="0 usable files text/"):
        mosi.read(tmp_path, "test")


def test_files_and_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "test", ["a", "b", "c"])
    monkeypatch.setattr(mosi, "ROWS_MAX", 2)

    with pytest.raises(DataError, match="more than 2 rows"):
        mosi.read(tmp_path, "test")
    monkeypatch.setattr(mosi, "CSV_MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"0 usable files \w+/"):
        mosi.read(tmp_path, "test")


@pytest.mark.parametrize("broken", ["x", "nan", "inf", "1e39", ""])
def test_a_row_with_other_than_numbers_is_skipped_and_counted(tmp_path: Path, broken: str) -> None:
    write(tmp_path, "test", ["a", "b"])
    path = tmp_path / "audio" / "audio_test0.csv"
    path.write_text(path.read_text().replace('"1.0"', f'"{broken}"', 1))

    table = mosi.read(tmp_path, "test")

    assert (table.groups.tolist(), table.skipped) == (["a"], 1)


@pytest.mark.parametrize("modality", mosi.LENGTHS)
@pytest.mark.parametrize("broken", ['"never closed,', "x" * 200_000, "\0"])
def test_a_line_that_is_no_csv_takes_its_row_from_every_table_and_no_other(
    tmp_path: Path, modality: Modality, broken: str
) -> None:
    write(tmp_path, "test", ["a", "b", "c", "d"])
    path = tmp_path / modality / f"{modality}_test0.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], broken, *lines[2:]]))

    table = mosi.read(tmp_path, "test")

    assert (table.groups.tolist(), table.skipped) == (["a", "c", "d"], 1)
    assert [values[:, 0].tolist() for values in table.measured.values()] == [[0, 2, 3]] * 3


@pytest.mark.parametrize("broken", ['1,b_1,b,"never closed', "x,b_1,b,WORDS,1", f"1,{'x' * 200_000},b,WORDS,1"])
def test_a_broken_utterance_takes_no_other_rows_out_of_line(tmp_path: Path, broken: str) -> None:
    write(tmp_path, "test", ["a", "b", "c", "d"])
    path = tmp_path / "utterances_test.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], broken, *lines[3:]]))

    table = mosi.read(tmp_path, "test")

    assert table.groups.tolist() == (["a"] if "never" in broken else ["a", "c", "d"])
    assert len(table) + table.skipped == 4
    assert table.measured[Modality.TEXT][:, 0].tolist() == ([0] if "never" in broken else [0, 2, 3])


def test_rows_whose_labels_disagree_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, "test", ["a", "b"])
    path = tmp_path / "utterances_test.csv"
    path.write_text(path.read_text().replace("WORDS,1", "WORDS,0"))

    assert mosi.read(tmp_path, "test").skipped == 1


def test_tables_of_different_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "test", ["a", "b"])
    path = tmp_path / "video" / "video_test0.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")

    with pytest.raises(DataError, match="differ in length"):
        mosi.read(tmp_path, "test")


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_missing_files_are_named(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"utterances_|text/"):
        mosi.read(tmp_path, split)


def test_a_modality_without_its_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "test", ["a"])
    (tmp_path / "video" / "video_test0.csv").unlink()

    with pytest.raises(DataError, match="video"):
        mosi.read(tmp_path, "test")


def test_the_published_training_file(data_dir: Path) -> None:
    train, validation = (mosi.read(data_dir, split) for split in ("train", "validation"))

    assert len(train) + len(validation) == 1_447
    assert len(set(train.groups)) + len(set(validation.groups)) == 62
    assert train.skipped == validation.skipped == 0
    assert all(np.isfinite(values).all() for values in train.measured.values())
