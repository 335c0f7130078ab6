"""The figures that are promised, on the sentences that come with the rules."""

from pathlib import Path
from typing import Any

import pytest
from stdnum import iban, luhn

from pipelines.errors import UndertoneError
from pipelines.redaction.measure import PARTS, measure, read
from pipelines.redaction.redact import Redactor
from pipelines.tenants import RedactSettings


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measure(read(), RedactSettings().redactor)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("kind", "recall"), [("card", 0.98), ("email", 0.95), ("phone", 0.95), ("iban", 0.95), ("id", 0.9)]
)
def test_enough_of_every_kind_is_found(found: dict[str, Any], part: str, kind: str, recall: float) -> None:
    assert found[part]["kinds"][kind]["recall"] >= recall


@pytest.mark.parametrize("part", PARTS)
def test_sentences_of_harmless_numbers_stay_as_they_are(found: dict[str, Any], part: str) -> None:
    assert found[part]["clean"] >= 40
    assert found[part]["touched_share"] <= 0.01


def test_there_are_sentences_enough() -> None:
    sentences = read()
    assert len(sentences) >= 300
    assert sum(not sentence.items for sentence in sentences) >= 100
    assert sum(sentence.part == "held_out" for sentence in sentences) >= 100


def test_written_numbers_among_them_are_such_numbers() -> None:
    for sentence in read():
        for item in sentence.items:
            said = sentence.text[item.start : item.end]
            code = "".join(character for character in said if character.isalnum()).upper()
            if sentence.form == "written" and item.kind == "iban":
                assert iban.is_valid(code, check_country=False), said
            if sentence.form == "written" and item.kind == "card" and len(code) > 4:
                assert luhn.is_valid(code), said


def test_without_rules_nothing_is_found_and_nothing_touched() -> None:
    found = measure(read(), Redactor(kinds=()))
    assert {part: figures["touched"] for part, figures in found.items()} == dict.fromkeys(PARTS, 0)
    assert not any(counts["found"] for figures in found.values() for counts in figures["kinds"].values())


@pytest.mark.parametrize("row", ["tuned\tspoken\t[[cat|x]]", "tuned\tsung\tx", "often\tspoken\tx", "tuned"])
def test_a_file_that_holds_no_sentences_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "sentences.tsv"
    path.write_text(f"part\tform\ttext\n{row}\n")
    with pytest.raises(UndertoneError, match="holds no sentences"):
        read(path)
