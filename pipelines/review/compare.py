"""Compares two runs over the same calls: agreement, and which scores moved."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from pipelines.types import Faults, UtteranceSentiment, add_faults, count_faults

MOVED = 0.5
"""A score that differs by more than this has moved: a twelfth of its range."""
CHANGES_MAX = 10_000
NOT_JUDGED = "not judged"
"""A label of its own: what one run could not judge is no agreement."""

Labels = tuple[str, str]


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
    """What two runs make of the same utterances. Where one run has judged and the other has not, they do not agree."""

    runs: tuple[str, str]
    bundles: tuple[list[str], list[str]]
    calls: int
    utterances: int
    """Found by both."""
    only_in: tuple[int, int]
    judged: int
    """By both: of these, scores are compared."""
    judged_only_in: tuple[int, int]
    faults: tuple[Faults, Faults]
    """What lacks in either run by a fault of the service."""
    polarity_agreement: float | None
    polarity_kappa: float | None
    """Cohen's kappa: agreement beyond what the two runs' label frequencies give by chance (Cohen 1960)."""
    emotion_agreement: float | None
    score_difference_mean: float | None
    """Second minus first."""
    score_difference_mean_absolute: float | None
    scores_moved: int
    changed_polarity: int
    changed: list[Change]
    """At most the first 10,000 of them."""


@dataclass(slots=True)
class Tally:
    """Labels and scores of the calls compared so far; results are not kept."""

    runs: tuple[str, str]
    _calls: int = 0
    _utterances: int = 0
    _only: list[int] = field(default_factory=lambda: [0, 0])
    _bundles: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
    _polarities: list[Labels] = field(default_factory=list)
    _emotions: list[Labels] = field(default_factory=list)
    _moves: list[float] = field(default_factory=list)
    _judged_only: list[int] = field(default_factory=lambda: [0, 0])
    _faults: tuple[Faults, Faults] = field(default_factory=lambda: ({}, {}))
    _changes: int = 0
    _changed: list[Change] = field(default_factory=list)

    def add(self, first: Sequence[UtteranceSentiment], second: Sequence[UtteranceSentiment]) -> None:
        """The results of one call in both runs; an utterance is the same where its id is."""
        by_id = {one.utterance_id: one for one in second}
        pairs = [(one, by_id[one.utterance_id]) for one in first if one.utterance_id in by_id]
        self._calls += 1
        self._utterances += len(pairs)
        for run, results in enumerate((first, second)):
            self._only[run] += len(results) - len(pairs)
            self._bundles[run].update(one.bundle for one in results)
            add_faults(self._faults[run], count_faults(results))
        for one, other in pairs:
            if one.judgement and other.judgement:
                self._moves.append(other.judgement.score - one.judgement.score)
            elif one.judgement or other.judgement:
                self._judged_only[one.judgement is None] += 1
            if one.judgement or other.judgement:
                self._polarities.append((_polarity(one) or NOT_JUDGED, _polarity(other) or NOT_JUDGED))
                emotions = (result.judgement.emotion if result.judgement else NOT_JUDGED for result in (one, other))
                self._emotions.append((next(emotions), next(emotions)))
            if _polarity(one) != _polarity(other):
                self._changes += 1
                if len(self._changed) < CHANGES_MAX:
                    self._changed.append(_change(one, other))

    def comparison(self) -> Comparison:
        """The figures of all calls added."""
        moves = self._moves
        return Comparison(
            runs=self.runs,
            bundles=(sorted(self._bundles[0]), sorted(self._bundles[1])),
            calls=self._calls,
            utterances=self._utterances,
            only_in=(self._only[0], self._only[1]),
            judged=len(moves),
            judged_only_in=(self._judged_only[0], self._judged_only[1]),
            faults=self._faults,
            polarity_agreement=_agreement(self._polarities),
            polarity_kappa=_kappa(self._polarities),
            emotion_agreement=_agreement(self._emotions),
            score_difference_mean=round(fmean(moves), 4) if moves else None,
            score_difference_mean_absolute=round(fmean(map(abs, moves)), 4) if moves else None,
            scores_moved=sum(abs(move) > MOVED for move in moves),
            changed_polarity=self._changes,
            changed=self._changed,
        )


def _agreement(labels: Sequence[Labels]) -> float | None:
    # Rounded down: 1 is said where all agree.
    return math.floor(1e4 * fmean(first == second for first, second in labels)) / 1e4 if labels else None


def _kappa(labels: Sequence[Labels]) -> float | None:
    if not labels:
        return None
    observed = fmean(first == second for first, second in labels)
    firsts, seconds = Counter(first for first, _ in labels), Counter(second for _, second in labels)
    chance = sum(firsts[label] * seconds[label] for label in firsts) / len(labels) ** 2
    return None if chance == 1 else round((observed - chance) / (1 - chance), 4)


def _polarity(result: UtteranceSentiment) -> str | None:
    return result.judgement.polarity if result.judgement else None


def _change(first: UtteranceSentiment, second: UtteranceSentiment) -> Change:
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
