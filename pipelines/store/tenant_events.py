"""What happens in all calls of a tenant, as it happens, found by reading: nothing is written for it.

Every call has a stream of its own events; the tenant has an index of its calls by their start. A round of reading looks at

* the newest calls of the index, where new ones appear;
* the calls that are known to go on, where most events are;
* the next part of the index. When such a pass has come to its end it has seen every call, also those that began again
  or appear late because a worker was behind.

Each is bounded, so that a round takes the same time however many calls the tenant has. Calls that started more than
`REACH_MS` ago are left out.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.store.client import CHUNK, chunks, clock_ms, redis_errors
from pipelines.store.keys import CallKeys, calls_key, read_event
from pipelines.store.queries import CallEvent

REACH_MS = 24 * 3_600_000
PASS_CALLS = 400
"""How many calls of the index one round of a pass looks at."""
OPEN_CALLS = 1_000
"""How many of the calls that go on one round looks at; of more, others in the next round."""
EVENTS_AT_ONCE = 20
"""How many events of a call one round reads; of more, the others in the next round."""
CLOCKS_APART_MS = 1_000
"""How far the clocks of servers may be apart that take over from each other."""

_Entry = tuple[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class TenantEvent:
    """An event of one of the tenant's calls."""

    call_id: str
    event: CallEvent

    @property
    def name(self) -> str:
        """No other event's; the same when the event is read again."""
        return f"{self.event.id}.{self.call_id}"

    @property
    def written_ms(self) -> int:
        """When it was written, ms since 1970."""
        return _written_ms(self.event.id)


@dataclass(slots=True)
class _Known:
    """A call that goes on, or whose end was written after `complete_to_ms`; `last_id` is the latest event given of it."""

    last_id: str | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over the index, latest start first; the next part begins after `skip` calls that start at `until`.

    When it ends, every event written until `complete_to_ms` has been given.
    """

    oldest_ms: int
    complete_to_ms: int
    until: str = "+inf"
    skip: int = 0

    def after(self, listed: Sequence[tuple[str, float]]) -> "_Pass":
        """Where the next part begins."""
        last = listed[-1][1]
        until = str(int(last))
        ties = sum(score == last for _, score in listed)
        return replace(self, until=until, skip=ties + (self.skip if until == self.until else 0))


class TenantEvents:
    """Reads on and on: each `read` gives what is new since the one before.

    Events of a call come in their order, each once; events of several calls by the time at which they were written, but
    for those of a call that is found late. A new reader that begins at `complete_to_ms` misses nothing of what comes after
    what this one has given, and gives some of it again.
    """

    def __init__(self, client: Any, run: str, tenant: str, after_ms: int) -> None:
        self._redis, self._run, self._tenant = client, run, tenant
        self.complete_to_ms = after_ms
        """Every event that was written until then, ms since 1970, has been given."""
        self.passes = 0
        """How often every call has been looked at."""
        self._known: dict[str, _Known] = {}
        self._open_from = 0
        self._pass: _Pass | None = None

    async def read(self) -> AsyncIterator[tuple[TenantEvent, ...]]:
        """One round, at most 100 events at once. After an error, the next round gives what this one has not given.

        Raises:
            StoreUnavailableError: as `Store`'s methods.
        """
        with redis_errors():
            this_pass = self._pass or await self._new_pass()
            listed = await self._listed(this_pass.until, this_pass.oldest_ms, this_pass.skip, PASS_CALLS)
            newest = await self._listed("+inf", this_pass.oldest_ms, 0, CHUNK)
            call_ids = dict.fromkeys([*(call_id for call_id, _ in [*newest, *listed]), *self._some_open()])
            entries, complete_to_ms = await self._new_entries(list(call_ids), this_pass.complete_to_ms)
        this_pass = replace(this_pass, complete_to_ms=complete_to_ms)
        for chunk in chunks(sorted(entries, key=lambda one: (*_place(one[1][0]), one[0]))):
            with redis_errors():
                events = await self._with_results(chunk)
            for call_id, (event_id, _) in chunk:
                self._known.setdefault(call_id, _Known(over=True)).last_id = event_id
            if events:
                yield events
        if len(listed) == PASS_CALLS:
            self._pass = this_pass.after(listed)
        else:
            self._end_pass(this_pass)

    async def _new_pass(self) -> _Pass:
        now_ms = await clock_ms(self._redis)
        return _Pass(min(now_ms, self.complete_to_ms) - REACH_MS, now_ms - CLOCKS_APART_MS)

    async def _listed(self, until: str, oldest_ms: int, skip: int, count: int) -> list[tuple[str, float]]:
        """Call ids of the index and when they started, the latest first."""
        key = calls_key(self._run, self._tenant)
        found: list[tuple[str, float]] = await self._redis.zrevrangebyscore(
            key, until, oldest_ms, skip, count, withscores=True
        )
        return found

    def _some_open(self) -> list[str]:
        open_ids = [call_id for call_id, known in self._known.items() if not known.over]
        begin = self._open_from if self._open_from < len(open_ids) else 0
        self._open_from = begin + OPEN_CALLS
        return open_ids[begin : self._open_from]

    async def _new_entries(self, call_ids: Sequence[str], complete_to_ms: int) -> tuple[list[tuple[str, _Entry]], int]:
        """The new entries of these calls' events, and until when all there are have been read, at most `complete_to_ms`."""
        found: list[tuple[str, _Entry]] = []
        for chunk in chunks(call_ids):
            pipe = self._redis.pipeline(transaction=False)
            for call_id in chunk:
                keys, known = CallKeys(call_id, self._run), self._known.get(call_id)
                after = None if known is None else known.last_id
                begin = f"({after}" if after else f"{self.complete_to_ms + 1}-0"
                pipe.hmget(keys("call"), "tenant", "status")
                pipe.xrange(keys("events"), begin, "+", EVENTS_AT_ONCE)
            answers = await pipe.execute()
            for call_id, (tenant, status), entries in zip(chunk, answers[::2], answers[1::2], strict=True):
                # An id may stand in the index of a tenant whose call has expired, and be another's call today.
                if tenant != self._tenant:
                    self._known.pop(call_id, None)
                    continue
                has_more = len(entries) == EVENTS_AT_ONCE
                self._note(call_id, over=status in {"closed", "final"} and not has_more)
                found += [(call_id, entry) for entry in entries]
                if has_more:
                    complete_to_ms = min(complete_to_ms, _written_ms(entries[-1][0]) - 1)
        return found, complete_to_ms

    def _note(self, call_id: str, *, over: bool) -> None:
        known = self._known.get(call_id)
        if known is not None:
            known.over = over
        elif not over:
            self._known[call_id] = _Known()

    async def _with_results(self, entries: Iterable[tuple[str, _Entry]]) -> tuple[TenantEvent, ...]:
        """The events with their results; those that cannot be read, or belong to another tenant's call, are left out."""
        named = [(call_id, entry, entry[1].get("member")) for call_id, entry in entries]
        pipe = self._redis.pipeline(transaction=False)
        for call_id, _, member in named:
            if member is not None:
                pipe.hget(CallKeys(call_id, self._run)("results"), member)
        texts = iter(await pipe.execute())
        events = []
        for call_id, entry, member in named:
            event = read_event(entry, {} if member is None else {member: next(texts)})
            of_another = event.utterance is not None and event.utterance.tenant != self._tenant
            if event.kind != "unreadable" and not of_another:
                events.append(TenantEvent(call_id, event))
        return tuple(events)

    def _end_pass(self, ended: _Pass) -> None:
        self.complete_to_ms = max(self.complete_to_ms, ended.complete_to_ms)
        self.passes += 1
        self._pass = None
        for call_id, known in list(self._known.items()):
            if known.over and (known.last_id is None or _written_ms(known.last_id) <= self.complete_to_ms):
                del self._known[call_id]


def _place(event_id: str) -> tuple[int, int]:
    ms, _, number = event_id.partition("-")
    return int(ms), int(number)


def _written_ms(event_id: str) -> int:
    return _place(event_id)[0]
