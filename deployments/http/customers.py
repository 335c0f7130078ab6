"""Forgetting a customer: every call of theirs is deleted, and a receipt says what went."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from deployments.http.caller import Deleter, Identity
from deployments.http.limits import HttpLimits, refuse_encoded
from deployments.http.problems import CUSTOMERS_PATH, ProblemError
from deployments.http.receipts import ForgottenCall, Receipt
from pipelines.customer import REFERENCE_MAX_BYTES, parse_reference
from pipelines.errors import BadFragmentError
from pipelines.store.store import Store
from pipelines.types import CallRef

CALLS_AT_ONCE_MAX = 100
"""How many calls one request forgets: each takes milliseconds, or seconds where it has many thousands of utterances."""
BODY_MAX_BYTES = 8 << 10
"""The longest reference fits, however it is escaped."""


class ForgetOrder(BaseModel):
    """Whom to forget; with `dry_run` nothing is, and the answer is what would go."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    customer: SecretStr = Field(description="The reference that their calls were sent with.", examples=["4711"])
    dry_run: bool

    @field_validator("customer")
    @classmethod
    def _is_reference(cls, text: SecretStr) -> SecretStr:
        try:
            parse_reference(text.get_secret_value())
        except BadFragmentError as error:
            raise ValueError(error.message_for("customer")) from None
        return text


FORGET_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ForgetOrder.model_json_schema(),
                "example": {"customer": "4711", "dry_run": True},
            }
        },
    }
}


def customer_routes(store: Store, limits: HttpLimits) -> APIRouter:
    """The routes by which a customer is forgotten."""
    routes = APIRouter(tags=["customers"])

    @routes.post("/v1/forget", summary="Forget a customer", openapi_extra=FORGET_OPENAPI)
    async def forget(request: Request, caller: Deleter) -> Receipt:
        """Forgets every call that is known to be the customer's, also those that are still to be read from the log.

        Ask with `dry_run` first. Calls that come later are taken as any others. The reference is in the body, which no proxy
        logs. Where it fails in the middle, or calls are `remaining`, the same request goes on.
        """
        try:
            order = ForgetOrder.model_validate_json(await _small_body(request, limits.idle_max_s))
        except ValidationError as error:
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
        return await _forgotten(store, caller, order)

    @routes.delete(f"{CUSTOMERS_PATH}/{{ref:path}}", summary="Forget a customer whose reference is no secret")
    async def forget_by_path(
        ref: Annotated[str, Path(description="The customer's reference, percent-encoded.", examples=["4711"])],
        dry_run: Annotated[Literal["true", "false"], Query(description="Ask with `true` first.")],
        caller: Deleter,
    ) -> Receipt:
        """The same with the reference in the path. This gateway does not log it; proxies before it may."""
        try:
            order = ForgetOrder(customer=SecretStr(ref), dry_run=dry_run == "true")
        except ValidationError as error:
            raise RequestValidationError([{**one, "loc": ("path", "ref")} for one in error.errors()]) from None
        return await _forgotten(store, caller, order)

    return routes


async def _forgotten(store: Store, caller: Identity, order: ForgetOrder) -> Receipt:
    """Forget as many calls of the customer as one request may, and say which."""
    customers = store.customers
    customer = await customers.hash(caller.tenant, order.customer.get_secret_value())
    calls: list[ForgottenCall] = []
    for one in await customers.calls(caller.tenant, customer, CALLS_AT_ONCE_MAX):
        if not order.dry_run:
            await caller.note("forget", one.call_id)
            await customers.forget(CallRef(caller.tenant, one.call_id), customer)
        calls.append(ForgottenCall(call_id=one.call_id, utterances=one.utterances))
    known = await customers.count(caller.tenant, customer)
    remaining = known - len(calls) if order.dry_run else known
    return Receipt.of(caller.tenant, calls, max(remaining, 0), dry_run=order.dry_run)


async def _small_body(request: Request, max_s: float) -> bytes:
    """All of a body that has no reason to be long.

    Raises:
        ProblemError: it is compressed (415), too long (413), or too slow (408).
    """
    refuse_encoded(request)
    body = bytearray()
    try:
        async with asyncio.timeout(max_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAX_BYTES:
                    raise ProblemError(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        "oversize",
                        f"the body has more than {BODY_MAX_BYTES} bytes; a reference has at most {REFERENCE_MAX_BYTES}",
                    )
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT, "idle", f"the body was not all here after {max_s:g} s; send it at once"
        ) from None
    return bytes(body)
