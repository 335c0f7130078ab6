"""`make bench`: ratios and per-call figures of one run, printed and written to `bench.json`.

Machines are noisy: only what was taken in the same run is compared. The call is the project's own sample, sent as
many calls; the models are the embedded bundle; the transcriber is the one that this machine has.
"""

import asyncio
import itertools
import json
import os
import platform
import resource
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.sample import ANGRY_TO_CONTENT
from deployments.serve.embedded import Embedded, delete_embedded_store, embedded, local_analyser
from pipelines.log.choose import open_producer
from pipelines.log.records import fragment_headers
from pipelines.media.fragment import fragments as cut
from pipelines.media.utterances import utterances_of
from pipelines.settings import AppConfig, Settings, StreamSettings
from pipelines.store.store import Store
from pipelines.types import (
    TOPIC_MEDIA,
    MediaFragment,
    Participant,
    UtteranceSentiment,
)
from tests.benchmarks import endurance, interim, pictures
from tests.pipelines.stored import default

# What imports torch is imported where it is used: the embedded system's resident memory is measured in this process.
# ruff: noqa: PLC0415

PORT = 8123
CALLS_FAST = 4
CALLS_LIVE = (4, 6, 8, 12)
STAGGER_S = 2.7
"""Live calls start this far apart: real ones do not end their sentences in step."""
LATENCY_MAX_S, LAG_GROWTH_MAX = 2.5, 1.5
PARTICIPANTS = (Participant.AGENT, Participant.CUSTOMER)
DONE_S = 300.0
BIG_BYTES = 2 << 30


def sample_fragments(call_id: str) -> list[MediaFragment]:
    """The sample call as fragments of one second."""
    return list(
        cut(
            ANGRY_TO_CONTENT,
            call_id=call_id,
            tenant="default",
            stream="main",
            participants=PARTICIPANTS,
            consent=None,
        )
    )


def split_speed() -> dict[str, float]:
    """Seconds of media per second on one core: file to utterances, no network."""
    started = time.perf_counter()
    call = sample_fragments("bench-split")
    list(utterances_of(call, StreamSettings()))
    elapsed_s = time.perf_counter() - started
    media_s = call[-1].start_ms / 1000
    return {"media_s": media_s, "media_s_per_s": media_s / elapsed_s}


def one_core() -> dict[str, float]:
    """Speed of the encoders on the sample call."""
    from tests.benchmarks.encoders import encoder_speed

    found = utterances_of(sample_fragments("bench-encoders"), StreamSettings())
    return encoder_speed([utterance.samples for utterance in found])


def resident_growth_mb() -> dict[str, float]:
    """How much cutting a 2 GB recording, given as a stream of bytes, adds to this process's resident memory, in MB."""
    rate_hz, channels = 44_100, 2
    size = BIG_BYTES // (2 * channels) * 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels * 2, channels * 2, 16)
    header = (
        struct.pack("<4sI4s4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16) + form + struct.pack("<4sI", b"data", size)
    )
    piece = np.random.default_rng(0).integers(-3000, 3000, 1 << 19, np.int16).tobytes()
    chunks = itertools.chain([header], itertools.repeat(piece, size // len(piece)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    count = sum(
        1 for _ in cut(chunks, call_id="big", tenant="default", stream="main", participants=PARTICIPANTS, consent=None)
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"fragments": count, "grown_mb": grown / 1024, "elapsed_s": time.perf_counter() - started}


async def bare_loop(config: AppConfig) -> dict[str, float]:
    """Utterances per second through the same networks, in this process and one after the other."""
    analyser = local_analyser(config)
    found = list(utterances_of(sample_fragments("bench-bare"), StreamSettings()))
    await analyser(found[0])
    started = time.perf_counter()
    for utterance in found:
        await analyser(utterance)
    elapsed_s = time.perf_counter() - started
    return {"utterances": len(found), "utterances_per_s": len(found) / elapsed_s}


def send(settings: Settings, config: AppConfig, call: list[MediaFragment], wait_s: float, *, realtime: bool) -> float:
    """Send one call after `wait_s`; the wall-clock time, in s, at which its first millisecond was spoken."""
    producer = open_producer(config, settings)
    time.sleep(wait_s)
    started_s = time.time()
    try:
        for index, fragment in enumerate(call):
            if realtime:
                end_ms = call[index + 1].start_ms if index + 1 < len(call) else fragment.start_ms
                time.sleep(max(0.0, started_s + end_ms / 1000 - time.time()))
            producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, fragment_headers(fragment))
            producer.flush()
    finally:
        producer.close()
    return started_s


@dataclass(frozen=True, slots=True)
class Stored:
    """A result and the wall-clock time, in s, at which the store took it."""

    at_s: float
    result: UtteranceSentiment


async def finished(store: Store, call_ids: list[str]) -> dict[str, list[Stored]]:
    """Wait until every call is final; when each of its results was stored."""
    deadline = time.monotonic() + DONE_S
    found: dict[str, list[Stored]] = {}
    for call_id in call_ids:
        found[call_id] = []
        last_id, final = "0-0", False
        while not final:
            if time.monotonic() > deadline:
                raise TimeoutError(f"call {call_id} was not final within {DONE_S:.0f} s")
            for event in await store.archive.events(default(call_id), last_id, block_ms=1000):
                last_id = event.id
                final = event.kind == "call-final"
                if event.utterance is not None:
                    found[call_id].append(Stored(int(event.id.split("-")[0]) / 1000, event.utterance))
    return found


async def send_calls(
    running: Embedded, config: AppConfig, prefix: str, count: int, *, realtime: bool
) -> tuple[float, dict[str, float], dict[str, list[Stored]]]:
    """Send `count` calls side by side; seconds until the last was final, each call's start, each call's results."""
    store = Store.connect(running.settings.redis.get_secret_value())
    base = sample_fragments("bench")
    calls = [[replace(fragment, call_id=f"{prefix}-{index}") for fragment in base] for index in range(count)]
    begun = time.perf_counter()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(count) as senders:
        sending = [
            loop.run_in_executor(
                senders,
                lambda c=call, w=STAGGER_S * index * realtime: send(running.settings, config, c, w, realtime=realtime),  # type: ignore[misc]
            )
            for index, call in enumerate(calls)
        ]
        call_ids = [call[0].call_id for call in calls]
        started_s = dict(zip(call_ids, await asyncio.gather(*sending), strict=True))
        results = await finished(store, call_ids)
    elapsed_s = time.perf_counter() - begun
    await store.close()
    return elapsed_s, started_s, results


async def end_to_end(running: Embedded, config: AppConfig) -> dict[str, float]:
    """Utterances per second from the log to the store, with several calls sent at once."""
    await send_calls(running, config, "warm", 1, realtime=False)
    elapsed_s, _, results = await send_calls(running, config, "fast", CALLS_FAST, realtime=False)
    count = sum(len(stored) for stored in results.values())
    return {"utterances": count, "utterances_per_s": count / elapsed_s}


async def live(running: Embedded, config: AppConfig, calls: int) -> dict[str, float]:
    """End of speech to stored, with `calls` calls in real time side by side.

    Lag is flat when utterances stored later waited no longer than those stored earlier.
    """
    _, started_s, results = await send_calls(running, config, f"live{calls}", calls, realtime=True)
    padding_s = config.stream.segment.padding_ms / 1000
    in_order = sorted(
        ((stored, started_s[call_id]) for call_id, found in results.items() for stored in found),
        key=lambda one: one[0].at_s,
    )
    latencies = np.array([s.at_s - start_s - s.result.end_ms / 1000 + padding_s for s, start_s in in_order])
    steps: dict[str, list[float]] = {}
    for one in (stored.result for stored, _ in in_order):
        for step, elapsed_ms in one.step_ms.items():
            steps.setdefault(f"{step}_p95_ms", []).append(elapsed_ms)
    halves = [np.median(half) for half in np.array_split(latencies, 2)]
    return {
        "calls": calls,
        "utterances": latencies.size,
        "p50_s": float(np.quantile(latencies, 0.5)),
        "p95_s": float(np.quantile(latencies, 0.95)),
        "max_s": float(latencies.max()),
        "later_over_earlier_half": float(halves[1] / halves[0]),
        **{name: float(np.quantile(elapsed, 0.95)) for name, elapsed in steps.items()},
    }


def resident_mb() -> dict[str, float]:
    """Resident memory in MB of this process and of everything it started, by name; `total`, and `proportional`, their sum with
    what several processes share counted once.
    """
    parents, names, resident, shares = {}, {}, {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
            command = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            rollup = (entry / "smaps_rollup").read_text()
        except OSError:
            continue
        pid = int(entry.name)
        parents[pid], names[pid] = int(status["PPid"]), Path(command).name or status["Name"].strip()
        resident[pid] = int(status.get("VmRSS", "0 kB").split()[0]) / 1024
        shares[pid] = int(rollup.partition("\nPss:")[2].split()[0]) / 1024
    ours = {os.getpid()}
    grown = True
    while grown:
        grown = False
        for pid, parent in parents.items():
            if parent in ours and pid not in ours:
                ours.add(pid)
                grown = True
    by_name: dict[str, float] = {}
    for pid in sorted(ours):
        name = names[pid]
        while name in by_name:
            name += "'"
        by_name[name] = round(resident[pid], 1)
    total, proportional = (round(sum(of[pid] for pid in ours), 1) for of in (resident, shares))
    return by_name | {"total": total, "proportional": proportional}


async def measure() -> dict[str, Any]:
    """All figures of one run."""
    config = AppConfig(transcriber=os.environ.get("UNDERTONE_BENCH_TRANSCRIBER", AppConfig().transcriber))
    figures: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "transcriber": config.transcriber,
        "cut_2_gb": resident_growth_mb(),
        "split": split_speed(),
    }
    if data := os.environ.get("UNDERTONE_DATA"):
        figures |= pictures.measure(Path(data))
    delete_embedded_store(Settings(), PORT)
    with embedded(config, port=PORT) as running:
        figures["end_to_end"] = await end_to_end(running, config)
        for calls in CALLS_LIVE:
            found = await live(running, config, calls)
            figures[f"live_{calls}"] = found
            if found["p95_s"] > LATENCY_MAX_S or found["later_over_earlier_half"] > LAG_GROWTH_MAX:
                break
            figures["live_calls_carried"] = calls
        figures["resident_mb"] = resident_mb()
    # Only now: every network is loaded into this process, which is part of the embedded system above.
    figures["one_core"] = one_core()
    figures["bare_loop"] = await bare_loop(config)
    figures["end_to_end_over_bare_loop"] = (
        figures["end_to_end"]["utterances_per_s"] / figures["bare_loop"]["utterances_per_s"]
    )
    return figures


FLOORS: dict[str, tuple[float, str]] = {
    "one_core voice_x_real_time": (100, "at least"),
    "one_core faces_per_s": (150, "at least"),
    "one_core texts_per_s": (150, "at least"),
    "cut_2_gb grown_mb": (100, "at most"),
    "end_to_end_over_bare_loop": (0.5, "at least"),
    "live_calls_carried": (8, "at least"),
    "live_4 p95_s": (2.1, "at most"),
    "resident_mb total": (5_500, "at most"),
    "pictures_clips before_over_after": (2, "at least"),
    "pictures_call before_over_after": (2, "at least"),
    "pictures_call_rare_key_frames before_over_after": (2, "at least"),
    "checkpoint_real_networks with_over_without": (0.95, "at least"),
    "long_call grown": (1.05, "at most"),
    "many_calls grown": (1.05, "at most"),
}


def main() -> None:
    """Measure (with an argument only that part), print a table, write `bench.json`."""
    match sys.argv[1:]:
        case ["encoders"]:
            figures = {"one_core": one_core()}
        case ["engines"]:
            from tests.benchmarks import engines

            figures = engines.measure(Path(os.environ["UNDERTONE_DATA"]))
        case ["endurance"]:
            figures = asyncio.run(endurance.measure())
        case ["pictures"]:
            figures = pictures.measure(Path(os.environ["UNDERTONE_DATA"]))
        case ["interim"]:
            figures = asyncio.run(interim.measure())
        case _:
            figures = asyncio.run(measure())
    Path("bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    table = Table("figure", "value", "floor", title="undertone bench")
    for name, value in figures.items():
        for key, figure in (value if isinstance(value, dict) else {"": value}).items():
            label = f"{name} {key}".strip()
            floor, sense = FLOORS.get(label, (None, ""))
            wanted = "" if floor is None else f"{sense} {floor:g}"
            table.add_row(label, f"{figure:.3g}" if isinstance(figure, float) else str(figure), wanted)
    Console().print(table)


if __name__ == "__main__":
    main()
