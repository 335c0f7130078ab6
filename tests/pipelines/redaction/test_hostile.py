"""Text of whoever wants to stop the service: the work is bounded, counted and not timed."""

import random
import sys

import pytest

from pipelines.redaction.numbers import ELEMENTS_MAX
from pipelines.redaction.phones import LOOKED_UP_MAX
from pipelines.redaction.redact import Redactor

REDACTOR = Redactor()

HOSTILE = (
    "1", "1 ", "0 ", "4242 ", "1234567891 a ", "111222333 a ", "at ", "@", "a@", "a@b.", "a at b dot ", "DE12 ", "d e ", "A1", "a-",
    "1-", "1.", "1,111", "12/12/", "double ", "one hundred ", "oh ", "um 1234 okay ", "4\u200b", "\uff14", "\ufdfa", "social security 123456789 a ",
    "at1", "at1.", "@1", "at1-", "4,242 ", "42:42 ", "1:11, ", "42.42.42.42 ",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_twice_the_text_is_about_twice_the_work(piece: str) -> None:
    """Counted, not timed: lines of our own code that are run, which a quadratic rule squares. `so_far` looks for all that `spans` does."""
    few, many = (lines_run(piece * (size // len(piece))) for size in (1_000, 4_000))
    assert many < 6 * few


def lines_run(text: str) -> int:
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        REDACTOR.so_far(text)
    finally:
        sys.settrace(before)
    return count


def test_so_many_numbers_are_looked_up_and_no_more() -> None:
    rng = random.Random(1)
    numbers = [f"111{rng.randrange(10**6, 10**7)}" for _ in range(2 * LOOKED_UP_MAX)]  # which nobody dials
    assert REDACTOR.spans(" a ".join(numbers[:LOOKED_UP_MAX])) == []
    assert [span.kind for span in REDACTOR.spans(" a ".join(numbers))] == ["phone"] * LOOKED_UP_MAX


def test_a_run_too_long_to_look_for_a_card_in_is_taken_whole() -> None:
    text = "order " + "1 " * (2 * ELEMENTS_MAX)
    assert [(span.start, span.end) for span in REDACTOR.spans(text)] == [(len("order "), len(text) - 1)]
