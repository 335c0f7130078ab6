from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import EMOTIONS, POLARITIES, Modality
from pipelines.review.summary import CallSummary, Interruption, summarise
from pipelines.types import ContributionOut, Judgement, ModalityOut, Participant, TranscriptOut, UtteranceSentiment

AGENT, CUSTOMER, MIXED = Participant.AGENT, Participant.CUSTOMER, Participant.MIXED


def said(
    who: Participant,
    start_ms: int,
    end_ms: int,
    score: float | None = 0.0,
    words: str | None = None,
    *,
    pulls: dict[Modality, float] | None = None,
    loudness_dbfs: float | None = None,
    reliable: bool = True,
) -> UtteranceSentiment:
    judgement = None
    if score is not None:
        polarity = "negative" if score < 0 else "positive" if score > 0 else "neutral"
        judgement = Judgement(
            score=score,
            polarity=polarity,
            polarity_probabilities={label: float(label == polarity) for label in POLARITIES},
            emotion="neutral",
            emotion_probabilities={label: float(label == "neutral") for label in EMOTIONS},
        )
    modalities = {
        modality: ModalityOut(
            used=True,
            contribution=ContributionOut(score=pull, polarity_probabilities={}, emotion_probabilities={}),
        )
        for modality, pull in (pulls or {}).items()
    }
    transcript = None
    if words is not None:
        transcript = TranscriptOut(
            text=words,
            language="en",
            engine="test",
            reliable=reliable,
            unreliable_reason=None if reliable else "repetition",
        )
    return UtteranceSentiment(
        utterance_id=f"call/main/{who}/{start_ms}",
        call_id="call",
        tenant="default",
        stream="main",
        participant=who,
        start_ms=start_ms,
        end_ms=end_ms,
        loudness_dbfs=loudness_dbfs,
        consent=tuple(Modality),
        transcript=transcript,
        judgement=judgement,
        modalities=modalities,
        bundle="test",
        analysed_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


def mended_call() -> list[UtteranceSentiment]:
    voice, words = {Modality.AUDIO: -1.0, Modality.TEXT: -0.2}, {Modality.TEXT: 0.9}
    return [
        said(AGENT, 0, 2_000, 0.1, "How can I help?"),
        said(CUSTOMER, 3_000, 9_000, -2.0, "This is the third time I call.", pulls=voice),
        said(CUSTOMER, 12_000, 20_000, -1.5, "Nobody listens.", pulls=voice),
        said(AGENT, 30_000, 40_000, 0.5, "I have refunded you the whole amount."),
        said(CUSTOMER, 41_000, 46_000, 1.2, "Oh, that is great.", pulls=words),
        said(CUSTOMER, 50_000, 60_000, 2.0, "Thank you so much!", pulls=words),
    ]


def test_the_headline_tells_who_was_unhappy_when_it_turned_and_what_showed_it() -> None:
    summary = summarise(mended_call(), final=True)

    assert summary.headline == (
        "The customer was unhappy, turned at 0:41 after the agent said “I have refunded you the whole amount”, "
        "and left content. It showed most in the voice."
    )
    assert summary.unhappy == (CUSTOMER,)
    assert summary.negative_by == {Modality.AUDIO: 1.0, Modality.TEXT: 0.2}
    assert summary.negative_mostly_by is Modality.AUDIO


def test_a_live_call_is_told_in_the_present() -> None:
    assert "and is content now." in summarise(mended_call(), final=False).headline
    assert summarise([], final=False).headline == "No speech that may be analysed yet."
    assert summarise(mended_call()[1:3], final=False).headline.startswith("The customer was unhappy. It")


def test_a_participant_is_scored_by_quarter_with_mean_trend_talk_and_extremes() -> None:
    customer = next(part for part in summarise(mended_call(), final=True).participants if part.participant is CUSTOMER)

    assert customer.score_by_quarter == (-2.0, -1.5, 1.2, 2.0)
    assert customer.score_mean == pytest.approx(-0.075)
    assert customer.utterances == 4
    assert customer.talk_ms == 29_000
    assert customer.talk_share == pytest.approx(29 / 41, abs=1e-4)
    assert customer.most_negative is not None
    assert customer.most_negative.words == "This is the third time I call"
    assert customer.most_positive is not None
    assert customer.most_positive.start_ms == 50_000
    assert customer.turn is not None
    assert (customer.turn.score_before, customer.turn.score_after) == (-1.75, 1.6)


def test_the_trend_is_the_slope_per_minute() -> None:
    results = [said(CUSTOMER, minute * 60_000, minute * 60_000, -1.0 + 0.5 * minute) for minute in range(4)]

    assert summarise(results, final=True).participants[0].score_trend_per_min == pytest.approx(0.5)


def test_one_odd_remark_is_no_turn() -> None:
    scores = [0.1, 0.0, 0.1, -0.9, 0.1, 0.0, 0.1, 0.0, 0.1, 0.1]
    results = [said(CUSTOMER, at * 5000, at * 5000 + 4500, score) for at, score in enumerate(scores)]

    summary = summarise(results, final=True)

    assert summary.participants[0].turn is None
    assert summary.headline == "The customer was calm throughout."


@pytest.mark.parametrize(("score", "feeling"), [(-0.5, "calm"), (0.5, "calm"), (-0.51, "unhappy"), (0.51, "content")])
def test_who_was_neutral_throughout_was_calm(score: float, feeling: str) -> None:
    summary = summarise([said(CUSTOMER, 0, 1_000, score, pulls={Modality.VIDEO: score})], final=True)

    assert summary.headline.startswith(f"The customer was {feeling}.")
    assert (summary.unhappy == (CUSTOMER,)) == (feeling == "unhappy")


def test_silence_is_when_neither_speaks_and_the_same_speech_in_two_streams_counts_once() -> None:
    phone, webcam = said(CUSTOMER, 1_000, 4_000), said(CUSTOMER, 1_500, 4_500)

    summary = summarise([said(AGENT, 6_000, 7_000), webcam, phone], final=True)

    assert summary.silence_ms == 1_500
    assert summary.participants[0].talk_ms == 3_500
    assert summary.interruptions == ()


@pytest.mark.parametrize(("overlap_ms", "counted"), [(299, False), (300, True)])
def test_an_interruption_is_starting_to_speak_over_another_for_300_ms(overlap_ms: int, *, counted: bool) -> None:
    results = [said(CUSTOMER, 0, 5_000), said(AGENT, 5_000 - overlap_ms, 9_000)]

    expected = (Interruption(participant=AGENT, at_ms=5_000 - overlap_ms, overlap_ms=overlap_ms),)
    assert summarise(results, final=True).interruptions == (expected if counted else ())


def test_loudness_is_the_mean_power_weighted_by_length() -> None:
    results = [said(CUSTOMER, 0, 9_000, loudness_dbfs=-20.0), said(CUSTOMER, 9_000, 10_000, loudness_dbfs=-120.0)]

    assert summarise(results, final=True).participants[0].loudness_dbfs == pytest.approx(-20.46, abs=0.01)


def test_words_of_an_unreliable_transcript_are_not_quoted() -> None:
    results = [
        said(CUSTOMER, 0, 2_000, -2.0, "no no no no", reliable=False),
        said(CUSTOMER, 3_000, 9_000, -1.5, "Nobody listens."),
        said(AGENT, 20_000, 24_000, 0.0, "you you you", reliable=False),
        said(CUSTOMER, 25_000, 29_000, 2.0),
        said(CUSTOMER, 30_000, 33_000, 2.0),
    ]

    summary = summarise(results, final=True)

    assert summary.headline == "The customer was unhappy, turned at 0:25, and left content."
    assert summary.participants[0].turn is not None
    assert summary.participants[0].turn.after_participant is None
    assert summary.participants[0].most_negative is not None
    assert summary.participants[0].most_negative.words is None


def test_a_long_quotation_is_shortened_between_words() -> None:
    results = [said(CUSTOMER, 0, 1, -1.0, "complaint " * 30)]

    moment = summarise(results, final=True).participants[0].most_negative

    assert moment is not None
    assert moment.words == " ".join(["complaint"] * 7) + "…"


def test_a_call_without_a_judgement_says_so() -> None:
    summary = summarise([said(CUSTOMER, 0, 1_000, None), said(AGENT, 500, 2_000, None)], final=True)

    assert summary.headline == "Somebody spoke, but nothing that was said could be judged."
    assert summary.participants[0].score_mean is None
    assert summary.participants[0].score_by_quarter == (None, None, None, None)
    assert summary.unhappy == ()


def test_a_voice_without_consent_has_no_loudness_and_the_others_keep_theirs() -> None:
    results = [
        said(AGENT, 0, 1_000),
        said(CUSTOMER, 1_000, 3_000, loudness_dbfs=-20.0),
        said(AGENT, 3_000, 4_000),
        said(CUSTOMER, 4_000, 5_000),
    ]

    loudness = {part.participant: part.loudness_dbfs for part in summarise(results, final=False).participants}

    assert loudness == {AGENT: None, CUSTOMER: -20.0}


def test_one_instant_utterance_is_enough_for_a_summary() -> None:
    summary = summarise([said(MIXED, 700, 700, -1.0)], final=True)

    assert summary.headline == "The conversation was unhappy."
    assert (summary.start_ms, summary.end_ms, summary.silence_ms) == (700, 700, 0)
    assert summary.participants[0].talk_share == 0.0
    assert summary.participants[0].score_trend_per_min is None


def test_an_agent_is_unhappy_by_voice_or_face_and_not_by_an_apologys_words() -> None:
    customer, sorry = said(CUSTOMER, 0, 1_000, -1.0), "I am so sorry."
    by_voice = said(AGENT, 2_000, 3_000, -1.0, sorry, pulls={Modality.AUDIO: -1.0})
    by_words = said(AGENT, 2_000, 3_000, -1.0, sorry, pulls={Modality.TEXT: -1.0})

    assert "The agent was unhappy too." in summarise([customer, by_voice], final=True).headline
    summary = summarise([customer, by_words], final=True)
    assert summary.headline == "The customer was unhappy."
    assert summary.unhappy == (CUSTOMER,)
    alone = summarise([by_words], final=True).headline
    assert alone == "Only the agent was heard, by words alone, which do not tell a mood."


@pytest.mark.parametrize(("reliable_ms", "understood"), [(4_999, False), (5_000, True)])
def test_a_headline_needs_half_of_the_words_to_be_reliable(reliable_ms: int, *, understood: bool) -> None:
    results = [
        said(CUSTOMER, 0, reliable_ms, -2.0, "I am angry."),
        said(CUSTOMER, 20_000, 30_000 - reliable_ms, -2.0, "a a a a", reliable=False),
    ]
    results[1] = results[1].model_copy(update={"end_ms": 20_000 + 10_000 - reliable_ms})

    summary = summarise(results, final=True)

    assert summary.headline.startswith(
        "The customer was unhappy" if understood else "Too little of what the customer said"
    )
    assert (summary.unhappy == (CUSTOMER,)) == summary.participants[0].understood == understood


@pytest.mark.parametrize(("judged_ms", "understood"), [(4_000, False), (6_000, True)])
def test_a_headline_needs_half_of_the_speech_to_be_judged(judged_ms: int, *, understood: bool) -> None:
    results = [said(CUSTOMER, 0, judged_ms, -2.0), said(CUSTOMER, 10_000, 20_000 - judged_ms, None)]

    assert summarise(results, final=False).headline.startswith("The customer was" if understood else "Too little")


@pytest.mark.parametrize(("count", "apart_ms"), [(3, 20_000), (4, 7_000)])
def test_a_trend_and_a_turn_need_four_utterances_over_half_a_minute(count: int, apart_ms: int) -> None:
    results = [said(CUSTOMER, at * apart_ms, at * apart_ms + 1_000, -2.0 + at) for at in range(count)]

    part = summarise(results, final=True).participants[0]

    assert part.score_trend_per_min is None
    assert part.turn is None
    assert "throughout" not in summarise(results, final=True).headline


@pytest.mark.parametrize("start_ms", [2_000, 40_500])
def test_what_was_said_before_the_last_bad_words_or_over_the_first_good_ones_led_to_no_turn(start_ms: int) -> None:
    told = [one for one in mended_call() if one.participant is CUSTOMER]

    turn = summarise([*told, said(AGENT, start_ms, start_ms + 3_000, 0.0, "Hold on.")], final=True).participants[0].turn

    assert turn is not None
    assert (turn.at_ms, turn.after_words, turn.after_participant) == (41_000, None, None)


def test_a_mood_that_others_interrupt_did_not_last_throughout() -> None:
    results = [said(CUSTOMER, at * 9_000, at * 9_000 + 1_000, score) for at, score in enumerate([-3, 1, -3, 1, -3])]

    assert summarise(results, final=True).headline == "The customer was unhappy on the whole."


def test_silence_is_not_known_where_a_party_may_have_spoken_unheard() -> None:
    assert summarise([said(CUSTOMER, 0, 1_000), said(CUSTOMER, 5_000, 6_000)], final=True).silence_ms is None
    assert summarise([said(MIXED, 0, 1_000), said(MIXED, 5_000, 6_000)], final=True).silence_ms == 4_000
    assert summarise([], final=True).silence_ms is None
    assert summarise([], final=True, length_ms=60_000).silence_ms == 60_000
    assert summarise([said(MIXED, 3_000, 4_000)], final=True, length_ms=10_000).silence_ms == 9_000
    assert summarise([said(MIXED, 0, 1_000)], final=True, length_ms=900).silence_ms == 0
    assert summarise([said(CUSTOMER, 0, 1_000)], final=True, length_ms=10_000).silence_ms is None


def test_what_a_network_did_not_answer_is_counted_and_said() -> None:
    lacking = {
        Modality.AUDIO: ModalityOut(used=False, missing="timeout"),
        Modality.VIDEO: ModalityOut(used=False, missing="no_face"),
    }
    results = [said(CUSTOMER, 0, 1_000, -1.0), said(CUSTOMER, 2_000, 3_000, -1.0)]
    results[0] = results[0].model_copy(update={"modalities": lacking})

    summary = summarise(results, final=True)

    assert summary.faults == {Modality.AUDIO: {"timeout": 1}}
    assert summary.headline.endswith("Of 1 of 2 utterances a network did not answer.")


utterances = st.builds(
    said,
    st.sampled_from(Participant),
    st.integers(0, 50_000),
    st.integers(50_000, 100_000),
    st.none() | st.floats(-3, 3),
    st.none() | st.text(max_size=200),
    loudness_dbfs=st.none() | st.floats(-120, 0),
)


@given(st.lists(utterances, max_size=12, unique_by=lambda result: result.utterance_id))
def test_any_results_in_any_order_give_one_and_the_same_summary(unique: list[UtteranceSentiment]) -> None:
    summary = summarise(unique, final=True)

    assert summary == summarise(unique[::-1], final=True)
    assert CallSummary.model_validate_json(summary.model_dump_json()) == summary
    assert summary.silence_ms is None or summary.silence_ms >= 0
    assert sum(part.utterances for part in summary.participants) == len(unique)
