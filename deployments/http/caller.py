"""Who asks: the one dependency through which every route learns whose calls a request may read, send or delete.

A token comes in the header `Authorization: Bearer …`, or, from a browser that opened the address which `undertone serve`
prints, in a cookie that no script can read and no other site's page can send (`deployments.http.login`).
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query, Security
from fastapi.requests import HTTPConnection
from fastapi.security import SecurityScopes

from deployments.http.access import Access
from deployments.http.tokens import Scope
from pipelines.types import NAME_PATTERN, CallRef


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose calls a request is about, what it may do with them, and whose token it carries."""

    tenant: str
    scopes: frozenset[Scope]
    name: str

    def call(self, call_id: str) -> CallRef:
        """The tenant's call of that id."""
        return CallRef(self.tenant, call_id)


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
    client = connection.client.host if connection.client else "unknown"
    grantee = await access.grantee(_token(connection), client)
    grantee.require(wanted.scopes)
    return Identity(grantee.tenant_of(tenant), grantee.scopes, grantee.name)


def _token(connection: HTTPConnection) -> str | None:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return connection.cookies.get(cookie_name(connection)) or None


def cookie_name(connection: HTTPConnection) -> str:
    """Cookies are one jar for all ports of a host (RFC 6265, 8.5): each gateway has its own."""
    return f"undertone_{connection.url.port or 'default'}"


Reader = Annotated[Identity, Security(identify, scopes=["read"])]
"""The type of a route's parameter: `caller: Reader`."""
Sender = Annotated[Identity, Security(identify, scopes=["send"])]
Analyst = Annotated[Identity, Security(identify, scopes=["analyze"])]
Deleter = Annotated[Identity, Security(identify, scopes=["delete"])]
Operator = Annotated[Identity, Security(identify, scopes=["operate"])]
