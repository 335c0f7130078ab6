"""The values that flow from a fragment to a result (docs/architecture.md#contracts). Times are integer ms from the start of the call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.types import SAMPLE_RATE_HZ, FloatArray, Modality
from pipelines.errors import CorruptResultError

SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
FRAGMENT_MAX_BYTES = 1 << 20
START_MAX_MS = 7 * 86_400_000
"""The latest start of a fragment within its call."""
CALL_ID_PATTERN = (
    r"^(?:[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}|\.[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,126}|\.\.[A-Za-z0-9._:-]{1,126})$"
)
"""Not `.` and `..`, which HTTP clients take out of a path."""
NAME_PATTERN = r"^(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}|\.[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}|\.\.[A-Za-z0-9._-]{1,62})$"
"""Of tenants, streams and runs; likewise."""
TOPIC_MEDIA, TOPIC_SENTIMENT, TOPIC_DEAD_LETTER = "call-media", "call-sentiment", "call-media-dlq"
RETENTION_DAYS = {TOPIC_MEDIA: 7, TOPIC_SENTIMENT: 30, TOPIC_DEAD_LETTER: 30}
"""How long the log keeps records, by topic; the store remembers what they led to for longer."""
LIVE_RUN = "live"
"""The run of what is analysed as it comes; replays and shadows have names of their own."""

Pixels = NDArray[np.uint8]
Headers = tuple[tuple[str, bytes], ...]
"""A record's headers, in order; a name may stand there twice."""
CallId = Annotated[str, Field(pattern=CALL_ID_PATTERN)]


class Participant(StrEnum):
    """Who speaks; `mixed` when both share one channel."""

    AGENT = "agent"
    CUSTOMER = "customer"
    MIXED = "mixed"


Channels = tuple[Participant | None, ...]
"""Who is on which channel of a stream's sound, in order; None is left out. One entry: all channels."""
LEFT_OUT = "-"
"""How the `None` of `Channels` is written."""


def format_participants(participants: Channels) -> str:
    """As they stand in a header, and as `parse_participants` reads them."""
    return ",".join(who or LEFT_OUT for who in participants)


Consent = Mapping[Participant, frozenset[Modality]]
"""The modalities that may be analysed, per participant; a participant that is not named is not analysed at all."""

DEFAULT_CONSENT: Consent = {
    Participant.AGENT: frozenset({Modality.TEXT}),
    Participant.CUSTOMER: frozenset(Modality),
    Participant.MIXED: frozenset({Modality.TEXT}),
}
"""An agent is an employee, whose voice and face may not be judged (EU AI Act, Art. 5(1)(f)); a mixed channel holds the
agent's voice too (docs/architecture.md#who-may-be-judged-by-what)."""

UNCONFIGURED_CONSENT: Consent = {Participant.CUSTOMER: frozenset({Modality.TEXT})}
"""Of a tenant that nobody has configured: whoever sends its calls has agreed to nothing with whoever runs the service."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where a record stands in the log: a partition and an offset in it."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True, order=True)
class CallRef:
    """What names a call: its id is its tenant's own, and two tenants may use the same one."""

    tenant: str
    call_id: str

    def __str__(self) -> str:
        return f"call {self.call_id} of tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the log holds it, not yet validated."""

    at: Coordinates
    key: bytes | None
    value: bytes
    headers: Headers
    appended_ms: int
    """When the log took it, ms since 1970; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class MediaFragment:
    """A record that keeps the contract of docs/architecture.md#a-fragment.

    `participants` is who is on which channel, or on which sound track, in order (one entry: all channels, or the person in the picture).
    `consent` is the fragment's own policy; None leaves it to the tenant's. `customer` is a keyed hash (`pipelines/customer.py`).
    """

    call_id: str
    tenant: str
    stream: str
    seq: int
    start_ms: int
    content_type: str
    participants: Channels
    consent: Consent | None
    final: bool
    media: bytes = field(repr=False)
    at: Coordinates | None = None
    seal: str | None = None
    """The id of the seal under which `media` is (`pipelines/seal.py`); None where it can be read."""
    withheld: bool = False
    """Whether its media was left out, because nothing of it may be analysed."""
    customer: str | None = None
    recorded: bool = False
    """Whether nobody waits for what comes of it: a recording, and no call that goes on."""

    @property
    def heard(self) -> tuple[Participant, ...]:
        """The participants without the channels that are left out."""
        return tuple(who for who in self.participants if who is not None)

    @property
    def call(self) -> CallRef:
        """Whose fragment it is."""
        return CallRef(self.tenant, self.call_id)


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One sampled picture: RGB (H, W, 3) uint8 and its time in ms from the start of the call."""

    participant: Participant
    time_ms: int
    pixels: Pixels = field(repr=False)


@dataclass(frozen=True, slots=True)
class Utterance:
    """Speech of one participant between start and end of speech, with the pictures taken meanwhile.

    `samples` (N,) may be empty when only a text or a picture is analysed; `frames` hold one picture per sampled time.
    """

    call_id: str
    tenant: str
    stream: str
    participant: Participant
    start_ms: int
    end_ms: int
    consent: frozenset[Modality]
    samples: FloatArray = field(repr=False)
    frames: tuple[VideoFrame, ...] = field(default=(), repr=False)
    text: str | None = None
    """Words that came with the input and need no transcriber (`POST /v1/analyze` with a text)."""
    recorded: bool = False
    """Whether it was `recorded`, as its last fragment says: then it waits for a slow network."""

    @property
    def utterance_id(self) -> str:
        """The same speech always gets the same id: a replay finds its earlier result."""
        return f"{self.call_id}/{self.stream}/{self.participant}/{self.start_ms}"


class ResultModel(BaseModel):
    """A frozen part of the result's JSON; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Probability = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=-3, le=3)]


class WordOut(ResultModel):
    """A word with its times in the call."""

    text: str
    start_ms: int
    end_ms: int
    confidence: Probability


class TranscriptOut(ResultModel):
    """What was said, by which engine, and whether it is plausible (`reliable`, else `unreliable_reason`)."""

    text: str
    language: str
    words: tuple[WordOut, ...] = ()
    engine: str
    reliable: bool
    unreliable_reason: str | None = None
    redacted: dict[str, int] = Field(default_factory=dict)
    """How many items of each kind stand in text and words as a mark: `{"card": 1}` for one `[CARD]`."""


class Judgement(ResultModel):
    """Score in [-3, 3]; polarity and emotion as the likeliest label and every label's probability."""

    score: Score
    polarity: str
    polarity_probabilities: dict[str, Probability]
    emotion: str
    emotion_probabilities: dict[str, Probability]


class ContributionOut(ResultModel):
    """How the fused result changes when the modality is left out (with it minus without it)."""

    score: float
    polarity_probabilities: dict[str, float]
    emotion_probabilities: dict[str, float]


MissingReason = Literal[
    "absent",
    "no_face",
    "no_speech_text",
    "unreliable_text",
    "unusable",
    "not_consented",
    "encoder_unavailable",
    "timeout",
]
"""Why a modality is missing."""
FAULTS: frozenset[MissingReason] = frozenset({"encoder_unavailable", "timeout"})
"""Those that are the service's fault: the modality was there, might be judged, and would have been at another time."""


class ModalityOut(ResultModel):
    """What one modality contributed, or why it is missing."""

    used: bool
    missing: MissingReason | None = None
    model: str | None = None
    judgement: Judgement | None = None
    weight: Probability | None = None
    contribution: ContributionOut | None = None


class UtteranceSentiment(ResultModel):
    """The result of one utterance (docs/architecture.md#a-result): the same object in Redis, on `call-sentiment` and over HTTP.

    `judgement` is None when no modality could be used; the reasons then stand in `modalities`.
    """

    v: Literal[1] = 1
    utterance_id: str
    call_id: str
    tenant: str
    stream: str
    participant: Participant
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)
    loudness_dbfs: float | None = None
    consent: tuple[Modality, ...]
    transcript: TranscriptOut | None = None
    judgement: Judgement | None = None
    modalities: dict[Modality, ModalityOut]
    fusion: str | None = None
    bundle: str
    step_ms: dict[str, float] = Field(default_factory=dict)
    """Milliseconds spent in each step that was taken: `transcribe`, `redact`, `text`, `audio`, `video`, `fusion`; and `total`."""
    analysed_at: AwareDatetime

    @property
    def faults(self) -> Mapping[Modality, MissingReason]:
        """The modalities that are missing by a fault of the service, and by which."""
        found = {modality: out.missing for modality, out in self.modalities.items()}
        return {modality: reason for modality, reason in found.items() if reason is not None and reason in FAULTS}


Faults = dict[Modality, dict[MissingReason, int]]
"""How many results lack a modality by a fault of the service, by modality and fault; what is not lacking is not named."""


def count_faults(results: Iterable[UtteranceSentiment]) -> Faults:
    """The faults of all these results."""
    found: Faults = {}
    for result in results:
        add_faults(found, {modality: {reason: 1} for modality, reason in result.faults.items()})
    return found


def add_faults(to: Faults, more: Faults) -> None:
    """Count `more` in."""
    for modality, counts in more.items():
        for reason, count in counts.items():
            own = to.setdefault(modality, {})
            own[reason] = own.get(reason, 0) + count


def read_result(text: str | bytes) -> UtteranceSentiment:
    """The result whose JSON this is.

    Raises:
        CorruptResultError: it is not one.
    """
    try:
        return UtteranceSentiment.model_validate_json(text)
    except ValidationError as error:
        raise CorruptResultError(f"no result: {error.errors(include_url=False)[:3]}") from None
