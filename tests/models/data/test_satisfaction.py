from pathlib import Path

import pytest

from models.data import satisfaction
from models.errors import DataError

DIALOGUE = (
    "USER\tI need a train\tTrain-Inform\t3,3,4\n"
    "SYSTEM\tI'm sorry, there is none. Anything else?\tgeneral-reqmore\t\n"
    "USER\tThat is useless\t\t1,2,2\n"
    "USER\tGreat, thank you\t\t4,5\n"
    "USER\tOVERALL\t\t3,3\n"
)


def write(folder: Path, name: str, *dialogues: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n" + "\n".join(dialogues))


def test_ratings_are_weak_signals_and_a_systems_turn_is_an_agents(tmp_path: Path) -> None:
    write(tmp_path / "satisfaction", "MWOZ.txt", DIALOGUE)

    found = satisfaction.read(tmp_path, "all")

    assert found.texts[1].startswith("I'm sorry")
    assert found.participants == ("customer", "agent", "customer", "customer")
    assert found.polarity.tolist() == [[0, 1, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]]
    assert found.skipped == 0


def test_systems_that_talk_about_films_are_no_agents(tmp_path: Path) -> None:
    write(tmp_path / "satisfaction", "ReDial.txt", DIALOGUE)
    assert set(satisfaction.read(tmp_path, "all").participants) == {"customer"}


def test_a_dialogue_is_in_one_split_only(tmp_path: Path) -> None:
    dialogues = [DIALOGUE.replace("train", f"train to {place}") for place in range(60)]
    write(tmp_path / "satisfaction", "SGD.txt", *dialogues)

    train, validation = (satisfaction.read(tmp_path, split) for split in ("train", "validation"))

    assert len(train) % 4 == len(validation) % 4 == 0
    assert len(train) + len(validation) == 240
    assert 0 < len(validation) < len(train)


def test_broken_lines_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "satisfaction", "SGD.txt", DIALOGUE, "USER\tHm\t\t9,x\nUSER\tHm\nnonsense\nUSER\t\t\t3\n")
    found = satisfaction.read(tmp_path, "all")
    assert (len(found), found.skipped) == (4, 4)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation"):
        satisfaction.read(tmp_path, "dev")
