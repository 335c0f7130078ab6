"""Request and response bodies, as the OpenAPI page shows them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, field_validator

from deployments.http.problems import RESUME_PATTERN
from pipelines.checkpoints import Account
from pipelines.consent import parse_consent
from pipelines.customer import REFERENCE_MAX_BYTES, parse_reference
from pipelines.errors import BadFragmentError
from pipelines.log.records import parse_participants
from pipelines.review.summary import CallSummary
from pipelines.store.queries import CallInfo, CallState, TrendMinute
from pipelines.types import (
    CALL_ID_PATTERN,
    NAME_PATTERN,
    START_MAX_MS,
    Channels,
    Consent,
    Participant,
    UtteranceSentiment,
)

TEXT_MAX_CHARS = 10_000
_LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC)

Tenant = Annotated[str, Field(pattern=NAME_PATTERN)]


class Part(BaseModel):
    """One thing that the service needs: `redis`, `source`, `Transcriber` …, and what is wrong with it."""

    name: str
    ok: bool
    detail: str = ""


class Health(BaseModel):
    """What serves, and whether everything it needs answers. `transcriber` is None while it does not."""

    transcriber: str | None
    bundle: str
    parts: list[Part]


class Liveness(BaseModel):
    """The process answers; `transcriber` and `bundle` say which models it serves, None when that is unknown now."""

    status: Literal["alive"] = "alive"
    transcriber: str | None
    bundle: str | None


class MediaMetadata(BaseModel):
    """What comes with media, in the query or in a form: tenant, call, stream, customer, participants, consent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    call_id: str | None = Field(None, pattern=CALL_ID_PATTERN, description="Made up when it is not given.")
    customer: SecretStr | None = Field(
        None,
        description=f"Whose call it is, as you know them (an account number, say), 1 to {REFERENCE_MAX_BYTES} bytes: all of their calls "
        "can be forgotten by it. Kept as a keyed hash only. A query stands in the logs of proxies: use a form.",
    )
    participants: str = Field(
        Participant.MIXED.value,
        description="Who is on which channel or in the picture: `agent,customer`, `customer`. By default `mixed`: nobody has said that "
        "a recording is one party's alone, so that of all channels together only words are judged.",
        examples=["agent,customer"],
    )
    consent: str | None = Field(
        None,
        description="Modalities that may be analysed, of those that the tenant's policy allows: unless configured otherwise "
        "the agent's words, the customer's voice, face and words, and a tenant that nobody configured the customer's words.",
        examples=["customer=audio+video+text;agent=text"],
    )
    tenant: Tenant = "default"
    stream: str = Field("main", pattern=NAME_PATTERN, description="Which media flow of the call this is.")
    start_ms: int = Field(0, ge=0, le=START_MAX_MS, description="Where the media starts in the call.")
    resume: str | None = Field(
        None,
        pattern=RESUME_PATTERN,
        description="A word of the sender's own, 16 to 64 characters: with the same one an upload that broke off may be sent "
        "again, and with no other. Made up, and told in the answer, when it is not given.",
    )

    @field_validator("participants")
    @classmethod
    def _names(cls, text: str) -> str:
        return _checked("participants", parse_participants, text)

    @field_validator("consent")
    @classmethod
    def _policy(cls, text: str | None) -> str | None:
        return None if text is None else _checked("consent", parse_consent, text)

    @field_validator("customer")
    @classmethod
    def _reference(cls, text: SecretStr | None) -> SecretStr | None:
        if text is not None:
            _checked("customer", parse_reference, text.get_secret_value())
        return text

    def participant_list(self) -> Channels:
        """The participants, one a channel or sound track in order."""
        return parse_participants(self.participants)

    def speaker(self) -> Participant:
        """Whose a text or a picture alone is: the first who is named, else the customer's, since one person wrote or shows it."""
        named = "participants" in self.model_fields_set
        return next(who for who in self.participant_list() if who is not None) if named else Participant.CUSTOMER

    def consent_policy(self) -> Consent | None:
        """What may be analysed; None leaves it to the tenant's policy."""
        return None if self.consent is None else parse_consent(self.consent)


class LiveMetadata(MediaMetadata):
    """The first message on `WS /v1/calls/{id}/media`; the call id is in the path."""

    call_id: None = None
    content_type: str | None = Field(
        None, description="Needed for raw sound only, such as `audio/L16;rate=8000;channels=2` or `audio/PCMU`."
    )


def _checked(field: str, parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except BadFragmentError as error:
        raise ValueError(error.message_for(field)) from error
    return text


class Links(BaseModel):
    """Where to look for a call's results. An upload's call is there from the answer on; a live one once an ingest worker has read of it."""

    call: str
    utterances: str
    events: str

    @classmethod
    def of(cls, call_id: str) -> Self:
        """The links of a call."""
        call = f"/v1/calls/{call_id}"
        return cls(call=call, utterances=f"{call}/utterances", events=f"{call}/events")


class Accepted(BaseModel):
    """The media stands in the log, cut into `fragments`, and will be analysed. `resume` continues the stream.

    `warnings` say what of it is not heard: bytes that were not read, tracks on which nobody is said to be, an end that is missing.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "call_id": "a-17",
                "stream": "main",
                "fragments": 62,
                "resume": "kW1x5lq0yTzqWkT0b3mC3g",
                "links": Links.of("a-17").model_dump(),
                "warnings": [],
            }
        }
    )

    call_id: str
    stream: str
    fragments: int
    resume: str
    links: Links
    warnings: list[str] = []


class CallOut(BaseModel):
    """A call. `last_ms` is the end of its latest utterance, from the start of the call; `streams` maps each to its state.

    `waiting` is one that no ingest worker has opened yet. `stalled` has been silent for a while without a final fragment;
    `closed` for so long that it counts as over.
    """

    call_id: str
    tenant: str
    status: CallState
    started_at: AwareDatetime
    last_ms: int
    length_ms: int | None = Field(
        description="To where its media was heard; null where an older version stored the call."
    )
    utterances: int
    streams: dict[str, CallState]
    links: Links
    summary: CallSummary | None = Field(None, description="In a list only where it is asked for.")


class AccountOut(BaseModel):
    """What became of a stream's fragments; those after the latest stored cut are not counted yet.

    `missing` are sequence numbers that never came, `lost` those that the log dropped before they were read.
    """

    analysed: int
    skipped: dict[str, int]
    missing: int
    lost: int


class CallWithSummary(CallOut):
    """A call with its summary, live while it goes on, final when it is over, and the account of its fragments."""

    summary: CallSummary = Field(description="Live while the call goes on, final when it is over.")
    fragments: dict[str, AccountOut]
    """By stream."""
    dead_letters: dict[str, int]
    """Records of the call in the dead-letter topic, by reason."""


def account_out(account: Account) -> AccountOut:
    """The account as JSON holds it."""
    return AccountOut(
        analysed=account.analysed, skipped=dict(account.skipped), missing=account.missing, lost=account.lost
    )


def _moment(at_ms: int) -> datetime:
    """A time in ms since 1970, or the last one that can be written: an older version stored what producers made up."""
    return _LATEST if at_ms > _LATEST.timestamp() * 1000 else datetime.fromtimestamp(at_ms / 1000, UTC)


def call_fields(call: CallInfo) -> dict[str, Any]:
    """The fields of `CallOut`."""
    return {
        "call_id": call.call_id,
        "tenant": call.tenant,
        "status": call.status,
        "started_at": _moment(call.started_ms),
        "last_ms": call.last_ms,
        "length_ms": call.length_ms,
        "utterances": call.utterances,
        "streams": dict(call.streams),
        "links": Links.of(call.call_id),
    }


class CallPage(BaseModel):
    """Calls, the latest first. A page may be short of `limit`: only `next_cursor` null means that there are no more."""

    calls: list[CallOut]
    next_cursor: str | None


class UtterancePage(BaseModel):
    """Results in the order of time; `corrupt` names entries of the store that cannot be read any more."""

    utterances: list[UtteranceSentiment]
    next_cursor: str | None
    corrupt: list[str]


class TrendMinuteOut(BaseModel):
    """The judged utterances that were spoken in one minute."""

    minute: AwareDatetime
    utterances: int
    score_mean: float
    polarities: dict[str, int]
    emotions: dict[str, int]

    @classmethod
    def of(cls, minute: TrendMinute) -> Self:
        """The same, with its time as a date."""
        return cls(
            minute=datetime.fromtimestamp(minute.minute_ms / 1000, UTC),
            utterances=minute.utterances,
            score_mean=round(minute.score_mean, 4),
            polarities=dict(minute.polarities),
            emotions=dict(minute.emotions),
        )


class Trends(BaseModel):
    """Minutes with judged utterances, in order; the others are left out."""

    since: AwareDatetime
    until: AwareDatetime
    minutes: list[TrendMinuteOut]


class TextOrder(BaseModel):
    """A text to analyse."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(
        min_length=1,
        max_length=TEXT_MAX_CHARS,
        description="Taken as English: of a sound Whisper says the language, of a text nobody does.",
        examples=["I have been waiting for three weeks!"],
    )


class Analysis(BaseModel):
    """One result for each utterance; none when nobody speaks."""

    results: list[UtteranceSentiment]
