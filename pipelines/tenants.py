"""What differs by tenant: how long results stay, what may be analysed, what is not kept of the words."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipelines.consent import parse_consent
from pipelines.errors import BadFragmentError
from pipelines.redaction.finding import KINDS, Kind
from pipelines.redaction.ids import COUNTRIES
from pipelines.redaction.names import person_finder
from pipelines.redaction.redact import Redactor
from pipelines.types import DEFAULT_CONSENT, Consent

Milliseconds = Annotated[int, Field(ge=0, le=86_400_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Configuration(BaseModel):
    """A frozen block of settings that refuses a key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TimeoutSettings(Configuration):
    """How long each step of an utterance may take, and what happens when a network is late or unavailable."""

    then: Literal["go_on", "wait"] = "go_on"
    """`go_on`: the result comes without that modality and says why. `wait`: the utterance is tried again, and its
    call held, until every network that it needs has answered; so it is always with what nobody waits for."""

    transcribe_s: Seconds = 30.0
    encode_s: Seconds = 15.0
    fuse_s: Seconds = 15.0
    recorded_s: Seconds = 600.0
    """Each of the three, of what nobody waits for: recordings, replays and shadows. A network that hangs is asked anew then."""

    def of_recording(self, then: Literal["go_on", "wait"], step_max_s: float) -> Self:
        """The same for what nobody waits for; a step takes at most `step_max_s`, too."""
        step_s = min(self.recorded_s, step_max_s)
        return self.model_copy(update={"then": then, "transcribe_s": step_s, "encode_s": step_s, "fuse_s": step_s})


class RedactSettings(Configuration):
    """What is replaced by a mark in words before anything is stored, published or logged (docs/architecture.md#what-is-not-kept)."""

    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "name")
    """`card`, `iban`, `email`, `phone`, `id`, `number` (a long run of digits that is none of these), and `name`, which
    needs a recogniser (`pip install undertone[names]`). Empty: nothing."""
    countries: tuple[str, ...] = COUNTRIES
    """Whose national numbers are known, and how telephone numbers without a `+` are dialled: ISO 3166-1, two letters."""
    names_model: str = "en_core_web_sm"
    """The spaCy model, an installed package or a folder, that `name` is recognised with."""

    @field_validator("countries")
    @classmethod
    def _known(cls, countries: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(countries) - set(COUNTRIES):
            raise ValueError(f"no rules for {', '.join(sorted(unknown))}: choose among {', '.join(COUNTRIES)}")
        return countries

    @property
    def redactor(self) -> Redactor:
        """What replaces them.

        Raises:
            UndertoneError: names are asked for and their recogniser is not installed.
        """
        return Redactor(self.kinds, self.countries, person_finder(self.names_model) if "name" in self.kinds else None)


class TenantSettings(Configuration):
    """What differs by tenant."""

    results_ttl_s: int = Field(30 * 86_400, ge=60)
    """How long results stay in the store."""
    accesses_ttl_s: int = Field(365 * 86_400, ge=86_400, le=3_650 * 86_400)
    """How long the trail of accesses holds who read, deleted, replayed or redrove a call, also of calls that are gone."""
    consent: str | None = None
    """The most that may be analysed, written as the header of the same name: `customer=audio+video+text;agent=text`. A
    call's own header may ask for less of it. None is `DEFAULT_CONSENT`."""
    timeouts: TimeoutSettings | None = None
    """How long each step of an utterance may take; None is the application's own `timeouts`."""
    redact: RedactSettings = RedactSettings()

    @field_validator("consent")
    @classmethod
    def _policy(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                parse_consent(text)
            except BadFragmentError as error:
                raise ValueError(error.message_for("consent")) from error
        return text

    @property
    def policy(self) -> Consent:
        """The most that may be analysed."""
        return DEFAULT_CONSENT if self.consent is None else parse_consent(self.consent)
