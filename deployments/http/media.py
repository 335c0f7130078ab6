"""`POST /v1/calls` and `WS /v1/calls/{call_id}/media`: media into the log."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.websockets import WebSocketState

from deployments.http.admission import client_of
from deployments.http.bodies import Accepted, Links, LiveMetadata, MediaMetadata
from deployments.http.caller import Identity, Sender, while_granted
from deployments.http.limits import refuse_encoded, refuse_oversize
from deployments.http.multipart import FIELDS_MAX_BYTES, MultipartForm
from deployments.http.problems import FORM, ProblemError, problem_of
from deployments.http.reservations import Reservation, reserved
from deployments.http.uploads import Intake
from pipelines.store.store import Store
from pipelines.types import CallId, CallRef

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)
MetadataT = TypeVar("MetadataT", bound=MediaMetadata)

NO_MEDIA = (
    "the request has no body; send the media itself (curl --data-binary @call.wav -H 'Content-Type: audio/wav'), "
    "or a multipart form with the fields first and the file last (curl -F participants=agent,customer -F file=@call.wav)"
)
_CLOSE_BY_STATUS = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: 1009,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: 1003,
    HTTPStatus.SERVICE_UNAVAILABLE: 1013,
    HTTPStatus.TOO_MANY_REQUESTS: 1013,
    HTTPStatus.INTERNAL_SERVER_ERROR: 1011,
}
_POLICY_VIOLATION = 1008

_METADATA = MediaMetadata.model_json_schema()
_BINARY = {"schema": {"type": "string", "format": "binary"}}
UPLOAD_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {key: value for key, value in schema.items() if key not in {"description", "examples"}},
            "description": schema.get("description", ""),
            **({"example": schema["examples"][0]} if "examples" in schema else {}),
        }
        for name, schema in _METADATA["properties"].items()
        if name != "tenant"  # which is the caller's
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {**_METADATA["properties"], "file": {"type": "string", "format": "binary"}},
                },
                "example": {"participants": "agent,customer", "file": "call.wav"},
            },
            "audio/*": _BINARY,
            "video/*": _BINARY,
            "application/octet-stream": _BINARY,
        },
    },
}


def media_routes(store: Store, intake: Intake) -> APIRouter:
    """The routes through which media comes in."""
    routes = APIRouter(prefix="/v1", tags=["media"])
    _add_upload(routes, store, intake)
    _add_live_media(routes, store, intake)
    return routes


def _add_upload(routes: APIRouter, store: Store, intake: Intake) -> None:
    @routes.post("/calls", status_code=HTTPStatus.ACCEPTED, summary="Upload a recording", openapi_extra=UPLOAD_OPENAPI)
    async def upload(request: Request, caller: Sender) -> Accepted:
        """Cut a recording into fragments and append them to the log while it comes; the answer waits for all of them.

        Without `participants`, in the query or in the form, the recording is `mixed`: of all its channels together only
        words are judged. FFmpeg looks at the bytes: the content type matters for raw sound only
        (`audio/L16;rate=8000;channels=2`, `audio/PCMU`, `audio/GSM`, …), as does a file's extension in a form. An upload that
        broke off is sent again, all of it, with the same `call_id` and the same `resume`, and goes on where it ended: nothing
        stands in the log or is analysed twice. Whoever named none is told one where an answer can still be given (408, 503).
        Of two senders that want one stream of a call at once, one gets it.
        """
        refuse_oversize(request, intake.limits.upload_max_bytes + FIELDS_MAX_BYTES)
        chunks, fields, content_type = await read_body(request, NO_MEDIA, intake.limits.idle_max_s)
        at = FORM if is_form(request) else "query"
        metadata = metadata_of(caller, MediaMetadata, {**request.query_params, **fields}, at)
        call_id = metadata.call_id or uuid.uuid4().hex
        call, client, apart = CallRef(metadata.tenant, call_id), client_of(request), intake.log_is_apart
        async with reserved(store, call, metadata, live=False, keep_seal=apart) as held:
            count = await intake.take(chunks, metadata, call_id, content_type, held=held, client=client, live=False)
        return _accepted(call, metadata.stream, count, held)


def _add_live_media(routes: APIRouter, store: Store, intake: Intake) -> None:
    @routes.websocket("/calls/{call_id}/media")
    async def live_media(socket: WebSocket, call_id: str, caller: Sender) -> None:
        """Live media. First a JSON text as `LiveMetadata`, answered by the links; then binary messages, in order.

        The stream ends with the text `{"end": true}`, which is answered when all is in the log, or with the
        connection. Whoever connects again goes on as another stream of the call, with its own `stream` and `start_ms`.
        """
        await socket.accept()
        try:
            TypeAdapter(CallId).validate_python(call_id)
            metadata = metadata_of(
                caller, LiveMetadata, await _first_message(socket, intake.limits.idle_max_s), "message"
            )
            call, client, apart = CallRef(metadata.tenant, call_id), client_of(socket), intake.log_is_apart
            async with reserved(store, call, metadata, live=True, keep_seal=apart) as held:
                links = Links.of(call_id)
                await socket.send_json({"call_id": call_id, "resume": held.resume, "links": links.model_dump()})
                chunks = while_granted(_messages(socket, intake.limits.chunk_max_bytes), caller)
                count = await intake.take(
                    chunks, metadata, call_id, metadata.content_type, held=held, client=client, live=True
                )
            if socket.client_state is WebSocketState.CONNECTED:
                accepted = _accepted(call, metadata.stream, count, held)
                await socket.send_text(accepted.model_dump_json())
                await socket.close()
        except WebSocketDisconnect:
            return  # the sender has closed the connection: there is nothing to answer
        except Exception as error:  # noqa: BLE001  # FastAPI has no handlers for errors of a WebSocket: each is sent as a problem here
            await _close_with(socket, error)


def _accepted(call: CallRef, stream: str, count: int, held: Reservation) -> Accepted:
    return Accepted(
        call_id=call.call_id,
        stream=stream,
        fragments=count,
        resume=held.resume,
        links=Links.of(call.call_id),
        warnings=held.warnings,
    )


async def read_body(
    request: Request, when_empty: str, begin_max_s: float
) -> tuple[AsyncIterator[bytes], dict[str, str], str | None]:
    """The media of a request as it comes, the form's fields, and the media's content type.

    Raises:
        ProblemError: there is no body (400, saying `when_empty`), its form cannot be read, it is compressed (415), or the
            media has not begun after `begin_max_s` (408).
    """
    refuse_encoded(request)
    try:
        async with asyncio.timeout(begin_max_s):
            return await _begun_body(request, when_empty)
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT, "idle", f"no media came within {begin_max_s:g} s; send it without such pauses"
        ) from None


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def _begun_body(request: Request, when_empty: str) -> tuple[AsyncIterator[bytes], dict[str, str], str | None]:
    content_type = request.headers.get("content-type", "")
    body = aiter(request.stream())
    if is_form(request):
        form = MultipartForm(content_type, body)
        fields = await form.fields()
        if not form.has_file and "text" not in fields:
            raise ProblemError(HTTPStatus.BAD_REQUEST, "no_body", when_empty)
        return form.media(), fields, form.content_type
    first = b""
    async for first in body:
        if first:
            break
    if not first:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "no_body", when_empty)
    return _after(first, body), {}, content_type or None


def metadata_of(caller: Identity, model: type[MetadataT], values: Mapping[str, Any], at: str) -> MetadataT:
    """The metadata in `values`; their tenant is the caller's, and they need not name it.

    Raises:
        ProblemError: they name another one (403 `wrong_tenant`).
        RequestValidationError: `values` do not fit.
    """
    if values.get("tenant", caller.tenant) != caller.tenant:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "wrong_tenant",
            f"the request is about tenant {caller.tenant!r}: name another one in its query alone, and only with a token for it",
        )
    return validated(model, {**values, "tenant": caller.tenant}, at)


def validated(model: type[ModelT], values: Mapping[str, Any], at: str) -> ModelT:
    """`values` as `model`; `at` is where they stand in the request, for the error.

    Raises:
        RequestValidationError: they do not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": (at, *item["loc"])} for item in error.errors()]) from error


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _first_message(socket: WebSocket, idle_max_s: float) -> dict[str, Any]:
    try:
        message = await asyncio.wait_for(socket.receive(), idle_max_s)
    except TimeoutError:
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, "idle", f"no message came for {idle_max_s:g} s") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        found = json.loads(message.get("text") or "")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "no_order",
            'the first message must be a JSON object, such as {"participants": "agent,customer"}; media follows it',
        )
    return found


async def _messages(socket: WebSocket, chunk_max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The binary messages until the end of the stream; when the connection is lost, that is the end too."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        chunk = message.get("bytes")
        if chunk is None:
            if _is_end(message.get("text")):
                return
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, "bad_message", 'after the first, messages are binary media, or {"end": true}'
            )
        if len(chunk) > chunk_max_bytes:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "oversize",
                f"a message has {len(chunk)} bytes; send at most {chunk_max_bytes} in one",
            )
        yield chunk


def _is_end(text: str | None) -> bool:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("end") is True


async def _close_with(socket: WebSocket, error: Exception) -> None:
    if isinstance(error, ValidationError):
        error = RequestValidationError([{**item, "loc": ("path", "call_id")} for item in error.errors()])
    path = socket.scope["path"]
    problem = problem_of(error, path)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s: %s", path, error, exc_info=error)
    if socket.client_state is WebSocketState.DISCONNECTED:
        return
    try:
        await socket.send_text(problem.model_dump_json(exclude_none=True))
        await socket.close(_CLOSE_BY_STATUS.get(HTTPStatus(problem.status), _POLICY_VIOLATION), problem.reason)
    except WebSocketDisconnect:
        return
