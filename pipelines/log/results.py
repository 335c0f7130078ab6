"""How a result stands on `call-sentiment`: its JSON, sealed, under its call's id (docs/architecture.md#a-result)."""

from pipelines.seal import HEADER, Seal
from pipelines.types import Headers, Record, UtteranceSentiment, read_result


def result_record(result: UtteranceSentiment, seal: Seal) -> tuple[bytes, Headers]:
    """The value and the headers of the record; `records.call_of` tells whose it is, its header `seal` what opens it."""
    headers = {"v": "1", "tenant": result.tenant, "utterance-id": result.utterance_id, HEADER: seal.id}
    return seal.close(result.model_dump_json().encode()), tuple((name, text.encode()) for name, text in headers.items())


def read_result_record(record: Record, seal: Seal) -> UtteranceSentiment:
    """The result that a record of `call-sentiment` holds.

    Raises:
        SealError: it was not sealed by `seal`.
        CorruptResultError: it is no result.
    """
    return read_result(seal.open(record.value))
