"""What can be asked of the store, and its text forms: cursors, digests, filters, trends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import BadCursorError, CorruptResultError
from pipelines.store.queries import (
    CallFilter,
    CallInfo,
    Digest,
    read_call_cursor,
    read_member_cursor,
    trend_minute,
    write_cursor,
)
from pipelines.types import CALL_ID_PATTERN, Participant

ANGRY = Digest("customer", "negative", "anger", -2.5)
GLAD = Digest("customer", "positive", "joy", 1.5)
CALM = Digest("agent", "neutral", "neutral", 0.0)
UNJUDGED = Digest("customer", None, None)


@given(st.integers(0, 2**53 - 1), st.from_regex(CALL_ID_PATTERN, fullmatch=True))
def test_a_cursor_brings_back_its_place(started_ms: int, call_id: str) -> None:
    assert read_call_cursor(write_cursor(started_ms, call_id)) == (started_ms, call_id)
    assert read_member_cursor(write_cursor(call_id)) == call_id


@pytest.mark.parametrize("cursor", ["", "hello", "W10", write_cursor("one"), write_cursor(1, 2), "W" * 5000, "[" * 99])
def test_a_cursor_of_another_listing_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursorError, match="no listing of calls gave"):
        read_call_cursor(cursor)


def test_a_cursor_of_calls_is_none_of_utterances() -> None:
    with pytest.raises(BadCursorError, match="no listing of utterances gave"):
        read_member_cursor(write_cursor(1, "call"))


@pytest.mark.parametrize("digest", [ANGRY, GLAD, CALM, UNJUDGED])
def test_a_digest_that_is_written_reads_the_same(digest: Digest) -> None:
    assert Digest.read(digest.write()) == digest


@pytest.mark.parametrize("text", ["", "customer", "a|b|c", "a|b|c|d", "a|b|c|1|2"])
def test_what_is_no_digest_is_named(text: str) -> None:
    with pytest.raises(CorruptResultError, match="no digest"):
        Digest.read(text)


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        ({}, [ANGRY, GLAD, CALM, UNJUDGED]),
        ({"participant": Participant.CUSTOMER}, [ANGRY, GLAD, UNJUDGED]),
        ({"polarity": "negative"}, [ANGRY]),
        ({"emotion": "joy"}, [GLAD]),
        ({"score_min": 0.0}, [GLAD, CALM]),
        ({"score_max": 0.0}, [ANGRY, CALM]),
        ({"score_min": -3.0, "score_max": 3.0}, [ANGRY, GLAD, CALM]),
        ({"participant": Participant.CUSTOMER, "polarity": "neutral"}, []),
    ],
)
def test_an_utterance_meets_all_conditions_or_is_left_out(wanted: dict[str, Any], accepted: list[Digest]) -> None:
    condition = CallFilter(**wanted)
    assert [one for one in (ANGRY, GLAD, CALM, UNJUDGED) if condition.accepts(one)] == accepted
    assert condition.asks_for_utterances is bool(wanted)


def test_a_minute_counts_what_was_judged() -> None:
    sums = {
        "size": 4,
        "customer": {"n": 2, "score": -5_000, "p": {"negative": 1, "positive": 1}, "e": {"anger": 1, "joy": 1}},
        "agent": {"n": 1, "score": -5_000, "p": {"neutral": 1}, "e": {"neutral": 1}},
    }
    minute = trend_minute(60_000, sums, None)
    assert (minute.minute_ms, minute.utterances) == (60_000, 3)
    assert minute.score_mean == pytest.approx(-1 / 3)
    assert minute.polarities == {"negative": 1, "positive": 1, "neutral": 1}
    assert trend_minute(0, sums, Participant.AGENT).emotions == {"neutral": 1}
    assert trend_minute(0, {"size": 1}, None).utterances == 0


@pytest.mark.parametrize(("status", "over"), [("live", False), ("stalled", False), ("closed", True), ("final", True)])
def test_a_call_is_over_when_it_is_closed_or_final(status: Any, over: bool) -> None:  # noqa: FBT001
    assert CallInfo("c", "default", status, 0, 0, None, 0, {}).over is over
