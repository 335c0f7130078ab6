"""Ray for this process and nobody else: on the loopback, behind a token of its own, in a folder that only its user enters."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

RAY_DEFAULTS = {
    # `uv run` would otherwise be repeated in every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.serve.back_pressure:middlewares",
    # Serve replaces a proxy that is not ready in three checks of 5 s; on a busy laptop every new one would be late, too, until
    # the 60 s are over that Serve waits in all.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    # Processes that import what was never compiled, beside busy others, are late: as `START_S`.
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    # No idle process is kept for tasks: there are none.
    "RAY_num_workers_soft_limit": "0",
    # Else glibc gives every thread of a process memory of its own to hold on to.
    "MALLOC_ARENA_MAX": "2",
}
"""What the processes of Ray are started with, where the environment does not say otherwise; what the last two spare is in
docs/architecture.md#ray-serve-and-kafka-measured."""

PRIVATE = {
    "RAY_AUTH_MODE": "token",
    # Ray listens on all interfaces unless its node's address is the loopback, and takes it from here (its own setting on macOS).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""What they are started with whatever the environment says; `RAY_AUTH_TOKEN` comes to it, fresh at each start."""

OF_A_CLUSTER = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_K8S_TOKEN_AUTH", "RAY_USE_TLS")
"""What a user's environment may say of a cluster, which is none of this one's business."""

FOLDER_PREFIX = "undertone-ray-"
START_S = 600.0
"""How long Ray's own processes, and Serve's, may take to start; beside busy others they need more than the 30 s and the 60 s that they have."""


def set_ray_defaults() -> None:
    """Set `RAY_DEFAULTS` where the environment does not say otherwise."""
    for name, value in RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    _make_ray_read_it()


@contextmanager
def private_environment() -> Iterator[None]:
    """What is started within is Ray on the loopback, with a random token; afterwards the environment is what it was.

    The token stands in the environment alone: neither in a file, nor in an argument, nor in a log.
    """
    before = dict(os.environ)
    set_ray_defaults()
    os.environ.update(PRIVATE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    for name in OF_A_CLUSTER:
        os.environ.pop(name, None)
    _make_ray_read_it()
    try:
        yield
    finally:
        _restore(before)
        _make_ray_read_it()


def _restore(before: Mapping[str, str]) -> None:
    for name in {*RAY_DEFAULTS, *PRIVATE, *OF_A_CLUSTER, "RAY_AUTH_TOKEN"}:
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


def _make_ray_read_it() -> None:
    """Ray keeps what it read at its import, and the token that it read first."""
    import ray  # noqa: PLC0415  # takes a second

    raylet: Any = ray._raylet  # noqa: SLF001  # as Ray does itself where it turns authentication on
    constants: Any = ray._private.ray_constants  # noqa: SLF001
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = constants.env_bool("RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(
        constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not constants.IS_WINDOWS_OR_OSX
    )
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start Ray with `options` of `ray.init`, and stop it; what it wrote is gone in the end, after a kill at the next start.

    Its processes work in a folder of their own: pass them absolute paths.
    """
    with private_environment(), private_folder() as folder:
        import ray  # noqa: PLC0415  # see above

        try:
            try:
                # Ray's workers work in the current folder and import from it first, whoever may write there.
                with _small_and_patient(), chdir(folder):
                    # Ray lets everybody write in the folder that it is given: that is one within ours.
                    ray.init(address="local", include_dashboard=False, _temp_dir=str(folder / "r"), **options)
            except Exception as error:  # Ray raises this very kind
                raise RuntimeError(in_a_sentence("Ray does not start here", error)) from error
            yield
        finally:
            ray.shutdown()  # also of what had started when the rest did not


def in_a_sentence(what: str, error: Exception) -> str:
    """`what` happened, why, and what to do: of an error of Ray's, which may hold the tracebacks of other processes, its ends."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    why = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(':')}: {lines[-1]}"
    return f"{what} ({why}); where the machine is busy or this is the first start, run `make setup` and try again"


@contextmanager
def patient_serve() -> Iterator[None]:
    """Let `serve.start` wait `START_S` for its proxy: the 60 s are a constant of Serve's."""
    from ray.serve._private import api, client  # noqa: PLC0415  # see above

    with ExitStack() as patches:
        for module in (api, client):
            patches.enter_context(_replaced(module, "HTTP_PROXY_TIMEOUT", START_S))
        yield


@contextmanager
def _small_and_patient() -> Iterator[None]:
    """Start none of Ray's processes that scale a cluster, show it or print its logs, and wait longer for the others than 30 s.

    Each costs seconds, memory and open ports. Nothing public says either; Ray is pinned to 2.60.
    """
    import ray  # noqa: PLC0415  # see above

    node: Any = ray._private.node.Node  # noqa: SLF001
    services: Any = ray._private.services  # noqa: SLF001
    get_node = services.get_node

    def get_started_node(*where: Any) -> Any:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                return get_node(*where)
            except RuntimeError:
                if time.monotonic() > deadline_s:
                    raise
                if has_dead_child("raylet"):  # it gives up where its agent is slow, as on a machine that is very busy
                    raise RuntimeError("Ray's raylet ended as it started") from None
                time.sleep(0.1)

    with ExitStack() as patches:
        for name in ("start_monitor", "start_api_server", "start_log_monitor"):
            patches.enter_context(_replaced(node, name, lambda *_, **__: None))
        patches.enter_context(_replaced(services, "get_node", get_started_node))
        yield


@contextmanager
def _replaced(of: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(of, name)
    setattr(of, name, value)
    try:
        yield
    finally:
        setattr(of, name, before)


def has_dead_child(name: str) -> bool:
    """Whether a process of this name that this one started has ended, and nobody has asked how (proc_pid_stat(5), state Z)."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            with suppress(OSError):
                command, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
                if command.endswith(f"({name}") and rest.split()[0] == "Z":
                    return True
    return False


def is_ray_alive() -> bool:
    """Whether all the processes live that `ray.init` started here."""
    from ray._private import worker  # noqa: PLC0415  # see above

    node: Any = worker._global_node  # noqa: SLF001  # nothing public tells it
    return node is not None and node.remaining_processes_alive()


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of mode 0700 with a short name, since sockets lie in it; those of dead processes are removed first."""
    base = Path(os.environ.get("RAY_TMPDIR", "/tmp"))  # noqa: S108  # a random name within; TMPDIR is too long on macOS
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            _remove_left_over(folder)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
        handle = _held(folder)
        if handle is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_left_over(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    handle = _held(folder)
    if handle is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _held(folder: Path) -> int | None:
    """The folder, locked as long as this process lives; None where it is another's, or gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.lstat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None
