"""`undertone serve`: the whole system on this machine; and how a command reaches a system that runs."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]  # comes with Ray; its stubs would be one more dependency
from pydantic import SecretStr, ValidationError

from deployments.cli.console import EXIT_USAGE, CommandError, aside, settings, write_json
from deployments.serve.embedded import embedded
from pipelines.settings import AppConfig, Settings

DEFAULT_PORT = 8000


def serve(
    *, host: str, port: int, source: Literal["kafka", "redis"] | None, transcriber: str, bundle: str, as_json: bool
) -> None:
    """Start everything, say where it is (JSON: one line `{"url": …}`), and wait for Ctrl-C or SIGTERM.

    Raises:
        CommandError: Kafka is asked for and not named, or a deployment does not start.
    """
    config = AppConfig(source=source_of(settings(), source), transcriber=transcriber, bundle=bundle)
    console = aside()
    console.print("starting Redis, Ray and the networks …")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with embedded(config, host=host, port=port) as running:
            console.print(f"ready: {running.url}/docs, fragments from {config.source}; Ctrl-C stops it")
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own in its place
            if as_json:
                write_json([{"url": running.url}])
            signal.pause()
    except KeyboardInterrupt:
        console.print("stopped")
    except RuntimeError as error:
        raise CommandError(f"it did not start: {error}; undertone doctor says what is missing") from error


def source_of(where: Settings, asked: Literal["kafka", "redis"] | None) -> Literal["kafka", "redis"]:
    """The log of fragments: as asked, else Kafka where it is named.

    Raises:
        CommandError: Kafka is asked for and not named.
    """
    if asked == "kafka" and not where.kafka:
        raise CommandError("no Kafka is named: set UNDERTONE_KAFKA=host:port, or start one: make kafka", EXIT_USAGE)
    return asked or ("kafka" if where.kafka else "redis")


def configuration(path: Path | None, changes: Mapping[str, object]) -> AppConfig:
    """The configuration in the Serve config file at `path`, or the defaults, with changes.

    Raises:
        CommandError: there is none, or it is wrong.
    """
    args: dict[str, Any] = {}
    try:
        if path is not None:
            args = yaml.safe_load(path.read_text())["applications"][0]["args"]
        return AppConfig.model_validate({**args, **changes})
    except (OSError, yaml.YAMLError, LookupError, TypeError, UnicodeDecodeError, ValidationError) as error:
        raise CommandError(f"{path or 'the command line'} gives no configuration: {error}", EXIT_USAGE) from error


def reaching(where: Settings) -> Settings:
    """Settings that reach the Redis of `undertone serve` on this machine where the environment names no other.

    Raises:
        CommandError: there is none.
    """
    if where.redis.get_secret_value():
        return where
    socket = where.cache_dir / f"redis-{urlsplit(where.url).port or DEFAULT_PORT}" / "redis.sock"
    if not socket.exists():
        raise CommandError(
            "nothing runs here that could take the call: start `undertone serve` in another window, or name what "
            "runs elsewhere with UNDERTONE_KAFKA=host:port or UNDERTONE_REDIS=redis://host:6379"
        )
    return where.model_copy(update={"redis": SecretStr(f"unix://{socket}")})
