from pathlib import Path

import numpy as np
import pytest
import soundfile

from deployments.sample import ANGRY_TO_CONTENT
from models.data import turns
from models.errors import DataError

TABLE = "start_ms\tend_ms\tparticipant\twords\n500\t1000\tagent\tgood morning\n900\t1900\tcustomer\thello there\n"


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """Two seconds; the agent's channel is 0.1 throughout, the customer's 0.2."""
    folder = tmp_path / "sample"
    folder.mkdir()
    soundfile.write(folder / "call.wav", np.tile([0.1, 0.2], (32_000, 1)), 16_000)
    (folder / "call.txt").write_text(TABLE)
    return tmp_path


def test_a_turn_is_heard_on_its_own_channel_with_a_little_around_it(call: Path) -> None:
    read = turns.read(call, "validation")

    assert [read.label_names[label] for label in read.labels] == ["good morning", "hello there"]
    assert [len(clip) for clip in read.clips] == [16 * 900, 16 * 1_300]  # the second ends with the sound
    assert [float(clip.mean()) for clip in read.clips] == pytest.approx([0.1, 0.2], abs=1e-3)
    assert read.speakers.tolist() == [0, 1]


def test_lines_that_are_no_turn_are_skipped_and_counted(call: Path) -> None:
    lines = (
        "1900\t2500\tagent\ttoo late",
        "100\t50\tagent\tbackwards",
        "x\t50\tagent\tno number",
        "1\t2\tdog\twoof",
        "",
    )
    (call / "sample" / "call.txt").write_text(TABLE + "\n".join(lines) + "\n0\t9\tagent\t \n")

    read = turns.read(call, "all")

    assert (len(read.clips), read.skipped) == (2, 6)


def test_a_channel_that_is_not_there_has_no_turns(call: Path) -> None:
    soundfile.write(call / "sample" / "call.wav", np.full(32_000, 0.1), 16_000)

    read = turns.read(call, "all")

    assert (read.label_names, read.skipped) == (("good morning",), 1)


def test_an_unknown_split_and_a_folder_without_turns_are_named(call: Path) -> None:
    with pytest.raises(DataError, match="choose validation or all"):
        turns.read(call, "train")
    (call / "sample" / "call.txt").write_text("just some words")
    with pytest.raises(DataError, match="no call with its turns"):
        turns.read(call, "all")


def test_the_sample_call_has_17_turns() -> None:
    read = turns.read(ANGRY_TO_CONTENT.parent, "all")

    assert (len(read.clips), read.skipped) == (17, 0)
    assert read.label_names[0].startswith("good morning")
