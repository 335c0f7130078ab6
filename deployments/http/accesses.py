"""`GET /v1/accesses`: the trail of who did what with which call, for whoever operates the service."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from deployments.http.caller import Operator
from deployments.http.calls import Cursor, Moment, epoch_ms
from pipelines.store.archive import PAGE_MAX
from pipelines.store.chain import Entry
from pipelines.store.store import Store
from pipelines.types import CALL_ID_PATTERN


class AccessPage(BaseModel):
    """Entries of a trail, the latest first, and what asks for the next page."""

    accesses: list[Entry]
    next_cursor: str | None
    corrupt: list[str]


def access_routes(store: Store) -> APIRouter:
    """The route that shows the trail; `undertone accesses --verify` says whether it is whole."""
    routes = APIRouter(prefix="/v1", tags=["operation"])

    @routes.get("/accesses", summary="Who read, watched, deleted or replayed which call, the latest first")
    async def accesses(
        caller: Operator,
        call_id: Annotated[
            str | None, Query(pattern=CALL_ID_PATTERN, description="Only what concerned this call, or all calls (`*`).")
        ] = None,
        since: Annotated[Moment | None, Query(description="Noted at or after.")] = None,
        cursor: Cursor = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
    ) -> AccessPage:
        """A page may hold fewer than `limit` and still have a next one. An entry holds no word of a call."""
        since_ms = 0 if since is None else max(0, epoch_ms(since))
        page = await store.accesses.page(caller.tenant, cursor, limit, call_id=call_id, since_ms=since_ms)
        return AccessPage(accesses=[*page.items], next_cursor=page.next_cursor, corrupt=[*page.corrupt])

    return routes
