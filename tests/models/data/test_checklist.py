import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from models.data import airline, checklist, customer_service, goemotions, meld, satisfaction
from models.data.sentences import Sentences
from models.errors import DataError
from models.recipes.text import SERVICE_SENTENCES

HEADER = "\t".join(checklist.COLUMNS) + "\n"


def test_there_are_three_hundred_sentences_by_capability() -> None:
    tests = checklist.read()
    assert len({text for test in tests for text in test.texts}) >= 300
    assert len(Counter(test.capability for test in tests)) >= 20
    assert {test.kind for test in tests} == {"minimum", "invariance", "direction"}
    assert {test.participant for test in tests} == {"agent", "customer", "mixed"}


def sentences() -> set[str]:
    return {checklist.bare(text) for test in checklist.read() for text in test.texts}


def test_no_sentence_made_for_the_training_is_one_of_them() -> None:
    assert not sentences() & set(map(checklist.bare, customer_service.read(SERVICE_SENTENCES).texts))


@pytest.mark.skipif("UNDERTONE_DATA" not in os.environ, reason="UNDERTONE_DATA names no data folder")
@pytest.mark.parametrize("read", [airline.read, goemotions.read, meld.read, satisfaction.read])
def test_nor_is_any_of_the_sets_trained_on(read: Callable[[Path, str], Sentences]) -> None:
    found = read(Path(os.environ["UNDERTONE_DATA"]), "train")
    assert not sentences() & set(map(checklist.bare, found.texts))


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
