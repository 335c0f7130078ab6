"""Precision and recall of the rules on sentences written for it (`sentences.tsv` beside this file), whose items are marked.

An item stands in the text as `[[kind|4242 …]]`. `tuned` sentences were looked at while the rules were made, `held_out` ones were not.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UndertoneError
from pipelines.redaction.finding import KINDS, Span
from pipelines.redaction.redact import Redactor

SENTENCES = Path(__file__).with_name("sentences.tsv")
COLUMNS = ("part", "form", "text")
PARTS = ("tuned", "held_out")
FORMS = ("written", "whisper", "spoken")
"""As people type, as Whisper writes digits down, and in words."""
_ITEM = re.compile(r"\[\[(\w+)\|(.*?)\]\]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence without its marks, and the items that stand in it."""

    part: str
    form: str
    text: str
    items: tuple[Span, ...]


def read(path: Path = SENTENCES) -> list[Sentence]:
    """The sentences of a tab-separated file with the columns `COLUMNS`.

    Raises:
        UndertoneError: It cannot be read, or a row is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return [_sentence(row["part"], row["form"], row["text"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UndertoneError(f"{path} holds no sentences for redaction: {error!r}") from error


def _sentence(part: str, form: str, marked: str) -> Sentence:
    pieces, items, end, length = [], [], 0, 0
    for match in _ITEM.finditer(marked):
        kind, item = match.groups()
        before = marked[end : match.start()]
        start = length + len(before)
        items.append(Span(start, start + len(item), KINDS[KINDS.index(kind)]))
        pieces += [before, item]
        length, end = start + len(item), match.end()
    if part not in PARTS or form not in FORMS:
        raise ValueError(f"{part}, {form}: {marked}")
    return Sentence(part, form, "".join((*pieces, marked[end:])), tuple(items))


def measure(sentences: Iterable[Sentence], redactor: Redactor) -> dict[str, Any]:
    """Figures for each part: by kind and by kind and form, of clean sentences, and what went wrong.

    An item is found when marks of any kind cover all its letters and digits. A mark is right when it touches an item.
    """
    sentences = list(sentences)
    return {part: _figures([one for one in sentences if one.part == part], redactor) for part in PARTS}


def _figures(sentences: Sequence[Sentence], redactor: Redactor) -> dict[str, Any]:
    rows: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    touched = clean = 0
    for sentence in sentences:
        spans = redactor.spans(sentence.text)
        clean += not sentence.items
        touched += bool(spans) and not sentence.items
        missed = [item for item in sentence.items if not _covered(sentence.text, item, spans)]
        false = [span for span in spans if not any(_overlap(span, item) for item in sentence.items)]
        for item in sentence.items:
            for row in (item.kind, f"{item.kind}, {sentence.form}"):
                counts = rows.setdefault(row, dict.fromkeys(("items", "found", "named", "false"), 0))
                counts["items"] += 1
                counts["found"] += item not in missed
                counts["named"] += any(span.kind == item.kind and _overlap(span, item) for span in spans)
        for span in false:
            rows.setdefault(span.kind, dict.fromkeys(("items", "found", "named", "false"), 0))["false"] += 1
        if missed or false:
            wrong.append(sentence.text)
    kinds = {row: counts | _rates(counts) for row, counts in sorted(rows.items())}
    share = touched / clean if clean else 0.0
    return {
        "sentences": len(sentences),
        "clean": clean,
        "touched": touched,
        "touched_share": share,
        "kinds": kinds,
        "wrong": wrong,
    }


def _rates(counts: dict[str, int]) -> dict[str, float | None]:
    marks = counts["found"] + counts["false"]
    return {
        "recall": counts["found"] / counts["items"] if counts["items"] else None,
        "precision": counts["found"] / marks if marks else None,
    }


def _covered(text: str, item: Span, spans: Sequence[Span]) -> bool:
    return all(
        any(span.start <= place < span.end for span in spans)
        for place in range(item.start, item.end)
        if text[place].isalnum()
    )


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end
