"""What a call was like, from its results alone: live while it goes on, final when it is over.

Deterministic, and defined for any number of results. The call's span is first speech to last speech: silence before
anybody spoke is not known from results.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from models.types import Modality
from pipelines.types import Participant, ResultModel, Score, UtteranceSentiment

QUARTERS = 4
FEELING_SCORE = 0.5
"""A mean score at or beyond this distance from 0 is a feeling: unhappy below, content above, calm between."""
TURN_MIN_SCORE = 0.6
"""A change of mean score smaller than this is no turn."""
INTERRUPTION_MIN_MS = 300
"""Shorter overlaps are the padding of two utterances, or "mhm"."""
WORDS_MAX_CHARS = 80

_SUBJECTS = (Participant.CUSTOMER, Participant.MIXED, Participant.AGENT)
_WHO = {
    Participant.CUSTOMER: "The customer",
    Participant.MIXED: "The conversation",
    Participant.AGENT: "The agent",
}
_SHOWN_BY = {Modality.TEXT: "the words", Modality.AUDIO: "the voice", Modality.VIDEO: "the face"}


class Moment(ResultModel):
    """One utterance worth listening to again; `words` is None when they were not heard or may not be believed."""

    utterance_id: str
    start_ms: int
    score: Score
    words: str | None


class Turn(ResultModel):
    """The largest lasting change of a participant's score: `at_ms` is the first utterance after it.

    `score_before` and `score_after` are the means of all their utterances on either side; `after_words` is what the
    other participant had said last.
    """

    at_ms: int
    score_before: float
    score_after: float
    after_words: str | None


class ParticipantSummary(ResultModel):
    """One participant's part of the call. Means are over utterances that have a score; None without any.

    `score_by_quarter` divides the call's span in four; an utterance belongs to the quarter that holds its middle.
    `score_trend_per_min` is the least-squares slope of the score. `talk_share` is of all talk, in [0, 1].
    `loudness_dbfs` is the mean power of their speech, weighted by its length.
    """

    participant: Participant
    utterances: int
    talk_ms: int
    talk_share: float
    loudness_dbfs: float | None
    score_mean: float | None
    score_by_quarter: tuple[float | None, ...] = Field(min_length=QUARTERS, max_length=QUARTERS)
    score_trend_per_min: float | None
    most_negative: Moment | None
    most_positive: Moment | None
    turn: Turn | None
    unhappy: bool


class Interruption(ResultModel):
    """`participant` began to speak while another was speaking, for `overlap_ms` at least 300 ms."""

    participant: Participant
    at_ms: int
    overlap_ms: int


class CallSummary(ResultModel):
    """The call in one look. `headline` is the sentence for a supervisor; the rest is what it rests on.

    `negative_by` tells how strongly each modality pulled the score down (points of score, mean over the unhappy
    participants' negative utterances, 0 where it was missing or pulled up) and `negative_mostly_by` the strongest.
    `silence_ms` is time within the span in which nobody speaks.
    """

    final: bool
    headline: str
    utterances: int
    start_ms: int | None
    end_ms: int | None
    silence_ms: int
    participants: tuple[ParticipantSummary, ...]
    interruptions: tuple[Interruption, ...]
    unhappy: tuple[Participant, ...]
    negative_by: dict[Modality, float]
    negative_mostly_by: Modality | None


def summarise(results: Sequence[UtteranceSentiment], *, final: bool) -> CallSummary:
    """Summarise one call's results, in any order; `final` says that no more will come."""
    ordered = sorted(results, key=lambda result: (result.start_ms, result.utterance_id))
    talk = {who: _union_ms([result for result in ordered if result.participant is who]) for who in _SUBJECTS}
    present = {result.participant for result in ordered}
    parts = tuple(_participant(who, ordered, talk) for who in _SUBJECTS if who in present)
    unhappy = tuple(part.participant for part in parts if part.unhappy)
    negative_by = _negative_by([result for result in ordered if result.participant in unhappy])
    mostly_by = max(negative_by, key=lambda modality: negative_by[modality], default=None)
    start_ms = ordered[0].start_ms if ordered else None
    end_ms = max((result.end_ms for result in ordered), default=None)
    return CallSummary(
        final=final,
        headline=_headline(parts, mostly_by, final=final),
        utterances=len(ordered),
        start_ms=start_ms,
        end_ms=end_ms,
        silence_ms=0 if start_ms is None or end_ms is None else end_ms - start_ms - _union_ms(ordered),
        participants=parts,
        interruptions=_interruptions(ordered),
        unhappy=unhappy,
        negative_by=negative_by,
        negative_mostly_by=mostly_by,
    )


def _participant(
    who: Participant, ordered: Sequence[UtteranceSentiment], talk: dict[Participant, int]
) -> ParticipantSummary:
    own = [result for result in ordered if result.participant is who]
    scored = [result for result in own if result.judgement is not None]
    scores = [_score(result) for result in scored]
    turn = _turn(scored, [result for result in ordered if result.participant is not who])
    phases = [turn.score_before, turn.score_after] if turn else [_mean(scores)]
    talk_all = sum(talk.values())
    return ParticipantSummary(
        participant=who,
        utterances=len(own),
        talk_ms=talk[who],
        talk_share=round(talk[who] / talk_all, 4) if talk_all else 0.0,
        loudness_dbfs=_loudness_dbfs(own),
        score_mean=_mean(scores),
        score_by_quarter=_by_quarter(scored, ordered[0].start_ms, max(result.end_ms for result in ordered)),
        score_trend_per_min=_trend_per_min(scored),
        most_negative=_moment(min(scored, key=_score, default=None)),
        most_positive=_moment(max(scored, key=_score, default=None)),
        turn=turn,
        unhappy=any(phase is not None and phase <= -FEELING_SCORE for phase in phases),
    )


def _score(result: UtteranceSentiment) -> float:
    return 0.0 if result.judgement is None else result.judgement.score


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None


def _middle_ms(result: UtteranceSentiment) -> float:
    return (result.start_ms + result.end_ms) / 2


def _union_ms(ordered: Sequence[UtteranceSentiment]) -> int:
    """Time covered by at least one of `ordered` (by start): the same speech in two streams counts once."""
    covered_ms, until_ms = 0, 0
    for result in ordered:
        covered_ms += max(0, result.end_ms - max(result.start_ms, until_ms))
        until_ms = max(until_ms, result.end_ms)
    return covered_ms


def _loudness_dbfs(own: Sequence[UtteranceSentiment]) -> float | None:
    heard = [
        (result.loudness_dbfs, result.end_ms - result.start_ms)
        for result in own
        if result.loudness_dbfs is not None and result.end_ms > result.start_ms
    ]
    if not heard:
        return None
    energy = math.fsum(10 ** (level / 10) * length_ms for level, length_ms in heard)
    return round(10 * math.log10(energy / sum(length_ms for _, length_ms in heard)), 2)


def _by_quarter(scored: Sequence[UtteranceSentiment], start_ms: int, end_ms: int) -> tuple[float | None, ...]:
    quarters: list[list[float]] = [[] for _ in range(QUARTERS)]
    for result in scored:
        passed = (_middle_ms(result) - start_ms) / (end_ms - start_ms) if end_ms > start_ms else 0.0
        quarters[min(QUARTERS - 1, int(passed * QUARTERS))].append(_score(result))
    return tuple(_mean(quarter) for quarter in quarters)


def _trend_per_min(scored: Sequence[UtteranceSentiment]) -> float | None:
    if not scored:
        return None
    minutes = [_middle_ms(result) / 60_000 for result in scored]
    mean_min = math.fsum(minutes) / len(minutes)
    spread = math.fsum((minute - mean_min) ** 2 for minute in minutes)
    if spread == 0:
        return None
    together = math.fsum((minute - mean_min) * _score(at) for minute, at in zip(minutes, scored, strict=True))
    return round(together / spread, 4)


def _moment(result: UtteranceSentiment | None) -> Moment | None:
    if result is None:
        return None
    return Moment(
        utterance_id=result.utterance_id, start_ms=result.start_ms, score=_score(result), words=_words(result)
    )


def _words(result: UtteranceSentiment | None) -> str | None:
    if result is None or result.transcript is None or not result.transcript.reliable:
        return None
    words = " ".join(result.transcript.text.split()).rstrip(".,;")
    if len(words) <= WORDS_MAX_CHARS:
        return words or None
    return words[: WORDS_MAX_CHARS - 1].rsplit(" ", 1)[0] + "…"


def _turn(scored: Sequence[UtteranceSentiment], others: Sequence[UtteranceSentiment]) -> Turn | None:
    """The split that explains most of the scores' variance (one change point by least squares).

    It weighs the size of the change by how many utterances stand on either side, so one odd remark is no turn.
    """
    scores = [_score(result) for result in scored]
    count = len(scores)

    def explained(split: int) -> float:
        change = math.fsum(scores[split:]) / (count - split) - math.fsum(scores[:split]) / split
        return split * (count - split) / count * change**2

    split = max(range(1, count), key=explained, default=0)
    before, after = _mean(scores[:split]), _mean(scores[split:])
    if before is None or after is None or abs(after - before) < TURN_MIN_SCORE:
        return None
    at_ms = scored[split].start_ms
    heard = [result for result in others if result.start_ms < at_ms]
    said = _words(heard[-1] if heard else None)
    return Turn(at_ms=at_ms, score_before=before, score_after=after, after_words=said)


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
    negative = [result for result in results if _score(result) < 0]
    pulls = {
        modality: math.fsum(
            max(0.0, -part.contribution.score)
            for result in negative
            if (part := result.modalities.get(modality)) is not None and part.contribution is not None
        )
        for modality in Modality
    }
    return {modality: round(pull / len(negative), 4) for modality, pull in pulls.items() if pull > 0}


def _headline(parts: Sequence[ParticipantSummary], mostly_by: Modality | None, *, final: bool) -> str:
    """One to three sentences: how the customer (else whoever was judged) felt, when it turned, what showed it."""
    if not parts:
        return "Nobody spoke." if final else "Nobody has spoken yet."
    subject = next((part for part in parts if part.score_mean is not None), None)
    if subject is None:
        return "Somebody spoke, but nothing that was said could be judged."
    sentences = [_course(subject, final=final)]
    if mostly_by is not None:
        sentences.append(f"It showed most in {_SHOWN_BY[mostly_by]}.")
    too = " too" if subject.unhappy else ""
    sentences += [f"{_WHO[part.participant]} was unhappy{too}." for part in parts if part.unhappy and part != subject]
    return " ".join(sentences)


def _course(subject: ParticipantSummary, *, final: bool) -> str:
    who, turn = _WHO[subject.participant], subject.turn
    if turn is None or _feeling(turn.score_before) == _feeling(turn.score_after):
        course = f"{who} was {_feeling(subject.score_mean or 0.0)}"
        return f"{course}{' throughout' if final else ' so far'}." if subject.utterances > 1 else f"{course}."
    when = _clock(turn.at_ms) + (f" after “{turn.after_words}”" if turn.after_words else "")
    left = "ended" if subject.participant is Participant.MIXED else "left"
    after = _feeling(turn.score_after)
    end = f"{left} {after}" if final else f"is {after} now"
    return f"{who} was {_feeling(turn.score_before)} from the start, turned at {when}, and {end}."


def _feeling(score: float) -> str:
    if abs(score) < FEELING_SCORE:
        return "calm"
    return "content" if score > 0 else "unhappy"


def _clock(time_ms: int) -> str:
    minutes, seconds = divmod(time_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
