"""`undertone doctor`: what is installed, reachable and missing, and how to mend it."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer
from rich.table import Table
from rich.text import Text

from deployments.cli.console import (
    EXIT_FAILED,
    CommandError,
    as_typed,
    clear_errors,
    print_out,
    settings,
    write_json,
)
from deployments.cli.options import Json
from models.errors import ModelError
from pipelines.errors import StoreUnavailableError
from pipelines.settings import AppConfig, Settings, is_loopback

State = Literal["ok", "optional", "missing"]
"""`optional`: absent, and not needed here; `missing`: absent, and needed."""

PACKAGES = ("torch", "ray", "fastapi", "redis", "kafka-python", "av", "onnxruntime", "silero-vad", "facenet-pytorch")
MEMORY_MIN_GIB = 4.0
DISK_MIN_GIB = 2.0
ANSWER_S = 3.0
GIB = 1 << 30
SYNC = "make setup in the checkout"
STYLE: dict[State, str] = {"ok": "green", "optional": "yellow", "missing": "red"}

commands = typer.Typer()


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was found, and how to mend it."""

    name: str
    state: State
    found: str
    mend: str = ""


@commands.command(epilog="Example: undertone doctor --json")
@clear_errors
def doctor(*, as_json: Json = False) -> None:
    """Say what is installed, reachable and missing, and how to mend it."""
    findings = examine(settings())
    if as_json:
        write_json(asdict(finding) for finding in findings)
    else:
        print_out(table(findings))
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        raise CommandError(f"missing: {', '.join(missing)}; the last column says how to mend it", EXIT_FAILED)


def examine(where: Settings) -> list[Finding]:
    """Every finding, in the order in which they should be mended."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _packages,
        _torch,
        lambda: [_memory(), _disk(where.cache_dir)],
        lambda: [_bundle(AppConfig().bundle)],
        lambda: [_transcriber(AppConfig().transcriber)],
        lambda: [_redis(where), _kafka(where.kafka), _gateway(where.url)],
        _kafka_tools,
    )
    return [finding for check in checks for finding in check()]


def table(findings: list[Finding]) -> Table:
    """The findings for people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "what", "found", "to mend it"):
        shown.add_column(heading, overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=STYLE[finding.state])
        shown.add_row(state, Text(finding.name), Text(finding.found), Text(as_typed(finding.mend)))
    return shown


def _python() -> list[Finding]:
    return [Finding("python", "ok", sys.version.split()[0])]


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "missing", "not installed", SYNC))
    return findings


def _torch() -> list[Finding]:
    try:
        import torch  # noqa: PLC0415  # takes seconds, and may itself be what is broken
    except (ImportError, OSError) as error:
        return [Finding("torch loads", "missing", str(error), SYNC)]
    if torch.cuda.is_available():
        return [Finding("gpu", "ok", torch.cuda.get_device_name())]
    return [Finding("gpu", "optional", "none, networks run on the CPU", "a GPU needs a CUDA driver and `device: cuda`")]


def _memory() -> Finding:
    free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            free_gib = int(line.split()[1]) / (1 << 20)
    found = f"{free_gib:.1f} GiB available"
    if free_gib >= MEMORY_MIN_GIB:
        return Finding("memory", "ok", found)
    return Finding("memory", "missing", found, f"close other programs: {MEMORY_MIN_GIB:.0f} GiB are needed")


def _disk(cache_dir: Path) -> Finding:
    existing = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free_gib = shutil.disk_usage(existing).free / GIB
    found = f"{free_gib:.1f} GiB free for {cache_dir}"
    if not os.access(existing, os.W_OK):
        return Finding("disk", "missing", f"{existing} cannot be written", "name another folder in UNDERTONE_CACHE_DIR")
    if free_gib >= DISK_MIN_GIB:
        return Finding("disk", "ok", found)
    return Finding("disk", "missing", found, "make room, or name another folder in UNDERTONE_CACHE_DIR")


def _bundle(name: str) -> Finding:
    from models.bundles import bundle_folder, load_bundle  # noqa: PLC0415  # only this check needs it

    try:
        bundle = load_bundle(bundle_folder(name))
    except (ValueError, OSError) as error:
        return Finding("bundle", "missing", str(error), "git checkout models/bundles, or train it again")
    return Finding("bundle", "ok", f"{bundle.label}, hashes right")


def _transcriber(name: str) -> Finding:
    try:
        from models.encoders import speech, whisper_weights  # noqa: PLC0415  # takes long, and may be what is broken

        if name in whisper_weights.PACKED:
            digest = whisper_weights.PACKED[name][whisper_weights.MODEL].sha256
            engine = speech.load_transcriber(name).engine
            return Finding("transcriber", "ok", f"{engine}, {whisper_weights.MODEL} {digest[:8]}, hashes right")
        weights = speech.weights_path(name)
    except (ImportError, OSError, ModelError) as error:
        return Finding("transcriber", "missing", str(error), SYNC)
    if weights.is_file():
        return Finding("transcriber", "ok", str(weights))
    mend = f"fetched on the first start where the internet is reachable; {speech.DEFAULT} serves until then"
    return Finding("transcriber", "optional", f"{weights} is not there", mend)


def _redis(where: Settings) -> Finding:
    url = where.redis.get_secret_value()
    if not url:
        from deployments.serve.embedded_redis import server_version  # noqa: PLC0415  # only where no other Redis is named

        try:
            return Finding("redis", "ok", f"embedded, {server_version()}")
        except (StoreUnavailableError, OSError) as error:
            return Finding("redis", "missing", str(error), "set UNDERTONE_REDIS=redis://host:6379")
    import redis  # noqa: PLC0415  # as above

    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S)
        server = client.info("server")
        name = server.get("server_name", "redis")
        found = f"{name} {server.get(f'{name}_version', server['redis_version'])} answers"
        client.close()
    except (redis.RedisError, ValueError, OSError) as error:
        return Finding("redis", "missing", str(error), "start it, or correct UNDERTONE_REDIS")
    return Finding("redis", "ok", found)


def _kafka(bootstrap: str) -> Finding:
    if not bootstrap:
        return Finding("kafka", "optional", "UNDERTONE_KAFKA is not set", "only for `source: kafka`: make kafka")
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host, int(port)), ANSWER_S).close()
        except (OSError, ValueError) as error:
            return Finding("kafka", "missing", f"{server}: {error}", "make kafka, or correct UNDERTONE_KAFKA")
    return Finding("kafka", "ok", f"{bootstrap} accepts connections")


def _gateway(url: str) -> Finding:
    import httpx  # noqa: PLC0415  # takes long, and only this check needs it

    try:
        answer = httpx.get(f"{url}/healthz", timeout=ANSWER_S, trust_env=not is_loopback(url))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Finding("gateway", "optional", f"{url}: {error}", "undertone serve")
    if answer.is_success:
        return Finding("gateway", "ok", f"{url} answers")
    return Finding("gateway", "optional", f"{url} answers {answer.status_code}", "look at the log of undertone serve")


def _kafka_tools() -> list[Finding]:
    findings = []
    for tool, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        path = shutil.which(tool)
        if path:
            findings.append(Finding(tool, "ok", path))
        else:
            findings.append(Finding(tool, "optional", "not found", f"only for make kafka: apt-get install {package}"))
    return findings
