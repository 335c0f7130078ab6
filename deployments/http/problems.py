"""Every error of the API as problem details (RFC 9457, `application/problem+json`); nothing else leaves on an error."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.websockets import WebSocket

from pipelines.errors import (
    BadCursorError,
    BadFragmentError,
    BusyError,
    CallDeletedError,
    EncoderUnavailableError,
    FencedError,
    IdentityProviderError,
    MediaError,
    SourceUnavailableError,
    StoreUnavailableError,
    TokenFileError,
    TopicMissingError,
    UndertoneError,
)
from pipelines.types import CALL_ID_PATTERN, NAME_PATTERN

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS_BY_ERROR: dict[type[UndertoneError], HTTPStatus] = {
    MediaError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadFragmentError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BadCursorError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CallDeletedError: HTTPStatus.GONE,
    FencedError: HTTPStatus.CONFLICT,
    EncoderUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    SourceUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    BusyError: HTTPStatus.SERVICE_UNAVAILABLE,
    TokenFileError: HTTPStatus.SERVICE_UNAVAILABLE,
    IdentityProviderError: HTTPStatus.SERVICE_UNAVAILABLE,
    TopicMissingError: HTTPStatus.SERVICE_UNAVAILABLE,
}
_UNTOLD: dict[type[Exception], str] = {
    TokenFileError: "The gateway's tokens cannot be read now; its log says why.",
    IdentityProviderError: "The identity provider's keys cannot be had now; the gateway's log says why.",
}
"""What a caller without a token is told of errors whose own words name places."""
RESUME_PATTERN = r"^[A-Za-z0-9_-]{16,64}$"
"""Of a word with which a sender goes on."""
CUSTOMERS_PATH = "/v1/customers"
"""What stands behind it is a customer's reference, which is neither logged nor repeated."""
RETRY_AFTER_S: dict[int, str] = {HTTPStatus.TOO_MANY_REQUESTS: "10", HTTPStatus.SERVICE_UNAVAILABLE: "2"}
FORM = "form"
"""Where an input stands that came in a form."""
_WORDS_OF_PATTERN = {
    CALL_ID_PATTERN: "1 to 128 characters of A-Z a-z 0-9 . _ : -, not . or ..",
    NAME_PATTERN: "1 to 64 characters of A-Z a-z 0-9 . _ -, not . or ..",
    RESUME_PATTERN: "16 to 64 characters of A-Z a-z 0-9 _ -",
}
_REASON_BY_STATUS = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "oversize",
}


class InvalidInput(BaseModel):
    """One input that was refused: where it stands (`query.limit`, `body.text`) and what is wrong with it."""

    at: str
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details, with `reason`, the stable word of `pipelines.errors` that programs may test."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:undertone:problem:unknown_call",
                "title": "Not Found",
                "status": 404,
                "detail": "There is no call 'a-17' of tenant 'default'; GET /v1/calls lists the calls there are.",
                "instance": "/v1/calls/a-17",
                "reason": "unknown_call",
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reason: str
    errors: list[InvalidInput] | None = Field(None, description="Only of `invalid_input`: every input refused.")


class ProblemError(Exception):
    """Ends a request with the problem it names."""

    def __init__(self, status: int, reason: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        """`reason` is a stable word; `detail` says what to do next."""
        super().__init__(detail)
        self.status, self.reason, self.detail, self.headers = HTTPStatus(status), reason, detail, headers


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in (
        ("4XX", "The request cannot be served as it is; `detail` says what to change."),
        ("5XX", "The service cannot answer now; `detail` says what is missing."),
        # Named so that FastAPI does not document its own form of validation errors.
        (422, "An input is invalid; `errors` lists each."),
    )
}


def problem_of(error: Exception, instance: str) -> Problem:
    """The problem for `error`; for one that is not expected it has no details, which stand in the log.

    `instance` is the path that was asked.
    """
    instance = CUSTOMERS_PATH if instance.startswith(CUSTOMERS_PATH) else instance
    match error:
        case ProblemError():
            return _problem(error.status, error.reason, error.detail, instance)
        case RequestValidationError():
            invalid = [
                InvalidInput(at=".".join(str(part) for part in item["loc"]), detail=_what_is_accepted(item))
                for item in error.errors()
            ]
            detail = "; ".join(f"{item.at}: {item.detail}" for item in invalid)
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input", detail, instance, invalid)
        case ClientDisconnect():
            return _problem(HTTPStatus.BAD_REQUEST, "disconnected", "The sender went away.", instance)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return _problem(status, _REASON_BY_STATUS.get(status, "refused"), _http_detail(error, instance), instance)
        case UndertoneError():
            found = next((_STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _STATUS_BY_ERROR), None)
            if found is not None:
                detail = _UNTOLD.get(type(error), str(error))
                return _problem(found, error.reason, detail, instance)
    detail = "The service failed; its log holds the cause. Try again later."
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, instance)


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """`problem` as an HTTP response."""
    content = problem.model_dump_json(exclude_none=True)
    return Response(content, problem.status, headers, MEDIA_TYPE)


def install_problems(api: FastAPI) -> None:
    """Make every error of `api` a problem: its own, FastAPI's, Starlette's and the unexpected."""
    documented = api.openapi

    def openapi() -> dict[str, Any]:
        found = documented()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({**schema.pop("$defs"), "Problem": schema})
        return found

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its page
    handler: Any = _answer_any
    for kind in (ProblemError, RequestValidationError, ClientDisconnect, HTTPException, UndertoneError, Exception):
        api.add_exception_handler(kind, handler)


async def _answer_any(connection: Any, error: Exception) -> Response | None:
    """Of a request or a WebSocket: Starlette has one table of handlers for both, and types for either."""
    if isinstance(connection, WebSocket):
        await _deny(connection, problem_of(error, connection.scope["path"]), getattr(error, "headers", None))
        return None
    return await _answer(connection, error)


async def _answer(request: Request, error: Exception) -> Response:
    path = request.scope["path"]  # `request.url` cannot be built from a query that is no text
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error = _method_not_allowed(request.app, path, error)
    problem = problem_of(error, path)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %s: %s", request.method, problem.instance, error, exc_info=problem.reason == "internal")
    headers = dict(getattr(error, "headers", None) or {})
    if problem.status in RETRY_AFTER_S:
        headers.setdefault("Retry-After", RETRY_AFTER_S[problem.status])
    if request.method == "POST":
        headers["Connection"] = "close"  # else a server reads on to the end of the body, if it has one
    return problem_response(problem, headers)


async def _deny(socket: WebSocket, problem: Problem, headers: dict[str, str] | None) -> None:
    """Refuse a WebSocket that is not accepted yet: as a problem where the server can (ASGI's denial response), else by 403."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(problem_response(problem, headers))
    else:
        await socket.close(1008, problem.reason)


def _method_not_allowed(api: FastAPI, path: str, error: HTTPException) -> HTTPException:
    """The same with all methods that the path takes; Starlette names those of the first route with that path."""
    paths: dict[str, dict[str, Any]] = api.openapi()["paths"]
    methods = {
        method.upper() for known, taken in paths.items() for method in taken if compile_path(known)[0].match(path)
    }
    allow = {"Allow": ", ".join(sorted(methods))} if methods else error.headers
    return HTTPException(error.status_code, error.detail, allow)


def _what_is_accepted(item: Mapping[str, Any]) -> str:
    """What is wrong with an input, in words: pydantic would show the pattern, and knows not that a form is read in order."""
    match item["type"]:
        case "string_pattern_mismatch":
            return f"not accepted: write {_WORDS_OF_PATTERN.get(item['ctx']['pattern'], 'it as /docs says')}"
        case "missing" if item["loc"][0] == FORM:
            return "it is missing: put it before the file in the form, since what follows a file is not read, or into the query"
    return str(item["msg"])


def _problem(
    status: HTTPStatus, reason: str, detail: str, instance: str, errors: list[InvalidInput] | None = None
) -> Problem:
    return Problem(
        type=f"urn:undertone:problem:{reason}",
        title=status.phrase,
        status=status,
        detail=detail,
        instance=instance,
        reason=reason,
        errors=errors,
    )


def _http_detail(error: HTTPException, instance: str) -> str:
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return f"There is nothing at {instance}; /docs lists what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return f"{instance} takes {(error.headers or {}).get('Allow', 'another method')}."
    return str(error.detail)
