import re
from pathlib import Path

import numpy as np
import pytest

from models.data import sentences
from models.data.sentences import Sentence, Sentences, as_recognised, as_transcribed, collect, one_hot, read_csv
from models.errors import DataError
from models.types import EMOTIONS, POLARITIES

ROW = Sentence("hello", one_hot("joy", EMOTIONS), one_hot("positive", POLARITIES))


def test_a_set_without_dialogues_has_no_turns_before_any_text() -> None:
    assert collect([ROW, ROW], 0, Path("here")).before == ((), ())
    alone = Sentences(("a",), ROW.emotion[None], ROW.polarity[None], 0)
    assert (alone.before, alone.participants) == (((),), ("mixed",))


def test_no_row_is_an_error_that_counts_what_was_skipped() -> None:
    with pytest.raises(DataError, match=r"no usable row in here \(3 skipped\)"):
        collect([None], 2, Path("here"))


def test_the_rows_of_all_files_together_are_bounded_broken_ones_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "ROWS_MAX", 2)

    assert len(collect([ROW, None], 0, Path("here"))) == 1
    with pytest.raises(DataError, match="more than 2 rows in here"):
        collect([ROW, None, ROW], 0, Path("here"))


def test_a_csv_is_read_whatever_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_bytes(b'\xef\xbb\xbf Name , Text\r\n\r\nA,"two\nlines"\r\nB,caf\xe9 \x93\r\nC,\xc3\xa9,more\r\nD\r\n')

    assert list(read_csv(path, ("Name", "Text"))) == [
        {"Name": "A", "Text": "two\nlines"},
        {"Name": "B", "Text": "caf\u00e9 \u201c"},
        {"Name": "C", "Text": "\u00e9"},
        {"Name": "D", "Text": None},
    ]


def test_rows_that_are_broken_hold_nothing_and_the_next_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text(f"a,b\n1,\0\n2,{'x' * 200_000}\n3,4\n")

    assert list(read_csv(path)) == [{"a": None, "b": None}] * 2 + [{"a": "3", "b": "4"}]


def test_a_quote_that_is_never_closed_costs_no_more_than_the_rest_of_a_field(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text('a,b\n1,"never closed\n' + "2,3\n" * 100_000)

    rows = list(read_csv(path))

    assert rows[0] == {"a": None, "b": None}
    assert rows[-1] == {"a": "2", "b": "3"}


def test_a_file_or_a_number_of_rows_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.csv"
    path.write_text("a\n1\n2\n3\n")

    with pytest.raises(DataError, match="larger than 4 bytes"):
        list(read_csv(path, max_bytes=4))
    monkeypatch.setattr(sentences, "ROWS_MAX", 2)
    with pytest.raises(DataError, match="more than 2 rows"):
        list(read_csv(path))


def test_a_missing_file_and_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"docs/data\.md"):
        list(read_csv(tmp_path / "nothing.csv"))
    (tmp_path / "one.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"no column c in .* \(found: a, b\)"):
        list(read_csv(tmp_path / "one.csv", ("a", "c")))


def test_recognised_text_is_lower_case_without_punctuation_but_apostrophes() -> None:
    assert as_recognised("Oh — DON\u2019T, you_dare!  (Ever.)") == "oh don't you dare ever"
    assert as_recognised("?!") == "?!"


def test_transcribed_text_keeps_case_and_marks_and_is_misheard_here_and_there() -> None:
    said = "I told your driver that the two boxes are here, and it is not right!"
    rng = np.random.default_rng(0)
    heard = [as_transcribed(said, rng) for _ in range(400)]

    assert all("not" in one.split() and one.startswith(("I told", "told")) for one in heard)
    assert 0.3 < sum(one.endswith("!") for one in heard) / 400 < 0.7
    assert sum("2 boxes" in one for one in heard) > 200
    assert any("you're driver" in one for one in heard)
    assert any("boxes are hear," in one for one in heard)
    assert any("that two" in one or "that 2" in one for one in heard)
    assert sum(one.lower().rstrip(".!") == said.lower().rstrip("!") for one in heard) > 40


def test_a_word_is_misheard_as_any_word_that_sounds_like_it() -> None:
    assert set(sentences.MISHEARD["it's"]) == {"its", "is"}
    assert set(sentences.MISHEARD["and"]) == {"in", "an"}
    for word, others in sentences.MISHEARD.items():
        assert word not in others
        assert all(word in sentences.MISHEARD[other] for other in others)


def test_no_word_is_glued_to_the_sentence_before_it() -> None:
    rng = np.random.default_rng(0)
    heard = [as_transcribed("It broke. It is old. I am sad. The box, and it.", rng) for _ in range(400)]
    assert any("brokeit" in as_transcribed("It broke it", rng).lower() for _ in range(400))
    assert not any(re.search(r"[.,!?]\w", one) for one in heard)


def test_no_word_is_misheard_as_its_opposite() -> None:
    for word, others in sentences.MISHEARD.items():
        assert "not" not in {word, *others}
        assert not any(other.endswith("n't") != word.endswith("n't") for other in others)


def test_chosen_rows_keep_all_that_is_known_of_them() -> None:
    other = Sentence("bye", ROW.emotion, one_hot("neutral", POLARITIES), ("well",), "agent")
    found = collect([ROW, other], 3, Path("here")).take([1])
    assert (found.texts, found.before, found.participants, found.skipped) == (("bye",), (("well",),), ("agent",), 3)
    assert found.polarity.tolist() == [[0, 1, 0]]


def test_a_table_parted_by_tabs_is_read_with_its_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "one.tsv").write_text('a\tb\n"yes"\t1, 2\n')
    assert list(read_csv(tmp_path / "one.tsv", ("a",), delimiter="\t")) == [{"a": '"yes"', "b": "1, 2"}]
