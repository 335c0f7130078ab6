"""Retries wait longer each time up to a bound, count what they waited for, and end when asked to stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Counter

from pipelines.errors import SourceUnavailableError, StoreUnavailableError
from pipelines.retry import PAUSE_FIRST_S, Retry
from tests.eventually import eventually


class Steady(Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def retrying(pause_max_s: float = 30.0) -> Retry:
    counter = Counter("retries_total", "for the test", ["reason"], registry=CollectorRegistry())
    return Retry(pause_max_s, counter, random=Steady())


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[float]]:
    """Work that raises each error in turn and then succeeds, and the times at which it was tried."""
    tried_s: list[float] = []

    async def work() -> str:
        tried_s.append(time.monotonic())
        if len(tried_s) <= len(errors):
            raise errors[len(tried_s) - 1]
        return "done"

    return work, tried_s


def counted(retry: Retry) -> dict[str, float]:
    samples = [one for family in retry.retries.collect() for one in family.samples if one.name == "retries_total"]
    return {one.labels["reason"]: one.value for one in samples}


async def test_what_succeeds_is_done_once_and_counted_nowhere() -> None:
    retry = retrying()
    work, tried_s = failing()
    assert await retry(StoreUnavailableError, work) == "done"
    assert len(tried_s) == 1
    assert counted(retry) == {}


async def test_pauses_double_up_to_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    retry = retrying(pause_max_s=4 * PAUSE_FIRST_S)
    away = StoreUnavailableError("away")
    work, tried_s = failing(away, away, away, away)
    assert await retry(StoreUnavailableError, work) == "done"
    assert [record.message for record in caplog.records] == [
        f"trying again in {pause_s} s: away" for pause_s in (0.1, 0.2, 0.4, 0.4)
    ]
    assert tried_s[-1] - tried_s[0] >= 1.1


async def test_each_retry_is_counted_by_what_was_unavailable() -> None:
    retry = retrying(pause_max_s=0)
    full = StoreUnavailableError("full", "out_of_memory")
    work, _ = failing(StoreUnavailableError("away"), full, full)
    await retry(StoreUnavailableError, work)
    work, _ = failing(SourceUnavailableError("away"))
    await retry(SourceUnavailableError, work)
    assert counted(retry) == {"store_away": 1, "store_out_of_memory": 2, "source_unavailable": 1}


async def test_it_is_known_when_something_was_last_unavailable() -> None:
    retry = retrying(pause_max_s=0)
    before_s = retry.tried_s
    work, tried_s = failing(StoreUnavailableError("away"))
    await retry(StoreUnavailableError, work)
    assert before_s < retry.tried_s
    assert tried_s[0] <= retry.tried_s <= time.monotonic()


async def test_another_error_is_raised_at_once() -> None:
    retry = retrying()
    work, tried_s = failing(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await retry(StoreUnavailableError, work)
    assert len(tried_s) == 1


async def test_being_asked_to_stop_ends_a_pause_and_raises_the_error() -> None:
    retry = retrying()
    away = StoreUnavailableError("away for long")
    work, tried_s = failing(*[away] * 100)
    trying = asyncio.create_task(retry(StoreUnavailableError, work))
    await eventually(lambda: len(tried_s) == 4)  # the next pause is 0.8 s
    asked_s = time.monotonic()
    retry.stopped.set()
    with pytest.raises(StoreUnavailableError, match="away for long"):
        await trying
    assert time.monotonic() - asked_s < 0.8
    assert len(tried_s) == 5


async def test_pauses_are_jittered_by_half() -> None:
    retry = Retry(30.0, retrying().retries, random=Random(1))
    lengths_s = []
    for _ in range(20):
        began_s = time.monotonic()
        await retry.pause(0.01)
        lengths_s.append(time.monotonic() - began_s)
    assert min(lengths_s) >= 0.005
    assert max(lengths_s) > 1.2 * min(lengths_s)
