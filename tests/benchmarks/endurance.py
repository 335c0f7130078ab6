"""What nothing-lost costs, and whether a worker's memory stays flat: over a long call, and over many.

The calls are made here (vowels and pauses) and judged at once, so that the worker itself is what is measured; the
checkpoint's share is also taken with the real networks.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from deployments.serve.embedded import local_analyser
from deployments.serve.embedded_redis import embedded_redis
from pipelines.checkpoints import NOTHING_COUNTED, Checkpoint, Counted, ResumePoint, TrackCut
from pipelines.ingest.worker import Worker
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store.keys import CallKeys
from pipelines.store.ledger import Ledger, StreamId
from pipelines.store.queries import CallState
from pipelines.store.store import Store
from pipelines.types import CallRef, Coordinates, MediaFragment, Participant, Utterance, UtteranceSentiment
from tests.eventually import eventually
from tests.pipelines.conftest import vowels_of
from tests.pipelines.working import call, judge, running, send, speech

ROUNDS = 16
LONG_CALL_MIN = 120
SETTLED_MIN = 5
MANY_CALLS = 1_000
MANY_SETTLED = 50
MEDIA_S = 20
DONE_S = 300.0

Analyse = Callable[[Utterance], Awaitable[UtteranceSentiment]]


class _NoLedger(Ledger):
    """Notes nothing."""

    async def mark_in_progress(self, at: Coordinates, worker: str, ended: Iterable[int] = ()) -> int:
        del at, worker, ended
        return 1

    async def clear_in_progress(self, partition: int, worker: str, ended: Iterable[int]) -> None:
        del partition, worker, ended

    async def note_open(self, partition: int, note: StreamId) -> None:
        del partition, note

    async def forget_open(self, partition: int, note: StreamId) -> None:
        del partition, note


class PlainStore(Store):
    """Writes results and nothing that would let another worker go on: what a system without checkpoints does."""

    def __init__(self, client: Any, run: str = "live") -> None:
        super().__init__(client, run)
        self.ledger = _NoLedger(client, run)

    async def open_stream(
        self,
        call: CallRef,
        stream: str,
        owner: str,
        started_at_ms: int,
        *,
        partition: int = 0,
        offset: int | None = None,
    ) -> Checkpoint:
        del call, stream, owner, started_at_ms, partition, offset
        return Checkpoint({}, None, None, None, final=False)

    async def advance(
        self,
        first: MediaFragment,
        *,
        owner: str,
        participant: Participant,
        expected_cut_sample: int,
        new: TrackCut,
        resume: ResumePoint,
        result: UtteranceSentiment | None,
        ttl_s: int,
        counted: Counted = NOTHING_COUNTED,
    ) -> None:
        del owner, participant, expected_cut_sample, new, resume, ttl_s, counted
        if result is not None:
            keys = CallKeys(first.call)
            await self._redis.hset(keys("results"), result.utterance_id, result.model_dump_json())

    async def set_state(
        self, call: CallRef, stream: str, state: CallState, *, owner: str, counted: Counted = NOTHING_COUNTED
    ) -> None:
        del call, stream, state, owner, counted

    async def count(self, call: CallRef, stream: str, counted: Counted, *, owner: str | None) -> None:
        del call, stream, counted, owner

    async def epoch(self) -> str:
        return "one"


@asynccontextmanager
async def _worker(url: str, store: Store, analyse: Analyse) -> AsyncIterator[Worker]:
    worker = Worker(
        source=RedisStreamSource(url),
        producer=RedisStreamProducer(url),
        store=store,
        analyse=analyse,
        # What is not committed stays in the log, which holds 64 MB.
        config=AppConfig(worker=WorkerSettings(commit_delay_s=0)),
        owner=f"bench-{time.monotonic_ns()}",
    )
    async with running(worker, store):
        yield worker


def _has_analysed(worker: Worker, fragments: int) -> bool:
    return bool(worker.metrics.fragments_analysed._value.get() >= fragments)


async def _through(worker: Worker, fragments: int) -> None:
    """Until that many fragments are analysed and nothing is under way."""
    async with asyncio.timeout(DONE_S):
        while not (_has_analysed(worker, fragments) and worker.idle):
            await asyncio.sleep(0.002)


async def checkpoint_share(
    analyse: Analyse, calls: int, make: Callable[[str], list[MediaFragment]]
) -> dict[str, float]:
    """Fragments per second with the checkpoint over those without it; the two take turns, on one log and one Redis.

    The quartiles of the ratios of neighbouring turns, after one round that is not counted: turns are short, because
    the speed of a shared machine drifts.
    """
    elapsed_s: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory(prefix="ut") as folder, embedded_redis(Path(folder)) as url:
        for turn in range(2 * ROUNDS + 2):
            kind = ("with", "without")[(turn + turn // 2) % 2]
            store = Store.connect(url) if kind == "with" else PlainStore.connect(url)
            batch = [one for index in range(calls) for one in make(f"{kind}-{turn}-{index}")]
            await asyncio.to_thread(send, RedisStreamProducer(url), batch)
            async with _worker(url, store, analyse) as worker:
                started = time.perf_counter()
                await _through(worker, len(batch))
                elapsed_s[kind].append(time.perf_counter() - started)
    pairs = zip(elapsed_s["without"][1:], elapsed_s["with"][1:], strict=True)
    lower, middle, upper = quantiles((without / own for without, own in pairs), method="inclusive")
    return {
        "calls": calls,
        "rounds": ROUNDS,
        "with_over_without": middle,
        "lower_quartile": lower,
        "upper_quartile": upper,
    }


async def long_call() -> dict[str, float]:
    """Resident memory of a worker at minute 5 and minute 120 of one call."""
    sound, resident = speech(vowels_of), dict[int, float]()
    window = call(sound, "long")
    with tempfile.TemporaryDirectory(prefix="ut") as folder, embedded_redis(Path(folder)) as url:
        producer = RedisStreamProducer(url)
        async with _worker(url, Store.connect(url), judge) as worker:
            for minute in range(1, LONG_CALL_MIN + 1):
                fragments = [
                    replace(window[second % MEDIA_S], seq=second, start_ms=second * 1000, final=False)
                    for second in range((minute - 1) * 60, minute * 60)
                ]
                await asyncio.to_thread(send, producer, fragments)
                await eventually(partial(_has_analysed, worker, minute * 60), DONE_S)
                resident[minute] = resident_mb()
    return {
        f"minute_{SETTLED_MIN}_mb": resident[SETTLED_MIN],
        f"minute_{LONG_CALL_MIN}_mb": resident[LONG_CALL_MIN],
        "grown": resident[LONG_CALL_MIN] / resident[SETTLED_MIN],
    }


async def many_calls() -> dict[str, float]:
    """Resident memory of a worker after 50 and after 1,000 calls, one after the other."""
    sound, resident = speech(vowels_of), dict[int, float]()
    with tempfile.TemporaryDirectory(prefix="ut") as folder, embedded_redis(Path(folder)) as url:
        producer = RedisStreamProducer(url)
        async with _worker(url, Store.connect(url), judge) as worker:
            for number in range(1, MANY_CALLS + 1):
                await asyncio.to_thread(send, producer, call(sound, f"call-{number}"))
                await _through(worker, number * MEDIA_S)
                resident[number] = resident_mb()
    return {
        f"after_{MANY_SETTLED}_mb": resident[MANY_SETTLED],
        f"after_{MANY_CALLS}_mb": resident[MANY_CALLS],
        "grown": resident[MANY_CALLS] / resident[MANY_SETTLED],
    }


async def measure() -> dict[str, Any]:
    """All of it, some minutes."""
    sound = speech(vowels_of)
    analyser = local_analyser(
        AppConfig(transcriber=os.environ.get("UNDERTONE_BENCH_TRANSCRIBER", AppConfig().transcriber))
    )
    return {
        "checkpoint_real_networks": await checkpoint_share(analyser, 2, lambda name: call(sound, name)),
        "checkpoint_judged_at_once": await checkpoint_share(judge, 5, lambda name: call(sound, name)),
        "long_call": await long_call(),
        "many_calls": await many_calls(),
    }


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(np.round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))
