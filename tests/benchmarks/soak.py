"""`make soak MINUTES=10`: live calls without a pause through the whole system; memory, lag and latency over time as a picture.

Each line plays the sample call again and again in real time. Every five seconds the resident memory of each process is
read, and what of the calls was stored how late. A slope that is not about zero is a leak, or a backlog that grows.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from deployments.serve.embedded import Embedded, delete_embedded_store, embedded
from pipelines.settings import AppConfig, Settings
from pipelines.store.store import Store
from tests.benchmarks.bench import PORT, resident_mb, sample_fragments, send

LINES = 6
STAGGER_S = 2.7
SAMPLE_S = 5.0
WARM_S = 120.0
"""The first two calls of each line fill caches and pools; slopes are taken after them."""
PICTURE, FIGURES = Path("soak.png"), Path("soak.json")


def play(running: Embedded, config: AppConfig, line: int, ends_s: float) -> int:
    """Calls of one line, one after the other, until the time is over."""
    base, played = sample_fragments("soak"), 0
    time.sleep(STAGGER_S * line)
    while time.monotonic() < ends_s:
        call = [replace(fragment, call_id=f"soak-{line}-{played}") for fragment in base]
        send(running.settings, config, call, 0.0, realtime=True)
        played += 1
    return played


async def look(store: Store) -> dict[str, float]:
    """What the workers say of themselves."""
    sums = {
        "lag_records": 0.0,
        "streams_open": 0.0,
        "stored_latency_seconds_sum": 0.0,
        "stored_latency_seconds_count": 0.0,
    }
    for text in (await store.service.metrics()).values():
        for line in text.splitlines():
            name = line.split("{")[0].split(" ")[0].removeprefix("undertone_")
            if name in sums:
                sums[name] += float(line.rsplit(" ", 1)[1])
    return sums


async def watch(running: Embedded, minutes: float, stopped: threading.Event) -> list[dict[str, Any]]:
    """A sample every five seconds."""
    samples: list[dict[str, Any]] = []
    store, begun_s = Store.connect(running.settings.redis.get_secret_value()), time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("soaking", total=minutes * 60)
        while not stopped.is_set():
            memory = resident_mb()
            seen = await look(store)
            at_s = time.monotonic() - begun_s
            samples.append({"at_s": at_s, "resident_mb": memory, **seen})
            progress.update(task, completed=at_s)
            await asyncio.sleep(SAMPLE_S)
    await store.close()
    return samples


def figures(samples: list[dict[str, Any]], calls: int) -> dict[str, Any]:
    """Slopes after the warm-up: memory in MB an hour, and how latency and lag of the halves compare.

    Redis stands apart: it keeps results for 30 days, and the embedded log until its 64 MB are needed.
    """
    settled = [one for one in samples if one["at_s"] >= WARM_S]
    at_h = np.array([one["at_s"] for one in settled]) / 3600
    store = np.array([sum(mb for name, mb in one["resident_mb"].items() if "redis" in name) for one in settled])
    totals = np.array([sum(one["resident_mb"].values()) for one in settled]) - store
    latencies = []
    for half in np.array_split(np.arange(len(settled)), 2):
        first, last = settled[half[0]], settled[half[-1]]
        count = last["stored_latency_seconds_count"] - first["stored_latency_seconds_count"]
        total = last["stored_latency_seconds_sum"] - first["stored_latency_seconds_sum"]
        latencies.append(total / count if count else float("nan"))
    lags = [
        float(np.mean([settled[index]["lag_records"] for index in half]))
        for half in np.array_split(np.arange(len(settled)), 2)
    ]
    return {
        "minutes": round(samples[-1]["at_s"] / 60, 1),
        "lines": LINES,
        "calls": calls,
        "resident_mb": round(float(totals[-1]), 1),
        "resident_slope_mb_per_h": round(float(np.polyfit(at_h, totals, 1)[0]), 1),
        "redis_slope_mb_per_h": round(float(np.polyfit(at_h, store, 1)[0]), 1),
        "resident_last_over_first": round(float(np.mean(totals[-12:]) / np.mean(totals[:12])), 4),
        "latency_s": [round(latency, 3) for latency in latencies],
        "lag_records": [round(lag, 2) for lag in lags],
    }


def picture(samples: list[dict[str, Any]], path: Path) -> None:
    """Memory by process, lag and mean latency over time."""
    import matplotlib as mpl  # noqa: PLC0415  # of the training group

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    at_min = [one["at_s"] / 60 for one in samples]
    drawn, (memory, lag, late) = plt.subplots(3, 1, figsize=(9, 9), sharex=True, layout="constrained")
    for name in sorted({name for one in samples for name in one["resident_mb"]}):
        series = [one["resident_mb"].get(name) for one in samples]
        if max(filter(None, series)) > 50:
            memory.plot(at_min, [np.nan if value is None else value for value in series], label=name[-28:])
    memory.set_ylabel("resident memory, MB")
    memory.legend(fontsize=6, ncols=3)
    lag.plot(at_min, [one["lag_records"] for one in samples])
    lag.set_ylabel("records not yet read")
    counts = np.diff([one["stored_latency_seconds_count"] for one in samples])
    sums = np.diff([one["stored_latency_seconds_sum"] for one in samples])
    late.plot(at_min[1:], np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0), ".")
    late.set_ylabel("end of speech to stored, s")
    late.set_xlabel("minutes")
    drawn.savefig(path, dpi=110)


def main() -> None:
    """Soak for `--minutes`; writes soak.json and soak.png, prints the figures as JSON."""
    parser = argparse.ArgumentParser(description="Live calls without a pause through the whole system.")
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    config = AppConfig()
    delete_embedded_store(Settings(), PORT)
    with embedded(config, port=PORT) as running, ThreadPoolExecutor(LINES) as lines:
        ends_s, stopped = time.monotonic() + minutes * 60, threading.Event()
        playing = [lines.submit(play, running, config, line, ends_s) for line in range(LINES)]

        def end() -> None:
            wait(playing)
            stopped.set()

        threading.Thread(target=end).start()
        samples = asyncio.run(watch(running, minutes, stopped))
        found = figures(samples, sum(one.result() for one in playing))
    FIGURES.write_text(json.dumps({**found, "samples": samples}) + "\n")
    picture(samples, PICTURE)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
