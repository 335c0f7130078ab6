"""A real one-node Kafka broker without installing one: `python tools/kafka/broker.py start [--port 9092] | stop`.

Needs Java 17 and Maven. The jars of the version pinned in pom.xml come from Maven Central once (43 MB) and stay under
`~/.cache/undertone/kafka` (or `UNDERTONE_CACHE_DIR`), where the broker keeps its log and its topics too.
"""
# ruff: noqa: INP001 # a script, not a package

import argparse
import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

POM = Path(__file__).with_name("pom.xml")
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
HEAP = "-Xmx512m"
START_S = 60.0
STOP_S = 15.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/topics
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""


class BrokerError(RuntimeError):
    """The broker could not be fetched or started; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that answers at `address`, and its process id."""

    address: str
    pid: int
    folder: Path


def cache_folder() -> Path:
    """Where jars and brokers live."""
    cache = os.environ.get("UNDERTONE_CACHE_DIR")
    return (Path(cache) if cache else Path.home() / ".cache" / "undertone") / "kafka"


def jars() -> Path:
    """The folder of the broker's jars, fetched when it is not complete.

    Raises:
        BrokerError: Java or Maven is missing, or Maven Central does not answer.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise BrokerError(
                f"{tool} is not installed: install Java 17 and Maven (Debian: apt-get install openjdk-17-jre-headless"
                " maven), or set UNDERTONE_KAFKA=host:port of a broker"
            )
    folder = cache_folder() / f"jars-{_version()}"
    complete = folder / ".complete"
    if not complete.exists():
        command = ["mvn", "-q", "-B", "-f", str(POM), MAVEN_COPY, f"-DoutputDirectory={folder}"]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words
        if fetched.returncode:
            raise BrokerError(f"Maven could not fetch the broker:\n{(fetched.stdout + fetched.stderr)[-2000:]}")
        complete.touch()
    return folder


def start(folder: Path, port: int = 0, advertised: str | None = None) -> Broker:
    """Start a broker whose topics live in `folder`, and wait until it answers; port 0 takes a free one.

    `advertised` is the address that clients are sent to, where it is not the broker's own.
    A folder that held a broker before keeps its topics, and its addresses.

    Raises:
        BrokerError: see `jars`; or it does not answer within a minute, and the message carries its log.
    """
    classpath = f"{jars()}/*"
    folder.mkdir(parents=True, exist_ok=True)
    properties, log_path = folder / "server.properties", folder / "broker.log"
    if not properties.exists():
        port = port or _free_port()
        own = {"port": port, "controller_port": _free_port(), "advertised": advertised or f"127.0.0.1:{port}"}
        properties.write_text(PROPERTIES.format(folder=folder, **own))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        _java(classpath, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties))
    address = _address(properties)
    with log_path.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # fixed words
            [_program("java"), HEAP, "-cp", classpath, "kafka.Kafka", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (folder / "pid").write_text(str(process.pid))
    deadline_s = time.monotonic() + START_S
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            raise BrokerError(f"the broker did not start; the end of {log_path}:\n{log_path.read_text()[-2000:]}")
        time.sleep(0.25)
    process.returncode = 0  # it outlives this process on purpose, which Popen would warn of
    return Broker(address, process.pid, folder)


def stop(pid: int, *, kill: bool = False) -> None:
    """End the broker and wait until it is gone; `kill` gives it no chance to close its files."""
    try:
        os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_S
        while not _gone(pid):
            if time.monotonic() > deadline_s:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    except ProcessLookupError:
        return


def running(folder: Path) -> Broker | None:
    """The broker started from `folder` earlier, if it still answers."""
    try:
        pid = int((folder / "pid").read_text())
        address = _address(folder / "server.properties")
    except (OSError, ValueError):
        return None
    return Broker(address, pid, folder) if not _gone(pid) and _answers(address) else None


def _gone(pid: int) -> bool:
    """True once the process has ended; a child of ours is reaped on the way."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    try:
        admin = KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=5_000, request_timeout_ms=5_000)
        try:
            admin.list_topics()
        finally:
            admin.close()
    except KafkaError:
        return False
    return True


def _java(classpath: str, *words: str) -> None:
    done = subprocess.run(  # noqa: S603  # fixed words
        [_program("java"), "-cp", classpath, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BrokerError(f"{words[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _program(name: str) -> str:
    return shutil.which(name) or name


def _address(properties: Path) -> str:
    for line in properties.read_text().splitlines():
        if line.startswith("advertised.listeners=PLAINTEXT://"):
            return line.rpartition("//")[2]
    raise ValueError(f"{properties} names no listener")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _version() -> str:
    found = ET.parse(POM).find(".//{*}dependency[{*}artifactId='kafka_2.13']/{*}version")  # noqa: S314  # our own file
    return (found.text if found is not None else None) or "unknown"


def main() -> int:
    """Start prints the address and leaves the broker running; stop ends it."""
    parser = argparse.ArgumentParser(description="A one-node Kafka broker for tests and trials.")
    parser.add_argument("do", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=9092)
    options = parser.parse_args()
    folder = cache_folder() / f"broker-{options.port}"
    try:
        found = running(folder)
        if options.do == "stop":
            if found is not None:
                stop(found.pid)
            return 0
        broker = found or start(folder, options.port)
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{broker.address}\n")
    sys.stderr.write(f"use it: export UNDERTONE_KAFKA={broker.address}   stop it: python {__file__} stop\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
