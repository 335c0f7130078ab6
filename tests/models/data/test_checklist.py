import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from models.data import airline, checklist, customer_service, goemotions, meld, satisfaction
from models.errors import DataError

HEADER = "\t".join(checklist.COLUMNS) + "\n"


def test_there_are_three_hundred_sentences_by_capability() -> None:
    tests = checklist.read()
    assert len({text for test in tests for text in test.texts}) >= 300
    assert len(Counter(test.capability for test in tests)) >= 20
    assert {test.kind for test in tests} == {"minimum", "invariance", "direction"}
    assert {test.participant for test in tests} == {"agent", "customer", "mixed"}


def test_a_sentence_of_the_tests_is_taken_out_of_what_is_trained_on() -> None:
    made = customer_service.read(6_000)
    told = next(test.text for test in checklist.read())
    spoiled = replace(made, texts=(told.upper() + "!", *made.texts[1:]))

    kept = checklist.without_tests(spoiled)

    assert not {checklist.bare(text) for test in checklist.read() for text in test.texts} & set(
        map(checklist.bare, kept.texts)
    )
    assert kept.texts[0] == made.texts[1]
    assert kept.participants[0] == made.participants[1]


@pytest.mark.skipif("UNDERTONE_DATA" not in os.environ, reason="UNDERTONE_DATA names no data folder")
def test_hardly_any_sentence_of_the_sets_is_like_one() -> None:
    data = Path(os.environ["UNDERTONE_DATA"])
    for read in (airline.read, goemotions.read, meld.read, satisfaction.read):
        sentences = read(data, "train")
        assert len(checklist.without_tests(sentences)) >= len(sentences) - 3


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("c\tminimum\tcustomer\tlower\tHello\t", "no test"),
        ("c\tdirection\tcustomer\tlower\tHello\t", "no test"),
        ("c\tminimum\tnobody\tneutral\tHello\t", "no test"),
        ("c\twish\tcustomer\tneutral\tHello\t", "no test"),
        ("", "holds no test"),
    ],
)
def test_what_is_no_test_is_refused(tmp_path: Path, row: str, why: str) -> None:
    path = tmp_path / "tests.tsv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(DataError, match=why):
        checklist.read(path)


def test_quotation_marks_mean_themselves(tmp_path: Path) -> None:
    path = tmp_path / "tests.tsv"
    path.write_text(HEADER + 'c\tminimum\tcustomer\tneutral\t"Hello", she said\t\n')
    assert checklist.read(path)[0].text == '"Hello", she said'
