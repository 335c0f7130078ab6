"""One utterance in, one result out: consent, transcription, the three encoders, fusion, and what was missing and why."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from models.types import (
    Features,
    FloatArray,
    FusedPrediction,
    Modality,
    Spoken,
    Transcript,
)
from pipelines.errors import EncoderUnavailableError, NoFaceError, UnusableInputError
from pipelines.ingest.results import contribution_out, judgement, transcript_out
from pipelines.tenants import TenantSettings, TimeoutSettings
from pipelines.types import (
    FAULTS,
    MissingReason,
    ModalityOut,
    Utterance,
    UtteranceSentiment,
)

logger = logging.getLogger(__name__)

SILENT_DBFS = -120.0
UNKNOWN_LANGUAGE = "und"  # BCP 47's word for what nobody said
OTHER_LANGUAGE = "language"  # why words are unreliable that the text network has not learned

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelNames:
    """Names with versions of what serves, as every result reports them."""

    bundle: str
    fusion: str
    encoders: Mapping[Modality, str]


@dataclass(frozen=True, slots=True)
class Stages:
    """The networks as this process reaches them: in-process, or over Ray Serve handles.

    `encode` takes what each modality is judged by: samples (N,) at 16 kHz for audio; pairs of a time, in ms from the start of
    the utterance, and a picture for video; a `Spoken` for text. `languages`: whose words it has learned; empty: any.

    Each raises `EncoderUnavailableError` when its network does not answer; `encode` also `UnusableInputError`, `NoFaceError`.
    """

    transcribe: Callable[[FloatArray], Awaitable[Transcript]]
    encode: Mapping[Modality, Callable[[Any], Awaitable[Features]]]
    fuse: Callable[[Mapping[Modality, Features]], Awaitable[FusedPrediction]]
    names: ModelNames
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a modality gave nothing."""

    reason: MissingReason


_NO_ANSWER = tuple(Missing(reason) for reason in FAULTS)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whom one utterance is asked of and how long each may take; `step_ms` gets how long each took."""

    stages: Stages
    timeouts: TimeoutSettings
    step_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Analyser:
    """`await analyser(utterance)` gives its `UtteranceSentiment`.

    A network that fails or passes its time-out costs its modality and no more, unless the tenant's `timeouts` say to wait
    for it. What nobody waits for (a recording, or anything where it is not `live`) always waits, `recorded_s` a step.

    Args:
        stages: The networks.
        tenant: `AppConfig.tenant`: everything that differs by tenant, by the tenant's name.
        behind: The same networks for what nobody waits for: asked behind whatever somebody waits for. By default `stages`.
        live: Whether somebody may wait for what comes of it, as nobody does for a replay's or a shadow's results.
        answer_s: Where the result is the answer to a request, so that nobody tries again: the most that a step may take.

    Raises:
        EncoderUnavailableError: the fusion does not answer, or none of the encoders that this utterance needs, or one
            that is to be waited for; nothing true can be said, so the caller tries again.
    """

    stages: Stages
    tenant: Callable[[str], TenantSettings]
    behind: Stages | None = None
    live: bool = True
    answer_s: float | None = None

    async def __call__(self, utterance: Utterance) -> UtteranceSentiment:
        """Analyse the modalities that the utterance carries and its consent allows."""
        started = time.perf_counter()
        step_ms: dict[str, float] = {}
        asked = self._asked(utterance, step_ms)
        (transcript, text), audio, video = await asyncio.gather(
            self._words(utterance, asked), self._voice(utterance, asked), self._face(utterance, asked)
        )
        outcomes = {Modality.AUDIO: audio, Modality.VIDEO: video, Modality.TEXT: text}
        present = {modality: found for modality, found in outcomes.items() if isinstance(found, Features)}
        away = Missing(EncoderUnavailableError.reason) in outcomes.values()
        if away and not present:
            raise EncoderUnavailableError("no encoder that this utterance needs answers; check the deployments")
        late = [modality for modality, outcome in outcomes.items() if outcome in _NO_ANSWER]
        if late and asked.timeouts.then == "wait":
            raise EncoderUnavailableError(f"no answer on {', '.join(late)}, which this configuration waits for")
        fused = await self._fuse(present, asked) if present else None
        step_ms["total"] = _elapsed_ms(started)
        try:
            return self._result(utterance, transcript, outcomes, fused, step_ms)
        except ValidationError:  # no number, say: tried again it would be none again, and hold up the call for ever
            logger.exception("the networks gave no result for %s", utterance.utterance_id)
            unusable = Missing(UnusableInputError.reason)
            refused = {modality: unusable if modality in present else outcomes[modality] for modality in Modality}
            return self._result(utterance, None, refused, None, step_ms)

    def _asked(self, utterance: Utterance, step_ms: dict[str, float]) -> _Asked:
        timeouts = self.tenant(utterance.tenant).timeouts or TimeoutSettings()
        if self.live and not utterance.recorded:
            return _Asked(self.stages, timeouts, step_ms)
        patient = timeouts.of_recording("wait", math.inf)
        if self.answer_s is not None:
            patient = timeouts.of_recording(timeouts.then, self.answer_s)
        return _Asked(self.behind or self.stages, patient, step_ms)

    def _result(
        self,
        utterance: Utterance,
        transcript: Transcript | None,
        outcomes: Mapping[Modality, Features | Missing],
        fused: FusedPrediction | None,
        step_ms: Mapping[str, float],
    ) -> UtteranceSentiment:
        names = self.stages.names
        return UtteranceSentiment(
            utterance_id=utterance.utterance_id,
            call_id=utterance.call_id,
            tenant=utterance.tenant,
            stream=utterance.stream,
            participant=utterance.participant,
            start_ms=utterance.start_ms,
            end_ms=utterance.end_ms,
            loudness_dbfs=loudness_dbfs(utterance.samples) if Modality.AUDIO in utterance.consent else None,
            consent=tuple(sorted(utterance.consent)),
            transcript=None if transcript is None else transcript_out(transcript, utterance.start_ms),
            judgement=None if fused is None else judgement(fused.prediction),
            modalities={modality: _modality_out(modality, outcomes[modality], fused, names) for modality in Modality},
            fusion=None if fused is None else names.fusion,
            bundle=names.bundle,
            step_ms=dict(step_ms),
            analysed_at=datetime.now(UTC),
        )

    async def _words(self, utterance: Utterance, asked: _Asked) -> tuple[Transcript | None, Features | Missing]:
        if Modality.TEXT not in utterance.consent:
            return None, Missing("not_consented")
        if utterance.text is None and not utterance.samples.size:
            return None, Missing("absent")
        transcript = await self._said(utterance, asked)
        if isinstance(transcript, Missing):
            return None, transcript
        if not transcript.text.strip():
            return transcript, Missing("no_speech_text")
        learned = self.stages.languages or (transcript.language,)
        if not transcript.unreliable and transcript.language not in (*learned, UNKNOWN_LANGUAGE):
            transcript = replace(transcript, unreliable=OTHER_LANGUAGE)
        if transcript.unreliable is not None:
            return transcript, Missing("unreliable_text")
        said = Spoken(transcript, utterance.participant)
        return transcript, await self._encoded(Modality.TEXT, said, asked)

    async def _said(self, utterance: Utterance, asked: _Asked) -> Transcript | Missing:
        """The words without what must not be kept: nothing behind this place knows it."""
        heard: Transcript | Missing = Transcript(utterance.text or "", UNKNOWN_LANGUAGE, (), "given")
        if utterance.text is None:
            transcribing = asked.stages.transcribe(utterance.samples)
            heard = await _timed("transcribe", transcribing, asked.timeouts.transcribe_s, asked.step_ms)
        if isinstance(heard, Missing):
            return heard
        redacting = asyncio.to_thread(self.tenant(utterance.tenant).redact.redactor, heard)
        return await _timed("redact", redacting, None, asked.step_ms)

    async def _voice(self, utterance: Utterance, asked: _Asked) -> Features | Missing:
        if Modality.AUDIO not in utterance.consent:
            return Missing("not_consented")
        if not utterance.samples.size:
            return Missing("absent")
        return await self._encoded(Modality.AUDIO, utterance.samples, asked)

    async def _face(self, utterance: Utterance, asked: _Asked) -> Features | Missing:
        if Modality.VIDEO not in utterance.consent:
            return Missing("not_consented")
        if not utterance.frames:
            return Missing("absent")
        frames = [(frame.time_ms - utterance.start_ms, frame.pixels) for frame in utterance.frames]
        return await self._encoded(Modality.VIDEO, frames, asked)

    async def _encoded(self, modality: Modality, raw: Any, asked: _Asked) -> Features | Missing:
        return await _timed(modality.value, asked.stages.encode[modality](raw), asked.timeouts.encode_s, asked.step_ms)

    async def _fuse(self, present: Mapping[Modality, Features], asked: _Asked) -> FusedPrediction | None:
        """None where the fusion answers and refuses: asked again it would refuse again, and hold up the call for ever."""
        fused = await _timed("fusion", asked.stages.fuse(present), asked.timeouts.fuse_s, asked.step_ms)
        if fused in _NO_ANSWER:
            raise EncoderUnavailableError("the fusion does not answer; check that the Fusion deployment is healthy")
        return None if isinstance(fused, Missing) else fused


async def _timed(step: str, work: Awaitable[T], timeout_s: float | None, step_ms: dict[str, float]) -> T | Missing:
    started = time.perf_counter()
    try:
        return await asyncio.wait_for(work, timeout_s)
    except TimeoutError:
        return Missing("timeout")
    except (NoFaceError, UnusableInputError, EncoderUnavailableError) as error:
        return Missing(error.reason)
    except Exception:  # whatever one network does with one utterance, it costs its modality and no more
        logger.exception("%s failed", step)
        return Missing(UnusableInputError.reason)
    finally:
        step_ms[step] = _elapsed_ms(started)


def loudness_dbfs(samples: FloatArray) -> float | None:
    """Root mean square of `samples` in dB relative to full scale, at least -120; None without samples."""
    if not samples.size:
        return None
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return round(max(SILENT_DBFS, 10 * np.log10(power)), 2) if power > 0 else SILENT_DBFS


def _modality_out(
    modality: Modality, outcome: Features | Missing, fused: FusedPrediction | None, names: ModelNames
) -> ModalityOut:
    if isinstance(outcome, Missing) or fused is None:
        return ModalityOut(used=False, missing=outcome.reason if isinstance(outcome, Missing) else None)
    return ModalityOut(
        used=True,
        model=names.encoders[modality],
        judgement=judgement(outcome.prediction),
        weight=round(fused.weights[modality], 4),
        contribution=contribution_out(fused.contributions[modality]),
    )


def _elapsed_ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
