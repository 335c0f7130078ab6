"""Everything on one machine with nothing installed: the store from its wheel, Ray in this process, Serve on a port."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from deployments.http.browser import LOOPBACK
from deployments.http.tokens import ALL_SCOPES, ANY_TENANT, TokenFile, new_token, token_path
from deployments.serve import WORKER_SETUP, pandas_kept_out
from deployments.serve.embedded_redis import InUseError, delete_store, embedded_redis, locked
from deployments.serve.local_ray import in_a_sentence, is_ray_alive, local_ray, patient_serve
from models.encoders.speech import absolute_source
from models.errors import ModelError
from pipelines.errors import UndertoneError
from pipelines.ingest.analyse import Analyser
from pipelines.settings import AppConfig, Settings

OBJECT_STORE_BYTES = 256 << 20
END_S = 12.0
"""How long the replicas have to end in order: Serve's 2 s and the 10 s of `Ingest`. Serve would give them 30 s, which the gateway
needs where anybody listens to an event stream."""


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
def embedded(
    config: AppConfig, *, port: int = 8000, host: str = "127.0.0.1", begin: Callable[[str], None] = lambda _: None
) -> Iterator[Embedded]:
    """Start what the environment does not name (Redis) and Ray with the whole application; stop all of it at the end.

    `begin` is called with what is started next.

    Raises:
        InUseError: another embedded system runs on that port, or another program has it; nothing was started.
        StoreUnavailableError: the embedded Redis does not start.
        RuntimeError: a deployment does not become healthy; the message says which.
    """
    settings = Settings()
    config = _absolute(config)
    folder = settings.cache_dir / f"redis-{port}"
    with ExitStack() as stack:
        # Replicas are other processes, in another folder: the environment is how settings reach them.
        for name, value in settings:
            if isinstance(value, Path):
                stack.enter_context(_set(f"UNDERTONE_{name.upper()}", str(value)))
        begin("the store")
        if settings.redis.get_secret_value():
            stack.enter_context(locked(folder))
            require_free(host, port)
        else:
            url = stack.enter_context(embedded_redis(folder))
            require_free(host, port)
            stack.enter_context(_set("UNDERTONE_REDIS", url))
        token = settings.token
        if settings.tokens is None and not settings.oidc_jwks:
            token = SecretStr(stack.enter_context(fresh_token(settings.cache_dir, port)))
        if host not in LOOPBACK:
            stack.enter_context(_set("UNDERTONE_HOSTS", f"{settings.hosts},{host}"))
        own = Settings().model_copy(update={"token": token, "url": f"http://{host}:{port}"})
        stack.enter_context(_served(config, host, port, begin))
        yield Embedded(own.url, own, made_token=token is not settings.token)


def _absolute(config: AppConfig) -> AppConfig:
    """The same networks for processes that work in another folder."""
    bundle = config.bundle if config.bundle == "embedded" else str(Path(config.bundle).absolute())
    return config.model_copy(update={"bundle": bundle, "transcriber": absolute_source(config.transcriber)})


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


def require_free(host: str, port: int) -> None:
    """Return if this process could listen there.

    Raises:
        InUseError: it could not; the message says why, and what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InUseError(
            f"nothing can listen on port {port} of {host} ({error.strerror or error}): name another with --port"
        ) from error


@contextmanager
def _served(config: AppConfig, host: str, port: int, begin: Callable[[str], None]) -> Iterator[None]:
    begin("Ray")
    options = {
        "runtime_env": {"worker_process_setup_hook": WORKER_SETUP},
        "num_cpus": max(2, os.cpu_count() or 2),
        "object_store_memory": OBJECT_STORE_BYTES,
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    with local_ray(**options):
        with pandas_kept_out():
            from ray import serve  # noqa: PLC0415  # reads the environment when imported

            from deployments.serve.app import APP_NAME, build  # noqa: PLC0415

        # What Serve tells an operator is noise to someone who runs one command; its log files keep it.
        logging.getLogger("ray").setLevel(logging.WARNING)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            begin("the gateway and the networks")
            with in_one_sentence(), patient_serve():
                serve.start(http_options={"host": host, "port": port, "request_timeout_s": 600})
                serve.run(build(config), name=APP_NAME, route_prefix="/")
            yield
        finally:
            _end(APP_NAME)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Raise as a `RuntimeError` of one sentence whatever keeps Serve from starting, and as they are what no start would mend.

    Raises:
        RuntimeError: something does.
    """
    try:
        yield
    except (UndertoneError, ModelError):
        raise
    except Exception as error:  # Ray and Serve raise their own, and Python's
        raise RuntimeError(in_a_sentence("Ray Serve does not start here", error)) from error


def _end(application: str) -> None:
    """Let the replicas end in order for `END_S`, unless Ray ends itself, as on a signal to all processes: Serve would ask it for a minute."""
    from ray import serve  # noqa: PLC0415  # see above

    ending, deadline_s = (
        threading.Thread(target=serve.delete, args=(application,), daemon=True),
        time.monotonic() + END_S,
    )
    ending.start()
    while ending.is_alive() and is_ray_alive() and time.monotonic() < deadline_s:
        ending.join(0.1)


def delete_embedded_store(settings: Settings, port: int = 8000) -> None:
    """Delete the append-only file of the embedded Redis of that port, and with it every result."""
    delete_store(settings.cache_dir / f"redis-{port}")
