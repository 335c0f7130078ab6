"""Processes in which untrusted media is decoded that may be killed for it: by a crash, or at the end of its processor time.

A call of FFmpeg's cannot be interrupted and may not end for minutes, so that its time can be bounded in another process only: the
kernel ends that one (`RLIMIT_CPU`). This bounds time and memory and survives crashes; it is no wall against whoever takes FFmpeg over.
"""

import contextlib
import math
import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, TypeVar

from pipelines.errors import MediaError
from pipelines.media.byte_stream import ByteStream
from pipelines.media.container import NEAR, Reach, open_media

MEMORY_MAX_BYTES = 4 << 30
OPENING_MAX_BYTES = 512 << 20
"""An index of ten hours of sound and pictures takes a fifth of it; 80 kB of MP4 may say to have one of gigabytes."""
IDLE_MAX = 2
"""So many processes that are done wait for other work; the others end."""
WAIT_MAX_S = 120.0
"""A process that says nothing for so long is ended, though it takes no processor time."""
_READ_MAX_BYTES = 1 << 20
_FILE_METHODS = ("read", "seek", "tell")
_DONE = "done"

T = TypeVar("T")
MediaFile = IO[bytes] | ByteStream


class DecoderKilledError(MediaError):
    """A piece of media ended the process that decoded it, or kept it so long that it was ended."""


class DecoderProcesses:
    """Runs work in processes, each of which does one piece after the other; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._closed = False

    def run(self, work: Callable[..., T], *values: Any, cpu_max_s: float, file: MediaFile | None = None) -> T:
        """What `work(*values)` returns, or `work(file, *values)` where there is a `file`, which is read here. Blocks.

        `work` is a function of a module; values, result and errors are pickled.

        Raises:
            DecoderKilledError: it took more than `cpu_max_s` (whole seconds, rounded up) of processor time, wanted more than
                `MEMORY_MAX_BYTES`, or ended its process.
            RuntimeError: the process cannot work at all.
        """
        process = self._take()
        try:
            seekable = None if file is None else not isinstance(file, ByteStream)
            return process.ask((work, values, cpu_max_s, seekable), file, cpu_max_s)  # type: ignore[no-any-return]
        finally:
            self._give_back(process)

    def check_opening(
        self, file: MediaFile, what: str, picture_max_pixels: int, *, cpu_max_s: float, reach: Reach = NEAR
    ) -> None:
        """Open `file` in a process, as `open_media` is about to do here; it is left where it stood.

        Raises:
            DecoderKilledError: opening takes more than `cpu_max_s` of processor time, or ends its process.
            MediaError: it cannot be opened.
        """
        with file.looked_ahead() if isinstance(file, ByteStream) else _left_where_it_stands(file):
            self.run(_open, what, picture_max_pixels, reach, cpu_max_s=cpu_max_s, file=file)

    def close(self) -> None:
        """End every process that is at no work; the others end after theirs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _take(self) -> "_Process":
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive():
                    return process
                process.end()
        return _Process()

    def _give_back(self, process: "_Process") -> None:
        with self._lock:
            keep = process.is_idle and not self._closed and len(self._idle) < IDLE_MAX
            if keep:
                self._idle.append(process)
        if not keep:
            process.end()


class _Process:
    """A process that works off one order after the other until nobody is there any more to give one."""

    def __init__(self) -> None:
        self.is_idle = True
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module, and by -P none of the current folder
                [sys.executable, "-P", "-m", "pipelines.media.decoder_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, order: tuple[Any, ...], file: MediaFile | None, cpu_max_s: float) -> Any:
        """The outcome of an order, after `file` was read for it; raises its error."""
        self.is_idle = False
        said = self._told(order, cpu_max_s)
        while said[0] != _DONE:
            if said[0] not in _FILE_METHODS:
                raise DecoderKilledError(f"decoding asks for {said[0]!r:.20} of its file: re-encode it")
            said = self._told(getattr(file, said[0])(*said[1:]), cpu_max_s)
        self.is_idle = True
        _, outcome, error = said
        if isinstance(error, MemoryError):
            raise DecoderKilledError(f"decoding wants more than {MEMORY_MAX_BYTES >> 30} GiB: re-encode it") from None
        if error is not None:
            raise error
        return outcome

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _told(self, what: Any, cpu_max_s: float) -> tuple[Any, ...]:
        """What the process says when it is told `what`."""
        try:
            self._pipe.send(what)
            if self._pipe.poll(WAIT_MAX_S + cpu_max_s):
                return tuple(self._pipe.recv())
        except (EOFError, ConnectionError):
            raise DecoderKilledError(self._how_it_ended(cpu_max_s)) from None
        raise DecoderKilledError(f"decoding has not ended after {WAIT_MAX_S + cpu_max_s:g} s: re-encode it")

    def _how_it_ended(self, cpu_max_s: float) -> str:
        """What to say of the media; raises `RuntimeError` where it was not the media that ended it."""
        code = self._process.wait()
        if code >= 0:
            raise RuntimeError(
                f"a process for decoding ended by itself, with code {code}; what it wrote to stderr says why"
            )
        if -code == signal.SIGXCPU:
            return f"decoding takes more than {cpu_max_s:g} s of processor time in one go: re-encode it"
        return f"decoding ended its process ({signal.Signals(-code).name}): re-encode it"


class _FarFile:
    """A file of another process, for FFmpeg."""

    def __init__(self, pipe: Connection, *, seekable: bool) -> None:
        self._pipe, self._seekable = pipe, seekable

    def seekable(self) -> bool:
        return self._seekable

    def read(self, size: int = -1, /) -> bytes:
        return bytes(self._ask("read", _READ_MAX_BYTES if size < 0 else min(size, _READ_MAX_BYTES)))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._ask("seek", offset, whence))

    def tell(self) -> int:
        return int(self._ask("tell"))

    def _ask(self, *what: Any) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()


@contextlib.contextmanager
def _left_where_it_stands(file: IO[bytes]) -> Iterator[None]:
    at = file.tell()
    try:
        yield
    finally:
        file.seek(at)


def _open(file: Any, what: str, picture_max_pixels: int, reach: Reach) -> None:
    """What is opened here is opened where it was asked for, too, where nothing bounds what it takes.

    FFmpeg leaves out of an index what it finds no memory for, and says nothing: what it took is measured, not limited.
    """
    before_bytes = _resident_bytes()
    with open_media(file, what, picture_max_pixels, reach=reach):
        if _resident_bytes() - before_bytes > OPENING_MAX_BYTES:
            raise MediaError(f"{what}: its tables take more than {OPENING_MAX_BYTES >> 20} MiB of memory: re-encode it")


def _resident_bytes() -> int:
    """What this process has in memory (proc_pid_statm(5)); 0 where nothing tells it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> None:
    """Work off the orders that come through the connection of the number that is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the orders
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # macOS takes no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX_BYTES, MEMORY_MAX_BYTES))
    hard_s = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as pipe:
        while True:
            work, values, cpu_max_s, seekable = pipe.recv()
            soft_s = math.ceil(time.process_time() + cpu_max_s)
            resource.setrlimit(
                resource.RLIMIT_CPU, (soft_s if hard_s == resource.RLIM_INFINITY else min(soft_s, hard_s), hard_s)
            )
            file = () if seekable is None else (_FarFile(pipe, seekable=seekable),)
            outcome, failed = None, None
            try:
                outcome = work(*file, *values)
            except Exception as error:  # noqa: BLE001  # it is raised where the order was given
                failed = error
            pipe.send((_DONE, outcome, failed))


if __name__ == "__main__":
    main()
