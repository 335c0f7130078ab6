"""Who asks: a bearer token (RFC 6750) checked against the file of tokens, or against an identity provider's keys (OIDC)."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol, get_args

from deployments.http.oidc import IdentityProvider
from deployments.http.problems import ProblemError
from deployments.http.tokens import ANY_TENANT, Scope, TokenFile
from pipelines.settings import Settings
from pipelines.types import NAME_PATTERN

FAILURES_MAX = 20
"""Wrong tokens of one client within `FAILURES_WINDOW_S` that are told so; the others of that time are told to wait. A right one is
always taken: behind a proxy many clients have one address, and a page of another site can send wrong ones through anybody's browser."""
FAILURES_WINDOW_S = 60.0
CLIENTS_MAX = 10_000
"""Clients whose failures are counted at once; the longest known make room."""
HOW = (
    "send a token as `Authorization: Bearer ut_…`; `undertone serve` prints one when it starts, and "
    "`undertone token create` makes others"
)


@dataclass(frozen=True, slots=True)
class Grantee:
    """Whoever holds a token: a name for logs and the audit trail (no secret), whose calls, and what may be done with them."""

    name: str
    tenant: str
    scopes: frozenset[Scope]

    def tenant_of(self, asked: str | None) -> str:
        """Whose calls a request is about that names the tenant `asked`, or none.

        Raises:
            ProblemError: the token is another tenant's (403 `wrong_tenant`).
        """
        if self.tenant == ANY_TENANT:
            return asked or "default"
        if asked not in (None, self.tenant):
            raise ProblemError(
                HTTPStatus.FORBIDDEN, "wrong_tenant", f"the token is for tenant {self.tenant!r}: name no other"
            )
        return self.tenant

    def require(self, scopes: Sequence[str]) -> None:
        """Return if all of `scopes` are granted.

        Raises:
            ProblemError: one is not (403 `insufficient_scope`).
        """
        lacking = sorted(set(scopes) - self.scopes)
        if lacking:
            challenge = f'Bearer error="insufficient_scope", scope="{" ".join(scopes)}"'
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                "insufficient_scope",
                f"the token lacks the scope {', '.join(lacking)}: use one that has it",
                headers={"WWW-Authenticate": challenge},
            )


class Access(Protocol):
    """Decides who a caller is."""

    async def grantee(self, token: str | None, client: str) -> Grantee:
        """The holder of `token`; `client` is the address that it came from.

        Raises:
            ProblemError: there is none, or it is not taken (401), or too many were wrong (429).
            TokenFileError, IdentityProviderError: what would know it does not answer.
        """
        ...


class TokenAccess:
    """Access by the tokens in a file, and by those of an identity provider."""

    def __init__(
        self, file: TokenFile | None, provider: IdentityProvider | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._provider, self._clock_s = file, provider, clock_s
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By client: when its window began, and how many of its tokens were wrong since."""

    @classmethod
    def of(cls, settings: Settings) -> "TokenAccess":
        """What the environment names; where it names neither, no token is taken."""
        file = None if settings.tokens is None else TokenFile(settings.tokens)
        return cls(file, IdentityProvider.of(settings))

    async def grantee(self, token: str | None, client: str) -> Grantee:
        """See `Access.grantee`."""
        if token is None:
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED, "no_token", HOW, headers={"WWW-Authenticate": 'Bearer realm="undertone"'}
            )
        found = await self._found(token)
        if found is None:
            self._refuse_guessing(client)
            self._note_failure(client)
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED,
                "bad_token",
                f"the token is unknown, expired or revoked: {HOW}",
                headers={"WWW-Authenticate": 'Bearer realm="undertone", error="invalid_token"'},
            )
        return found

    async def _found(self, token: str) -> Grantee | None:
        if token.startswith("ut_"):
            grant = None if self._file is None else self._file.find(token, datetime.now(UTC))
            return None if grant is None else Grantee(f"token:{grant.id}", grant.tenant, grant.scopes)
        if self._provider is None:
            return None
        claims = await self._provider.claims(token)
        return None if claims is None else _grantee_of(claims, self._provider.tenant_claim)

    def _refuse_guessing(self, client: str) -> None:
        begun_s, count = self._failures.get(client, (0.0, 0))
        left_s = begun_s + FAILURES_WINDOW_S - self._clock_s()
        if count >= FAILURES_MAX and left_s > 0:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_failures",
                f"{count} wrong tokens came from {client}; try again in {left_s:.0f} s, with a right one at once",
                headers={"Retry-After": str(max(1, round(left_s)))},
            )

    def _note_failure(self, client: str) -> None:
        now_s = self._clock_s()
        begun_s, count = self._failures.pop(client, (now_s, 0))
        if now_s - begun_s > FAILURES_WINDOW_S:
            begun_s, count = now_s, 0
        self._failures[client] = (begun_s, count + 1)
        while len(self._failures) > CLIENTS_MAX:
            self._failures.popitem(last=False)


def _grantee_of(claims: Mapping[str, Any], tenant_claim: str) -> Grantee | None:
    """What an identity provider's token allows: scopes `undertone:read` … and a tenant; None for one that names none."""
    written = claims.get("scope", claims.get("scp"))
    words = written.split() if isinstance(written, str) else written if isinstance(written, list) else []
    named = {str(word).removeprefix("undertone:") for word in words if str(word).startswith("undertone:")}
    scopes = frozenset(scope for scope in get_args(Scope) if scope in named)
    tenant = claims.get(tenant_claim)
    if not isinstance(tenant, str) or not re.fullmatch(NAME_PATTERN, tenant):  # nor is any provider believed a `*`
        return None
    return Grantee(f"subject:{claims['sub']}", tenant, scopes)
