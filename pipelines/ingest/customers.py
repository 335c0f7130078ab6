"""Whose calls a worker meets: references of foreign producers are hashed, and noted before anything of the call is kept."""

import re
from dataclasses import replace

from pipelines.customer import HASH_HEADER, HASH_PATTERN, REFERENCE_HEADER, parse_reference
from pipelines.errors import BadFragmentError
from pipelines.ingest.context import WorkerContext
from pipelines.log.records import HEADERS_MAX, call_of
from pipelines.types import CallRef, Record

_HASH = re.compile(HASH_PATTERN.encode())


async def with_hashed_reference(context: WorkerContext, record: Record) -> Record:
    """The record with the keyed hash of its customer's reference in the reference's place: it goes no further than here.

    One without, or that is refused for it (it is no reference, stands there twice, or nobody's), stays as it is.
    """
    given = [value for name, value in record.headers if name == REFERENCE_HEADER]
    call = call_of(record) if len(given) == 1 else None
    if call is None:
        return record
    try:
        reference = parse_reference(given[0].decode())
    except (BadFragmentError, UnicodeDecodeError):
        return record
    customer = await context.retry_store(lambda: context.store.customers.hash(call.tenant, reference))
    named = (HASH_HEADER, customer.encode())
    return replace(
        record, headers=tuple(named if header[0] == REFERENCE_HEADER else header for header in record.headers)
    )


async def note_customer(context: WorkerContext, call: CallRef, customer: str) -> None:
    """Note whose call it is; `customer` is the keyed hash.

    Raises:
        CallDeletedError: the call was deleted.
    """
    ttl_s = context.config.tenant(call.tenant).results_ttl_s
    await context.retry_store(lambda: context.store.customers.note(call, customer, ttl_s))


async def note_customers_of(context: WorkerContext, call: CallRef, record: Record) -> None:
    """Note whose call it is, of a record that is kept as a dead letter, however else it breaks the contract.

    Raises:
        CallDeletedError: the call was deleted.
    """
    for name, value in record.headers[:HEADERS_MAX]:
        if name == HASH_HEADER and _HASH.fullmatch(value):
            await note_customer(context, call, value.decode())
