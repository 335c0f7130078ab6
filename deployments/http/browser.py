"""What keeps other sites' pages away from the API: names under which it is reached, origins, and a cookie for browsers.

A page of another site can send requests through its reader's browser: to this gateway's address under a name of its own
(DNS rebinding), as a form, or as a WebSocket. The token alone stops none that carries the cookie, so each is refused
by what a browser cannot be made to leave out: `Host`, and `Origin` (RFC 6454; WHATWG Fetch, 3.1).
"""

import re
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.admission import client_of
from deployments.http.caller import bearer_token, cookie_name
from deployments.http.problems import ProblemError, problem_of, problem_response

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered under any name: a platform's probe asks by an address, and they tell nothing of any call."""
FORM_TYPES = frozenset({"text/plain", "application/x-www-form-urlencoded"})
"""What a form of another site could post without being asked; the API takes media, JSON and multipart forms."""


class SameSite:
    """ASGI middleware that refuses requests under unknown names and from pages of other origins."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """`hosts` are names without ports under which the gateway may be reached besides the loopback's; `*` is any."""
        self._app, self._hosts = app, hosts | LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        refusal = self._refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await problem_response(problem_of(refusal, scope["path"]), {"Connection": "close"})(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})

    def _refusal(self, scope: Scope) -> ProblemError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A page that reaches the gateway under a name of its own has the browser's cookie for that name at most: no token.
        unbound = scope["path"] in OPEN_PATHS or bearer_token(headers) is not None
        if not unbound and "*" not in self._hosts and _name(host) not in self._hosts:
            return ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "unknown_host",
                f"this gateway is not {host[:100]!r}: name it in UNDERTONE_HOSTS where it is to be reached so",
            )
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"] == "/login":
            return ProblemError(
                HTTPStatus.FORBIDDEN, "foreign_origin", "open the address that `undertone serve` printed"
            )
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return ProblemError(
                HTTPStatus.FORBIDDEN, "foreign_origin", "a page of another site may not change anything here"
            )
        if headers.get("content-type", "").partition(";")[0].strip().lower() in FORM_TYPES:
            return ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported_type",
                "send the media itself with its own Content-Type, JSON with Content-Type: application/json, or a multipart form",
            )
        return None


def login_routes() -> APIRouter:
    """`GET /login`, the address that `undertone serve` prints."""
    routes = APIRouter()

    @routes.get("/login", include_in_schema=False)
    async def login(request: Request, token: str) -> Response:
        """Keep the token in a cookie of the browser, and go on to the page of the API."""
        await request.app.state.access.grantee(token, client_of(request))
        answer = RedirectResponse("docs", HTTPStatus.SEE_OTHER)  # relative: whatever name it is reached under
        answer.set_cookie(
            cookie_name(request), token, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return routes


def _name(host: str) -> str:
    """The name in a `Host` (RFC 9110, 7.2), in lower case and without its port; empty where it is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", host)
    return "" if found is None else found[1].lower().rstrip(".")
