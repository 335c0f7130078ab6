"""Who may have how much at once: requests, watchers, streams of media; of one client, and of all together."""

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.problems import RETRY_AFTER_S, ProblemError, problem_of, problem_response

ALWAYS_ADMITTED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Whoever watches over the service must see it when it is busy; each ends by itself within seconds."""


def client_of(connection: HTTPConnection) -> str:
    """Whose account a request goes to: its address; of IPv6 the network of 64 bits, all of which one customer has.

    Behind a reverse proxy this is the client's address only where `UNDERTONE_TRUSTED_PROXIES` names the proxy.
    """
    return "local" if connection.client is None else client_at(connection.client.host)


def client_at(host: str) -> str:
    """The same of an address; what is none is a client of its own."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.version == 6:  # where both are listened to, one of IPv4 comes as ::ffff:a.b.c.d
            return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host


class Seats:
    """A number of places, of which one client gets a part."""

    def __init__(self, max_in_all: int, max_per_client: int, *, reason: str, what: str) -> None:
        """`reason` is the problem's word where none is free, `what` they are in its sentence."""
        self._max_in_all, self._max_per_client = max_in_all, max_per_client
        self._reason, self._what = reason, what
        self._taken: Counter[str] = Counter()
        self._taken_in_all = 0

    def take(self, client: str) -> Callable[[], None]:
        """Takes one; the function that is returned gives it back.

        Raises:
            ProblemError: the client has as many as it may (429), or all are taken (503).
        """
        if self._taken[client] >= self._max_per_client:
            raise self._refusal(HTTPStatus.TOO_MANY_REQUESTS, f"{self._max_per_client} {self._what} of one client")
        if self._taken_in_all >= self._max_in_all:
            raise self._refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self._max_in_all} {self._what}")
        self._taken[client] += 1
        self._taken_in_all += 1
        return lambda: self._give_back(client)

    @contextlib.contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """One of them, as long as the block lasts; raises as `take`."""
        give_back = self.take(client)
        try:
            yield
        finally:
            give_back()

    def _give_back(self, client: str) -> None:
        self._taken[client] -= 1
        self._taken_in_all -= 1
        if not self._taken[client]:
            del self._taken[client]

    def _refusal(self, status: HTTPStatus, how_many: str) -> ProblemError:
        detail = (
            f"{how_many} go on, which is as many as this gateway takes at once; try again in {RETRY_AFTER_S[status]} s"
        )
        return ProblemError(status, self._reason, detail)


class Admission:
    """A middleware that refuses requests over the limit at once, so that none waits behind those of another client."""

    def __init__(self, app: ASGIApp, requests: Seats) -> None:
        """`requests` are the places of requests that go on, streams included."""
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection; a WebSocket is closed before it is accepted, which is answered by 403."""
        if scope["type"] not in {"http", "websocket"} or scope["path"] in ALWAYS_ADMITTED:
            await self._app(scope, receive, send)
            return
        try:
            give_back = self._requests.take(client_of(HTTPConnection(scope)))
        except ProblemError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1013, "reason": error.reason})
                return
            headers = {"Retry-After": RETRY_AFTER_S[error.status], "Connection": "close"}
            await problem_response(problem_of(error, scope["path"]), headers)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            give_back()
