"""A TCP connection that can be cut: bytes stop without a word, as when a cable is pulled, and go on when it is plugged in."""

import asyncio
import contextlib
import threading


class Proxy:
    """Forwards `127.0.0.1:port` to a target port; runs on a thread of its own."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port = target_port
        self.delay_s = 0.0
        """How long the target's answers take more."""
        self._loop = asyncio.new_event_loop()
        self._through = asyncio.Event()
        self._through.set()
        self._pumps: set[asyncio.Task[None]] = set()
        started = threading.Event()
        threading.Thread(target=self._run, args=(port, started), daemon=True).start()
        started.wait()

    def cut(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        self._loop.call_soon_threadsafe(self._through.clear)

    def heal(self) -> None:
        """Everything goes on, also what was under way."""
        self._loop.call_soon_threadsafe(self._through.set)

    def close(self) -> None:
        """End every connection."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, port: int, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", port))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._through.wait()
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        for source, sink, answers in ((reader, there[1], False), (there[0], writer, True)):
            pump = asyncio.create_task(self._pump(source, sink, answers=answers))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(1 << 16):
                await self._through.wait()
                await asyncio.sleep(self.delay_s * answers)
                sink.write(chunk)
                await sink.drain()
        with contextlib.suppress(OSError):
            sink.close()

    async def _close(self) -> None:
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
