"""Hostile media is demuxed or refused by name; and the fuzzer is not blind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz.cases import FORMATS, Case, case
from tests.fuzz.fuzz import fuzz, main
from tests.fuzz.target import Outcome
from tests.fuzz.watch import Limits, Target

pytestmark = pytest.mark.slow  # child processes that die, hang and eat memory

TIGHT = Limits(cpu_s=0.5, wall_s=2.0, memory_mb=400)


def killed(case: Case, _: Callable[[], None]) -> Outcome:
    if case.number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome("demuxed", "demuxed")


def raises(case: Case, _: Callable[[], None]) -> Outcome:
    if case.number == 1:
        raise IndexError("list index out of range")
    return Outcome("demuxed", "demuxed")


def sleeps(case: Case, _: Callable[[], None]) -> Outcome:
    if case.number == 1:
        time.sleep(60)
    return Outcome("demuxed", "demuxed")


def spins(case: Case, _: Callable[[], None]) -> Outcome:
    while case.number == 1:
        pass
    return Outcome("demuxed", "demuxed")


def eats(case: Case, _: Callable[[], None]) -> Outcome:
    eaten = [bytearray(b"\1" * (100 << 20)) for _ in range(8)] if case.number == 1 else []
    return Outcome("demuxed", "demuxed" if len(eaten) < 9 else "empty")


def steps(case: Case, step: Callable[[], None]) -> Outcome:
    """Takes longer than a step may, in steps that do not."""
    until_s = time.process_time() + 1.0
    while case.number == 1 and time.process_time() < until_s:
        step()
    return Outcome("demuxed", "demuxed")


@pytest.mark.parametrize(("seed", "count"), [(1, 20)])
def test_hostile_media_of_every_format_is_demuxed_or_refused_by_name(seed: int, count: int) -> None:
    report = fuzz(seed, numbers=range(count))
    assert [str(finding) for finding in report.findings] == []
    assert report.inputs == count * len(FORMATS)
    assert report.fragment.total() == report.file.total() == report.inputs
    figures = report.figures()
    assert figures["demuxed"] + figures["empty"] + sum(figures["refused"].values()) == report.inputs
    assert figures["demuxed"] > report.inputs / 3
    assert sum(figures["refused"].values()) > report.inputs / 10
    assert report.peak_mb < 1024


@pytest.mark.parametrize(
    ("target", "fault", "detail"),
    [
        (killed, "crashed", "SIGSEGV"),
        (raises, "crashed", "IndexError"),
        (sleeps, "hung", "s of the processor"),
        (spins, "hung", "s of the processor"),
        (eats, "over_memory", "MB"),
    ],
)
def test_the_fuzzer_sees_a_fault_and_goes_on(target: Target, fault: str, detail: str) -> None:
    limits = replace(TIGHT, cpu_s=30.0, wall_s=60.0) if fault == "over_memory" else TIGHT  # a busy machine is no fault
    report = fuzz(7, ["wav"], range(3), target=target, limits=limits)
    (finding,) = report.findings
    assert (finding.case.number, finding.verdict.fault) == (1, fault)
    assert detail in finding.verdict.detail
    assert "--seed 7 --format wav --number 1" in str(finding)
    assert report.inputs == 3
    assert report.fragment == {"demuxed": 2}
    assert report.figures()[fault] == 1


def test_time_is_counted_by_steps() -> None:
    report = fuzz(7, ["wav"], range(3), target=steps, limits=TIGHT)
    assert report.findings == []
    assert report.slowest_s < 0.5


def test_an_input_is_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from tests.fuzz.cases import FORMATS, case; "
        "print(hashlib.sha256(repr([case(3, name, n) for name in FORMATS for n in range(9)]).encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
    assert case(3, "wav", 0) == case(3, "wav", 0) != case(3, "wav", 1)
    assert case(3, "wav", 0).media != case(4, "wav", 0).media


def test_the_command_ends_with_its_account(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert (
        main(["--seed", "5", "--count", "3", "--format", "l16", "--format", "headers", "--folder", str(tmp_path)]) == 0
    )
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (figures["seed"], figures["formats"], figures["inputs"]) == (5, ["l16", "headers"], 6)
    assert figures["crashed"] == figures["hung"] == figures["over_memory"] == 0
