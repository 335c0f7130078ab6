"""What every Kafka client here shares: how to connect, and the topics with the settings they need."""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import kafka.errors
from kafka.admin import KafkaAdminClient

from pipelines.errors import SourceUnavailableError, TopicMissingError
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.settings import Settings
from pipelines.types import RETENTION_DAYS, TOPIC_MEDIA

MESSAGE_MAX_BYTES = RECORD_MAX_BYTES + (1 << 16)
"""A value of `RECORD_MAX_BYTES` with its key, its headers and the batch around it."""
_CONNECT_TIMEOUT_S = 2.0
_BOOTSTRAP_TIMEOUT_MS = 5_000
_REQUEST_TIMEOUT_MS = 15_000
_RECONNECT_MAX_MS = 2_000


def connection_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every kafka-python client: address, TLS, SASL and bounded reconnecting.

    Raises:
        ValueError: no broker is configured, or not as `host:port`.
    """
    addresses = [address.strip() for address in settings.kafka.split(",")]
    if not all(re.fullmatch(r"\S+:\d{1,5}", address) for address in addresses):
        raise ValueError(
            f"UNDERTONE_KAFKA is {settings.kafka!r}: give host:port[,host:port…], or start a broker with `make kafka`"
        )
    options: dict[str, Any] = {
        "bootstrap_servers": addresses,
        "security_protocol": settings.kafka_security_protocol,
        "allow_auto_create_topics": False,
        "bootstrap_timeout_ms": _BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
    }
    if settings.kafka_security_protocol in ("SSL", "SASL_SSL") and settings.kafka_ca_file is not None:
        options["ssl_cafile"] = str(settings.kafka_ca_file)
    if settings.kafka_security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options


def require_broker(settings: Settings) -> None:
    """Open and close a connection to any configured address.

    kafka-python's clients start a thread before they connect and leave it behind when they cannot, so ask first.

    Raises:
        SourceUnavailableError: no address accepts a connection.
    """
    for address in settings.kafka.split(","):
        host, _, port = address.strip().rpartition(":")
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S):
            return
    raise SourceUnavailableError(
        f"Kafka at {settings.kafka} accepts no connection; check UNDERTONE_KAFKA and the broker"
    )


@contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Turns kafka-python's errors into `SourceUnavailableError`, saying what was being done."""
    try:
        yield
    except kafka.errors.KafkaError as error:
        raise SourceUnavailableError(f"Kafka, {doing}: {error}; check UNDERTONE_KAFKA and the broker") from error


def ensure_topics(settings: Settings, topics: Sequence[str] = tuple(RETENTION_DAYS)) -> None:
    """Create those of `topics` that are missing, if `settings.kafka_create_topics`.

    Raises:
        TopicMissingError: one is missing and may not be created; the message holds the command that creates it.
        SourceUnavailableError: the broker does not answer.
    """
    options = connection_options(settings)
    options.pop("allow_auto_create_topics")
    require_broker(settings)
    with broker_errors("looking for topics"):
        admin = KafkaAdminClient(**options)
        try:
            known = set(admin.list_topics())
            missing = [topic for topic in topics if topic not in known]
            if missing and not settings.kafka_create_topics:
                raise TopicMissingError(_missing_message(settings, missing))
            for topic in missing:
                _create(admin, settings, topic)
        finally:
            admin.close()


def _create(admin: Any, settings: Settings, topic: str) -> None:
    wanted = {
        topic: {
            "num_partitions": settings.kafka_partitions,
            "replication_factor": settings.kafka_replication,
            "configs": topic_configs(settings, topic),
        }
    }
    try:
        admin.create_topics(wanted, timeout_ms=_REQUEST_TIMEOUT_MS, wait_for_metadata=True)
    except kafka.errors.TopicAlreadyExistsError:
        return
    except (kafka.errors.AuthorizationError, kafka.errors.PolicyViolationError) as error:
        raise TopicMissingError(f"{_missing_message(settings, [topic])} (creating it was refused: {error})") from error


def topic_configs(settings: Settings, topic: str) -> dict[str, str]:
    """The topic-level settings of `topic`; one of another name is kept as long as `call-media`."""
    retention_ms = RETENTION_DAYS.get(topic, RETENTION_DAYS[TOPIC_MEDIA]) * 86_400_000
    return {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MESSAGE_MAX_BYTES),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(max(1, settings.kafka_replication - 1)),
        "retention.ms": str(retention_ms),
        # Only whole segments are deleted, and never the one that is written: without this a record may stay twice as long.
        "segment.ms": str(min(retention_ms // 7, 86_400_000)),
    }


def _missing_message(settings: Settings, topics: Sequence[str]) -> str:
    commands = (
        f"kafka-topics.sh --bootstrap-server {settings.kafka} --create --topic {topic}"
        f" --partitions {settings.kafka_partitions} --replication-factor {settings.kafka_replication} "
        + " ".join(f"--config {name}={value}" for name, value in topic_configs(settings, topic).items())
        for topic in topics
    )
    return "Kafka has no topic " + ", ".join(topics) + "; create it with: " + " ; ".join(commands)
