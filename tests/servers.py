"""The real servers that tests run against: a Kafka broker, and the Valkey of the embedded system."""

import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from deployments.serve.embedded_redis import server_path
from pipelines.settings import Settings
from tests.conftest import missing
from tests.eventually import wait_until
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


def start_broker(folder: Path, port: int = 0, advertised: str | None = None) -> Broker:
    """A broker of the test's own; skips, or fails when everything is required, where none can be had."""
    try:
        return start(folder, port, advertised)
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
    command = [str(server_path()), "--port", "0", "--unixsocket", f"{folder}/s", "--dir", str(folder)]
    process = subprocess.Popen([*command, "--save", "", *options], stdout=subprocess.DEVNULL)
    _await_answer(redis.Redis.from_url(redis_url_of(folder)), process)
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


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator["OwnCluster"]:
    cluster = OwnCluster(tmp_path_factory.mktemp("cluster"), masters=3)
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_cluster(shared_cluster: "OwnCluster") -> str:
    """The URL of an empty Redis Cluster of three masters."""
    for port in shared_cluster.ports:
        with redis.Redis(port=port) as master:
            master.flushall()
    return shared_cluster.url


class OwnCluster:
    """A Redis Cluster on ports of this machine; `replicas` of the masters have one replica each."""

    def __init__(self, folder: Path, *, masters: int, replicas: int = 0) -> None:
        self.ports = [_cluster_port() for _ in range(masters + replicas)]
        self._processes = [self._start(folder / str(port), port) for port in self.ports]
        self.url = f"redis+cluster://127.0.0.1:{self.ports[0]}"
        try:
            self._join(masters)
        except BaseException:
            self.kill()
            raise

    def _join(self, masters: int) -> None:
        share = -(-SLOTS // masters)
        for number, port in enumerate(self.ports):
            with redis.Redis(port=port) as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.ports[0])
                if number < masters:
                    client.execute_command(
                        "CLUSTER", "ADDSLOTS", *range(number * share, min((number + 1) * share, SLOTS))
                    )
        self._await_all("cluster_known_nodes", str(len(self.ports)))
        for number, port in enumerate(self.ports[masters:]):
            with redis.Redis(port=self.ports[number]) as master, redis.Redis(port=port) as replica:
                replica.execute_command("CLUSTER", "REPLICATE", master.execute_command("CLUSTER", "MYID"))
        self._await_all("cluster_state", "ok")
        for port in self.ports[masters:]:
            with redis.Redis(port=port) as replica:
                wait_until(partial(_is_synchronised, replica), 30)

    def kill(self, number: int | None = None) -> None:
        """End one server without a word, or all of them."""
        for process in self._processes if number is None else [self._processes[number]]:
            process.kill()
            process.wait()

    def _start(self, folder: Path, port: int) -> "subprocess.Popen[bytes]":
        folder.mkdir()
        command = [str(server_path()), "--port", str(port), "--dir", str(folder), "--save", ""]
        options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
            "--repl-diskless-sync-delay",  # a replica that never had its master's data is not promoted
            "0",
        ]
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        _await_answer(redis.Redis(port=port), process)
        return process

    def _await_all(self, field: str, value: str) -> None:
        for port in self.ports:
            with redis.Redis(port=port, decode_responses=True) as client:
                wait_until(partial(_says, client, f"{field}:{value}"), 30)


SLOTS = 16_384


def _cluster_port() -> int:
    """A free port whose neighbour 10,000 above, where a Cluster's servers talk, is one too."""
    while (port := free_port()) > 55_000:
        pass
    return port


def _is_synchronised(replica: "redis.Redis") -> bool:
    about: Any = replica.info("replication")
    return bool(about.get("master_link_status") == "up")


def _says(client: Any, line: str) -> bool:
    return line in str(client.execute_command("CLUSTER", "INFO"))


def _await_answer(client: "redis.Redis", process: "subprocess.Popen[bytes]") -> None:
    def answers() -> bool:
        assert process.poll() is None, "redis-server ended"
        try:
            client.ping()
        except redis.ConnectionError:
            return False
        return True

    with client:
        wait_until(answers, 10)


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
