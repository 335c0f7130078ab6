"""How the system is operated: `AppConfig` from Serve's `args:`, and `Settings` from `UNDERTONE_…` variables.

Architecture lives beside each network, experiments in `models/recipes/`; there is no fourth kind (docs/architecture.md#configuration).
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, TypeAdapter, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.consent import format_consent, granted
from pipelines.errors import PoliciesUnknownError
from pipelines.tenants import Configuration, Milliseconds, Seconds, TenantSettings, TimeoutSettings
from pipelines.types import (
    FRAGMENT_MAX_BYTES,
    LIVE_RUN,
    NAME_PATTERN,
    UNCONFIGURED_CONSENT,
)

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
"""What an address of this machine alone may be called in a URL."""


def is_loopback(url: str) -> bool:
    """Whether `url` is of this machine, so that no proxy has any business between.

    Raises:
        ValueError: it is no URL.
    """
    return urlsplit(url).hostname in LOOPBACK_HOSTS


class MediaLimits(Configuration):
    """What one fragment may ask of the decoder before it is dead-lettered."""

    fragment_max_bytes: int = Field(FRAGMENT_MAX_BYTES, ge=1024, le=8 << 20)
    fragment_max_s: Seconds = 60.0
    picture_max_pixels: int = Field(3840 * 2160, ge=1)
    pixels_per_fragment_max: int = Field(1_000_000_000, ge=1)
    """Pixels of all pictures of a fragment together: 120 pictures of 3840x2160, or 36 s of 1280x720 at 30 a second.
    One thread decodes all streams of a worker, so that a longer one would hold the others up."""
    channels_max: int = Field(8, ge=1, le=64)
    sample_rate_max_hz: int = Field(192_000, ge=8000)
    samples_per_fragment_max: int = Field(24_000_000, ge=1)
    """Samples of all channels together: 60 s of eight channels at 48 kHz."""
    streams_max: int = Field(16, ge=1)
    packets_max: int = Field(50_000, ge=1)
    """Of a fragment's sound and pictures together: 60 s of 2.5 ms each, and of 240 pictures a second."""
    decode_max_s: Seconds = 5.0
    """Processor time for the sound of a fragment, and for the pictures decoded with it: one thread decodes all streams of a worker."""


class VideoSettings(Configuration):
    """How pictures are sampled for analysis: their rate, and the longer side they are scaled down to."""

    frames_per_s: float = Field(5.0, gt=0, le=60)
    side_max_px: int = Field(480, ge=64, le=4096)


class SegmentSettings(Configuration):
    """When an utterance starts and ends."""

    speech_threshold: float = Field(0.5, gt=0, lt=1)
    """Probability of speech above which a 32 ms window is speech; it ends below `speech_threshold - 0.15`."""
    speech_min_ms: Milliseconds = 250
    silence_end_ms: Milliseconds = 600
    utterance_max_ms: int = Field(15_000, ge=0, le=120_000)
    quiet_search_ms: Milliseconds = 3_000
    """A forced cut falls in the quietest place of these last milliseconds."""
    padding_ms: Milliseconds = 100
    silence_cut_ms: Milliseconds = 10_000
    """Silence this long moves the cut without an utterance, so that a silent stream holds nothing back."""
    picture_window_ms: int = Field(5_000, ge=1_000, le=60_000)
    """Pictures without any sound are judged in stretches of this length."""

    @model_validator(mode="after")
    def _orders(self) -> Self:
        if not self.padding_ms <= self.silence_end_ms:
            raise ValueError("padding_ms must not exceed silence_end_ms: the padding is taken from that silence")
        if not self.quiet_search_ms + self.speech_min_ms <= self.utterance_max_ms:
            raise ValueError("quiet_search_ms + speech_min_ms must not exceed utterance_max_ms")
        if not self.silence_end_ms + self.padding_ms <= self.silence_cut_ms:
            raise ValueError("silence_cut_ms must be at least silence_end_ms + padding_ms")
        return self


class StreamSettings(Configuration):
    """Everything between a fragment and an utterance."""

    limits: MediaLimits = MediaLimits()
    video: VideoSettings = VideoSettings()
    segment: SegmentSettings = SegmentSettings()


class InterimSettings(Configuration):
    """When the words of an utterance that goes on are shown before it ends (docs/architecture.md#an-interim-text)."""

    show: bool | None = None
    """None: where the networks run on a GPU. On a CPU each costs about as much as the words of a whole utterance."""
    after_s: Seconds = 3.0
    """The utterance has lasted this long."""
    every_s: Seconds = 2.0
    """How much longer it has lasted at the next interim text."""


class WorkerSettings(Configuration):
    """Bounds of one ingest worker."""

    utterances_in_flight: int = Field(16, ge=1, le=1024)
    """Beyond this nothing more is taken up, while heartbeats go on. One call may have half of them, and all that nobody
    waits for (recordings, replays) half together, so that a live call finds room."""
    held_max_bytes: int = Field(128 << 20, ge=1)
    """Records that are read before it is their turn: a live call waits for its own only, where it is no further behind an
    upload in the log than this. Beyond it the partitions pause."""
    ahead_per_track: int = Field(4, ge=1, le=64)
    """How many utterances of one track may be under analysis at once; their results are stored in order."""
    stalled_after_s: Seconds = 30.0
    """A stream that is silent for this long without a final fragment is `stalled`."""
    closed_after_s: Seconds = 600.0
    """After this long it is `closed`: its last words are judged and its partition's offset can move. A fragment that
    comes after all makes it live again."""
    commit_interval_s: Seconds = 1.0
    commit_delay_s: float = Field(5.0, ge=0, le=3_600)
    """Offsets are committed this long after they could be, so that a store that loses its latest writes (a replica that
    lags is promoted, a disk was not synced) finds their fragments again."""
    retry_max_s: Seconds = 30.0


_TENANTS = TypeAdapter(dict[str, TenantSettings])


class HttpSettings(Configuration):
    """How much goes on at once at one gateway, and of one client: one address, or one behind a trusted proxy."""

    requests_max: int = Field(1_000, ge=1, le=1_900)
    """Of all kinds, uploads and event streams included; Serve must give the gateway more (`max_ongoing_requests`)."""
    requests_per_client_max: int = Field(400, ge=1)
    watchers_max: int = Field(600, ge=1)
    """Event streams."""
    watchers_per_client_max: int = Field(200, ge=1)
    media_streams_max: int = Field(64, ge=1, le=1_024)
    """Uploads, live streams and analyses; each holds a thread."""
    media_streams_per_client_max: int = Field(48, ge=1)
    """Enough for a telephony bridge, and never all."""
    upload_spool_max_bytes: int = Field(8 << 30, ge=0)
    """On the disk (`TMPDIR`), of all uploads of MP4 that cannot be read in order; one has at most 2 GiB."""


class AppConfig(Configuration):
    """The `args:` of the Serve application."""

    source: Literal["kafka", "redis"] = "redis"
    transcriber: str = "base"
    """A Whisper model's name, or the path of a checkpoint. The weights of `base` and `tiny.en` are installed with Undertone."""
    bundle: str = "embedded"
    """`embedded`, or the folder of another bundle."""
    run: Annotated[str, Field(pattern=NAME_PATTERN)] = LIVE_RUN
    """The name under which results are stored. Another one than `live` makes a shadow: it reads the same topic in a group of
    its own and sends nothing, and its results stand beside the live ones."""
    share: float = Field(1.0, gt=0, le=1)
    """Which part of all calls is analysed; a shadow may take a part. Always the same calls, chosen by a hash of their ids."""
    device: str = "cpu"
    """Where networks run: `cpu`, `cuda`, `cuda:0`; replicas and GPUs stand in the deployment's own options."""
    stream: StreamSettings = StreamSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    interim: InterimSettings = InterimSettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    tenants: dict[str, TenantSettings] = Field(default_factory=lambda: {"default": TenantSettings()})

    @model_validator(mode="after")
    def _live_takes_all(self) -> Self:
        if self.run == LIVE_RUN and self.share < 1:
            raise ValueError(
                "share is for shadows: give the run a name other than live, or every call would not be analysed"
            )
        return self

    @model_validator(mode="after")
    def _results_outlive_silence(self) -> Self:
        shortest_s = min((tenant.results_ttl_s for tenant in self.tenants.values()), default=self.worker.closed_after_s)
        if shortest_s < self.worker.closed_after_s:
            raise ValueError(
                f"worker.closed_after_s ({self.worker.closed_after_s:g}) is longer than a tenant's results_ttl_s"
                f" ({shortest_s}): a call that only falls silent would be forgotten"
            )
        return self

    @property
    def is_live(self) -> bool:
        """Whether this is the live run, not a replay's or a shadow's."""
        return self.run == LIVE_RUN

    @property
    def shows_interim(self) -> bool:
        """Whether the words of utterances that go on are shown; never those of a replay or a shadow, which nobody watches."""
        show = self.device.startswith("cuda") if self.interim.show is None else self.interim.show
        return self.is_live and show

    def tenants_text(self) -> str:
        """The settings of all tenants as JSON, for `with_tenants`."""
        return _TENANTS.dump_json(self.tenants).decode()

    def with_tenants(self, text: str) -> Self:
        """The same with the tenants' settings of another, as `tenants_text` wrote them.

        Raises:
            ValidationError: it did not.
        """
        return self.model_copy(update={"tenants": _TENANTS.validate_json(text)})

    def tenant(self, name: str) -> TenantSettings:
        """Everything that differs by tenant, of the tenant `name`.

        One that nobody has configured is kept as long as `default`, and gets nothing but the words of customers analysed.
        """
        default = self.tenants.get("default") or TenantSettings()
        words = format_consent(granted(UNCONFIGURED_CONSENT, default.policy))
        settings = self.tenants.get(name) or default.model_copy(update={"consent": words})
        return settings.model_copy(update={"timeouts": settings.timeouts or self.timeouts})


def with_live_tenants(config: AppConfig, told: str | None) -> AppConfig:
    """The configuration of a replay or a shadow with the tenants' settings that the live service has `told`.

    Raises:
        PoliciesUnknownError: it has told none, so that nobody knows what may be analysed.
    """
    if told is None:
        raise PoliciesUnknownError(
            "no live service has left its tenants' policies in the store, and nothing may be analysed without: start it first"
        )
    return config.with_tenants(told)


class Settings(BaseSettings):
    """Where things are, and every secret; read from `UNDERTONE_…` when built, never at import.

    Relative paths are those of the folder in which it is built.
    """

    model_config = SettingsConfigDict(env_prefix="UNDERTONE_", frozen=True, extra="ignore")

    redis: SecretStr = SecretStr("")
    """`redis://…`, `rediss://…` or `unix://…`; empty starts the embedded server under `cache_dir`."""
    kafka: str = ""
    """Bootstrap servers, `host:port[,host:port…]`."""
    kafka_group: str = "undertone"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca_file: Path | None = None
    kafka_create_topics: bool = True
    kafka_partitions: int = Field(12, ge=1, le=10_000)
    kafka_replication: int = Field(1, ge=1, le=32)
    tokens: Path | None = None
    """The gateway's file of access tokens (`undertone token`); the embedded system makes one where none is named."""
    token: SecretStr = SecretStr("")
    """The token with which the command line asks the gateway; by default that of `undertone serve` on this machine."""
    oidc_jwks: str = ""
    """Address of an identity provider's keys (JWKS); its tokens are then taken beside those of the file."""
    oidc_issuer: str = ""
    oidc_audience: str = ""
    oidc_tenant_claim: str = "tenant"
    hosts: str = ""
    """Names under which the gateway may be reached, with commas between them, `*` for any; besides the loopback's own."""
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "undertone")
    trusted_proxies: str = ""
    """Addresses and networks of reverse proxies whose `X-Forwarded-For` says who the client is, with commas between."""
    connections_max: int = Field(4_096, ge=1)
    connections_per_client_max: int = Field(512, ge=1)
    """Of one address that is not a trusted proxy's."""
    url: str = "http://127.0.0.1:8000"
    """Where the command line finds the gateway."""

    @field_validator("kafka_ca_file", "tokens", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError(f"{url!r} is no address: write http://127.0.0.1:8000 or https://host")
        return url

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        if not self.oidc_jwks:
            return self
        if not self.oidc_issuer or not self.oidc_audience:
            raise ValueError("UNDERTONE_OIDC_JWKS needs UNDERTONE_OIDC_ISSUER and UNDERTONE_OIDC_AUDIENCE beside it")
        if urlsplit(self.oidc_jwks).scheme != "https" and not is_loopback(self.oidc_jwks):
            raise ValueError("UNDERTONE_OIDC_JWKS must be an https address: whoever changes the keys makes tokens")
        return self
