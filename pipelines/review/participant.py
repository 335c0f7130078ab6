"""One participant's part of a call, from the call's results: talk, mood, and when it turned."""

import math
from collections.abc import Sequence

from pydantic import Field

from models.types import NEUTRAL_SCORE_MAX, Modality
from pipelines.types import Participant, ResultModel, Score, UtteranceSentiment

QUARTERS = 4
FEELING_SCORE = NEUTRAL_SCORE_MAX
"""A mean score beyond this distance from 0 is a feeling: unhappy below, content above, calm between. The score of a neutral answer
goes up to it (`models.types.NEUTRAL_SCORE_MAX`), and who was neutral throughout was calm."""
TURN_MIN_SCORE = 0.6
"""A change of mean score smaller than this is no turn."""
COURSE_MIN_UTTERANCES, COURSE_MIN_MS = 4, 30_000
"""A trend or a turn is told of at least so many judged utterances over so long, from the first's start to the last's end."""
SIDE_MIN_UTTERANCES = 2
"""So many stand on either side of a turn: one odd remark is none."""
UNDERSTOOD_MIN_SHARE = 0.5
"""Less of their speech judged, or fewer of its words reliable, and nothing is said of how somebody felt."""
PADDING_MS = 300
"""What ends this little after another begins was said before: utterances hold some silence on either side."""
WORDS_MAX_CHARS = 80


class Moment(ResultModel):
    """One utterance worth listening to again; `words` is None without a reliable transcript."""

    utterance_id: str
    start_ms: int
    score: Score
    words: str | None


class Turn(ResultModel):
    """The largest lasting change of a participant's score: `at_ms` is the first utterance after it.

    `score_before` and `score_after` are the means of all their utterances on either side; `after_words` is what
    `after_participant` said between the utterance before the turn and the one at it, None where nobody did, or not reliably.
    """

    at_ms: int
    score_before: float
    score_after: float
    after_words: str | None
    after_participant: Participant | None


class ParticipantSummary(ResultModel):
    """One participant's part of the call. Means are over utterances that have a score; None without any.

    `score_by_quarter` divides the call's span in four; an utterance belongs to the quarter that holds its middle.
    `score_trend_per_min` is the least-squares slope of the score; it and `turn` are None of fewer than four judged utterances or less
    than 30 s. `talk_share` is of all talk, in [0, 1]. `judged_share` is of their own talk, by time; `reliable_share` of the talk that was
    written down, None without any. `understood` says whether both are at least a half: else `unhappy` is false, as it is of an agent
    whose voice and face were not judged: an apology's words are negative, and say nothing of who makes it.
    `loudness_dbfs` is the mean power of their speech, weighted by its length.
    """

    participant: Participant
    utterances: int
    talk_ms: int
    talk_share: float
    loudness_dbfs: float | None
    judged_share: float
    reliable_share: float | None
    understood: bool
    score_mean: float | None
    score_by_quarter: tuple[float | None, ...] = Field(min_length=QUARTERS, max_length=QUARTERS)
    score_trend_per_min: float | None
    most_negative: Moment | None
    most_positive: Moment | None
    turn: Turn | None
    unhappy: bool


def participant_summary(
    who: Participant, ordered: Sequence[UtteranceSentiment], talk: dict[Participant, int]
) -> ParticipantSummary:
    """The part of `who` in a call whose results are `ordered` by start; `talk` is everybody's time of speech in ms."""
    own = [result for result in ordered if result.participant is who]
    scored = [result for result in own if result.judgement is not None]
    scores = [score_of(result) for result in scored]
    turn = _turn(scored, [result for result in ordered if result.participant is not who])
    judged_share, reliable_share = _share(scored, own) or 0.0, _reliable_share(own)
    understood = min(judged_share, 1.0 if reliable_share is None else reliable_share) >= UNDERSTOOD_MIN_SHARE
    shown = scored if who is not Participant.AGENT else [result for result in scored if _is_seen_or_heard(result)]
    own_turn = turn if shown == scored else None
    phases = [own_turn.score_before, own_turn.score_after] if own_turn else [_mean([score_of(one) for one in shown])]
    talk_all = sum(talk.values())
    return ParticipantSummary(
        participant=who,
        utterances=len(own),
        talk_ms=talk[who],
        talk_share=round(talk[who] / talk_all, 4) if talk_all else 0.0,
        loudness_dbfs=_loudness_dbfs(own),
        judged_share=judged_share,
        reliable_share=reliable_share,
        understood=understood,
        score_mean=_mean(scores),
        score_by_quarter=_by_quarter(scored, ordered[0].start_ms, max(result.end_ms for result in ordered)),
        score_trend_per_min=_trend_per_min(scored),
        most_negative=_moment(min(scored, key=score_of, default=None)),
        most_positive=_moment(max(scored, key=score_of, default=None)),
        turn=turn,
        unhappy=understood and any(phase is not None and phase < -FEELING_SCORE for phase in phases),
    )


def score_of(result: UtteranceSentiment) -> float:
    """The utterance's score; 0 where it could not be judged."""
    return 0.0 if result.judgement is None else result.judgement.score


def is_course(scored: Sequence[UtteranceSentiment]) -> bool:
    """Whether there are enough judged utterances, over enough time, to say how somebody's mood went."""
    return (
        len(scored) >= COURSE_MIN_UTTERANCES
        and max(result.end_ms for result in scored) - scored[0].start_ms >= COURSE_MIN_MS
    )


def _is_seen_or_heard(result: UtteranceSentiment) -> bool:
    found = (result.modalities.get(modality) for modality in (Modality.AUDIO, Modality.VIDEO))
    return any(part is not None and part.used for part in found)


def _share(some: Sequence[UtteranceSentiment], of: Sequence[UtteranceSentiment]) -> float | None:
    """Their share of the time of speech; by number where none takes any, None of nothing."""
    if not of:
        return None
    whole_ms = sum(result.end_ms - result.start_ms for result in of)
    part = sum(result.end_ms - result.start_ms for result in some) / whole_ms if whole_ms else len(some) / len(of)
    return round(part, 4)


def _reliable_share(own: Sequence[UtteranceSentiment]) -> float | None:
    written = [result for result in own if result.transcript is not None]
    return _share([result for result in written if result.transcript and result.transcript.reliable], written)


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None


def _middle_ms(result: UtteranceSentiment) -> float:
    return (result.start_ms + result.end_ms) / 2


def union_ms(ordered: Sequence[UtteranceSentiment]) -> int:
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
        quarters[min(QUARTERS - 1, int(passed * QUARTERS))].append(score_of(result))
    return tuple(_mean(quarter) for quarter in quarters)


def _trend_per_min(scored: Sequence[UtteranceSentiment]) -> float | None:
    if not is_course(scored):
        return None
    minutes = [_middle_ms(result) / 60_000 for result in scored]
    mean_min = math.fsum(minutes) / len(minutes)
    spread = math.fsum((minute - mean_min) ** 2 for minute in minutes)
    if spread == 0:
        return None
    together = math.fsum((minute - mean_min) * score_of(at) for minute, at in zip(minutes, scored, strict=True))
    return round(together / spread, 4)


def _moment(result: UtteranceSentiment | None) -> Moment | None:
    if result is None:
        return None
    return Moment(
        utterance_id=result.utterance_id, start_ms=result.start_ms, score=score_of(result), words=_words(result)
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
    if not is_course(scored):
        return None
    scores = [score_of(result) for result in scored]
    count = len(scores)

    def explained(split: int) -> float:
        change = math.fsum(scores[split:]) / (count - split) - math.fsum(scores[:split]) / split
        return split * (count - split) / count * change**2

    split = max(range(SIDE_MIN_UTTERANCES, count - SIDE_MIN_UTTERANCES + 1), key=explained)
    before, after = _mean(scores[:split]), _mean(scores[split:])
    if before is None or after is None or abs(after - before) < TURN_MIN_SCORE:
        return None
    at_ms, since_ms = scored[split].start_ms, scored[split - 1].start_ms
    heard = [other for other in others if since_ms <= other.start_ms < at_ms and other.end_ms <= at_ms + PADDING_MS]
    said = _words(heard[-1] if heard else None)
    by = heard[-1].participant if said else None
    return Turn(at_ms=at_ms, score_before=before, score_after=after, after_words=said, after_participant=by)
