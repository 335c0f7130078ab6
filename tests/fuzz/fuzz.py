"""`make fuzz SEED=1 COUNT=2000`: hostile media of every format, as fragments and as files, and what became of each.

Input `number` of a format under a seed is always the same bytes, so that a finding is made again by
`python -m tests.fuzz.fuzz --seed S --format F --number N`. Ends with 1 when there is a finding: an error that is not
named, a dead process, more than 10 s of processor time or more than 1 GB of memory for one input.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.fuzz.cases import FORMATS, Case, case
from tests.fuzz.target import push
from tests.fuzz.watch import Fault, Limits, Target, Verdict, Watched

_PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that did what none may do."""

    seed: int
    case: Case
    verdict: Verdict

    def __str__(self) -> str:
        again = f"--seed {self.seed} --format {self.case.format} --number {self.case.number}"
        return f"{self.verdict.fault}: {again} ({self.case.mutation}): {self.verdict.detail}"


@dataclass(slots=True)
class Report:
    """The account of a run: every input is in exactly one of `fragment` and `findings`, and so with `file`."""

    seed: int
    formats: tuple[str, ...]
    inputs: int = 0
    fragment: Counter[str] = field(default_factory=Counter)
    file: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""
    peak_mb: float = 0.0
    peak: str = ""
    seconds: float = 0.0

    def take(self, case: Case, verdict: Verdict) -> None:
        """Books one input."""
        self.inputs += 1
        name = f"{case.format} {case.number} ({case.mutation})"
        if verdict.cpu_s > self.slowest_s:
            self.slowest_s, self.slowest = verdict.cpu_s, name
        if verdict.peak_mb > self.peak_mb:
            self.peak_mb, self.peak = verdict.peak_mb, name
        if verdict.outcome is None:
            self.findings.append(Finding(self.seed, case, verdict))
        else:
            self.fragment[verdict.outcome.fragment] += 1
            self.file[verdict.outcome.file] += 1

    def figures(self) -> dict[str, Any]:
        """As JSON; `refused` and `demuxed` are of inputs as fragments, `cut` and `cut_refused` as files."""

        def faults(fault: Fault) -> int:
            return sum(finding.verdict.fault == fault for finding in self.findings)

        return {
            "seed": self.seed,
            "formats": list(self.formats),
            "inputs": self.inputs,
            "demuxed": self.fragment["demuxed"],
            "empty": self.fragment["empty"],
            "refused": _refusals(self.fragment),
            "cut": self.file["demuxed"],
            "cut_empty": self.file["empty"],
            "cut_refused": _refusals(self.file),
            "crashed": faults("crashed"),
            "hung": faults("hung"),
            "over_memory": faults("over_memory"),
            "slowest_s": round(self.slowest_s, 2),
            "slowest": self.slowest,
            "peak_mb": round(self.peak_mb),
            "peak": self.peak,
            "seconds": round(self.seconds),
        }


def _refusals(outcomes: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in outcomes.most_common() if reason not in {"demuxed", "empty"}}


def fuzz(
    seed: int,
    formats: Iterable[str] = FORMATS,
    numbers: Iterable[int] = range(40),
    *,
    target: Target = push,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    seen: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Pushes the inputs of these numbers, of all these formats, through `target`; `seen` is called after each."""
    began_s = time.monotonic()
    report, watched, numbers = Report(seed, tuple(formats)), Watched(target, limits), list(numbers)
    try:
        for name in report.formats:
            for number in numbers:
                made = case(seed, name, number)
                report.take(made, watched.run(made))
                report.seconds = time.monotonic() - began_s
                seen(report)
    finally:
        watched.close()
    return report


def _save(finding: Finding, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.seed}-{finding.case.format}-{finding.case.number}"
    path.with_suffix(".bin").write_bytes(finding.case.media)
    headers = {name: value.decode("latin-1") for name, value in finding.case.headers}
    path.with_suffix(".json").write_text(json.dumps({"finding": str(finding), "headers": headers}, indent=2) + "\n")


class _Progress:
    """A line every few seconds, and every finding at once."""

    def __init__(self, total: int, folder: Path) -> None:
        self._total, self._folder = total, folder
        self._console = Console(stderr=True, markup=False, soft_wrap=True)
        self._next_s, self._told = time.monotonic() + _PROGRESS_S, 0

    def __call__(self, report: Report) -> None:
        for finding in report.findings[self._told :]:
            _save(finding, self._folder)
            self._console.print(f"FINDING {finding}; its bytes are in {self._folder}")
        self._told = len(report.findings)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PROGRESS_S
            self._console.print(
                f"{report.inputs} of {self._total} inputs, {self._told} findings, slowest {report.slowest_s:.2f} s, "
                f"peak {report.peak_mb:.0f} MB, {report.seconds:.0f} s"
            )


def _show(report: Report) -> None:
    table = Table("outcome", "as a fragment", "as a file", title=f"undertone fuzz, seed {report.seed}")
    for name in sorted({*report.fragment, *report.file}, key=lambda name: -report.fragment[name] - report.file[name]):
        table.add_row(name, str(report.fragment[name]), str(report.file[name]))
    Console().print(table)


def main(arguments: list[str] | None = None) -> int:
    """The command; its last line is the report as JSON."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Pushes hostile media through Fragmenter and Demuxer.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="inputs of each format")
    parser.add_argument("--format", action="append", choices=FORMATS, help="only this format; may be repeated")
    parser.add_argument("--number", type=int, help="only this input of each format")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "undertone-fuzz"))
    parser.add_argument("--json", action="store_true", help="no table, only the last line")
    options = parser.parse_args(arguments)
    numbers = range(options.count) if options.number is None else [options.number]
    formats = tuple(options.format or FORMATS)
    progress = _Progress(len(formats) * len(numbers), options.folder)
    report = fuzz(options.seed, formats, numbers, seen=progress)
    if not options.json:
        _show(report)
    sys.stdout.write(json.dumps(report.figures()) + "\n")
    return int(bool(report.findings))


if __name__ == "__main__":
    sys.exit(main())
