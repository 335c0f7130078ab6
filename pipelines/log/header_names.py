"""Kafka headers whose names are no UTF-8, which kafka-python 3.0.12 cannot read.

Kafka takes any bytes as a header's name. kafka-python decodes them within `poll`, which fails at such a record and at
every other of its batch, for ever, since the position never passes them. Here the bytes that are
not UTF-8 become U+FFFD: the record is then parsed, or dead-lettered, like any other.
"""

import logging
from typing import Any

from kafka.record.default_records import DefaultRecordBatch

logger = logging.getLogger(__name__)


class _LenientBytes(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _LenientBytes(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


_read_strictly = DefaultRecordBatch._read_msg  # noqa: SLF001  # nothing public reads one record


def _read_record(batch: Any) -> Any:
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError as error:
        logger.warning("a record near offset %d has a header whose name is no UTF-8: %s", batch.base_offset, error)
        batch._buffer = _LenientBytes(batch._buffer)  # noqa: SLF001  # for the rest of the batch: one copy, one warning
        return _read_strictly(batch)


def tolerate_bad_header_names() -> None:
    """From now on every consumer of this process reads records with such names."""
    DefaultRecordBatch._read_msg = _read_record  # noqa: SLF001  # no setting reaches the decoder
