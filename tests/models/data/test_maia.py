import json
from pathlib import Path
from typing import Any

import pytest

from models.data import maia
from models.data.sentences import Sentences
from models.errors import DataError
from models.types import POLARITIES


def turn(floor: str, labels: object, *texts: object) -> dict[str, Any]:
    english, other = list(texts), ["…"] * len(texts)
    source, translated = (other, english) if floor == "inbound" else (english, other)
    return {"floor": floor, "text_src": source, "text_mt": translated, "Emotion": labels}


def write(path: Path, *dialogues: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(dialogues)))
    return path


def poles(found: Sentences) -> list[str]:
    return [POLARITIES[row.argmax()] for row in found.polarity]


TALK = {
    "turns": [
        turn("inbound", [2, 6], "Hello", "I want  my money"),
        turn("outbound", [2, 0], "Good morning", "I am sorry"),
        turn("inbound", [4, 3, 5, 7, 1], "What?", "A pity", "Again!", "Is it lost?", "It works"),
    ]
}


def test_each_party_has_its_own_english_and_polarities(tmp_path: Path) -> None:
    write(tmp_path / "maia" / "client.json", TALK)

    customer, agent = (maia.read(tmp_path, "all", who) for who in ("customer", "agent"))

    assert customer.texts == ("Hello", "I want my money", "A pity", "Again!", "Is it lost?", "It works")
    assert poles(customer) == ["neutral", "negative", "negative", "negative", "negative", "positive"]
    assert agent.texts == ("Good morning", "I am sorry")
    assert poles(agent) == ["neutral", "positive"]
    assert set(customer.participants) == {"customer"}
    assert not customer.emotion.any()


def test_confusion_is_left_out_and_was_said_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "maia" / "client.json", TALK)

    found = maia.read(tmp_path, "validation", "customer")

    assert found.skipped == 1
    assert found.before[2] == ("Hello", "I want my money", "What?")
    assert found.before[-1] == ("A pity", "Again!", "Is it lost?")


def test_what_is_said_in_one_dialogue_is_not_before_another(tmp_path: Path) -> None:
    write(tmp_path / "maia" / "client.json", TALK, TALK)
    found = maia.read(tmp_path, "all", "customer")
    assert [found.before[place] for place in (0, 6)] == [(), ()]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {"turns": 3},
        {"turns": [None]},
        {"turns": [turn("inbound", None, "Hello")]},
        {"turns": [turn("inbound", [2, 2], "Hello")]},
        {"turns": [turn("inbound", [8], "Hello")]},
        {"turns": [turn("inbound", [True], "Hello")]},
        {"turns": [turn("inbound", ["2"], "Hello")]},
        {"turns": [turn("inbound", [2], 17)]},
        {"turns": [turn("inbound", [2], "  ")]},
    ],
)
def test_what_is_laid_out_otherwise_is_skipped(tmp_path: Path, broken: object) -> None:
    write(tmp_path / "maia" / "client.json", broken, TALK)
    found = maia.read(tmp_path, "all", "customer")
    assert len(found) == 6
    assert found.skipped >= 1


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"turns": []}'])
def test_a_broken_file_costs_itself_only(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "maia" / "good.json", TALK)
    (tmp_path / "maia" / "bad.json").write_bytes(content)
    assert len(maia.read(tmp_path, "all", "customer")) == 6


def test_whatever_lies_in_the_folder_is_judged_and_one_file_by_its_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "maia" / f"{name}.json", TALK)
    assert len(maia.read(tmp_path, "all", "customer")) == 12
    assert len(maia.read(tmp_path / "maia", "two", "customer")) == 6
    assert len(maia.read(tmp_path / "maia" / "one.json", "all", "customer")) == 6
    with pytest.raises(DataError, match=r"docs/data\.md"):
        maia.read(tmp_path, "three", "customer")
