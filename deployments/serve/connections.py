"""What one connection may hold before and between its requests; uvicorn, which Ray Serve's proxy is, bounds none of it.

uvicorn waits for ever for the end of a request's head, for the first byte of a new connection, and for a client that does not
read its answer.
"""

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import uvicorn.protocols.http.auto
from uvicorn.middleware.proxy_headers import _TrustedHosts
from uvicorn.protocols.http.h11_impl import H11Protocol

from deployments.http.admission import client_at

_OTHER_FILES = 256
"""What the process needs besides connections."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may take; those of one client (`admission.client_at`) are counted, unless it is a trusted proxy."""

    connections_max: int = 4_096
    """Fewer where the process may not open as many files."""
    connections_per_client_max: int = 512
    head_max_s: float = 20.0
    """How long the head of a request may take, from the connection's begin or, of a later request, its first byte."""
    idle_max_s: float = 60.0
    """How long a connection may stand idle between two requests, and a client not read its answer."""
    trusted_proxies: str = ""
    """Addresses and networks, with commas between."""


class BoundedConnection(H11Protocol):
    """uvicorn's, with an end to every wait, and to how many there are; `bound_connections` makes the class that is used."""

    limits = ConnectionLimits()
    trusted: _TrustedHosts
    open_by_client: Counter[str]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A connection begins; one too many ends at once."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self.timeout_keep_alive = min(self.timeout_keep_alive, round(self.limits.idle_max_s))
        address = self.client[0] if self.client else "local"
        trusted = address in self.trusted
        self._peer = address if trusted else client_at(address)
        self._counted = True
        self.open_by_client[self._peer] += 1
        of_client = 0 if trusted else self.open_by_client[self._peer]
        if (
            of_client > self.limits.connections_per_client_max
            or self.open_by_client.total() > self.limits.connections_max
        ):
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection has ended."""
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes come: of a request that goes on, or of the head of the next."""
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            return  # a WebSocket's now; nothing here would stop a timer
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._await_head()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.idle_max_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._stop(self._write_timer)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """The connection goes to another protocol, with whose end it ends."""
        self._stop(self._head_timer)
        super().handle_websocket_upgrade(event)
        protocol: Any = self.transport.get_protocol()
        if protocol is not self:
            protocol.connection_lost = self._releasing(protocol.connection_lost)

    def _releasing(self, lost: Callable[[Exception | None], None]) -> Callable[[Exception | None], None]:
        def connection_lost(exc: Exception | None) -> None:
            self._release()
            lost(exc)

        return connection_lost

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_max_s, self.transport.abort)

    def _release(self) -> None:
        self._stop(self._head_timer)
        self._stop(self._write_timer)
        if self._counted:
            self._counted = False
            self.open_by_client[self._peer] -= 1
            if not self.open_by_client[self._peer]:
                del self.open_by_client[self._peer]

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def bound_connections(limits: ConnectionLimits) -> None:
    """Make every uvicorn of this process that starts from now on bound its connections so, and believe no other proxy."""
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    class Connection(BoundedConnection):
        """Those of this call."""

    Connection.limits = replace(limits, connections_max=max(min(limits.connections_max, files_max - _OTHER_FILES), 1))
    Connection.trusted = _TrustedHosts(limits.trusted_proxies)
    Connection.open_by_client = Counter()
    uvicorn.protocols.http.auto.AutoHTTPProtocol = Connection
    # Else it takes the client's address from a header of whoever comes from this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = limits.trusted_proxies
