"""Tokens of an identity provider (OpenID Connect): JWTs (RFC 7519) checked against its published keys (RFC 7517)."""

import asyncio
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt

from pipelines.errors import IdentityProviderError
from pipelines.settings import Settings, is_loopback

ALGORITHMS = {
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""Signatures by kind and curve of a key, which is the provider's own. Never `none`, and no HMAC, whose key would be the public one."""
RSA_MIN_BITS = 2_048  # RFC 7518, 3.3
KEYS_KEPT_S = 300.0
KEYS_KEPT_AT_MOST_S = 86_400.0
"""While the provider is away."""
ASK_AGAIN_S = 10.0
"""A token that names an unknown key has the keys fetched again, but not more often than this."""
ANSWER_S = 5.0
KEYS_MAX_BYTES = 256 << 10
LEEWAY_S = 30.0


class IdentityProvider:
    """The keys of one provider, fetched when they are first needed and again when they are old or rotated."""

    def __init__(self, jwks_url: str, issuer: str, audience: str, tenant_claim: str) -> None:
        self.tenant_claim = tenant_claim
        self._jwks_url, self._issuer, self._audience = jwks_url, issuer, audience
        self._keys: Mapping[str, Mapping[str, jwt.PyJWK]] = {}
        """By id and algorithm."""
        self._fetched_s = self._tried_s = -math.inf
        self._failed: IdentityProviderError | None = None
        """Why the latest try to fetch them failed."""
        self._fetching = asyncio.Lock()

    @classmethod
    def of(cls, settings: Settings) -> "IdentityProvider | None":
        """What the environment names."""
        if not settings.oidc_jwks:
            return None
        return cls(settings.oidc_jwks, settings.oidc_issuer, settings.oidc_audience, settings.oidc_tenant_claim)

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a token that the provider signed for this service and that holds now; None for any other.

        Raises:
            IdentityProviderError: its keys cannot be fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            return None
        keys = await self._keys_of(str(header.get("kid", "")))
        key = keys.get(str(header.get("alg", "")))
        if key is None:
            return None
        try:
            found: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.InvalidTokenError:
            return None
        return found

    async def _keys_of(self, key_id: str) -> Mapping[str, jwt.PyJWK]:
        if key_id in self._keys and time.monotonic() - self._fetched_s <= KEYS_KEPT_S:
            return self._keys[key_id]
        async with self._fetching:
            now_s = time.monotonic()
            fresh = now_s - self._fetched_s <= KEYS_KEPT_S and key_id in self._keys
            if not fresh and now_s - self._tried_s > ASK_AGAIN_S:
                self._tried_s, self._failed = now_s, None
                try:
                    self._keys = await self._fetched()
                    self._fetched_s = now_s
                except IdentityProviderError as error:
                    self._failed = error
            # One that was good goes on for a while when the provider is away.
            known = key_id in self._keys and now_s - self._fetched_s <= KEYS_KEPT_AT_MOST_S
            if self._failed is not None and not known:
                raise self._failed
            return self._keys.get(key_id, {})

    async def _fetched(self) -> Mapping[str, Mapping[str, jwt.PyJWK]]:
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                httpx.AsyncClient(timeout=ANSWER_S, trust_env=not is_loopback(self._jwks_url)) as client,
                client.stream("GET", self._jwks_url) as answer,
            ):
                answer.raise_for_status()
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > KEYS_MAX_BYTES:
                        raise IdentityProviderError(f"{self._jwks_url} gives more than {KEYS_MAX_BYTES} bytes of keys")
            entries = json.loads(body)["keys"]
            keys: dict[str, dict[str, jwt.PyJWK]] = {}
            for entry in entries:
                if isinstance(entry, dict) and isinstance(entry.get("kid"), str):
                    keys.setdefault(entry["kid"], {}).update(_by_algorithm(entry))
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise IdentityProviderError(
                f"the keys at {self._jwks_url} cannot be had: {error or type(error).__name__}"
            ) from error
        if not any(keys.values()):
            raise IdentityProviderError(f"the keys at {self._jwks_url} cannot be had: none is there that signs")
        return keys


def _by_algorithm(entry: Mapping[str, Any]) -> Mapping[str, jwt.PyJWK]:
    """What checks the signatures of a JSON Web Key; nothing for one that is private, weak, damaged or for something else."""
    kind, curve, use = entry.get("kty"), entry.get("crv"), entry.get("use", "sig")
    if use != "sig" or "d" in entry or not isinstance(curve, str | None) or not isinstance(kind, str):
        return {}
    try:
        keys = [jwt.PyJWK(dict(entry), name) for name in ALGORITHMS.get((kind, curve), ())]
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return {}
    return {
        key.algorithm_name: key
        for key in keys
        if entry.get("alg", key.algorithm_name) == key.algorithm_name
        and getattr(key.key, "key_size", RSA_MIN_BITS) >= (RSA_MIN_BITS if kind == "RSA" else 0)
    }
