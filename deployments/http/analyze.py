"""`POST /v1/analyze`: one text, sound, picture or video judged at once, without the log and the store."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request

from deployments.http.admission import client_of
from deployments.http.bodies import Analysis, MediaMetadata, TextOrder
from deployments.http.caller import Analyst
from deployments.http.decoding import decoded, utterance
from deployments.http.limits import HttpLimits, MediaThreads, PacedMedia, refuse_oversize
from deployments.http.media import metadata_of, read_body, validated
from deployments.http.multipart import FIELDS_MAX_BYTES
from deployments.http.problems import ProblemError
from pipelines.consent import granted
from pipelines.errors import EncoderUnavailableError, MediaTooLongError
from pipelines.media.byte_stream import ByteBudget
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.raw_audio import names_raw_audio
from pipelines.settings import AppConfig
from pipelines.types import Utterance, UtteranceSentiment, count_faults

Analyse = Callable[[Utterance], Awaitable[UtteranceSentiment]]

NOT_JUDGED = "not_judged"
"""The reason of an analysis that came to nothing because networks were late or away."""
ANALYSES_MAX = 8
"""Utterances of one request under analysis at once."""
JSON_MAX_BYTES = 256 << 10
"""The longest text fits, however it is escaped. Parsed JSON takes many times its length in memory."""
_START_S = 5.0
"""Processor time beyond what the media may take: a process loads the speech detector once."""
NOTHING_SENT = (
    'the request has no body; send {"text": "…"} as application/json, or the bytes of a sound, a picture or a video '
    "(curl --data-binary @clip.mp4 -H 'Content-Type: video/mp4'), or a multipart form with a field text or a file"
)
JSON_UNSAID = "the body looks like JSON and does not say so; send it with the header Content-Type: application/json"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
ANALYZE_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": description,
            "example": example,
        }
        for name, description, example in (
            (
                "participants",
                "Who is heard, one channel each, seen or quoted. By default a recording is `mixed`, a text or a picture the `customer`'s.",
                "agent,customer",
            ),
            (
                "consent",
                "What may be analysed, of what the tenant's policy allows; by default all of that.",
                "customer=audio+text",
            ),
        )
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": TextOrder.model_json_schema(),
                "example": {"text": "I have been waiting for three weeks!"},
            },
            "audio/*": _BINARY,
            "image/*": _BINARY,
            "video/*": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}, "text": {"type": "string"}},
                }
            },
        },
    },
}


def analyze_routes(
    analyse: Analyse, threads: MediaThreads, decoders: DecoderProcesses, config: AppConfig, limits: HttpLimits
) -> APIRouter:
    """`POST /v1/analyze`; `decoders` decode the media, of which each has a thread of `threads` to wait in."""
    routes = APIRouter(prefix="/v1", tags=["analyze"])
    memory = ByteBudget(limits.analyze_held_max_bytes, "as much media is under analysis as this gateway holds")

    @routes.post("/analyze", summary="Judge one text, sound, picture or video", openapi_extra=ANALYZE_OPENAPI)
    async def analyze(request: Request, caller: Analyst) -> Analysis:
        """The results of everything that is said in it; a text or a picture gives one.

        FFmpeg looks at the bytes; the content type matters for JSON and raw sound only. Nothing is stored. A network that is slow
        is waited for. Where nothing could be judged because the networks were late or away, the problem is `not_judged` (504).
        """
        refuse_oversize(request, limits.analyze_max_bytes + FIELDS_MAX_BYTES)
        chunks, fields, content_type = await read_body(request, NOTHING_SENT, limits.idle_max_s)
        text = fields.pop("text", None)
        metadata = metadata_of(caller, MediaMetadata, {**request.query_params, **fields}, "query")
        consent = granted(metadata.consent_policy(), config.tenant(metadata.tenant).policy)
        with contextlib.ExitStack() as held:
            reserve = held.enter_context(memory.reservation())
            is_json = (content_type or "").partition(";")[0].strip().lower() == "application/json"
            max_bytes = min(limits.analyze_max_bytes, JSON_MAX_BYTES) if is_json else limits.analyze_max_bytes
            media = b"" if text is not None else await _read_whole(chunks, limits, max_bytes, reserve)
            if is_json:
                text = validated(TextOrder, _json_of(media), "body").text
            if text is not None:
                text = validated(TextOrder, {"text": text}, "body").text
                utterances = [utterance(metadata, consent, metadata.speaker(), text=text)]
            elif not media:
                raise ProblemError(HTTPStatus.BAD_REQUEST, "no_body", NOTHING_SENT)
            elif media[:16].lstrip()[:1] == b"{" and not names_raw_audio(content_type or ""):
                raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "undecodable", JSON_UNSAID)
            else:
                running = threads.start(
                    partial(_of_media, decoders, media, content_type, metadata, consent, config.stream, limits=limits),
                    client_of(request),
                )
                # The thread works on when the request is cancelled, and holds its seat and the memory until it ends.
                until_it_ends = held.pop_all()
                running.add_done_callback(lambda _: until_it_ends.close())
                utterances = await asyncio.shield(running)
        return Analysis(results=_judged(await _analysed(analyse, utterances)))

    return routes


def _judged(results: list[UtteranceSentiment]) -> list[UtteranceSentiment]:
    """The results, unless nothing could be judged in them, and something was not by a fault of the service.

    Raises:
        ProblemError: so it is (504).
    """
    faults = count_faults(results)
    if faults and not any(result.judgement for result in results):
        late = ", ".join(f"{modality} ({' and '.join(counts)})" for modality, counts in faults.items())
        raise ProblemError(
            HTTPStatus.GATEWAY_TIMEOUT, NOT_JUDGED, f"no network answered in time: {late}. Send it again later"
        )
    return results


async def _analysed(analyse: Analyse, utterances: Sequence[Utterance]) -> list[UtteranceSentiment]:
    """The results of all, at most `ANALYSES_MAX` at once; raises the first error."""
    at_once = asyncio.Semaphore(ANALYSES_MAX)

    async def one(utterance: Utterance) -> UtteranceSentiment:
        async with at_once:
            return await analyse(utterance)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(utterance)) for utterance in utterances]
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        if isinstance(first, EncoderUnavailableError):
            raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, NOT_JUDGED, f"{first}. Send it again later") from failed
        raise first from failed
    return [task.result() for task in tasks]


async def _read_whole(
    chunks: AsyncIterator[bytes], limits: HttpLimits, max_bytes: int, reserve: Callable[[int], None]
) -> bytes:
    """All of `chunks`; `reserve` is called with the length of each before it is kept.

    Raises:
        ProblemError: they have more than `max_bytes`, or come too slowly.
        BusyError: they find no memory.
    """
    media, paced = bytearray(), PacedMedia(chunks, limits, limits.analyze_body_max_s)
    while (chunk := await paced.next()) is not None:
        reserve(len(chunk))
        media += chunk
        if len(media) > max_bytes:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "oversize",
                f"more than {max_bytes} bytes; send longer recordings to POST /v1/calls",
            )
    return bytes(media)


def _json_of(body: bytes) -> Any:
    """The JSON value of a body, of whatever type; the caller validates it.

    Raises:
        ProblemError: it is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "bad_json", f"the body is no JSON: {error}") from error


def _of_media(decoders: DecoderProcesses, *order: Any, limits: HttpLimits) -> list[Utterance]:
    """What `decoded` returns for this order; blocks: for a thread of `MediaThreads`."""
    bounds = limits.analyze_max_ms, limits.analyze_decode_max_s
    try:
        return decoders.run(decoded, *order, *bounds, cpu_max_s=limits.analyze_decode_max_s + _START_S)
    except MediaTooLongError as error:
        detail = f"{error}; send longer recordings to POST /v1/calls"
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.reason, detail) from error
