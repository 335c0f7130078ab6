"""Back-pressure through Ray Serve: without it the proxy and the replica buffer without bound (Ray 2.60).

The proxy reads a body or a WebSocket as fast as it comes and buffers it until the replica asks, which it does at once,
whether the application reads or not. `BoundedProxy` is a middleware of the proxy that reads on only when the replica has
taken what came; `BoundedReplica` wraps the application and takes more only when that has read what came.
"""

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from ray.serve._private.http_util import ASGIReceiveProxy  # the one place that can wait; Ray is pinned to 2.60
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serve.connections import ConnectionLimits, bound_connections
from pipelines.settings import Settings

HELD_MAX_BYTES = 1 << 20
"""Of one connection, in the proxy: beyond it no further message is read."""
HELD_MAX_MESSAGES = 8
"""Of one connection, in the replica: beyond it no further batch is asked for."""


class _Held(dict[str, Any]):
    """A message that can be watched; elsewhere it is a plain one."""

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class _Room:
    """Counts the bytes of messages from when they are read until they are freed in this process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._held_bytes = 0
        self._free = asyncio.Event()
        self._free.set()

    async def read(self, receive: Receive) -> Message:
        await self._free.wait()
        message = _Held(await receive())
        count = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        self._hold(count)
        weakref.finalize(message, self._loop.call_soon_threadsafe, self._hold, -count).atexit = False
        return message

    def _hold(self, count: int) -> None:
        self._held_bytes += count
        if self._held_bytes < HELD_MAX_BYTES:
            self._free.set()
        else:
            self._free.clear()


class BoundedProxy:
    """What `middlewares` gives to the proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        room = _Room()
        await self._app(scope, lambda: room.read(receive), send)


class BoundedReplica:
    """Around the application that a replica serves; does nothing to one that is served otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        await self._app(scope, _bounded(receive) if isinstance(receive, ASGIReceiveProxy) else receive, send)


def _bounded(received: ASGIReceiveProxy) -> Receive:
    fetch: Callable[..., Any] = received._receive_asgi_messages  # noqa: SLF001
    read = asyncio.Event()

    async def fetch_when_read(*arguments: Any) -> Any:
        while received.queue.qsize() > HELD_MAX_MESSAGES:
            read.clear()
            await read.wait()
        return await fetch(*arguments)

    async def receive() -> Message:
        message: Message = await received()
        read.set()
        return message

    received._receive_asgi_messages = fetch_when_read  # noqa: SLF001
    return receive


def middlewares() -> list[Middleware]:
    """What `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.serve.back_pressure:middlewares` gives the proxy.

    It is called before the proxy listens, so that its connections can be bounded here, too.
    """
    settings = Settings()
    bound_connections(
        ConnectionLimits(
            connections_max=settings.connections_max,
            connections_per_client_max=settings.connections_per_client_max,
            trusted_proxies=settings.trusted_proxies,
        )
    )
    return [Middleware(BoundedProxy)]
