"""The words of utterances that go on, shown before they end. Nothing waits for them, and nothing of them is kept."""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from models.types import Transcript
from pipelines.errors import EncoderUnavailableError, StoreUnavailableError, UnusableInputError
from pipelines.ingest.context import WorkerContext
from pipelines.store.queries import InterimText
from pipelines.tenants import TimeoutSettings
from pipelines.types import Participant, Utterance

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Speaking:
    """One participant's utterance that goes on: where it started, and its length at the next interim text."""

    start_ms: int
    due_ms: int
    request: asyncio.Task[None] | None = None


class InterimRequests:
    """What one stream asks of the transcriber for utterances that go on: for each participant one at a time.

    A text that is due while the worker has as much in flight as it may, while the transcriber has anything else to do, or
    while the one before is still awaited is left out: none waits. An error costs the text and no more.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._speaking: dict[Participant, _Speaking] = {}

    @property
    def under_way(self) -> list[asyncio.Task[None]]:
        """What was asked for last, of each utterance that goes on."""
        return [one.request for one in self._speaking.values() if one.request is not None]

    def show(self, utterances: Collection[Utterance]) -> None:
        """`utterances` go on now, one a participant: ask for the words of those that are due, and drop what was asked for others.

        Of one without samples (its speaker pauses) none are asked for: most likely it ends, and its result must not wait.
        """
        going_on = {(utterance.participant, utterance.start_ms) for utterance in utterances}
        for participant, one in list(self._speaking.items()):
            if (participant, one.start_ms) not in going_on:
                del self._speaking[participant]
                if one.request is not None:
                    one.request.cancel()
        for utterance in utterances:
            self._show(utterance)

    def _show(self, utterance: Utterance) -> None:
        settings, length_ms = self._context.config.interim, utterance.end_ms - utterance.start_ms
        first = _Speaking(utterance.start_ms, round(settings.after_s * 1000))
        one = self._speaking.setdefault(utterance.participant, first)
        if length_ms < one.due_ms or not utterance.samples.size:
            return
        one.due_ms = length_ms + round(settings.every_s * 1000)
        if self._has_room() and (one.request is None or one.request.done()):
            one.request = asyncio.create_task(self._request(utterance))
        else:
            self._count("busy")

    def _has_room(self) -> bool:
        return self._context.in_flight.count < self._context.config.worker.utterances_in_flight

    async def _request(self, utterance: Utterance) -> None:
        if self._context.transcribe is None:
            return
        timeouts = self._context.config.tenant(utterance.tenant).timeouts or TimeoutSettings()
        try:
            heard = await asyncio.wait_for(self._context.transcribe(utterance.samples), timeouts.transcribe_s)
            if heard is None:
                self._count("busy")
            elif heard.unreliable is not None or not heard.text.strip():
                self._count("unreliable")
            else:
                redactor = self._context.config.tenant(utterance.tenant).redact.redactor
                text = await asyncio.to_thread(redactor.so_far, heard.text, heard.language)
                if text:
                    await self._context.store.interim.publish(utterance.tenant, _text(utterance, heard, text))
                self._count("published" if text else "held_back")
        except (TimeoutError, EncoderUnavailableError, UnusableInputError, StoreUnavailableError):
            self._count("failed")
        except Exception:  # whatever it is, it costs this text and no more
            logger.exception("the words so far of %s could not be shown", utterance.utterance_id)
            self._count("failed")

    def _count(self, outcome: str) -> None:
        self._context.metrics.interim_texts.labels(outcome).inc()


def _text(utterance: Utterance, heard: Transcript, text: str) -> InterimText:
    return InterimText(
        call_id=utterance.call_id,
        stream=utterance.stream,
        participant=utterance.participant,
        start_ms=utterance.start_ms,
        end_ms=utterance.end_ms,
        text=text,
        language=heard.language,
        engine=heard.engine,
    )
