"""The events of all calls of a tenant as they are written, read from the calls' own streams of events.

There is no stream of a tenant's events, only its index of calls by their start. So a round of reading looks at

* the newest calls of the index, where new ones appear;
* the open calls, where most events are written;
* the next part of the index, so that pass after pass every call is looked at: one that is closed may begin again, and a
  worker that is behind opens calls that started long ago.

Each is bounded: a round takes about as long however many calls the tenant has. Calls that started more than `REACH_MS`
ago are left out.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.store.client import CHUNK, chunks, clock_ms, redis_errors
from pipelines.store.keys import CallKeys, calls_key, read_event
from pipelines.store.queries import CallEvent
from pipelines.types import CallRef

REACH_MS = 24 * 3_600_000
PASS_CALLS = 400
"""How many calls of the index a round looks at."""
OPEN_CALLS = 1_000
"""How many open calls a round looks at; of more, the others in the next rounds."""
EVENTS_AT_ONCE = 20
"""How many events of a call a round reads; of more, the others in the next rounds."""
CLOCKS_APART_MS = 1_000
"""How far apart the clocks may be of a server and the replica that takes over from it."""

_Entry = tuple[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class TenantEvent:
    """An event of one of the tenant's calls."""

    call_id: str
    event: CallEvent

    @property
    def name(self) -> str:
        """Unique among all events, and the same whenever the event is read."""
        return f"{self.event.id}.{self.call_id}"

    @property
    def written_ms(self) -> int:
        """When it was written, ms since 1970."""
        return _written_ms(self.event.id)


@dataclass(slots=True)
class _FollowedCall:
    """A call that is open, or has events after `complete_to_ms`; `last_id` is its latest event that `read` has given."""

    last_id: str | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class _IndexPass:
    """A pass over the index, from the latest start to `oldest_ms`: where it is, and what is complete when it ends.

    The next part begins after `skip` of the calls that started at `until`. At the end, every event written until
    `complete_to_ms` has been given.
    """

    oldest_ms: int
    complete_to_ms: int
    until: str = "+inf"
    skip: int = 0

    def after(self, listed: Sequence[tuple[str, float]]) -> "_IndexPass":
        """The pass with its next part after those `listed`, the last part."""
        last = listed[-1][1]
        until = str(int(last))
        ties = sum(score == last for _, score in listed)
        return replace(self, until=until, skip=ties + (self.skip if until == self.until else 0))


class TenantEvents:
    """A reader of the events written after `after_ms`; each `read` gives what is new since the one before.

    The events of a call come in their order, each once. Those of several calls come in the order of time within a round.
    A second reader that begins at this one's `complete_to_ms` gives everything that this one has not given, and some
    events again.
    """

    def __init__(self, client: Any, run: str, tenant: str, after_ms: int) -> None:
        self._redis, self._run, self._tenant = client, run, tenant
        self.complete_to_ms = after_ms
        """Every event written until then has been given, ms since 1970."""
        self.passes = 0
        """How many passes over the index have ended."""
        self._followed: dict[str, _FollowedCall] = {}
        self._open_from = 0
        self._pass: _IndexPass | None = None

    async def read(self) -> AsyncIterator[tuple[TenantEvent, ...]]:
        """One round, in tuples of at most 100 events. After an error, the next round gives what this one has not.

        Raises:
            StoreUnavailableError: as `Store`'s methods.
        """
        with redis_errors():
            this_pass = self._pass or await self._new_pass()
            listed = await self._index_page(this_pass.until, this_pass.oldest_ms, this_pass.skip, PASS_CALLS)
            newest = await self._index_page("+inf", this_pass.oldest_ms, 0, CHUNK)
            call_ids = dict.fromkeys([*(call_id for call_id, _ in [*newest, *listed]), *self._open_call_ids()])
            entries, complete_to_ms = await self._new_entries(list(call_ids), this_pass.complete_to_ms)
        this_pass = replace(this_pass, complete_to_ms=complete_to_ms)
        for chunk in chunks(sorted(entries, key=lambda one: (*_sort_key(one[1][0]), one[0]))):
            with redis_errors():
                events = await self._with_results(chunk)
            for call_id, (event_id, _) in chunk:
                self._followed.setdefault(call_id, _FollowedCall(over=True)).last_id = event_id
            if events:
                yield events
        if len(listed) == PASS_CALLS:
            self._pass = this_pass.after(listed)
        else:
            self._end_pass(this_pass)

    async def _new_pass(self) -> _IndexPass:
        now_ms = await clock_ms(self._redis)
        return _IndexPass(min(now_ms, self.complete_to_ms) - REACH_MS, now_ms - CLOCKS_APART_MS)

    async def _index_page(self, until: str, oldest_ms: int, skip: int, count: int) -> list[tuple[str, float]]:
        """Call ids of the index and when they started, the latest first."""
        key = calls_key(self._run, self._tenant)
        found: list[tuple[str, float]] = await self._redis.zrevrangebyscore(
            key, until, oldest_ms, skip, count, withscores=True
        )
        return found

    def _keys(self, call_id: str) -> CallKeys:
        return CallKeys(CallRef(self._tenant, call_id), self._run)

    def _open_call_ids(self) -> list[str]:
        open_ids = [call_id for call_id, call in self._followed.items() if not call.over]
        begin = self._open_from if self._open_from < len(open_ids) else 0
        self._open_from = begin + OPEN_CALLS
        return open_ids[begin : self._open_from]

    async def _new_entries(self, call_ids: Sequence[str], complete_to_ms: int) -> tuple[list[tuple[str, _Entry]], int]:
        """The new events of these calls, without results; and `complete_to_ms`, or less where some were left for later."""
        found: list[tuple[str, _Entry]] = []
        for chunk in chunks(call_ids):
            pipe = self._redis.pipeline(transaction=False)
            for call_id in chunk:
                keys, call = self._keys(call_id), self._followed.get(call_id)
                after = None if call is None else call.last_id
                begin = f"({after}" if after else f"{self.complete_to_ms + 1}-0"
                pipe.hget(keys("call"), "status")
                pipe.xrange(keys("events"), begin, "+", EVENTS_AT_ONCE)
            answers = await pipe.execute()
            for call_id, status, entries in zip(chunk, answers[::2], answers[1::2], strict=True):
                if status is None:  # the index keeps the id of an expired call
                    self._followed.pop(call_id, None)
                    continue
                has_more = len(entries) == EVENTS_AT_ONCE
                self._note(call_id, over=status in {"closed", "final"} and not has_more)
                found += [(call_id, entry) for entry in entries]
                if has_more:
                    complete_to_ms = min(complete_to_ms, _written_ms(entries[-1][0]) - 1)
        return found, complete_to_ms

    def _note(self, call_id: str, *, over: bool) -> None:
        call = self._followed.get(call_id)
        if call is not None:
            call.over = over
        elif not over:
            self._followed[call_id] = _FollowedCall()

    async def _with_results(self, entries: Iterable[tuple[str, _Entry]]) -> tuple[TenantEvent, ...]:
        """The events with their results, without those that are unreadable."""
        named = [(call_id, entry, entry[1].get("member")) for call_id, entry in entries]
        pipe = self._redis.pipeline(transaction=False)
        for call_id, _, member in named:
            if member is not None:
                pipe.hget(self._keys(call_id)("results"), member)
        texts = iter(await pipe.execute())
        events = []
        for call_id, entry, member in named:
            event = read_event(entry, {} if member is None else {member: next(texts)})
            if event.kind != "unreadable":
                events.append(TenantEvent(call_id, event))
        return tuple(events)

    def _end_pass(self, ended: _IndexPass) -> None:
        self.complete_to_ms = max(self.complete_to_ms, ended.complete_to_ms)
        self.passes += 1
        self._pass = None
        for call_id, call in list(self._followed.items()):
            if call.over and (call.last_id is None or _written_ms(call.last_id) <= self.complete_to_ms):
                del self._followed[call_id]


def _sort_key(event_id: str) -> tuple[int, int]:
    ms, _, number = event_id.partition("-")
    return int(ms), int(number)


def _written_ms(event_id: str) -> int:
    return _sort_key(event_id)[0]
