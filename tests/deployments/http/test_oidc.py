import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from deployments.http import oidc
from deployments.http.access import Grantee, TokenAccess
from deployments.http.oidc import IdentityProvider
from deployments.http.problems import ProblemError
from pipelines.errors import IdentityProviderError
from pipelines.settings import Settings

ISSUER, AUDIENCE = "https://id.example", "undertone"


class Provider:
    """The published keys of an identity provider, on a port."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.body: bytes | None = None
        self.private: dict[str, Any] = {}

    def rotate(self, key_id: str) -> None:
        self.private = {key_id: ec.generate_private_key(ec.SECP256R1())}
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.private[key_id].public_key(), as_dict=True)
        self.keys = [{**public, "kid": key_id, "alg": "ES256", "use": "sig"}]

    def sign(self, **changes: object) -> str:
        ((key_id, private),) = self.private.items()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "maria", "exp": time.time() + 60, "tenant": "acme"}
        claims |= {"scope": "openid undertone:read undertone:send"}
        kept = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(kept, private, "ES256", headers={"kid": key_id})

    @contextmanager
    def published(self) -> Iterator[str]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                provider.asked += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(provider.body or json.dumps({"keys": provider.keys}).encode())

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys"
        finally:
            server.shutdown()
            server.server_close()
            serving.join()


@pytest.fixture
def provider() -> Provider:
    made = Provider()
    made.rotate("one")
    return made


def of(url: str) -> IdentityProvider:
    return IdentityProvider(url, ISSUER, AUDIENCE, "tenant")


def hmac_signed(claims: dict[str, Any], secret: bytes) -> str:
    """As PyJWT refuses to make one."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "one"}, claims)
    ]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def test_a_token_of_the_provider_says_who_asks_for_whom(provider: Provider) -> None:
    with provider.published() as url:
        access = TokenAccess(None, of(url))
        for _ in range(3):
            found = await access.grantee(provider.sign(), "10.0.0.1")

    assert found == Grantee("subject:maria", "acme", frozenset({"read", "send"}))
    assert provider.asked == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"nbf": time.time() + 3_600},
        {"tenant": None},
        {"tenant": ["acme"]},
        {"tenant": "*"},
        {"tenant": "a/b"},
    ],
)
async def test_a_token_that_is_for_somebody_else_or_not_now_is_not_taken(
    provider: Provider, changes: dict[str, object]
) -> None:
    with provider.published() as url, pytest.raises(ProblemError) as refused:
        await TokenAccess(None, of(url)).grantee(provider.sign(**changes), "10.0.0.1")

    assert refused.value.status == 401


async def test_a_token_that_the_provider_did_not_sign_is_not_taken(provider: Provider) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "m", "exp": time.time() + 60, "tenant": "acme"}
    stranger = rsa.generate_private_key(65_537, 2_048)
    forged = [
        jwt.encode(claims, stranger, "RS256", headers={"kid": "one"}),
        jwt.encode(claims, "", "none", headers={"kid": "one"}),
        # The public key as the secret of an HMAC (CVE-2016-10555).
        hmac_signed(claims, json.dumps(provider.keys[0]).encode()),
        provider.sign()[:-4] + "AAAA",
        "a.b.c",
        "",
        "." * 10_000,
    ]
    with provider.published() as url:
        for token in forged:
            assert await of(url).claims(token) is None


async def test_keys_that_were_rotated_are_fetched_and_unknown_ones_do_not_have_them_fetched_each_time(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider.published() as url:
        known = of(url)
        assert await known.claims(provider.sign()) is not None
        provider.rotate("two")
        for _ in range(20):
            assert await known.claims(provider.sign()) is None
        assert provider.asked == 1
        monkeypatch.setattr(oidc, "ASK_AGAIN_S", 0.0)
        assert await known.claims(provider.sign()) is not None
        assert provider.asked == 2


async def test_while_the_provider_is_away_known_keys_serve_and_others_are_an_error(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(oidc, "KEYS_KEPT_S", 0.0)
    with provider.published() as url:
        known = of(url)
        assert await known.claims(provider.sign()) is not None
    assert await known.claims(provider.sign()) is not None
    away = of(url)
    for again_s in (0.0, 1_000.0):  # asked, and not asked again so soon: never taken for a wrong token
        monkeypatch.setattr(oidc, "ASK_AGAIN_S", again_s)
        with pytest.raises(IdentityProviderError, match="cannot be had"):
            await away.claims(provider.sign())
    monkeypatch.setattr(oidc, "KEYS_KEPT_AT_MOST_S", 0.0)
    monkeypatch.setattr(oidc, "ASK_AGAIN_S", 0.0)
    with pytest.raises(IdentityProviderError):
        await known.claims(provider.sign())


@pytest.mark.parametrize("scope", [None, 5, ["undertone:read", 7], {"undertone:read": 1}, "undertone:everything"])
async def test_scopes_that_are_written_in_another_way_allow_nothing_more(provider: Provider, scope: object) -> None:
    with provider.published() as url:
        found = await TokenAccess(None, of(url)).grantee(provider.sign(scope=scope), "10.0.0.1")

    assert found.scopes == (frozenset({"read"}) if isinstance(scope, list) else frozenset())


@pytest.mark.parametrize(
    "body", [b"nonsense", b"[]", b'{"keys": 5}', b'{"keys": [{"kty": "odd"}]}', b" " * 300_000, b"[" * 200_000]
)
async def test_keys_that_are_none_are_an_error(provider: Provider, body: bytes) -> None:
    provider.body = body
    with provider.published() as url, pytest.raises(IdentityProviderError):
        await of(url).claims(provider.sign())


def rsa_key(bits: int = 2_048, **fields: object) -> tuple[rsa.RSAPrivateKey, dict[str, Any]]:
    private = rsa.generate_private_key(65_537, bits)
    return private, {**jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "one", **fields}


def signed(provider: Provider, private: Any, algorithm: str) -> str:
    claims = jwt.decode(provider.sign(), options={"verify_signature": False})
    return jwt.encode(claims, private, algorithm, headers={"kid": "one"})


async def test_a_key_that_names_no_algorithm_takes_each_of_its_kind_and_one_that_does_no_other(
    provider: Provider,
) -> None:
    kinds: list[tuple[dict[str, object], set[str]]] = [
        ({}, {"RS256", "PS256"}),
        ({"alg": "PS256"}, {"PS256"}),
        ({"alg": "RS512"}, set()),
    ]
    for fields, taken in kinds:
        private, public = rsa_key(2_048, **fields)
        other = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        provider.keys = [public, {**other, "kid": "two"}]
        with provider.published() as url:
            known = of(url)
            tokens = {name: signed(provider, private, name) for name in ("RS256", "PS256", "RS512")}
            assert {name for name, token in tokens.items() if await known.claims(token) is not None} == taken


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits:jwt.warnings.InsecureKeyLengthWarning")
async def test_keys_that_are_private_weak_damaged_or_for_encryption_are_passed_over(provider: Provider) -> None:
    private, public = rsa_key()
    weak, weak_public = rsa_key(1_024)
    whole = {**jwt.algorithms.RSAAlgorithm.to_jwk(private, as_dict=True), "kid": "one"}
    others: list[Any] = [
        {**public, "kid": ["one"]},
        {**public, "n": 5},
        {**public, "kty": [1]},
        {**public, "crv": [1]},
        7,
    ]
    curve = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
    for bad, key in (
        (whole, private),
        ({**public, "use": "enc"}, private),
        (weak_public, weak),
        *((x, private) for x in others),
    ):
        good = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        provider.keys = [bad, {**curve, "kid": "one"}, {**good, "kid": "two"}]
        with provider.published() as url:
            assert await of(url).claims(signed(provider, key, "RS256")) is None
        provider.keys = [bad]
        with provider.published() as url, pytest.raises(IdentityProviderError, match="cannot be had"):
            await of(url).claims(signed(provider, key, "RS256"))


async def test_a_token_whose_header_is_nested_deep_is_not_taken(provider: Provider) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":' + b"[" * 20_000).rstrip(b"=").decode()
    with provider.published() as url:
        assert await of(url).claims(f"{header}.e30.e30") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"oidc_jwks": "https://id.example/keys"}, "UNDERTONE_OIDC_ISSUER"),
        ({"oidc_jwks": "http://id.example/keys", "oidc_issuer": ISSUER, "oidc_audience": AUDIENCE}, "https"),
    ],
)
def test_a_provider_that_is_named_by_halves_or_without_encryption_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(given)
