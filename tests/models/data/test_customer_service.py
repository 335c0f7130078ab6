from pathlib import Path

import pytest

from models.data import customer_service
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES

SMALL = "# a comment\nitem = car|boat\ncustomer negative anger: my {item} [is [so |]late|sank][.|!]\nagent neutral -: hello\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_patterns_become_sentences_with_labels_and_who_says_them(tmp_path: Path) -> None:
    found = customer_service.read(13, grammar=write(tmp_path / "small.txt", SMALL))

    assert set(found.texts) == {
        "Hello",
        *(
            f"My {item} {said}{mark}"
            for item in ("car", "boat")
            for said in ("is so late", "is late", "sank")
            for mark in ".!"
        ),
    }
    hello = found.texts.index("Hello")
    assert found.participants[hello] == "agent"
    assert POLARITIES[found.polarity[hello].argmax()] == "neutral"
    assert not found.emotion[hello].any()
    late = found.texts.index("My car is late.")
    assert found.participants[late] == "customer"
    assert EMOTIONS[found.emotion[late].argmax()] == "anger"


def test_the_same_seed_gives_the_same_sentences_and_all_differ() -> None:
    first, again, other = (customer_service.read(2_000, seed) for seed in (1, 1, 2))
    assert first.texts == again.texts
    assert first.texts != other.texts
    assert len(set(first.texts)) == 2_000


def test_nothing_of_the_grammar_is_left_in_a_sentence() -> None:
    for text in customer_service.read(5_000).texts:
        assert not set(text) & set("[]{}|"), text
        assert "  " not in text
        assert " ." not in text
        assert text[0].upper() == text[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no sentence"),
        ("customer negative anger hello\n", "line 1"),
        ("nobody negative anger: hello\n", "line 1"),
        ("customer bad anger: hello\n", "line 1"),
        ("customer negative anger: {thing}\n", "line 1"),
        ("x = {x} again\ncustomer negative anger: {x}\n", "holds itself"),
        ("customer negative anger: hello\n", "different sentences"),
    ],
)
def test_a_wrong_grammar_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        customer_service.read(2, grammar=write(tmp_path / "wrong.txt", text))


def test_a_missing_grammar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        customer_service.read(1, grammar=tmp_path / "none.txt")
