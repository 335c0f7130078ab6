"""What somebody without Ray's token gets at a port: `python -m tests.deployments.stranger ADDRESS PORT…` prints it as JSON.

Every method of every service of Ray and Serve is called, so that a port that answers one of them shows. Besides, what tests
that start the whole system ask about its processes (Linux only).
"""

import http.client
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OF_NO_PYTHON = tuple(f"/ray.rpc.ObjectManagerService/{method}" for method in ("Push", "Pull", "FreeObjects"))
"""Methods that Ray ships no description of."""
CALL_S = 10.0


def methods() -> Iterator[str]:
    for package in ("ray.core.generated", "ray.serve.generated"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name.endswith("_pb2"):
                described = importlib.import_module(f"{package}.{module.name}").DESCRIPTOR
                for service in described.services_by_name.values():
                    yield from (f"/{service.full_name}/{method.name}" for method in service.methods)
    yield from OF_NO_PYTHON


def is_refused(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return True
    return False


def found_at(address: str, port: int) -> dict[str, Any]:
    """`refused` where nobody listens; else the codes of all calls by gRPC, and what HTTP answers."""
    grpc: Any = importlib.import_module("grpc")  # it ships no types; here, since the tests import this module too

    if is_refused(address, port):
        return {"refused": True}
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        for method in methods():
            try:
                channel.unary_unary(method)(b"", timeout=CALL_S)
                codes[f"OK {method}"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
            if set(codes) == {"UNAVAILABLE"}:
                break  # it does not speak gRPC
    return {
        "refused": False,
        "grpc": codes,
        "http": {path: http_status(address, port, path) for path in ("/", "/api/v0/logs", "/metrics")},
    }


def http_status(address: str, port: int, path: str) -> int | None:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:  # http alone
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):  # no HTTP
        return None


def rewritten_actor_class(address: str, port: int) -> str:
    """What becomes of an attack: the classes of actors in the GCS, read and written by its own client."""
    if is_refused(address, port):
        return "refused"  # its client would look for it for most of a minute
    raylet: Any = importlib.import_module("ray._raylet")
    try:
        client = raylet.GcsClient(address=f"{address}:{port}")
        classes = client.internal_kv_keys(b"ActorClass", b"fun", CALL_S)
        client.internal_kv_put(classes[0] if classes else b"x", b"mine", True, b"fun", CALL_S)
    except Exception as error:  # noqa: BLE001  # whatever Ray says is the finding
        return f"{type(error).__name__}: {error}"
    return f"rewritten, one of {len(classes)}"


def as_stranger(address: str, ports: Sequence[int], gcs_port: int) -> dict[str, Any]:
    """What a process in an environment of its own finds, which knows the ports but not the token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.deployments.stranger", address, *map(str, (gcs_port, *ports))]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass(frozen=True)
class Listener:
    """A TCP port on which a process listens."""

    address: str
    port: int
    pid: int

    @property
    def command(self) -> str:
        return command_of(self.pid)

    @property
    def is_local(self) -> bool:
        return self.address in {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def tree_of(root: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def listeners(pids: Sequence[int]) -> list[Listener]:
    """Every port on which they listen."""
    owners = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                owners[str(link.readlink())] = pid
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [
        Listener(where.rpartition(":")[0], int(where.rpartition(":")[2], 16), owners[f"socket:[{inode}]"])
        for where, state, inode in ((line[1], line[3], line[9]) for line in lines)
        if state == "0A" and f"socket:[{inode}]" in owners
    ]


def address_in_the_network() -> str | None:
    """This machine's own, by which others reach it; None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; a datagram socket sends nothing here
        except OSError:
            return None
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    where, gcs, *others = sys.argv[1], *map(int, sys.argv[2:])
    with ThreadPoolExecutor(len(others)) as threads:  # a port that says nothing takes as long as it may
        result: dict[str, Any] = dict(zip(map(str, others), threads.map(partial(found_at, where), others), strict=True))
    result["actor classes"] = rewritten_actor_class(where, gcs)
    print(json.dumps(result))  # noqa: T201  # how it tells what it found
