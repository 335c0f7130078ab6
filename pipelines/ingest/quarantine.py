"""Records that cannot be analysed: how often their work began, whether they kill, and their way to the dead-letter topic."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from pipelines.errors import BadFragmentError, MediaError, SealError
from pipelines.ingest.context import WorkerContext
from pipelines.ingest.customers import note_customers_of
from pipelines.ingest.decoder_thread import StuckDecoderError
from pipelines.ingest.sandbox import trial
from pipelines.ingest.stream_task import StreamTask
from pipelines.log.dead_letter import letter_key, letter_of
from pipelines.log.records import call_of, fragment_headers, open_fragment
from pipelines.seal import HEADER as SEAL
from pipelines.store.ledger import Owned
from pipelines.types import TOPIC_DEAD_LETTER, TOPIC_MEDIA, MediaFragment, Record

logger = logging.getLogger(__name__)

SUSPECT_DEATHS = 2
"""After so many processes died over a record it is tried in one of its own."""
DEATHS_MAX = 4
"""After so many it is dead-lettered, whatever that trial says: it may kill only together with what came before it."""


async def begin_work(context: WorkerContext, record: Record, ended: Iterable[int]) -> int:
    """Mark a record as in progress before its work begins, and clear the marks of others of its partition.

    Returns:
        How many workers have begun it without an end, this one included: 1, unless a process died over it.
    """
    offsets = list(ended)
    return await context.retry_store(lambda: context.store.ledger.mark_in_progress(record.at, context.owner, offsets))


async def feed_or_dead_letter(
    context: WorkerContext,
    stream: StreamTask,
    fragment: MediaFragment,
    record: Record,
    *,
    attempts: int,
    lost_before: int,
) -> bool:
    """Feed a fragment to its stream; one that cannot be analysed, or that kills, is dead-lettered instead.

    `attempts` is what `begin_work` told, `lost_before` where the log goes on after its last gap.

    Returns:
        False where its decoder was given up, so that the stream must be opened anew, without its pictures; the fragment is
        dead-lettered only where they were left out already.
    """
    refusal: MediaError | BadFragmentError | None
    try:
        fragment = await _opened(context, fragment)
    except SealError as error:
        refusal = BadFragmentError(error.reason, str(error))
    else:
        refusal = await _refusal(context, stream, fragment, record, attempts=attempts, lost_before=lost_before)
        if any(name == SEAL for name, _ in record.headers):  # the letter has a seal of its own, which lives longer
            record = replace(record, value=fragment.media, headers=fragment_headers(fragment))
    if refusal is None:
        return True
    if isinstance(refusal, StuckDecoderError) and stream.is_seen:
        # Pictures wait until somebody speaks: what kept the decoder may have come in an earlier fragment.
        logger.warning("%s: no picture is decoded any more, for one may have kept its decoder", stream.id)
        return False
    reported_attempts = attempts - 1 if refusal.reason == "killed" else attempts  # this process has not died over it
    send = partial(
        dead_letter, context, record, refusal.reason, str(refusal), attempts=reported_attempts, owned=stream.owned
    )
    if not await stream.if_owned(send):
        return True
    if isinstance(refusal, StuckDecoderError):
        return False
    await stream.refuse(fragment, record, lost_before)
    return True


async def _opened(context: WorkerContext, fragment: MediaFragment) -> MediaFragment:
    """The fragment with media that can be read.

    Raises:
        SealError: the store has not its seal, or another one.
    """
    seal_id = fragment.seal
    if seal_id is None:
        return fragment
    seal = await context.retry_store(lambda: context.store.seals.find(fragment.call, TOPIC_MEDIA, seal_id))
    if seal is None:
        raise SealError(
            f"the store has no seal {seal_id!r} of {fragment.call}: its latest writes were lost, or it is another store than "
            "the sender's; send the call again, or redrive this once the store has it"
        )
    return open_fragment(fragment, seal)


async def _refusal(
    context: WorkerContext,
    stream: StreamTask,
    fragment: MediaFragment,
    record: Record,
    *,
    attempts: int,
    lost_before: int,
) -> MediaError | BadFragmentError | None:
    """Why a fragment cannot be analysed; None where its stream has taken it."""
    try:
        verdict = await _verdict(context, fragment, attempts)
        if verdict is not None:
            return BadFragmentError("killed", verdict)
        await stream.feed(fragment, record, lost_before)
    except MediaError as error:
        return error
    except Exception as error:  # whatever a fragment does to a decoder, it must not stop the others
        logger.exception("a fragment could not be decoded: %s", record.at)
        return BadFragmentError("crashed", repr(error))
    return None


async def _verdict(context: WorkerContext, fragment: MediaFragment, attempts: int) -> str | None:
    """Why a fragment is to blame for the processes that died over it; None for any other."""
    if attempts <= SUSPECT_DEATHS:
        return None
    verdict = await asyncio.to_thread(trial, fragment, context.config.stream)
    if verdict is None and attempts > DEATHS_MAX:
        return f"{attempts - 1} processes ended while they worked on it"
    return verdict


async def dead_letter(
    context: WorkerContext, record: Record, reason: str, detail: str, *, attempts: int = 1, owned: Owned | None = None
) -> None:
    """Send a record to the dead-letter topic and count it once; it may stand in the topic twice, after a crash in between.

    Raises:
        FencedError: the stream is not `owned` any more.
        CallDeletedError: its call was deleted, and nothing is kept of it.
    """
    call = call_of(record)
    ledger = context.store.ledger
    if call is not None and await context.retry_store(lambda: ledger.is_dead_letter(call, record.at, owned)):
        return
    if call is not None:
        await note_customers_of(context, call, record)
    seal = None
    if call is not None and context.config.is_live:  # what a replay or a shadow refuses is counted, and sent nowhere
        seal = await context.retry_store(lambda: context.store.seals.of_call(call, TOPIC_DEAD_LETTER))
    logger.warning("dead-lettered (%s): %s", reason, detail)
    await context.send(TOPIC_DEAD_LETTER, letter_key(record), *letter_of(record, reason, detail, attempts, seal))
    if call is not None and not await context.retry_store(
        lambda: ledger.note_dead_letter(call, record.at, reason, owned)
    ):
        return
    context.metrics.fragments_in.inc()
    context.metrics.fragments_dead_lettered.labels(reason).inc()
