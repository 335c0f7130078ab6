import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from deployments.http.bodies import MediaMetadata
from deployments.http.limits import HttpLimits, MediaThreads
from deployments.http.problems import ProblemError
from deployments.http.reservations import Reservation
from deployments.http.uploads import CHUNKS_WAITING_MAX, ByteBridge, Intake, LogWriter
from pipelines.errors import MediaError, SourceUnavailableError
from pipelines.media.byte_stream import SpoolBudget
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.seal import Seal
from pipelines.settings import AppConfig
from pipelines.types import TOPIC_MEDIA, CallRef, Headers
from tests.eventually import eventually
from tests.pipelines.stored import fragment


async def test_a_slow_reader_slows_the_sender_and_misses_nothing() -> None:
    bridge, may_read = ByteBridge(), threading.Event()
    sent = 0

    def read() -> list[bytes]:
        may_read.wait()
        return list(bridge)

    async def send() -> None:
        nonlocal sent
        for number in range(3 * CHUNKS_WAITING_MAX):
            await bridge.put(bytes([number]))
            sent += 1
        bridge.end()

    reading, sending = asyncio.create_task(asyncio.to_thread(read)), asyncio.create_task(send())
    await eventually(lambda: sent == CHUNKS_WAITING_MAX)
    assert not sending.done()
    may_read.set()

    assert await reading == [bytes([number]) for number in range(3 * CHUNKS_WAITING_MAX)]
    await sending


async def test_what_ends_the_media_reaches_the_reader_after_what_came_before() -> None:
    bridge = ByteBridge()
    await bridge.put(b"a")
    bridge.end(MediaError("the sender went away"))
    chunks = iter(bridge)

    assert next(chunks) == b"a"
    with pytest.raises(MediaError, match="went away"):
        next(chunks)


class Log:
    """A log that keeps what is flushed, from one thread only, and can lose what waits."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.threads: set[int] = set()
        self.lose = False
        self._waiting: list[str] = []

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        del topic, value, headers
        self.threads.add(threading.get_ident())
        self._waiting.append(key)

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self.lose:
            raise SourceUnavailableError("a record was not acknowledged")
        self.kept += waiting

    def close(self) -> None: ...


async def test_many_threads_write_through_one_and_wait_for_what_they_wrote() -> None:
    log = Log()
    writer = LogWriter(log)

    counts = await asyncio.gather(
        *(asyncio.to_thread(writer.append, [fragment(name)] * 3) for name in ("a", "b", "c", "d"))
    )
    writer.close()

    assert counts == [3, 3, 3, 3]
    assert sorted(log.kept) == sorted(["a", "b", "c", "d"] * 3)
    assert len(log.threads) == 1


async def test_who_begins_after_a_loss_is_not_told_of_it() -> None:
    log = Log()
    writer = LogWriter(log)
    log.lose = True
    with pytest.raises(SourceUnavailableError, match="not acknowledged"):
        await asyncio.to_thread(writer.append, [fragment("a")])
    log.lose = False

    assert await asyncio.to_thread(writer.append, [fragment("b")]) == 1
    assert log.kept == ["b"]
    writer.close()


@pytest.mark.parametrize(("live", "ends"), [(False, "idle"), (True, None)])
async def test_an_upload_slower_than_any_call_ends_and_a_live_stream_may_be_nearly_silent(
    *, live: bool, ends: str | None
) -> None:
    limits = HttpLimits(idle_max_s=2, idle_min_bytes=1, upload_min_bytes=1 << 20)
    intake = Intake(MediaThreads(1, 1), DecoderProcesses(), LogWriter(Log()), limits, AppConfig(), SpoolBudget(0))

    held = Reservation("a-word-of-the-sender", Seal.new(CallRef("default", "c"), TOPIC_MEDIA))

    async def drip() -> AsyncIterator[bytes]:
        end_s = time.monotonic() + 2 * limits.idle_max_s
        while time.monotonic() < end_s:
            yield bytes(80)
            await asyncio.sleep(0.01)

    taken = intake.take(
        drip(), MediaMetadata(participants="customer"), "c", "audio/PCMU;rate=8000", held=held, client="a", live=live
    )
    if ends is None:
        assert await taken > 0
    else:
        with pytest.raises(ProblemError) as refused:
            await taken
        assert (refused.value.status, refused.value.reason) == (408, ends)
    intake.threads.close()
    intake.writer.close()
