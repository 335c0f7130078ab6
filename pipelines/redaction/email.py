"""E-mail addresses, written or spoken: `jane.doe@example.com`, `jane dot doe at example dot com`, `j o h n at gmail`."""

from collections.abc import Sequence

from pipelines.redaction.finding import Utterance, is_said
from pipelines.redaction.runs import TEENS, TENS, TIMES, UNITS, ZEROS
from pipelines.redaction.tokens import Token, words

LOCAL_TOKENS_MAX = 64  # RFC 5321, section 4.5.3.1.1, in characters
DOMAIN_TOKENS_MAX = 24
LABEL_TOKENS_MAX = 63  # RFC 1035, section 2.3.4, in characters
_LOCAL_MARKS = frozenset("._-+%'&=~/#$!*?^{|}`\u2019")
_DOTS = frozenset({"dot", "punkt", "punto", "."})
_CONNECTORS = frozenset({"dot", "underscore", "dash", "hyphen", "minus", "plus", "punkt", "punto", "_", "-", "."})
_SPOKEN_CONNECTORS = _CONNECTORS - frozenset("-._")
_NUMBERS = UNITS.keys() | ZEROS | TEENS.keys() | TENS.keys() | TIMES.keys()
_BRACKETS = frozenset("()[]{}<>")
_TOP_LEVEL = words(
    "com net org info biz edu gov io co me uk de fr es it nl pl eu us ca au nz ie at ch be se no dk fi pt br in jp cn ru za "
    "mx cz sk hu ro bg gr tr app dev online shop email tv cloud"
)
_PROVIDERS = words("gmail googlemail hotmail outlook yahoo icloud aol gmx protonmail proton live msn web posteo yandex")
_MAIL_WORDS = words("email e-mail mail mails emails address mailto e login write send")
_NO_NAMES = words(
    "a an the i i'm i've i'd it it's its this that that's these those he he's she she's we we're they you your me him her us "
    "them one look looked looking looks order ordered bought buy shop shopped site page found find get got is was were are am "
    "be been and or but so to of in on for from up down out over off by with here there not now me work works worked team "
    "people someone anyone cheaper best good use visit go went see saw my our their support stuff things account than only "
    "everything nothing something anything again today yesterday arrived staff service least most once first last all"
)
_BEFORE_ADDRESS = words("is to under at via contact :")
_ONE_WORD = ("all one word", "all lower case", "all lowercase", "one word", "no spaces")


def find_emails(utterance: Utterance) -> None:
    """Take every address; from each `@` or `at` a bounded way to both sides."""
    floor = 0
    for place, token in enumerate(utterance.tokens):
        if token.text in ("@", "at") and place not in utterance.taken:
            written = token.text == "@"
            is_glued = (
                written
                and place + 1 < len(utterance.tokens)
                and not (token.spaced or utterance.tokens[place + 1].spaced)
            )
            end = _domain_end(utterance.tokens, place + 1, is_glued=is_glued)
            if end is None:
                continue
            first = _local_first(utterance, place, floor)
            if first is not None and (written or _is_meant(utterance, first, place, end)):
                utterance.take("email", first, end)
                floor = end


def _text(tokens: Sequence[Token], place: int) -> str:
    return tokens[place].text if 0 <= place < len(tokens) else ""


def _past(tokens: Sequence[Token], place: int, marks: frozenset[str], step: int) -> int:
    while 0 <= place < len(tokens) and tokens[place].text in marks:
        place += step
    return place


_SKIPPED = _BRACKETS | {","}


def _domain_end(tokens: Sequence[Token], place: int, *, is_glued: bool) -> int | None:
    """The token behind a domain that begins at `place`; None where none does. `is_glued`: no blank stands before it."""
    place = _past(tokens, place, _SKIPPED, 1)
    limit = min(place + DOMAIN_TOKENS_MAX, len(tokens))
    labels, end, begin = 0, None, place
    while place < limit:
        behind = _label_end(tokens, place, 1 if labels or is_glued else 6)
        if behind is None:
            break
        place, labels = behind, labels + 1
        name = "".join(token.text for token in tokens[begin if labels == 1 else place - 1 : place])
        if labels == 1 and name in _PROVIDERS and not is_glued:
            end = place + (_text(tokens, place) == "com")
        if labels > 1 and (is_glued or _is_top_level(tokens, place)):
            end = place
        dot = _dot_end(tokens, place)
        if dot is None:
            break
        place = dot
    return end


def _label_end(tokens: Sequence[Token], place: int, words_max: int) -> int | None:
    """Behind a label: words, digits and dashes up to a dot; behind the first, one word or a few letters. At most `LABEL_TOKENS_MAX`."""
    begin, words, limit = place, 0, min(place + LABEL_TOKENS_MAX, len(tokens))
    while place < limit:
        token = tokens[place]
        if token.text in _DOTS:
            break
        if place > begin and _is_dash(tokens, place):
            place += 1
            continue
        letters = words_max == 1 and token.is_letter and place > begin and tokens[place - 1].is_letter
        follows = not token.spaced and place > begin
        if not token.text.isalnum() or (words >= words_max and not (letters or follows)):
            break
        words += not (letters or follows)
        place += 1
    return place if place > begin else None


def _is_dash(tokens: Sequence[Token], place: int) -> bool:
    """Whether a dash joins two parts of a label."""
    if place + 1 == len(tokens) or not _is_name_part(tokens[place + 1]):
        return False
    token = tokens[place]
    return token.text in ("dash", "hyphen") or (token.text == "-" and not (token.spaced or tokens[place + 1].spaced))


def _dot_end(tokens: Sequence[Token], place: int) -> int | None:
    """Behind a dot, with its brackets or commas; a full stop before a blank is none."""
    mark = _past(tokens, place, _SKIPPED, 1)
    if _text(tokens, mark) not in _DOTS or mark - place > 2:
        return None
    if _text(tokens, mark) == "." and mark + 1 < len(tokens) and tokens[mark + 1].spaced:
        return None
    return _past(tokens, mark + 1, _SKIPPED, 1)


def _is_top_level(tokens: Sequence[Token], end: int) -> bool:
    last = _text(tokens, end - 1)
    spelled = tokens[end - 1].is_letter and tokens[end - 2].is_letter
    return last in _TOP_LEVEL or (spelled and tokens[end - 2].text + last in _TOP_LEVEL)


def _local_first(utterance: Utterance, at: int, floor: int) -> int | None:
    """The first token of what stands before the at, not before token `floor`; None where nothing does."""
    tokens = utterance.tokens
    place = _past(tokens, at - 1, _SKIPPED, -1)
    for phrase in _ONE_WORD:
        count = len(phrase.split())
        if utterance.said(place - count + 1, place + 1) == phrase:
            place = _past(tokens, place - count, _SKIPPED, -1)
            break
    if place < floor or not (_is_name_part(tokens[place]) or tokens[place].text in _LOCAL_MARKS):
        return None
    written = tokens[at].text == "@"
    lowest = max(floor, place - LOCAL_TOKENS_MAX)
    while (before := _before(tokens, place, written=written)) >= lowest:
        place = before
    return place


def _before(tokens: Sequence[Token], place: int, *, written: bool) -> int:
    """The token before that belongs to the same address; -1 where none does. Who dictates makes commas."""
    before = place - 1
    if before > 0 and tokens[before].text == "," and not written:
        dictated = {tokens[before - 1].text, tokens[place].text} & _SPOKEN_CONNECTORS
        spelled = tokens[before - 1].is_letter and tokens[place].is_letter
        return before - 1 if dictated or spelled else -1
    return before if before >= 0 and (_joins(tokens, place) or (not written and _follows(tokens, place))) else -1


def _joins(tokens: Sequence[Token], place: int) -> bool:
    """Whether the token before belongs to the same written word, or one of the two connects."""
    token, before = tokens[place], tokens[place - 1]
    if not token.spaced:
        return _is_name_part(before) or before.text in _LOCAL_MARKS
    connected = before.text in _SPOKEN_CONNECTORS and place > 1
    return connected or (token.text in _CONNECTORS and _is_name_part(before))


def _is_name_part(token: Token) -> bool:
    return token.is_word or token.is_digits


def _follows(tokens: Sequence[Token], place: int) -> bool:
    """Whether the token before is spelled, or a name before digits or before another name."""
    token, before = tokens[place], tokens[place - 1]
    spelled = before.is_letter or before.is_digits or before.text in _NUMBERS
    if token.is_letter or token.is_digits or token.text in _NUMBERS:
        return spelled or (not token.is_letter and _is_name(before))
    return before.is_letter and before.text not in ("a", "i")


def _is_name(token: Token) -> bool:
    return token.is_word and token.text not in _NO_NAMES and token.text not in _MAIL_WORDS and len(token.text) > 1


def _is_meant(utterance: Utterance, first: int, at: int, end: int) -> bool:
    """Whether an `at` in words stands in an address: `look at amazon dot com` has none."""
    local = utterance.tokens[first:at]
    domain = utterance.said(at + 1, end).replace(" ", "")
    plain_word = len(local) == 1 and local[0].is_word and not local[0].is_letter
    if plain_word and local[0].text in _NO_NAMES:
        return False
    if not plain_word or any(domain.startswith(provider) for provider in _PROVIDERS) or "dash" in domain:
        return True
    around = utterance.said(first - 10, first).split()
    return not around or around[-1] in _BEFORE_ADDRESS or not is_said(around[-1]) or not _MAIL_WORDS.isdisjoint(around)
