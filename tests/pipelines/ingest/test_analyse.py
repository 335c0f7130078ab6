import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.types import (
    Features,
    FloatArray,
    FusedPrediction,
    Modality,
    Picture,
    Prediction,
    Spoken,
    Transcript,
    Word,
)
from pipelines.errors import EncoderUnavailableError, NoFaceError
from pipelines.ingest.analyse import Analyser, Stages, loudness_dbfs
from pipelines.redaction.redact import Redactor
from pipelines.settings import AppConfig
from pipelines.tenants import RedactSettings, TenantSettings, TimeoutSettings
from pipelines.types import FAULTS, ModalityOut, Participant, Utterance, UtteranceSentiment, VideoFrame, count_faults
from tests.pipelines.ingest.networks import NAMES, PREDICTION, fuses

ALL = frozenset(Modality)
SPEECH = np.full(16_000, 0.1, np.float32)
FRAME = VideoFrame(Participant.CUSTOMER, 1200, np.zeros((8, 8, 3), np.uint8))


def features(modality: Modality) -> Features:
    return Features(modality, np.zeros(4, np.float32), PREDICTION)


async def transcribe(_samples: FloatArray) -> Transcript:
    return Transcript("thank you", "en", (Word("thank", 0, 300, 0.9), Word("you", 300, 500, 0.8)), "engine-1")


async def text(_said: Spoken) -> Features:
    return features(Modality.TEXT)


async def audio(_samples: FloatArray) -> Features:
    return features(Modality.AUDIO)


async def video(_frames: Sequence[tuple[int, Picture]]) -> Features:
    return features(Modality.VIDEO)


def stages(**replaced: object) -> Stages:
    parts: dict[str, Any] = {"transcribe": transcribe, "text": text, "audio": audio, "video": video, "fuse": fuses}
    parts |= replaced
    return Stages(parts["transcribe"], {modality: parts[modality] for modality in Modality}, parts["fuse"], NAMES)


def analyser(timeouts: TimeoutSettings, **replaced: object) -> Analyser:
    return Analyser(stages(**replaced), lambda _tenant: TenantSettings(timeouts=timeouts))


def utterance(consent: frozenset[Modality] = ALL, **fields: object) -> Utterance:
    given: dict[str, object] = {"samples": SPEECH, "frames": (FRAME,), **fields}
    return Utterance("c", "default", "main", Participant.CUSTOMER, 1000, 2000, consent, **given)  # type: ignore[arg-type]


async def analyse(uttered: Utterance, **replaced: object) -> UtteranceSentiment:
    return await analyser(TimeoutSettings(encode_s=0.05, transcribe_s=0.05), **replaced)(uttered)


async def test_every_modality_reports_its_judgement_weight_and_contribution() -> None:
    result = await analyse(utterance())
    assert result.judgement is not None
    assert (result.judgement.score, result.judgement.polarity) == (1.5, "positive")
    assert {m: o.used for m, o in result.modalities.items()} == dict.fromkeys(Modality, True)
    assert sum(o.weight or 0 for o in result.modalities.values()) == pytest.approx(1, abs=1e-3)
    assert result.modalities[Modality.TEXT].contribution is not None
    assert UtteranceSentiment.model_validate_json(result.model_dump_json()) == result


async def test_word_times_are_those_of_the_call() -> None:
    result = await analyse(utterance())
    assert result.transcript is not None
    assert [(word.start_ms, word.end_ms) for word in result.transcript.words] == [(1000, 1300), (1300, 1500)]


async def test_what_is_not_consented_never_reaches_a_network() -> None:
    asked: list[str] = []

    async def spying(_input: object) -> Features:
        asked.append("asked")
        return features(Modality.AUDIO)

    result = await analyse(utterance(frozenset({Modality.TEXT})), audio=spying, video=spying)
    assert asked == []
    assert result.modalities[Modality.AUDIO].missing == "not_consented"
    assert result.modalities[Modality.VIDEO].missing == "not_consented"
    assert result.modalities[Modality.TEXT].used


async def test_without_consent_for_words_there_is_no_transcript() -> None:
    result = await analyse(utterance(frozenset({Modality.AUDIO})))
    assert result.transcript is None
    assert result.modalities[Modality.TEXT].missing == "not_consented"


@pytest.mark.parametrize("modality", [Modality.AUDIO, Modality.VIDEO, Modality.TEXT])
@pytest.mark.parametrize(
    ("error", "reason"),
    [(EncoderUnavailableError("down"), "encoder_unavailable"), (IndexError("a defect"), "unusable")],
)
async def test_a_failing_encoder_costs_its_modality_and_no_more(
    modality: Modality, error: Exception, reason: str
) -> None:
    async def failing(_input: object) -> Features:
        raise error

    result = await analyse(utterance(), **{modality.value: failing})
    assert result.modalities[modality].missing == reason
    assert [m for m, o in result.modalities.items() if o.used] == [m for m in Modality if m is not modality]
    assert result.judgement is not None


async def test_a_slow_encoder_is_a_timeout() -> None:
    async def hanging(_input: object) -> Features:
        await asyncio.Event().wait()
        raise AssertionError

    result = await analyse(utterance(), audio=hanging)
    assert result.modalities[Modality.AUDIO].missing == "timeout"


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (Transcript("", "en", (), "e"), "no_speech_text"),
        (Transcript("la la la la", "en", (), "e", "repetition"), "unreliable_text"),
    ],
)
async def test_a_text_that_may_not_be_believed_is_kept_but_not_judged(heard: Transcript, reason: str) -> None:
    async def hearing(_samples: FloatArray) -> Transcript:
        return heard

    result = await analyse(utterance(), transcribe=hearing)
    assert result.modalities[Modality.TEXT].missing == reason
    assert result.transcript is not None
    assert result.transcript.reliable is (heard.unreliable is None)


@pytest.mark.parametrize("participant", list(Participant))
async def test_the_words_network_is_told_who_speaks(participant: Participant) -> None:
    told: list[Spoken] = []

    async def read(said: Spoken) -> Features:
        told.append(said)
        return features(Modality.TEXT)

    await analyse(replace(utterance(), participant=participant), text=read)

    assert [said.participant for said in told] == [participant.value]


@pytest.mark.parametrize(
    ("language", "learned", "missing"),
    [("en", ("en",), None), ("de", ("en",), "unreliable_text"), ("und", ("en",), None), ("de", (), None)],
)
async def test_words_in_a_language_that_the_network_has_not_learned_are_shown_and_not_judged(
    language: str, learned: tuple[str, ...], missing: str | None
) -> None:
    async def hearing(_samples: FloatArray) -> Transcript:
        return Transcript("das geht nicht", language, (), "e")

    parts = replace(stages(transcribe=hearing), languages=learned)
    result = await Analyser(parts, lambda _tenant: TenantSettings())(utterance())

    assert result.transcript is not None
    assert (result.transcript.text, result.transcript.language) == ("das geht nicht", language)
    assert result.modalities[Modality.TEXT].missing == missing
    assert result.transcript.unreliable_reason == ("language" if missing else None)


CARD = "it's four two four two 4242 4242 4242 okay"


def dictated(text: str = CARD, unreliable: str | None = None) -> Any:
    async def hearing(_samples: FloatArray) -> Transcript:
        words = tuple(Word(word, 100 * at, 100 * at + 90, 0.9) for at, word in enumerate(text.split()))
        return Transcript(text, "en", words, "e", unreliable)

    return hearing


@pytest.mark.parametrize("unreliable", [None, "repetition"])
async def test_what_must_not_be_kept_is_gone_before_anything_but_the_transcriber_sees_it(
    unreliable: str | None,
) -> None:
    given: list[Spoken] = []

    async def read(said: Spoken) -> Features:
        given.append(said)
        return features(Modality.TEXT)

    result = await analyse(utterance(), transcribe=dictated(unreliable=unreliable), text=read)

    assert result.transcript is not None
    assert result.transcript.text == "it's [CARD] okay"
    assert [(word.text, word.start_ms, word.end_ms) for word in result.transcript.words] == [
        ("it's", 1000, 1090), ("[CARD]", 1100, 1790), ("okay", 1800, 1890)
    ]  # fmt: skip
    assert result.transcript.redacted == {"card": 1}
    assert "redact" in result.step_ms
    assert [said.transcript.text for said in given] == ([] if unreliable else ["it's [CARD] okay"])
    assert UtteranceSentiment.model_validate_json(result.model_dump_json()) == result


async def test_a_text_that_is_given_is_redacted_too() -> None:
    result = await analyse(utterance(samples=np.zeros(0, np.float32), text="mail a@b.co"))
    assert result.transcript is not None
    assert (result.transcript.text, result.transcript.redacted) == ("mail [EMAIL]", {"email": 1})


async def test_each_tenant_says_what_is_redacted() -> None:
    config = AppConfig(tenants={"default": TenantSettings(), "own": TenantSettings(redact=RedactSettings(kinds=()))})
    judge = Analyser(stages(transcribe=dictated()), config.tenant)

    theirs, others = await judge(replace(utterance(), tenant="own")), await judge(utterance())
    assert theirs.transcript is not None
    assert others.transcript is not None
    assert (theirs.transcript.text, theirs.transcript.redacted) == (CARD, {})
    assert others.transcript.text == "it's [CARD] okay"


async def test_words_that_could_not_be_redacted_are_not_used_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fails(text: str) -> list[tuple[int, int]]:
        raise ValueError(text)

    class Faulty(RedactSettings):
        @property
        def redactor(self) -> Redactor:
            return Redactor(names=fails)

    result = await Analyser(stages(transcribe=dictated()), lambda _tenant: TenantSettings(redact=Faulty()))(utterance())

    assert result.transcript is None
    assert result.modalities[Modality.TEXT].missing == "unusable"
    assert result.judgement is not None
    assert "4242" not in caplog.text


async def test_a_result_from_before_redaction_is_read() -> None:
    result = (await analyse(utterance())).model_dump(mode="json")
    del result["transcript"]["redacted"]
    read = UtteranceSentiment.model_validate(result)
    assert read.transcript is not None
    assert read.transcript.redacted == {}


async def test_encoders_get_times_from_the_start_of_the_utterance() -> None:
    given: dict[str, Any] = {}

    async def see(frames: Sequence[tuple[int, Picture]]) -> Features:
        given["times_ms"] = [time_ms for time_ms, _ in frames]
        return features(Modality.VIDEO)

    async def read(said: Spoken) -> Features:
        given["words"] = [word.start_ms for word in said.transcript.words]
        return features(Modality.TEXT)

    await analyse(utterance(), video=see, text=read)
    assert given == {"times_ms": [200], "words": [0, 300]}


async def test_each_tenant_has_its_own_answer_to_a_late_network() -> None:
    async def away(_samples: FloatArray) -> Features:
        raise EncoderUnavailableError("down")

    patient = TenantSettings(timeouts=TimeoutSettings(then="wait"))
    config = AppConfig(tenants={"default": TenantSettings(), "bank": patient})
    judge = Analyser(stages(audio=away), config.tenant)

    assert (await judge(utterance())).modalities[Modality.AUDIO].missing == "encoder_unavailable"
    with pytest.raises(EncoderUnavailableError, match="audio"):
        await judge(replace(utterance(), tenant="bank"))


async def test_no_face_is_a_reason() -> None:
    async def faceless(_frames: Sequence[VideoFrame]) -> Features:
        raise NoFaceError("no face")

    assert (await analyse(utterance(), video=faceless)).modalities[Modality.VIDEO].missing == "no_face"


async def test_with_nothing_usable_there_is_no_judgement_and_every_reason() -> None:
    result = await analyse(utterance(samples=np.zeros(0, np.float32), frames=()))
    assert result.judgement is None
    assert result.fusion is None
    assert {o.missing for o in result.modalities.values()} == {"absent"}


async def test_with_every_needed_encoder_away_nothing_is_stored_as_if_it_were_a_result() -> None:
    async def away(_input: object) -> Features:
        raise EncoderUnavailableError("down")

    with pytest.raises(EncoderUnavailableError):
        await analyse(utterance(frozenset({Modality.TEXT})), transcribe=away)


@pytest.mark.parametrize("fault", ["away", "slow"])
async def test_where_the_configuration_waits_a_missing_encoder_holds_the_result(fault: str) -> None:
    async def missing(_samples: FloatArray) -> Features:
        if fault == "slow":
            await asyncio.Event().wait()
        raise EncoderUnavailableError("away")

    patient = TimeoutSettings(encode_s=0.05, then="wait")
    with pytest.raises(EncoderUnavailableError, match="audio"):
        await analyser(patient, audio=missing)(utterance())
    assert (await analyser(patient)(utterance())).judgement is not None


async def test_a_reason_that_no_waiting_mends_holds_nothing() -> None:
    async def faceless(_frames: Sequence[VideoFrame]) -> Features:
        raise NoFaceError("nobody")

    result = await analyser(TimeoutSettings(then="wait"), video=faceless)(utterance())
    assert result.modalities[Modality.VIDEO].missing == "no_face"


async def test_loudness_is_the_voice_and_needs_its_consent() -> None:
    assert (await analyse(utterance(frozenset({Modality.TEXT})))).loudness_dbfs is None
    assert (await analyse(utterance())).loudness_dbfs == -20


async def test_a_fusion_that_is_away_is_an_error_because_nothing_true_can_be_said() -> None:
    async def failing(_present: object) -> FusedPrediction:
        raise EncoderUnavailableError("down")

    with pytest.raises(EncoderUnavailableError):
        await analyse(utterance(), fuse=failing)


async def test_a_fusion_that_answers_and_refuses_costs_the_judgement_and_holds_nothing() -> None:
    async def refusing(_present: Mapping[Modality, Features]) -> FusedPrediction:
        raise ValueError("these are no features")

    result = await analyse(utterance(), fuse=refusing)
    assert result.judgement is None
    assert result.transcript is not None


async def test_networks_that_give_no_numbers_cost_the_judgement_and_hold_nothing() -> None:
    nothing = Prediction(float("nan"), np.full(3, np.nan, np.float32), np.full(7, np.nan, np.float32))

    async def broken(_samples: FloatArray) -> Features:
        return Features(Modality.AUDIO, np.zeros(4, np.float32), nothing)

    result = await analyse(utterance(), audio=broken)
    assert result.judgement is None
    assert result.modalities[Modality.AUDIO].missing == "unusable"


def test_loudness_is_the_root_mean_square_in_decibels() -> None:
    assert loudness_dbfs(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=0.01)
    assert loudness_dbfs(np.zeros(100, np.float32)) == -120
    assert loudness_dbfs(np.zeros(0, np.float32)) is None


class Late:
    """An encoder that answers when it is `let`."""

    def __init__(self) -> None:
        self.let, self.asked = asyncio.Event(), 0

    async def __call__(self, _samples: FloatArray) -> Features:
        self.asked += 1
        await self.let.wait()
        return features(Modality.AUDIO)


@pytest.mark.parametrize("nobody_waits", ["recording", "replay"])
async def test_what_nobody_waits_for_waits_for_a_slow_network(nobody_waits: str) -> None:
    late, hurried = Late(), TenantSettings(timeouts=TimeoutSettings(encode_s=0.001, transcribe_s=0.001, fuse_s=0.001))
    judge = Analyser(stages(audio=late), lambda _tenant: hurried, live=nobody_waits == "recording")
    asked = utterance(recorded=nobody_waits == "recording")

    judging = asyncio.create_task(judge(asked))
    while not late.asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # fifty times as long as a live call would wait
    late.let.set()

    assert (await judging).modalities[Modality.AUDIO].used


@pytest.mark.parametrize("fault", ["away", "hangs"])
async def test_a_recording_is_tried_again_rather_than_judged_without(fault: str) -> None:
    async def missing(_samples: FloatArray) -> Features:
        if fault == "hangs":
            await asyncio.Event().wait()
        raise EncoderUnavailableError("away")

    with pytest.raises(EncoderUnavailableError, match="audio"):
        await analyser(TimeoutSettings(recorded_s=0.05), audio=missing)(utterance(recorded=True))


async def test_an_answer_that_somebody_waits_for_comes_without_a_network_that_hangs() -> None:
    hangs = Late()
    judge = Analyser(stages(audio=hangs), lambda _tenant: TenantSettings(), answer_s=0.05)

    result = await judge(utterance(recorded=True))

    assert result.judgement is not None
    assert result.faults == {Modality.AUDIO: "timeout"}


async def test_what_nobody_waits_for_is_asked_behind_the_rest() -> None:
    asked: list[str] = []

    def named(name: str) -> Stages:
        async def hear(_samples: FloatArray) -> Features:
            asked.append(name)
            return features(Modality.AUDIO)

        return stages(audio=hear)

    judge = Analyser(named("ahead"), lambda _tenant: TenantSettings(), named("behind"))
    await judge(utterance())
    await judge(utterance(recorded=True))

    assert asked == ["ahead", "behind"]


def test_only_faults_of_the_service_are_counted() -> None:
    assert {"encoder_unavailable", "timeout"} == FAULTS
    (out,) = [
        result.model_copy(
            update={
                "modalities": {
                    Modality.TEXT: ModalityOut(used=False, missing="timeout"),
                    Modality.AUDIO: ModalityOut(used=False, missing="not_consented"),
                    Modality.VIDEO: ModalityOut(used=False, missing="no_face"),
                }
            }
        )
        for result in [asyncio.run(analyse(utterance()))]
    ]
    assert count_faults([out, out]) == {Modality.TEXT: {"timeout": 2}}
