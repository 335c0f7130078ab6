"""Who asks: the one dependency through which every route of calls learns whose calls a request may read, send or delete."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from fastapi import Depends, Query

from pipelines.types import NAME_PATTERN, CallRef

Scope = Literal["read", "send", "delete"]
"""What a caller may do: read calls, their results and events; send media and have it analysed; delete calls."""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose calls a request is about, and what it may do with them."""

    tenant: str
    scopes: frozenset[Scope]

    def call(self, call_id: str) -> CallRef:
        """The tenant's call of that id."""
        return CallRef(self.tenant, call_id)


async def identify(
    tenant: Annotated[
        str, Query(pattern=NAME_PATTERN, description="By default `default`.", examples=["default"])
    ] = "default",
) -> Identity:
    """Every caller is anonymous: it acts for the tenant that it names, with all scopes."""
    return Identity(tenant, ALL_SCOPES)


Caller = Annotated[Identity, Depends(identify)]
"""The type of a route's parameter: `caller: Caller`."""
