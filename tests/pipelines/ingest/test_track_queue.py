import asyncio
from functools import partial

import numpy as np

from pipelines.checkpoints import TrackCut
from pipelines.ingest.track_queue import TrackQueue
from pipelines.media.call_stream import TrackEvent
from pipelines.settings import WorkerSettings
from pipelines.types import Participant, Utterance, UtteranceSentiment
from tests.eventually import eventually
from tests.pipelines.ingest.contexts import context
from tests.pipelines.working import counter, judge


def event(start_ms: int, *, spoken: bool = True) -> TrackEvent:
    utterance = Utterance(
        call_id="c",
        tenant="default",
        stream="phone",
        participant=Participant.CUSTOMER,
        start_ms=start_ms,
        end_ms=start_ms + 100,
        consent=frozenset(),
        samples=np.zeros(0, np.float32),
    )
    return TrackEvent(Participant.CUSTOMER, start_ms * 16, 0, utterance if spoken else None)


async def test_results_are_stored_in_order_however_long_each_takes(redis_url: str) -> None:
    gates = {start_ms: asyncio.Event() for start_ms in (0, 200)}

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gates[utterance.start_ms].wait()
        return await judge(utterance)

    stored: list[tuple[int, bool]] = []

    async def store(event: TrackEvent, result: UtteranceSentiment | None) -> None:
        stored.append((event.cut_sample, result is not None))

    made = context(redis_url, hold)
    queue = TrackQueue(TrackCut(0, 0), made)
    for one in (event(0), event(100, spoken=False), event(200)):
        queue.put(one, 0.0)
    assert counter(made.metrics.in_flight) == 2
    gates[200].set()
    storing = asyncio.create_task(queue.store_next(store))
    await asyncio.sleep(0)
    assert stored == []
    gates[0].set()
    await storing
    for _ in range(2):
        await queue.store_next(store)
    await queue.join()
    assert stored == [(0, True), (1600, False), (3200, True)]
    assert counter(made.metrics.in_flight) == 0


async def test_only_so_many_are_analysed_ahead(redis_url: str) -> None:
    begun: list[int] = []

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        begun.append(utterance.start_ms)
        await asyncio.Event().wait()
        return await judge(utterance)

    queue = TrackQueue(TrackCut(0, 0), context(redis_url, hold, WorkerSettings(ahead_per_track=2)))
    for number in range(4):
        queue.put(event(100 * number), 0.0)
    await eventually(partial(begun.__len__))
    await asyncio.sleep(0)
    assert begun == [0, 100]
    queue.cancel()


async def test_what_is_dropped_or_not_stored_is_not_in_flight_any_more(redis_url: str) -> None:
    async def refuse(event: TrackEvent, result: UtteranceSentiment | None) -> None:
        del event, result
        raise RuntimeError("refused")

    made = context(redis_url)
    queue = TrackQueue(TrackCut(0, 0), made)
    for number in range(3):
        queue.put(event(100 * number), 0.0)
    failed = asyncio.create_task(queue.store_next(refuse))
    await asyncio.wait([failed])
    assert isinstance(failed.exception(), RuntimeError)
    assert counter(made.metrics.in_flight) == 2
    queue.cancel()
    assert counter(made.metrics.in_flight) == 0
    assert made.in_flight.freed.is_set()
