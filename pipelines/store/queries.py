"""What can be asked of the store, and the answers: values and their text forms, no Redis."""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from pipelines.errors import BadCursorError, CorruptResultError
from pipelines.types import CallId, CallRef, Participant, ResultModel, UtteranceSentiment

MINUTE_MS = 60_000
_STARTED_MAX_MS = 1 << 63
"""What Kafka has bits for: an older version stored whatever a producer said."""
"""Whole numbers below this are exact as the floating-point scores of Redis."""

CallState = Literal["waiting", "live", "stalled", "closed", "final"]
"""Of a stream, and of a call, which is as open as the most open of its streams. `waiting`: a call that is in the log, and that
no worker has opened yet, so that none of its streams is known. `stalled`: silent without a final
fragment; `closed`: for so long that no more is expected; a fragment that comes after all makes it `live` again."""
CallChange = Literal["call-live", "call-stalled", "call-final"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, where the next page starts (None: nowhere), and the ids of entries that could not be read."""

    items: tuple[T, ...]
    next_cursor: str | None
    corrupt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call as the listing shows it.

    `started_ms` is wall-clock time in ms since 1970; `last_ms` the end of the latest utterance, from the start of the
    call; `length_ms` to where its media was heard, from there too, None where an older version stored the call. `streams` maps
    each known stream to its state.
    """

    call_id: str
    tenant: str
    status: CallState
    started_ms: int
    last_ms: int
    length_ms: int | None
    utterances: int
    streams: Mapping[str, CallState]

    @property
    def call(self) -> CallRef:
        """What names it."""
        return CallRef(self.tenant, self.call_id)

    @property
    def over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.status in ("closed", "final")


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are wanted; None leaves a condition out.

    `since_ms` (inclusive) and `until_ms` (exclusive) bound the start of the call, ms since 1970. The others are
    conditions on utterances: a call matches when one of its utterances meets all of them.
    """

    tenant: str = "default"
    since_ms: int | None = None
    until_ms: int | None = None
    participant: Participant | None = None
    polarity: str | None = None
    emotion: str | None = None
    score_min: float | None = None
    score_max: float | None = None

    @property
    def asks_for_utterances(self) -> bool:
        """Whether a call's utterances decide."""
        return any(
            condition is not None
            for condition in (self.participant, self.polarity, self.emotion, self.score_min, self.score_max)
        )

    def accepts(self, digest: "Digest") -> bool:
        """Whether this utterance meets every condition on utterances."""
        scored = self.score_min is not None or self.score_max is not None
        return (
            self.participant in (None, digest.participant)
            and self.polarity in (None, digest.polarity)
            and self.emotion in (None, digest.emotion)
            and not (scored and digest.score is None)
            and (self.score_min is None or digest.score is None or digest.score >= self.score_min)
            and (self.score_max is None or digest.score is None or digest.score <= self.score_max)
        )

    def accepts_kinds(self, kinds: Mapping[str, str]) -> bool | None:
        """Whether an utterance of the call meets every condition, as far as the call's `kinds` tell; None where they do not."""
        verdict: bool | None = False
        for kind, scores in kinds.items():
            low, high = (Digest.read(f"{kind}|{score}") for score in scores.split(","))
            if self.accepts(low) or self.accepts(high):
                return True
            between = self.score_max if self.score_min is None else self.score_min
            if (
                between is not None
                and low.score is not None
                and high.score is not None
                and low.score < between < high.score
            ):
                verdict = None if self.accepts(replace(low, score=between)) else verdict
        return verdict


@dataclass(frozen=True, slots=True)
class CallEvent:
    """Something that happened in a call; `id` is where a reader resumes. `utterance` comes with its kind.

    The others say that the call is live again, stalled, or over (`CallState`). `unreadable` stands for an event whose result is gone or cannot be parsed; it keeps its id, so that a reader resumes
    behind it.
    """

    id: str
    kind: Literal["utterance", "unreadable"] | CallChange
    utterance: UtteranceSentiment | None


class InterimText(ResultModel):
    """The words so far of an utterance that goes on (docs/architecture.md#an-interim-text).

    `end_ms` is how far it has come. The result will have other words, and `start_ms`, `stream` and `participant` in common.
    """

    event: Literal["interim"] = "interim"
    interim: Literal[True] = True
    call_id: CallId
    stream: str
    participant: Participant
    start_ms: int
    end_ms: int
    text: str
    language: str
    engine: str


@dataclass(frozen=True, slots=True)
class TrendMinute:
    """All judged utterances that started within one minute of wall-clock time."""

    minute_ms: int
    utterances: int
    score_mean: float
    polarities: Mapping[str, int]
    emotions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Digest:
    """What filters and trends need of a result, as `participant|polarity|emotion|score`; empty where not judged."""

    participant: str
    polarity: str | None
    emotion: str | None
    score: float | None = field(default=None)

    @staticmethod
    def of(result: UtteranceSentiment) -> "Digest":
        """The digest of a result."""
        judged = result.judgement
        if judged is None:
            return Digest(result.participant, None, None)
        return Digest(result.participant, judged.polarity, judged.emotion, judged.score)

    @staticmethod
    def read(text: str) -> "Digest":
        """What `write` wrote.

        Raises:
            CorruptResultError: it did not.
        """
        try:
            participant, polarity, emotion, score = text.split("|")
            return Digest(participant, polarity or None, emotion or None, float(score) if score else None)
        except ValueError:
            raise CorruptResultError(f"no digest of a result: {text[:80]!r}") from None

    def write(self) -> str:
        """One line, about 30 characters."""
        score = "" if self.score is None else f"{self.score:.4f}"
        return f"{self.participant}|{self.polarity or ''}|{self.emotion or ''}|{score}"


def trend_minute(minute_ms: int, sums: Mapping[str, Any], participant: Participant | None) -> TrendMinute:
    """One minute's judged utterances, of one participant or of all, from the sums that `lua/trend.lua` keeps."""
    parts = {who: part for who, part in sums.items() if who != "size" and participant in (None, who)}
    utterances = sum(part["n"] for part in parts.values())
    polarities, emotions = Counter[str](), Counter[str]()
    for part in parts.values():
        polarities.update(part["p"])
        emotions.update(part["e"])
    return TrendMinute(
        minute_ms=minute_ms,
        utterances=utterances,
        score_mean=sum(part["score"] for part in parts.values()) / 10_000 / utterances if utterances else 0.0,
        polarities=polarities,
        emotions=emotions,
    )


def write_cursor(*place: str | int) -> str:
    """An opaque word for a place in a listing."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_call_cursor(cursor: str) -> tuple[int, str]:
    """The start time and id of the last call listed.

    Raises:
        BadCursorError: no listing of calls gave this cursor.
    """
    match _place(cursor):
        case [int(started_ms), str(call_id)] if (
            type(started_ms) is int and 0 <= started_ms <= _STARTED_MAX_MS and call_id.isascii()
        ):
            return started_ms, call_id
    raise BadCursorError(f"no listing of calls gave the cursor {cursor[:80]!r}: start without one")


def read_member_cursor(cursor: str) -> str:
    """The last utterance listed.

    Raises:
        BadCursorError: no listing of utterances gave this cursor.
    """
    match _place(cursor):
        case [str(member)] if member.isascii():
            return member
    raise BadCursorError(f"no listing of utterances gave the cursor {cursor[:80]!r}: start without one")


def read_entry_cursor(cursor: str) -> str:
    """The id of the last entry of a trail of accesses listed.

    Raises:
        BadCursorError: no listing of accesses gave this cursor.
    """
    match _place(cursor):
        case [str(entry_id)] if re.fullmatch(r"[0-9]{1,18}-[0-9]{1,18}", entry_id):
            return entry_id
    raise BadCursorError(f"no listing of accesses gave the cursor {cursor[:80]!r}: start without one")


def _place(cursor: str) -> object:
    try:
        return json.loads(base64.urlsafe_b64decode(cursor[:1000] + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
