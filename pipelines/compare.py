"""Two runs over the same calls side by side: where they agree, and what moved."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from pipelines.types import UtteranceSentiment

MOVED = 0.5
"""A score that differs by more than this has moved: a twelfth of its range."""
CHANGES_MAX = 10_000


class Change(BaseModel):
    """An utterance whose polarity the two runs judge differently; None where one could not judge it at all."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    utterance_id: str
    start_ms: int
    participant: str
    text: str
    polarities: tuple[str | None, str | None]
    scores: tuple[float | None, float | None]


class Comparison(BaseModel):
    """What two runs make of the same utterances; only those that both have judged enter the figures."""

    runs: tuple[str, str]
    bundles: tuple[list[str], list[str]]
    calls: int
    utterances: int
    """Found by both."""
    only_in: tuple[int, int]
    judged: int
    polarity_agreement: float | None
    polarity_kappa: float | None
    """Cohen's kappa: agreement beyond what the two runs' label frequencies give by chance (Cohen 1960)."""
    emotion_agreement: float | None
    score_difference_mean: float | None
    """Second minus first."""
    score_difference_mean_absolute: float | None
    scores_moved: int
    changed: list[Change]


@dataclass(frozen=True, slots=True)
class Pair:
    """One utterance as both runs have it."""

    first: UtteranceSentiment
    second: UtteranceSentiment


def compare(
    runs: tuple[str, str], calls: Iterable[tuple[Sequence[UtteranceSentiment], Sequence[UtteranceSentiment]]]
) -> Comparison:
    """Compare the results of two runs, given call by call; an utterance is the same where its id is."""
    pairs: list[Pair] = []
    only, bundles, number = [0, 0], (set[str](), set[str]()), 0
    for first, second in calls:
        number += 1
        by_id = {one.utterance_id: one for one in second}
        found = [Pair(one, by_id[one.utterance_id]) for one in first if one.utterance_id in by_id]
        only = [only[0] + len(first) - len(found), only[1] + len(second) - len(found)]
        for names, results in zip(bundles, (first, second), strict=True):
            names.update(one.bundle for one in results)
        pairs += found
    judged = [pair for pair in pairs if pair.first.judgement and pair.second.judgement]
    polarities = [(_polarity(pair.first), _polarity(pair.second)) for pair in judged]
    emotions = [(_emotion(pair.first), _emotion(pair.second)) for pair in judged]
    moves = [_score(pair.second) - _score(pair.first) for pair in judged]
    return Comparison(
        runs=runs,
        bundles=(sorted(bundles[0]), sorted(bundles[1])),
        calls=number,
        utterances=len(pairs),
        only_in=(only[0], only[1]),
        judged=len(judged),
        polarity_agreement=_agreement(polarities),
        polarity_kappa=_kappa(polarities),
        emotion_agreement=_agreement(emotions),
        score_difference_mean=round(fmean(moves), 4) if moves else None,
        score_difference_mean_absolute=round(fmean(map(abs, moves)), 4) if moves else None,
        scores_moved=sum(abs(move) > MOVED for move in moves),
        changed=[_change(pair) for pair in pairs if _polarity(pair.first) != _polarity(pair.second)][:CHANGES_MAX],
    )


def _agreement(labels: Sequence[tuple[str | None, str | None]]) -> float | None:
    return round(fmean(first == second for first, second in labels), 4) if labels else None


def _kappa(labels: Sequence[tuple[str | None, str | None]]) -> float | None:
    if not labels:
        return None
    observed = fmean(first == second for first, second in labels)
    firsts, seconds = Counter(first for first, _ in labels), Counter(second for _, second in labels)
    chance = sum(firsts[label] * seconds[label] for label in firsts) / len(labels) ** 2
    return None if chance == 1 else round((observed - chance) / (1 - chance), 4)


def _polarity(result: UtteranceSentiment) -> str | None:
    return result.judgement.polarity if result.judgement else None


def _emotion(result: UtteranceSentiment) -> str | None:
    return result.judgement.emotion if result.judgement else None


def _score(result: UtteranceSentiment) -> float:
    return result.judgement.score if result.judgement else 0.0


def _change(pair: Pair) -> Change:
    first, second = pair.first, pair.second
    return Change(
        call_id=first.call_id,
        utterance_id=first.utterance_id,
        start_ms=first.start_ms,
        participant=first.participant,
        text=first.transcript.text if first.transcript else "",
        polarities=(_polarity(first), _polarity(second)),
        scores=(
            first.judgement.score if first.judgement else None,
            second.judgement.score if second.judgement else None,
        ),
    )
