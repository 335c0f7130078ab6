"""A gateway in processes of its own, which tests attack, measure and end: `python -m tests.deployments.gateway_process`.

Its arguments are the URL of a Redis, the fields of `HttpLimits` and `HttpSettings` that differ, as JSON, and how it is served: `uvicorn`, or
`serve` for Ray Serve with its proxy. Among the fields, `log_max_bytes` is what its log may hold and `log_full_s` how long
it waits for room there. Its first line says on which port it listens; it ends with its input.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI

from deployments.http.api import create_api
from deployments.http.bodies import Health, Part
from deployments.http.limits import HttpLimits
from deployments.serve import WORKER_SETUP
from deployments.serve.local_ray import RAY_DEFAULTS, local_ray
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import AppConfig, HttpSettings
from pipelines.store.store import Store
from pipelines.types import Utterance, UtteranceSentiment
from tests.deployments.http.site import Everyone
from tests.deployments.results import result
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
MARK = "UNDERTONE_TEST_GATEWAY"
SERVING = (b"ray::ProxyActor", b"ray::ServeReplica")


@dataclass
class GatewayProcess:
    """A gateway that runs: its processes, where it listens, and where its log goes. Linux only."""

    pids: tuple[int, ...]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connected(self) -> socket.socket:
        """A connection of its own, on which nothing waits for longer than half a minute."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def resident_bytes(self, *, peak: bool = False) -> int:
        """The memory that it holds, or the most that it ever held."""
        name = "VmHWM:" if peak else "VmRSS:"
        lines = [line for pid in self.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

    def forget_peak(self) -> None:
        """From now on `resident_bytes(peak=True)` is the most since now."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids)


@contextmanager
def gateway_process(
    redis_url: str,
    folder: Path,
    limits: Mapping[str, float] | None = None,
    how: Literal["uvicorn", "serve"] = "uvicorn",
) -> Iterator[GatewayProcess]:
    """Starts one and ends it."""
    log, mark = folder / "gateway.log", uuid.uuid4().hex
    environment = {**os.environ, **RAY_DEFAULTS, "PYTHONPATH": str(ROOT), MARK: mark}
    command = [sys.executable, "-m", "tests.deployments.gateway_process", redis_url, json.dumps(limits or {}), how]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, log.read_text()
        pids = (process.pid,) if how == "uvicorn" else tuple(_serving(f"{MARK}={mark}".encode()))
        yield GatewayProcess(pids, int(port), log)
        process.stdin.close()


def _serving(mark: bytes) -> Iterator[int]:
    """The processes of Ray Serve through which a request goes."""
    for folder in Path("/proc").iterdir():
        try:
            if (folder / "cmdline").read_bytes().startswith(SERVING) and mark in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:  # no process, none of ours, or gone
            continue


async def judge(utterance: Utterance) -> UtteranceSentiment:
    """A stage in the models' place."""
    return result(utterance.start_ms, utterance.text or "", 1.0, utterance.participant)


def api_of(redis_url: str, limits: dict[str, Any]) -> FastAPI:
    """The API over the real store and the real log."""
    producer = RedisStreamProducer(
        redis_url, limits.pop("log_max_bytes", 1 << 30), full_timeout_s=limits.pop("log_full_s", 60.0)
    )
    at_once = {name: limits.pop(name) for name in HttpSettings.model_fields if name in limits}
    store = Store.connect(redis_url)

    async def health() -> Health:
        await store.ping()
        return Health(transcriber="none", bundle="none", parts=[Part(name="redis", ok=True)])

    return create_api(
        store=store,
        producer=producer,
        analyse=judge,
        health=health,
        config=AppConfig(http=HttpSettings(**at_once)),
        access=Everyone(),
        hosts=frozenset({"*"}),
        limits=HttpLimits(**limits),
    )


class Replica:
    """What Ray Serve serves, as `deployments.serve.gateway.Gateway`."""

    def __init__(self, redis_url: str, limits: dict[str, Any]) -> None:
        self._redis_url, self._limits = redis_url, limits

    def __serve_build_asgi_app__(self) -> FastAPI:  # the name that Serve calls
        from deployments.serve.back_pressure import BoundedReplica  # noqa: PLC0415  # imports Ray, seconds for the others

        api = api_of(self._redis_url, self._limits)
        api.add_middleware(BoundedReplica)
        return api


def serve_by_uvicorn(redis_url: str, limits: dict[str, Any]) -> None:
    """Serves until it is killed, with the options of Ray Serve's proxy: uvicorn's own."""
    server = uvicorn.Server(uvicorn.Config(api_of(redis_url, limits), log_level="warning"))
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    print(listening.getsockname()[1], flush=True)  # noqa: T201  # how it tells its port
    server.run(sockets=[listening])


def _end_with_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = server.force_exit = True


def serve_by_ray(redis_url: str, limits: dict[str, Any]) -> None:
    """Serves until its input ends."""
    setup = {"worker_process_setup_hook": WORKER_SETUP}
    with local_ray(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False, runtime_env=setup):
        from ray import serve  # noqa: PLC0415  # reads the environment when imported

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 600})
        replica: Any = serve.deployment(serve.ingress()(Replica))
        serve.run(replica.options(max_ongoing_requests=256).bind(redis_url, limits), route_prefix="/")
        print(port, flush=True)  # noqa: T201  # how it tells its port
        sys.stdin.read()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    {"uvicorn": serve_by_uvicorn, "serve": serve_by_ray}[sys.argv[3]](sys.argv[1], json.loads(sys.argv[2]))
