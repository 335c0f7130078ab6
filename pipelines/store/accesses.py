"""The trail of accesses in the store: who read, deleted, replayed or redrove which call (docs/security.md#who-did-what).

One stream a tenant, to which a script appends, and its head. An entry is noted before what it tells of is shown or done, so that
none can be missing; one may stand for what then failed.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import CorruptResultError, StoreUnavailableError
from pipelines.store.chain import ALL_CALLS, CallAccess, Entry, Mark, chained
from pipelines.store.chain_check import ChainCheck, Head, TrailReport
from pipelines.store.client import CHUNK, clock_ms, lua, redis_errors
from pipelines.store.keys import trail_keys
from pipelines.store.queries import Page, read_entry_cursor, write_cursor

REPEATED = frozenset({"read", "watch"})
"""What a page that polls, or turns the pages of a listing, does again and again."""
REPEAT_S = 60.0
"""An entry of these stands for the same of the same caller in this time: one reader's requests must not fill the store."""
REPEATS_KEPT_MAX = 10_000
ATTEMPTS_MAX = 50
TRIM_MAX = 200
"""How many old entries go with one step at most; a step adds at most `CHUNK`, so that old ones never pile up."""
SCANNED_MAX = 5_000
"""How many entries one page looks at; a page with fewer matches than its limit may still be followed by another."""
_SCAN = 500


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An access that is to be noted, and the future that says that it is."""

    access: CallAccess
    kept_s: int
    noted: "asyncio.Future[None]"


class Accesses:
    """The trails of all tenants; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._redis, self._clock_s = client, clock_s
        self._note_script = client.register_script(lua("note"))
        self._waiting: dict[str, list[_Waiting]] = {}
        """By tenant, while its writer runs: two of one process would race for the same head."""
        self._writers: set[asyncio.Task[None]] = set()
        self._repeats: OrderedDict[CallAccess, float] = OrderedDict()

    async def note(self, access: CallAccess, kept_s: int) -> None:
        """Append an access to its tenant's trail, in which entries stay for `kept_s`; done when it is stored.

        One of `REPEATED` that this process noted less than `REPEAT_S` ago is not noted again. After an error the entry may
        be there all the same.
        """
        if self._clock_s() - self._repeats.get(access, -REPEAT_S) < REPEAT_S:
            return
        noted, tenant = asyncio.get_running_loop().create_future(), access.call.tenant
        waiting = self._waiting.get(tenant)
        if waiting is None:
            waiting = self._waiting[tenant] = []
            writer = asyncio.create_task(self._write(tenant, waiting))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        waiting.append(_Waiting(access, kept_s, noted))
        asked_s = self._clock_s()
        await noted
        if access.action in REPEATED:
            self._repeats[access] = asked_s
            self._repeats.move_to_end(access)
            if len(self._repeats) > REPEATS_KEPT_MAX:
                self._repeats.popitem(last=False)

    async def page(
        self, tenant: str, cursor: str | None = None, limit: int = 100, *, call_id: str | None = None, since_ms: int = 0
    ) -> Page[Entry]:
        """A tenant's entries, the latest first; those of one call are with those of all calls. May be short, and have a next one.

        Raises:
            BadCursorError: `cursor` is not one of a page's.
        """
        key = trail_keys(tenant)[1]
        before = "+" if cursor is None else f"({read_entry_cursor(cursor)}"
        items: list[Entry] = []
        corrupt: list[str] = []
        for _ in range(0, SCANNED_MAX, _SCAN):
            with redis_errors():
                found = await self._redis.xrevrange(key, before, since_ms, count=_SCAN)
            for entry_id, fields in found:
                before = f"({entry_id}"
                try:
                    entry = Entry.read(fields.get("entry", ""))
                except CorruptResultError:
                    corrupt.append(entry_id)
                    continue
                if call_id in (None, entry.call_id) or entry.call_id == ALL_CALLS:
                    items.append(entry)
                if len(items) == limit:
                    return Page(tuple(items), write_cursor(entry_id), tuple(corrupt))
            if len(found) < _SCAN:
                return Page(tuple(items), None, tuple(corrupt))
        return Page(tuple(items), write_cursor(before[1:]), tuple(corrupt))

    async def verify(self, tenant: str, expected: Mark | None = None) -> TrailReport:
        """Whether a tenant's trail is whole, and has the head `expected`, noted earlier, in it. Reads all of it, page by page."""
        check = ChainCheck(tenant, await self._head(tenant), expected)
        key, after = trail_keys(tenant)[1], "-"
        while not check.complete:
            with redis_errors():
                found = await self._redis.xrange(key, after, "+", count=_SCAN)
            for entry_id, fields in found:
                check.add(entry_id, fields.get("entry", ""))
                after = f"({entry_id}"
            if len(found) < _SCAN:
                break
        return check.report(await self._head(tenant))

    async def _head(self, tenant: str) -> Head:
        with redis_errors():
            return Head.of(await self._redis.hgetall(trail_keys(tenant)[0]), await clock_ms(self._redis))

    async def _write(self, tenant: str, waiting: list[_Waiting]) -> None:
        """Append all that waits, at most `CHUNK` in one step, until nothing does; who comes meanwhile waits for the next."""
        try:
            while waiting:
                some = waiting[:CHUNK]
                del waiting[:CHUNK]
                try:
                    await self._append(tenant, [one.access for one in some], some[-1].kept_s)
                except Exception as error:  # noqa: BLE001  # it is raised in each that waits for it
                    for one in some:
                        if not one.noted.done():
                            one.noted.set_exception(error)
                for one in some:
                    if not one.noted.done():
                        one.noted.set_result(None)
        finally:
            del self._waiting[tenant]

    async def _append(self, tenant: str, accesses: Sequence[CallAccess], kept_s: int) -> None:
        believed, new, lines, at_ms = "", Mark(0, ""), list[str](), 0
        tried = set[str]()
        for attempt in range(ATTEMPTS_MAX):
            if attempt > 1:
                await asyncio.sleep(random.uniform(0, 0.005))
            with redis_errors():
                answer = await self._note_script(
                    keys=trail_keys(tenant), args=[believed, new.hash, new.number, at_ms, kept_s, TRIM_MAX, *lines]
                )
            word, believed, number, last_ms, now_ms = answer
            if word == "noted" or believed in tried:  # the answer to the one before was lost
                return
            at_ms = max(int(now_ms), int(last_ms))  # a server that takes over may be behind
            lines, new = chained(accesses, at_ms, Mark(int(number), believed))
            tried.add(new.hash)
        raise StoreUnavailableError(
            f"the trail of accesses of tenant {tenant!r} was written by others {ATTEMPTS_MAX} times; try again",
            "refused",
        )
