"""Every metric of the stream, by name. Units stand in the names (https://prometheus.io/docs/practices/naming).

Workers have no scrape port: each publishes its exposition to the store every few seconds, and the gateway serves all of
them with a `worker` label. Replicas, queues and latencies of the deployments are Ray's metrics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pipelines.errors import StoreTrouble
from pipelines.types import UtteranceSentiment

LATENCY_BUCKETS_S = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 60.0)
TENANTS_MAX = 200
"""Tenants with a label of their own; whoever sends records chooses the names, and each makes time series for good."""
STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class StreamMetrics:
    """What one worker counts. Every fragment in ends as analysed, skipped or dead-lettered."""

    registry: CollectorRegistry
    fragments_in: Counter
    fragments_analysed: Counter
    fragments_skipped: Counter
    fragments_dead_lettered: Counter
    fragments_missing: Counter
    packets_damaged: Counter
    media_seconds: Counter
    utterances: Counter
    modality_missing: Counter
    stored_latency_seconds: Histogram
    step_seconds: Histogram
    in_flight: Gauge
    open_streams: Gauge
    lag_records: Gauge
    oldest_fragment_age_seconds: Gauge
    retries: Counter
    records_lost: Counter
    fenced: Counter
    interim_texts: Counter
    tenants: set[str] = field(default_factory=set)
    """Those that have a label of their own."""


def stream_metrics() -> StreamMetrics:
    """Fresh metrics in a registry of their own, one set a worker."""
    registry = CollectorRegistry()
    return StreamMetrics(
        registry,
        Counter(
            "undertone_fragments_in_total",
            "Fragments from the log, counted with their outcome: analysed, skipped or dead-lettered",
            registry=registry,
        ),
        Counter("undertone_fragments_analysed_total", "Fragments fed to the analysis", registry=registry),
        Counter("undertone_fragments_skipped_total", "Fragments skipped, by reason", ["reason"], registry=registry),
        Counter(
            "undertone_fragments_dead_lettered_total",
            "Fragments dead-lettered, by reason",
            ["reason"],
            registry=registry,
        ),
        Counter(
            "undertone_fragments_missing_total",
            "Sequence numbers that never came, or that the log dropped before they were read",
            registry=registry,
        ),
        Counter("undertone_packets_damaged_total", "Media packets that did not decode", registry=registry),
        Counter("undertone_media_seconds_total", "Seconds of media analysed", registry=registry),
        Counter(
            "undertone_utterances_total",
            "Utterances stored",
            ["tenant", "participant", "polarity", "emotion"],
            registry=registry,
        ),
        Counter(
            "undertone_modality_missing_total",
            "Utterances without a modality, by reason",
            ["modality", "reason"],
            registry=registry,
        ),
        Histogram(
            "undertone_stored_latency_seconds",
            "From the arrival of the end of speech in the log to the stored result",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        ),
        Histogram(
            "undertone_step_seconds",
            "Time of each step of an utterance",
            ["step"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        ),
        Gauge("undertone_utterances_in_flight", "Utterances found and not yet stored", registry=registry),
        Gauge("undertone_streams_open", "Streams with an open state", registry=registry),
        Gauge("undertone_lag_records", "Records not yet read", ["partition"], registry=registry),
        Gauge("undertone_oldest_fragment_age_seconds", "Age of the oldest record not yet read", registry=registry),
        Counter(
            "undertone_retries_total",
            "Retries, by what was unavailable",
            ["reason"],
            registry=registry,
        ),
        Counter(
            "undertone_records_lost_total", "Records that the log dropped before they were read", registry=registry
        ),
        Counter("undertone_fenced_total", "Writes refused because another worker owns the stream", registry=registry),
        Counter(
            "undertone_interim_texts_total",
            "Words of utterances that go on, by outcome: published; or dropped: busy, failed, held_back, unreliable",
            ["outcome"],
            registry=registry,
        ),
    )


def count_result(metrics: StreamMetrics, result: UtteranceSentiment, latency_s: float) -> None:
    """Count a stored result; `latency_s` is since the log took the end of its speech."""
    judged = result.judgement
    polarity, emotion = (judged.polarity, judged.emotion) if judged else ("none", "none")
    if len(metrics.tenants) < TENANTS_MAX:
        metrics.tenants.add(result.tenant)
    tenant = result.tenant if result.tenant in metrics.tenants else "other"
    metrics.utterances.labels(tenant, result.participant, polarity, emotion).inc()
    metrics.stored_latency_seconds.observe(max(0.0, latency_s))
    for step, elapsed_ms in result.step_ms.items():
        metrics.step_seconds.labels(step).observe(elapsed_ms / 1000)
    for modality, outcome in result.modalities.items():
        if outcome.missing is not None:
            metrics.modality_missing.labels(modality, outcome.missing).inc()


def exposition(worker_texts: Mapping[str, str], store_trouble: StoreTrouble | None = None) -> bytes:
    """The gateway's page: every worker's metrics with a `worker` label, and whether the store takes anything.

    A text that does not parse is left out: it comes from the store, and one bad entry must not hide the rest.
    """
    merged = CollectorRegistry()
    merged.register(_Workers(worker_texts))
    trouble = Gauge(
        "undertone_store_trouble",
        "1 for the reason why the store takes no results: they wait, and no offset moves",
        ["cause"],
        registry=merged,
    )
    for cause in get_args(StoreTrouble):
        trouble.labels(cause).set(cause == store_trouble)
    return generate_latest(merged)


@dataclass(frozen=True, slots=True, eq=False)
class _Workers:
    texts: Mapping[str, str]

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for worker, text in sorted(self.texts.items()):
            try:
                parsed = list(text_string_to_metric_families(text))
            except ValueError:
                continue
            for family in parsed:
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "worker": worker}
                    merged.add_sample(sample.name, labels, sample.value)
        yield from families.values()
