"""What a call was like, from its results and its length alone: live while it goes on, final when it is over.

Deterministic, and defined for any number of results. The span that is divided in quarters is first speech to last speech.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from models.types import Modality
from pipelines.review.participant import (
    FEELING_SCORE,
    ParticipantSummary,
    is_course,
    participant_summary,
    score_of,
    union_ms,
)
from pipelines.types import Faults, Participant, ResultModel, UtteranceSentiment, count_faults

INTERRUPTION_MIN_MS = 300
"""Shorter overlaps are the padding of two utterances, or "mhm"."""

_SUBJECTS = (Participant.CUSTOMER, Participant.MIXED, Participant.AGENT)
_WHO = {
    Participant.CUSTOMER: "The customer",
    Participant.MIXED: "The conversation",
    Participant.AGENT: "The agent",
}
MOSTLY = 0.75
"""A mood that so many of the judged utterances share lasted throughout."""
_SHOWN_BY = {Modality.TEXT: "the words", Modality.AUDIO: "the voice", Modality.VIDEO: "the face"}


class Interruption(ResultModel):
    """`participant` began to speak while another was speaking, for `overlap_ms` at least 300 ms."""

    participant: Participant
    at_ms: int
    overlap_ms: int


class CallSummary(ResultModel):
    """The call in one look. `headline` is the sentence for a supervisor; the rest is what it rests on.

    `negative_by` tells how strongly each modality pulled the score down (points of score, mean over the unhappy
    participants' negative utterances, 0 where it was missing or pulled up) and `negative_mostly_by` the strongest.
    `silence_ms` is time of the call in which nobody speaks: all of a call in which nobody was heard. None where it is not known:
    only one of agent and customer was heard, so that the other may have spoken unheard.
    """

    final: bool
    headline: str
    utterances: int
    start_ms: int | None
    end_ms: int | None
    silence_ms: int | None
    participants: tuple[ParticipantSummary, ...]
    interruptions: tuple[Interruption, ...]
    unhappy: tuple[Participant, ...]
    negative_by: dict[Modality, float]
    negative_mostly_by: Modality | None
    faults: Faults = Field(default_factory=dict)
    """How many utterances lack a modality because its network was late or away."""


def summarise(results: Sequence[UtteranceSentiment], *, final: bool, length_ms: int | None = None) -> CallSummary:
    """Summarise one call's results, in any order; `final` says that no more will come.

    Its media was heard to `length_ms`; None where nobody knows.
    """
    ordered = sorted(results, key=lambda result: (result.start_ms, result.utterance_id))
    talk = {who: union_ms([result for result in ordered if result.participant is who]) for who in _SUBJECTS}
    present = {result.participant for result in ordered}
    parts = tuple(participant_summary(who, ordered, talk) for who in _SUBJECTS if who in present)
    unhappy = tuple(part.participant for part in parts if part.unhappy)
    negative_by = _negative_by([result for result in ordered if result.participant in unhappy])
    mostly_by = max(negative_by, key=lambda modality: negative_by[modality], default=None)
    start_ms = ordered[0].start_ms if ordered else None
    end_ms = max((result.end_ms for result in ordered), default=None)
    lacking = sum(1 for result in ordered if result.faults)
    headline = _headline(parts, ordered, mostly_by, final=final)
    if lacking:
        headline += f" Of {lacking} of {len(ordered)} utterances a network did not answer."
    return CallSummary(
        final=final,
        headline=headline,
        utterances=len(ordered),
        start_ms=start_ms,
        end_ms=end_ms,
        silence_ms=_silence_ms(ordered, length_ms) if not present or _heard_all(present) else None,
        participants=parts,
        interruptions=_interruptions(ordered),
        unhappy=unhappy,
        negative_by=negative_by,
        negative_mostly_by=mostly_by,
        faults=count_faults(ordered),
    )


def _silence_ms(ordered: Sequence[UtteranceSentiment], length_ms: int | None) -> int | None:
    """Of the whole call where its length is known, else between the first speech and the last."""
    end_ms = max((result.end_ms for result in ordered), default=None)
    if length_ms is not None:
        return max(length_ms, end_ms or 0) - union_ms(ordered)
    return None if end_ms is None else end_ms - ordered[0].start_ms - union_ms(ordered)


def _heard_all(present: set[Participant]) -> bool:
    return Participant.MIXED in present or {Participant.AGENT, Participant.CUSTOMER} <= present


def _interruptions(ordered: Sequence[UtteranceSentiment]) -> tuple[Interruption, ...]:
    found = []
    speaking: dict[Participant, UtteranceSentiment] = {}
    for result in ordered:
        overlaps_ms = [
            min(other.end_ms, result.end_ms) - result.start_ms
            for other in speaking.values()
            if other.participant is not result.participant and other.start_ms < result.start_ms
        ]
        overlap_ms = max(overlaps_ms, default=0)
        if overlap_ms >= INTERRUPTION_MIN_MS:
            found.append(Interruption(participant=result.participant, at_ms=result.start_ms, overlap_ms=overlap_ms))
        current = speaking.get(result.participant)
        if current is None or current.end_ms < result.end_ms:
            speaking[result.participant] = result
    return tuple(found)


def _negative_by(results: Sequence[UtteranceSentiment]) -> dict[Modality, float]:
    """Mean pull below, in points of score, of each modality that pulled down at all."""
    negative = [result for result in results if score_of(result) < 0]
    pulls = {
        modality: math.fsum(
            max(0.0, -part.contribution.score)
            for result in negative
            if (part := result.modalities.get(modality)) is not None and part.contribution is not None
        )
        for modality in Modality
    }
    return {modality: round(pull / len(negative), 4) for modality, pull in pulls.items() if pull > 0}


def _headline(
    parts: Sequence[ParticipantSummary],
    ordered: Sequence[UtteranceSentiment],
    mostly_by: Modality | None,
    *,
    final: bool,
) -> str:
    """One to three sentences: how the customer (else whoever was judged) felt, when it turned, what showed it."""
    if not parts:
        return "No speech that may be analysed." if final else "No speech that may be analysed yet."
    subject = next((part for part in parts if part.score_mean is not None), None)
    if subject is None:
        return "Somebody spoke, but nothing that was said could be judged."
    scored = [one for one in ordered if one.participant is subject.participant and one.judgement is not None]
    sentences = [_course(subject, scored, final=final)]
    if mostly_by is not None:
        sentences.append(f"It showed most in {_SHOWN_BY[mostly_by]}.")
    too = " too" if subject.unhappy else ""
    sentences += [f"{_WHO[part.participant]} was unhappy{too}." for part in parts if part.unhappy and part != subject]
    return " ".join(sentences)


def _course(subject: ParticipantSummary, scored: Sequence[UtteranceSentiment], *, final: bool) -> str:
    who, turn = _WHO[subject.participant], subject.turn
    if not subject.understood:
        spoken = who[0].lower() + who[1:]
        return f"Too little of what {spoken} said was understood to tell a mood{'' if final else ' so far'}."
    if (
        subject.participant is Participant.AGENT
        and (subject.score_mean or 0.0) < -FEELING_SCORE
        and not subject.unhappy
    ):
        return "Only the agent was heard, by words alone, which do not tell a mood."
    if turn is None or _feeling(turn.score_before) == _feeling(turn.score_after):
        feeling = _feeling(subject.score_mean or 0.0)
        lasting = sum(_feeling(score_of(result)) == feeling for result in scored) >= MOSTLY * len(scored)
        how_long = (" throughout" if lasting else " on the whole") if final else " so far"
        return f"{who} was {feeling}{how_long if is_course(scored) else ''}."
    when = _clock(turn.at_ms)
    if turn.after_words and turn.after_participant:
        by = "somebody" if turn.after_participant is Participant.MIXED else f"the {turn.after_participant}"
        when += f" after {by} said “{turn.after_words}”"
    left = "ended" if subject.participant is Participant.MIXED else "left"
    after = _feeling(turn.score_after)
    end = f"{left} {after}" if final else f"is {after} now"
    return f"{who} was {_feeling(turn.score_before)}, turned at {when}, and {end}."


def _feeling(score: float) -> str:
    if abs(score) <= FEELING_SCORE:
        return "calm"
    return "content" if score > 0 else "unhappy"


def _clock(time_ms: int) -> str:
    minutes, seconds = divmod(time_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
