import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.http.limits import HttpLimits, MediaThreads, PacedMedia
from deployments.http.problems import ProblemError


async def never() -> AsyncIterator[bytes]:
    yield b"a"
    await asyncio.Event().wait()


@pytest.mark.parametrize(("whole_max_s", "reason"), [(60.0, "idle"), (0.01, "too_slow")])
async def test_a_sender_of_little_has_no_more_time_than_a_silent_one(whole_max_s: float, reason: str) -> None:
    media = PacedMedia(never(), HttpLimits(idle_max_s=0.02), whole_max_s)

    assert await media.next() == b"a"
    with pytest.raises(ProblemError) as refused:
        await media.next()

    assert (refused.value.status, refused.value.reason) == (408, reason)


async def test_threads_that_are_closed_keep_no_seat() -> None:
    threads = MediaThreads(1, 1)
    threads.close()
    for _ in range(2):  # one that had kept it would be busy the second time
        with pytest.raises(RuntimeError):
            threads.start(bytes, "a")
