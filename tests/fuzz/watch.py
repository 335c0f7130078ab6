"""A process that takes inputs, watched from outside: it may die, hang or grow without taking the run along."""

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tests.fuzz.cases import Case
from tests.fuzz.target import Outcome

Target = Callable[[Case, Callable[[], None]], Outcome]
Fault = Literal["crashed", "hung", "over_memory"]
_TICK_S = 0.05
_STEP_TOLD_S = 0.2
_START_S = 120.0
_CLOCK_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step of an input may cost: a fragment that is demuxed, or the next that is cut from a file.

    Time is the process's own, so that a busy machine fails nobody; `wall_s` catches sleep.
    """

    cpu_s: float = 10.0
    wall_s: float = 100.0
    memory_mb: float = 1024.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one input: an outcome, or a fault and its `detail`."""

    outcome: Outcome | None
    fault: Fault | None
    detail: str
    cpu_s: float
    peak_mb: float


class Watched:
    """Runs `target` in a process of its own, which lives on from input to input until it fails.

    Args:
        target: a function of a module, which the process can import.
        limits: what an input may cost.
    """

    def __init__(self, target: Target, limits: Limits) -> None:
        self._target, self._limits = target, limits
        self._process: Any = None
        self._pipe: Any = None
        self.started = 0

    def run(self, case: Case) -> Verdict:
        """Pushes one input through; ends the process where it went wrong."""
        if self._process is None:
            self._start()
        pid = self._process.pid
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew, where the machine allows it
        began_s, cpu_before_s = time.monotonic(), _cpu_s(pid)
        self._pipe.send(case)
        fault: Fault | None = None
        peak_mb, answer = 0.0, None
        while answer is None:
            if self._pipe.poll(_TICK_S):
                try:
                    answer = self._pipe.recv()
                except (EOFError, ConnectionResetError):
                    return self._dead(peak_mb)
                began_s, cpu_before_s = time.monotonic(), _cpu_s(pid)
            cpu_s, peak_mb = _cpu_s(pid) - cpu_before_s, max(_peak_mb(pid), peak_mb)
            if cpu_s > self._limits.cpu_s or time.monotonic() - began_s > self._limits.wall_s:
                fault = "hung"
            elif peak_mb > self._limits.memory_mb:
                fault = "over_memory"
            if fault is not None:
                self.close()
                return Verdict(None, fault, f"{cpu_s:.1f} s of the processor, {peak_mb:.0f} MB", cpu_s, peak_mb)
        outcome, detail, cpu_s = answer
        if outcome is None:
            return Verdict(None, "crashed", detail, cpu_s, peak_mb)
        if cpu_s > self._limits.cpu_s or peak_mb > self._limits.memory_mb:
            self.close()
            fault = "hung" if cpu_s > self._limits.cpu_s else "over_memory"
            return Verdict(None, fault, f"{cpu_s:.1f} s of the processor, {peak_mb:.0f} MB", cpu_s, peak_mb)
        return Verdict(outcome, None, "", cpu_s, peak_mb)

    def _dead(self, peak_mb: float) -> Verdict:
        self._process.join()
        code = self._process.exitcode
        self.close()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Verdict(None, "crashed", f"the process died: {name}", 0.0, peak_mb)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, self._target), daemon=True)
        self._process.start()
        far.close()
        self.started += 1
        if not self._pipe.poll(_START_S):
            raise TimeoutError("the fuzzed process does not start")
        self._pipe.recv()


def _serve(pipe: Connection, target: Target) -> None:
    logging.disable(logging.WARNING)  # every damaged file is warned of
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        steps = _Steps(pipe)
        try:
            outcome, detail = target(case, steps), ""
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            outcome, detail = None, traceback.format_exc(limit=-4)
        steps()
        pipe.send((outcome, detail, steps.slowest_s))


class _Steps:
    """Times each step, and tells of one now and then."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._began_s, self._told_s = pipe, time.process_time(), time.monotonic()
        self.slowest_s = 0.0

    def __call__(self) -> None:
        now_s = time.process_time()
        self.slowest_s, self._began_s = max(self.slowest_s, now_s - self._began_s), now_s
        if time.monotonic() - self._told_s > _STEP_TOLD_S:
            self._told_s = time.monotonic()
            self._pipe.send(None)


def _cpu_s(pid: int) -> float:
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / _CLOCK_HZ


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
