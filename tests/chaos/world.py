"""The whole system on one machine, in pieces that can be killed, stopped and cut off one by one."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import redis

from deployments.serve.embedded_redis import server_path
from deployments.serve.local_ray import private_environment
from pipelines.settings import AppConfig, Settings
from tests.chaos.proxy import Proxy
from tests.servers import free_port
from tools.kafka.broker import Broker, BrokerError, start, stop

NODES = 2
REPLICAS = {"Transcriber": 1, "TextEncoder": 1, "AudioEncoder": 1, "VideoEncoder": 1, "Fusion": 1, "Ingest": 2}
ENCODERS = ("Transcriber", "TextEncoder", "AudioEncoder", "VideoEncoder", "Fusion")
REPLICA = "ray::ServeReplica:undertone:"
READY_S = 180.0
BROKER_STARTS = 3
STOPPED_S = (1.0, 15.0)
"""How long something is stopped or cut off: shorter and longer than the group's session, after which a worker is a zombie."""


@dataclass(slots=True)
class RedisServer:
    """A Redis that keeps its append-only file when it is killed."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it on what it left, and wait until it answers."""
        command = [str(server_path()), "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        self.process = subprocess.Popen([*command, *durable], stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            await_true(lambda: _answers(client), 30, "Redis does not answer")

    def kill(self) -> None:
        """End it without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class World:
    """Broker, Redis, and a Ray cluster of a head and two worker nodes that hold every replica."""

    folder: Path
    settings: Settings
    redis: RedisServer
    broker: Broker
    broker_proxy: Proxy
    redis_proxies: list[Proxy]
    """One a worker node."""
    cluster: Any
    nodes: list[Any]
    healing: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What is to be undone, and when, by the monotonic clock."""

    def heal_due(self, *, everything: bool = False) -> None:
        """Undo what has lasted long enough, or all of it."""
        now_s = time.monotonic()
        due = [one for one in self.healing if everything or one[0] <= now_s]
        self.healing = [one for one in self.healing if one not in due]
        for _, heal in sorted(due, key=lambda one: one[0]):
            heal()

    def later(self, random: Random, heal: Callable[[], None]) -> None:
        """Undo something after a while."""
        self.healing.append((time.monotonic() + random.uniform(*STOPPED_S), heal))


Fault = Callable[[World, Random], bool]
"""Breaks something; False where it found nothing to break."""


def _kill_replica(*names: str) -> Fault:
    return lambda _, random: _signal(random, [f"{REPLICA}{name}" for name in names], signal.SIGKILL) is not None


def _stop_replica(*names: str) -> Fault:
    def stop_one(world: World, random: Random) -> bool:
        pid = _signal(random, [f"{REPLICA}{name}" for name in names], signal.SIGSTOP)
        if pid is not None:
            world.later(random, lambda: _go_on(pid))
        return pid is not None

    return stop_one


def _kill_controller(_: World, random: Random) -> bool:
    return _signal(random, ["ray::ServeController"], signal.SIGKILL) is not None


def _kill_node(world: World, random: Random) -> bool:
    number = random.randrange(len(world.nodes))
    world.cluster.remove_node(world.nodes[number], allow_graceful=False)
    world.nodes[number] = _add_node(world.cluster, world.redis_proxies[number])
    return True


def _kill_redis(world: World, _: Random) -> bool:
    world.redis.kill()
    world.redis.start()
    return True


def _stop_redis(world: World, random: Random) -> bool:
    pid = world.redis.process.pid if world.redis.process else 0
    os.kill(pid, signal.SIGSTOP)
    world.later(random, lambda: _go_on(pid))
    return True


def _cut_redis(world: World, random: Random) -> bool:
    proxy = random.choice(world.redis_proxies)
    proxy.cut()
    world.later(random, proxy.heal)
    return True


def _kill_broker(world: World, _: Random) -> bool:
    stop(world.broker.pid, kill=True)
    world.broker_proxy.heal()  # it is asked through there whether it answers
    # A broker that comes back at once may find its former self still registered, and has been seen not to get over it.
    for _attempt in range(BROKER_STARTS):
        with suppress(BrokerError):
            world.broker = start(world.folder / "kafka")
            return True
    raise TimeoutError(f"the broker did not come back in {BROKER_STARTS} starts: {world.folder}/kafka/broker.log")


def _stop_broker(world: World, random: Random) -> bool:
    pid = world.broker.pid
    os.kill(pid, signal.SIGSTOP)
    world.later(random, lambda: _go_on(pid))
    return True


def _cut_broker(world: World, random: Random) -> bool:
    world.broker_proxy.cut()
    world.later(random, world.broker_proxy.heal)
    return True


FAULTS: dict[str, Fault] = {
    "kill_ingest": _kill_replica("Ingest"),
    "stop_ingest": _stop_replica("Ingest"),
    "kill_encoder": _kill_replica(*ENCODERS),
    "stop_encoder": _stop_replica(*ENCODERS),
    "kill_controller": _kill_controller,
    "kill_node": _kill_node,
    "kill_redis": _kill_redis,
    "stop_redis": _stop_redis,
    "cut_redis": _cut_redis,
    "kill_broker": _kill_broker,
    "stop_broker": _stop_broker,
    "cut_broker": _cut_broker,
}


@contextmanager
def built(folder: Path, config: AppConfig) -> Iterator[World]:
    """Everything started and healthy; all of it ended in the end, whatever state it is in."""
    import ray  # noqa: PLC0415  # reads the environment when imported
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    with ExitStack() as stack:
        server = RedisServer(folder)
        server.start()
        stack.callback(server.kill)
        redis_proxies = [Proxy(server.port) for _ in range(NODES)]
        broker_port = free_port()
        broker_proxy = Proxy(broker_port)
        broker = start(folder / "kafka", broker_port, advertised=f"127.0.0.1:{broker_proxy.port}")
        for proxy in (*redis_proxies, broker_proxy):
            stack.callback(proxy.close)
        settings = _environment(stack, broker, server)
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        nodes = [_add_node(cluster, proxy) for proxy in redis_proxies]
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        stack.callback(ray.shutdown)
        _deploy(config)
        world = World(folder, settings, server, broker, broker_proxy, redis_proxies, cluster, nodes)
        stack.callback(lambda: stop(world.broker.pid, kill=True))
        stack.callback(lambda: world.heal_due(everything=True))
        yield world


def replicas(name: str) -> list[int]:
    """The processes of a deployment's replicas."""
    return _processes(f"{REPLICA}{name}")


def await_true(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{otherwise} within {within_s:.0f} s")
        time.sleep(0.1)


def _environment(stack: ExitStack, broker: Broker, server: RedisServer) -> Settings:
    stack.enter_context(private_environment())
    wanted = {
        "UNDERTONE_KAFKA": broker.address,
        "UNDERTONE_REDIS": f"redis://127.0.0.1:{server.port}",
        "UNDERTONE_KAFKA_PARTITIONS": "8",
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "20",  # pipelines/README.md says why
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    stack.callback(restore)
    return Settings()


def _add_node(cluster: Any, redis_proxy: Proxy) -> Any:
    own = {"UNDERTONE_REDIS": f"redis://127.0.0.1:{redis_proxy.port}"}
    return cluster.add_node(num_cpus=4, env_vars=own, object_store_memory=100 << 20)


def _deploy(config: AppConfig) -> None:
    from ray import serve  # noqa: PLC0415
    from ray.serve.context import _get_global_client  # noqa: PLC0415
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    serve.start(proxy_location="Disabled")
    deployments = [{"name": name, "num_replicas": number} for name, number in REPLICAS.items()]
    application = {
        "name": "undertone",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": config.model_dump(mode="json"),
        "deployments": deployments,
    }
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    await_true(lambda: _running(serve), READY_S, "the application does not run")


def _running(serve: Any) -> bool:
    found = serve.status().applications.get("undertone")
    if found is not None and found.status == "DEPLOY_FAILED":
        raise RuntimeError(found.message)
    return found is not None and found.status == "RUNNING"


def _signal(random: Random, titles: list[str], number: signal.Signals) -> int | None:
    """Signal one of the processes of these titles: which one."""
    found = sorted(pid for title in titles for pid in _processes(title))
    if not found:
        return None
    pid = random.choice(found)
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return None
    return pid


def _processes(title: str) -> list[int]:
    """Our own descendants of that title: another cluster may run on the same machine."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid, words in titles.items() if words.startswith(title.encode()) and ours(pid)]


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
