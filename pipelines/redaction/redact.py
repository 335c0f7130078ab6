"""The one place where what must not be kept is replaced in words (docs/architecture.md#what-is-not-kept)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from models.types import Transcript, Word
from pipelines.errors import RedactionError
from pipelines.redaction.codes import CodeRules
from pipelines.redaction.email import find_emails
from pipelines.redaction.finding import KINDS, Kind, Span, Utterance
from pipelines.redaction.ids import COUNTRIES
from pipelines.redaction.names import PersonFinder
from pipelines.redaction.numbers import NumberRules
from pipelines.redaction.runs import AMOUNTS, DATES, Reader, runs_of, tokens_of_form
from pipelines.redaction.tokens import plain, tokens_of
from pipelines.redaction.unfinished import begun_at


@dataclass(frozen=True, slots=True)
class Redactor:
    """Replaces items of `kinds` by their marks: `[CARD]`, `[EMAIL]`.

    It looks at one utterance and keeps nothing, so that a stream that is resumed has the results of an undisturbed one.
    Its time is linear in the length of a text.

    Args:
        kinds: What is replaced.
        countries: Whose national numbers, and how telephone numbers are dialled: ISO 3166-1, two letters.
        names: Finds people's names; None leaves them.
    """

    kinds: Sequence[Kind] = KINDS
    countries: Sequence[str] = COUNTRIES
    names: PersonFinder | None = None

    def spans(self, text: str, language: str = "en") -> list[Span]:
        """The items in a text, in order; none overlaps another."""
        return self._spans(text, language, goes_on=False)

    def _spans(self, text: str, language: str, *, goes_on: bool) -> list[Span]:
        if not self.kinds:
            return []
        of = plain(text)
        utterance = Utterance(tokens_of(of), goes_on)
        find_emails(utterance)
        reader = Reader(utterance.tokens, language)
        CodeRules(utterance, reader, self.countries).find()
        rules = NumberRules(utterance, self.countries)
        barred = utterance.taken | tokens_of_form(DATES, of, utterance.tokens)
        if amounts := tokens_of_form(AMOUNTS, of, utterance.tokens):
            barred |= amounts - rules.written_in(amounts, runs_of(utterance.tokens, reader, barred))
        rules.find(runs_of(utterance.tokens, reader, barred))
        spans = [*utterance.spans, *self._names(text, utterance.spans)]
        return sorted(span for span in spans if span.kind in self.kinds)

    def _names(self, text: str, spans: Sequence[Span]) -> list[Span]:
        found = [] if self.names is None else self.names(text)
        return [
            Span(start, end, "name")
            for start, end in found
            if all(end <= span.start or span.end <= start for span in spans)
        ]

    def so_far(self, text: str, language: str = "en") -> str:
        """What may be shown of words that go on: marks in place, and without what may be the beginning of an item.

        Held back are the digits and spelled letters at the end, and an address whose end is not said yet. A number of the
        form of a national one is marked whatever it is called: that may be said last.

        Raises:
            RedactionError: they cannot be looked through.
        """
        with _wordless_errors():
            return self._so_far(text, language)

    def _so_far(self, text: str, language: str) -> str:
        end = begun_at(text, language)
        spans = _united(self.spans(text, language), self._spans(text, language, goes_on=True))
        spans = [span for span in spans if span.start < end]
        return _marked(text, spans, 0, max(end, spans[-1].end) if spans else end).rstrip()

    def __call__(self, transcript: Transcript) -> Transcript:
        """The transcript with marks in text and words; words that carried an item are one, from the first's start to the last's end.

        What stands in its words and not in its text is replaced as well.

        Raises:
            RedactionError: it cannot be looked through.
        """
        with _wordless_errors():
            return self._redacted(transcript)

    def _redacted(self, transcript: Transcript) -> Transcript:
        spans = self.spans(transcript.text, transcript.language)
        places = _places(transcript.text, transcript.words)
        words_text, word_spans = transcript.text, spans
        if places is None:  # text and words differ: each is looked at by itself
            words_text = " ".join(word.text for word in transcript.words)
            places = _places(words_text, transcript.words) or []
            word_spans = self.spans(words_text, transcript.language)
        if not spans and not word_spans:
            return transcript
        counts = Counter(span.kind for span in spans) | Counter(span.kind for span in word_spans)
        return replace(
            transcript,
            text=_marked(transcript.text, spans, 0, len(transcript.text)),
            words=tuple(_merged(words_text, transcript.words, places, word_spans)),
            redacted=dict(sorted(counts.items())),
        )


@contextmanager
def _wordless_errors() -> Iterator[None]:
    """Whatever fails becomes a `RedactionError`: the message and trace of another may hold what was said."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        raise RedactionError(f"words could not be redacted: {type(error).__name__}") from None


def _united(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """All spans in order, those that overlap as one, of the kind that `spans` says."""
    united: list[Span] = []
    usual = set(spans)
    for span in sorted(usual.union(others)):
        if united and span.start < united[-1].end:
            last = united.pop()
            kind = span.kind if span in usual else last.kind
            united.append(Span(last.start, max(last.end, span.end), kind))
        else:
            united.append(span)
    return united


def _marked(text: str, spans: Sequence[Span], start: int, end: int) -> str:
    """Characters `[start, end)` with the marks of `spans`, which lie within, in place."""
    pieces = []
    for span in spans:
        pieces += [text[start : span.start], f"[{span.kind.upper()}]"]
        start = span.end
    return "".join((*pieces, text[start:end]))


def _places(text: str, words: Sequence[Word]) -> list[tuple[int, int]] | None:
    """Where each word stands in the text; None where one does not."""
    places, place = [], 0
    for word in words:
        found = text.find(word.text, place)
        if found < 0:
            return None
        place = found + len(word.text)
        places.append((found, place))
    return places


def _merged(text: str, words: Sequence[Word], places: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[Word]:
    """The words, those that carry a part of an item joined to one."""
    merged: list[Word] = []
    at = used = 0
    while at < len(words):
        first, (start, end) = at, places[at]
        at += 1
        begin = used
        while used < len(spans) and spans[used].start < end:
            while at < len(words) and places[at][0] < spans[used].end:
                end = places[at][1]
                at += 1
            used += 1
        inside = [span for span in spans[begin:used] if span.end > start]
        merged.append(_marked_word(text, words[first:at], inside, start, end) if inside else words[first])
    return merged


def _marked_word(text: str, said: Sequence[Word], spans: Sequence[Span], start: int, end: int) -> Word:
    marked = _marked(text, spans, min(start, spans[0].start), max(end, spans[-1].end))
    return Word(marked, said[0].start_ms, said[-1].end_ms, min(word.confidence for word in said))
