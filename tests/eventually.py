"""Waiting for what happens elsewhere: the one polling loop of the tests, with a deadline."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

DEADLINE_S = 60.0
PAUSE_S = 0.01


@overload
async def eventually(condition: Callable[[], Awaitable[T]], deadline_s: float = ...) -> T: ...


@overload
async def eventually(condition: Callable[[], T], deadline_s: float = ...) -> T: ...


async def eventually(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """What `condition` returns (or its coroutine), once that is true.

    Raises:
        AssertionError: it did not come within `deadline_s`; the message has the condition's source and last value.
    """
    end_s = time.monotonic() + deadline_s
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        assert time.monotonic() < end_s, _late(condition, value, deadline_s)
        await asyncio.sleep(PAUSE_S)


def wait_until(condition: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """`eventually` for a test without an event loop."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end_s, _late(condition, value, deadline_s)
        time.sleep(PAUSE_S)


def _late(condition: Callable[[], object], value: object, deadline_s: float) -> str:
    return f"not within {deadline_s} s, last {value!r}: {inspect.getsource(condition).strip()}"
