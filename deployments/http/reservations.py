"""Whose a stream of a call is while its media comes over HTTP, and how far it has come, so that a try that broke off goes on from there."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from deployments.http.bodies import MediaMetadata
from deployments.http.multipart import FIELDS_AFTER_FILE
from deployments.http.problems import ProblemError, problem_of
from pipelines.consent import format_consent
from pipelines.errors import CallDeletedError, UndertoneError
from pipelines.seal import Seal
from pipelines.store.ledger import Taken
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, CallRef, MediaFragment

_GO_ON = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE)
"""What ends a try of which the next one goes on."""


WARNINGS_MAX = 20
"""Sentences of one answer."""


@dataclass(slots=True)
class Reservation:
    """A stream that is a sender's: the word that continues it, the seal under which its media goes into the log, and whose call it is."""

    resume: str
    seal: Seal
    customer: str | None = None
    """As a keyed hash, which the store knows the call by."""
    progress: Taken = field(default_factory=Taken)
    """How much of the stream the log has, from earlier tries at first."""
    broke_off: bool = False
    """Whether this try has begun to put fragments into the log, and not ended with the last."""

    warnings: list[str] = field(default_factory=list)
    """What of the media is not heard, in a sentence each."""

    def warn(self, text: str) -> None:
        """Keep a sentence for the answer; each once, and no more than `WARNINGS_MAX`."""
        if text not in self.warnings and len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(text)

    def left(self, pieces: Iterator[MediaFragment]) -> Iterator[MediaFragment]:
        """The fragments that the log has not; `progress` goes with them.

        Raises:
            ProblemError: they are not those of the try before (409).
        """
        before, seen = self.progress, 0
        for piece in pieces:
            seen = piece.seq + 1
            digest = _digest(piece) if seen >= before.fragments else ""
            if seen == before.fragments and digest != before.digest:
                raise _other_media()
            if seen > before.fragments:
                self.broke_off = True
                yield piece
                self.progress = Taken(seen, digest)
        if seen < before.fragments:
            raise _other_media()
        self.broke_off = False


def _digest(piece: MediaFragment) -> str:
    """Of its media and of what was said of it: of the same sound nobody is to become another party on the way, or to be judged otherwise."""
    said = (
        piece.start_ms,
        piece.content_type,
        piece.participants,
        piece.consent and format_consent(piece.consent),
        piece.customer,
    )
    return hashlib.sha256(repr(said).encode() + piece.media).hexdigest()


def _other_media() -> ProblemError:
    return ProblemError(
        HTTPStatus.CONFLICT,
        "other_media",
        "an upload that broke off goes on with the same media, participants, consent, start and customer, and this is not what came before: "
        "send that, or this under another call id",
    )


@contextlib.asynccontextmanager
async def reserved(
    store: Store, call: CallRef, metadata: MediaMetadata, *, live: bool, keep_seal: bool
) -> AsyncIterator[Reservation]:
    """The stream reserved for this sender while its media is taken; `keep_seal`: its seal is kept once more at the end.

    Whose call it is the store knows before anything of it is in the log: a customer who is forgotten before it is read is forgotten.
    Where it fails, how much the log has of it is kept for the try that goes on; the reservation of a sender that named no word of
    its own, and can be told none, is given back: nobody could go on with it.

    Raises:
        CallDeletedError: the call was deleted, before or meanwhile.
        ProblemError: the stream is in use, or another sender's (409).
    """
    stream = metadata.stream
    await _refuse_deleted(store, call)
    found = await store.archive.call(call)
    state = None if found is None else found.streams.get(stream)
    resume = metadata.resume or secrets.token_urlsafe(16)
    word = hashlib.sha256(resume.encode()).hexdigest()
    taken = await store.ledger.reserve_stream(call, stream, word, first=state is None)
    is_ours = taken is not None
    if is_ours and state == "final" and not live:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "stream_complete",
            f"{call} has all of its stream {stream!r}, from an earlier try: nothing is to be sent again",
        )
    if not is_ours or (live and state is not None):
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "stream_exists",
            f"{call} has a stream {stream!r} already; take another stream name, or another call id. An upload that broke "
            "off is sent again with the `resume` that its first try named",
        )
    held: Reservation | None = None
    try:
        seal = await store.seals.of_call(call, TOPIC_MEDIA)
        held = Reservation(resume, seal, await _noted_customer(store, call, metadata), taken or Taken())
        yield held
        await store.ledger.note_taken(call, stream, word, held.progress)  # the answer may be lost
        if keep_seal:
            await store.seals.keep(seal)
        await store.ledger.await_worker(call)
    except BaseException as error:
        if isinstance(error, ProblemError) and error.reason == FIELDS_AFTER_FILE:
            raise await asyncio.shield(_taken_back(store, call, error, is_new=found is None)) from error
        told = None if held is None or live else _how_to_go_on(error, call, held)
        if held is not None and held.progress.fragments and (told or metadata.resume is not None):
            await asyncio.shield(store.ledger.note_taken(call, stream, word, held.progress))
        elif told is None and metadata.resume is None:
            await asyncio.shield(store.ledger.release_stream(call, stream, word))
        if told is not None:
            raise told from error
        raise


def _how_to_go_on(error: BaseException, call: CallRef, held: Reservation) -> ProblemError | None:
    """The same error with the word for the next try; None where there is nothing to go on with, or nobody to tell."""
    if not held.broke_off or not isinstance(error, ProblemError | UndertoneError):
        return None
    problem = problem_of(error, "")
    if problem.status not in _GO_ON:
        return None
    how = f"Go on where it ended: send all of it again with call_id={call.call_id} and resume={held.resume}"
    return ProblemError(problem.status, problem.reason, f"{problem.detail}. {how}")


async def _taken_back(store: Store, call: CallRef, error: ProblemError, *, is_new: bool) -> ProblemError:
    """The error of an upload whose consent, or customer, came too late; what was taken of a new call is forgotten."""
    if is_new:
        await store.delete_call(call)
        what = f"Nothing of {call} is kept; send it again under another call id"
    else:
        what = f"{call} was there before: forget all of it with DELETE /v1/calls/{call.call_id} if that must not stay"
    return ProblemError(HTTPStatus(error.status), error.reason, f"{error.detail}. {what}")


async def _refuse_deleted(store: Store, call: CallRef) -> None:
    if await store.deleted(call):
        raise CallDeletedError(f"{call} was deleted, and nothing more is taken of it; take another call id")


async def _noted_customer(store: Store, call: CallRef, metadata: MediaMetadata) -> str | None:
    """The keyed hash of the customer whom the metadata name, once the store knows whose call it is; None where they name none."""
    if metadata.customer is None:
        return None
    customer = await store.customers.hash(call.tenant, metadata.customer.get_secret_value())
    await store.customers.note(call, customer)
    return customer
