"""Who asks: the one dependency through which every route learns whose calls a request may read, send or delete.

A token comes in the header `Authorization: Bearer …`, or, from a browser that opened the address which `undertone serve`
prints, in a cookie that no script can read and no other site's page can send (`deployments/http/browser.py`).
"""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Query, Security
from fastapi.requests import HTTPConnection
from fastapi.security import SecurityScopes

from deployments.http.access import Access, Grantee
from deployments.http.admission import client_of
from deployments.http.problems import ProblemError
from deployments.http.tokens import Scope
from pipelines.errors import UndertoneError
from pipelines.settings import AppConfig
from pipelines.store.chain import ALL_CALLS, Action, CallAccess
from pipelines.store.store import Store
from pipelines.types import NAME_PATTERN, CallRef

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECKED_AGAIN_S = 10.0
"""How often the token of an event stream or of live media is looked at again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose calls a request is about, what it may do with them, and whose token it carries."""

    tenant: str
    scopes: frozenset[Scope]
    name: str
    origin: str
    """The address that the request came from; a client's behind a proxy only where `UNDERTONE_TRUSTED_PROXIES` names the proxy."""
    note_access: Callable[[CallAccess], Awaitable[None]] = field(repr=False, compare=False)
    check_again: Callable[[], Awaitable[Grantee]] = field(repr=False, compare=False)
    """Raises as `identify` does once the token is revoked or has expired."""

    async def note(self, action: Action, call_id: str = ALL_CALLS, detail: str = "") -> None:
        """Note in the tenant's trail of accesses what this caller is about to see or do: first this, then show or do it.

        `detail` says in a few words what of the call it is, and holds none that was spoken.

        Raises:
            StoreUnavailableError: it cannot be noted, so that nothing may be shown.
        """
        await self.note_access(CallAccess(action, CallRef(self.tenant, call_id), self.name, self.origin, detail))


async def identify(
    connection: HTTPConnection,
    wanted: SecurityScopes,
    tenant: Annotated[
        str | None,
        Query(pattern=NAME_PATTERN, description="By default the token's, else `default`.", examples=["default"]),
    ] = None,
) -> Identity:
    """The holder of the request's token, who must have the scopes that the route asks for.

    Raises:
        ProblemError: the token is missing or not taken (401), not enough (403), or there were too many wrong ones (429).
        TokenFileError, IdentityProviderError: what would know it does not answer.
    """
    access: Access = connection.app.state.access
    client = client_of(connection)
    token = _token(connection)

    async def granted() -> Grantee:
        found = await access.grantee(token, client)
        found.require(wanted.scopes)
        return found

    grantee = await granted()
    origin = "local" if connection.client is None else connection.client.host
    note_access = connection.app.state.note_access
    return Identity(grantee.tenant_of(tenant), grantee.scopes, grantee.name, origin, note_access, granted)


def noted_in(store: Store, config: AppConfig) -> Callable[[CallAccess], Awaitable[None]]:
    """What an API holds as `state.note_access`: the trails of a store, each kept as long as its tenant is configured to."""

    async def note(access: CallAccess) -> None:
        await store.accesses.note(access, config.tenant(access.call.tenant).accesses_ttl_s)

    return note


async def while_granted(items: AsyncGenerator[T, None], caller: Identity) -> AsyncGenerator[T, None]:
    """The items, until the caller's token is revoked or has expired: a stream may go on for a day."""
    checked_s = time.monotonic()
    async with contextlib.aclosing(items):
        async for item in items:
            if time.monotonic() - checked_s > CHECKED_AGAIN_S:
                try:
                    await caller.check_again()
                except ProblemError:
                    return
                except UndertoneError as error:  # what would know it is away: it is asked again
                    logger.warning("a token could not be checked again: %s", error)
                checked_s = time.monotonic()
            yield item


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """The token in the header `Authorization`; where there is one, no cookie is looked at."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _token(connection: HTTPConnection) -> str | None:
    return bearer_token(connection.headers) or connection.cookies.get(cookie_name(connection)) or None


def cookie_name(connection: HTTPConnection) -> str:
    """Cookies are one jar for all ports of a host (RFC 6265, 8.5): each gateway has its own."""
    server = connection.scope.get("server")
    return f"undertone_{server[1] if server else 'default'}"


Reader = Annotated[Identity, Security(identify, scopes=["read"])]
"""The type of a route's parameter: `caller: Reader`."""
Sender = Annotated[Identity, Security(identify, scopes=["send"])]
Analyst = Annotated[Identity, Security(identify, scopes=["analyze"])]
Deleter = Annotated[Identity, Security(identify, scopes=["delete"])]
Operator = Annotated[Identity, Security(identify, scopes=["operate"])]
