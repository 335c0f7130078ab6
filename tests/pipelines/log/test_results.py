from datetime import UTC, datetime

import pytest

from pipelines.errors import CorruptResultError, SealError
from pipelines.log.records import call_of
from pipelines.log.results import read_result_record, result_record
from pipelines.seal import Seal
from pipelines.types import TOPIC_SENTIMENT, CallRef, Coordinates, Record, TranscriptOut
from tests.pipelines.stored import result

SEAL = Seal.new(CallRef("acme", "c"), TOPIC_SENTIMENT)
RESULT = result(1000).model_copy(
    update={
        "transcript": TranscriptOut(text="my name is Ada", language="en", engine="test", reliable=True),
        "analysed_at": datetime(2026, 11, 21, tzinfo=UTC),
    }
)


def test_a_result_says_whose_it_is_and_its_seal_gives_the_rest() -> None:
    value, headers = result_record(RESULT, SEAL)
    record = Record(Coordinates(0, 0), b"c", value, headers, 0)
    assert call_of(record) == CallRef("acme", "c")
    assert dict(headers)["seal"] == SEAL.id.encode()
    assert read_result_record(record, SEAL) == RESULT
    assert not [part for part in (value, *(text for _, text in headers)) if b"Ada" in part or b"negative" in part]
    with pytest.raises(SealError):
        read_result_record(record, Seal.new(SEAL.call, TOPIC_SENTIMENT))


def test_what_is_no_result_is_refused_by_name() -> None:
    with pytest.raises(CorruptResultError, match="no result"):
        read_result_record(Record(Coordinates(0, 0), b"c", SEAL.close(b"{}"), (), 0), SEAL)
