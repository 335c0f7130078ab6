"""The embedded default's log: one Redis stream a topic, with whole-number offsets, one partition and one reader.

Keys of a topic T (all in one slot; `redis_scripts.py` has the scripts that write them):
    ut:log:{T}             stream of records; entry `offset+1`-0 holds key, value, headers, append time and the bytes
                           appended before it
    ut:log:{T}:state       hash: `next` (offset of the next record), `bytes` (appended so far), `floor` (bytes before
                           the oldest record kept), `oldest_ms` (no record kept is older), `done` (below it none is needed)
    ut:log:{T}:group:G     hash: `committed` (where a new reader starts), `reader`, `reader_until_ms` (its lease)
    ut:log:{T}:producer:P  the producer's last sequence number, so that a retry after a lost reply appends nothing
"""

import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from pipelines.errors import BadFragmentError, SourceUnavailableError
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.log.redis_scripts import APPEND, COMMIT, HOLD, LEAVE
from pipelines.log.source import Backlog, Gap, Polled
from pipelines.log.topic_reader import Extent
from pipelines.types import RETENTION_DAYS, TOPIC_MEDIA, Coordinates, Headers, Record

LOG_MAX_BYTES = 64 << 20
"""What one topic may hold: its oldest records make room for new ones, but `call-media` keeps what is not done, and
makes its producer wait, for as long as its retention keeps it."""

RETENTION_MS = {topic: days * 86_400_000 for topic, days in RETENTION_DAYS.items()}
_LEASE_MS = 5_000
_FULL_PAUSE_S = 0.05
_FULL_TIMEOUT_S = 60.0
_PRODUCER_TTL_S = 3_600
_READ_AT_ONCE = 64
_PARTITION = 0


class RedisStreamSource:
    """`Source` over one Redis stream. A second reader of the same group waits until the first leaves or falls silent."""

    def __init__(
        self, url: str, topic: str = TOPIC_MEDIA, group: str = "undertone", *, holds_records: bool = True
    ) -> None:
        """`holds_records`: what this group has not committed stays in the log; False for a group that only looks on."""
        self._holds_records = holds_records
        self._redis = redis.Redis.from_url(url)
        self._log, self._state, self._group = _log(topic), f"{_log(topic)}:state", f"{_log(topic)}:group:{group}"
        self._hold = self._redis.register_script(HOLD)
        self._commit = self._redis.register_script(COMMIT)
        self._leave = self._redis.register_script(LEAVE)
        self._reader = uuid.uuid4().hex
        self._holds = False
        self._paused = False
        self._position = 0
        self._begun = False

    def poll(self, timeout_s: float, records_max: int) -> Polled:
        """See `Source.poll`."""
        with _redis_errors("reading"):
            held, committed = self._hold(keys=[self._group], args=[self._reader, _LEASE_MS])
            revoked, assigned = self._holds and held != 1, held == 2
            self._holds = held != 0
            if assigned:
                self._position, self._begun, self._paused = int(committed or 0), committed != b"", False
            position, records = self._position, tuple[Record, ...]()
            if assigned or not self._holds or self._paused:
                if not assigned:
                    time.sleep(min(timeout_s, _LEASE_MS / 4000))
            else:
                records = self._read(timeout_s, records_max)
        # A group that has just begun has lost nothing.
        skipped = records and self._begun and records[0].at.offset > position
        self._begun = self._begun or bool(records)
        gaps = (Gap(_PARTITION, position, records[0].at.offset),) if skipped else ()
        return Polled(records, frozenset([_PARTITION] * assigned), frozenset([_PARTITION] * revoked), gaps)

    def pause(self, partitions: Collection[int]) -> None:
        """See `Source.pause`."""
        self._paused = self._paused or _PARTITION in partitions

    def resume(self, partitions: Collection[int]) -> None:
        """See `Source.resume`."""
        self._paused = self._paused and _PARTITION not in partitions

    def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Source.commit`."""
        if self._holds and _PARTITION in offsets:
            with _redis_errors("committing"):
                args: list[str | int] = [self._reader, offsets[_PARTITION], int(self._holds_records)]
                self._commit(keys=[self._group, self._state], args=args)

    def seek(self, partition: int, offset: int) -> None:
        """See `Source.seek`."""
        if self._holds and partition == _PARTITION:
            self._position = offset

    def committed(self, partition: int) -> int | None:
        """See `Source.committed`."""
        with _redis_errors("asking for a committed offset"):
            found: Any = self._redis.hget(self._group, "committed") if partition == _PARTITION else None
        return None if found is None else int(found)

    def backlog(self) -> Mapping[int, Backlog]:
        """See `Source.backlog`."""
        if not self._holds:
            return {}
        with _redis_errors("asking for the backlog"):
            following = int(self._redis.hget(self._state, "next") or 0)
            waiting: Any = self._redis.xrange(self._log, min=_entry_id(self._position), count=1)
        if not waiting:
            return {_PARTITION: Backlog(0, 0)}
        oldest = _record(waiting[0])
        age_ms = max(0, round(time.time() * 1000) - oldest.appended_ms)
        return {_PARTITION: Backlog(following - oldest.at.offset, age_ms)}

    def close(self) -> None:
        """See `Source.close`."""
        try:
            with _redis_errors("leaving"):
                self._leave(keys=[self._group], args=[self._reader])
        finally:
            self._redis.close()

    def _read(self, timeout_s: float, records_max: int) -> tuple[Record, ...]:
        after = f"{self._position}-0"  # the entry of offset n is n+1, so this is the one before the wanted
        wait_ms = round(min(timeout_s, _LEASE_MS / 4000) * 1000)
        found: Any = self._redis.xread({self._log: after}, count=records_max, block=wait_ms or None)
        records = tuple(_record(entry) for entry in (found[0][1] if found else ()))
        if records:
            self._position = records[-1].at.offset + 1
        return records


class RedisTopicReader:
    """`TopicReader` over one Redis stream."""

    def __init__(self, url: str, topic: str, group: str = "undertone") -> None:
        self._redis = redis.Redis.from_url(url)
        self._log, self._group = _log(topic), f"{_log(topic)}:group:{group}"

    def extents(self) -> Mapping[int, Extent]:
        """See `TopicReader.extents`."""
        with _redis_errors("looking at the log"):
            following: Any = self._redis.hget(f"{self._log}:state", "next")
            committed: Any = self._redis.hget(self._group, "committed")
            oldest: Any = self._redis.xrange(self._log, count=1)
        if following is None:
            return {}
        end = int(following)
        start = _record(oldest[0]).at.offset if oldest else end
        return {_PARTITION: Extent(start, end, None if committed is None else int(committed))}

    def records(self, extents: Mapping[int, Extent], since_ms: int = 0) -> Iterator[Record]:
        """See `TopicReader.records`."""
        for extent in extents.values():
            position = extent.start
            while position < extent.end:
                with _redis_errors("reading"):
                    found: Any = self._redis.xrange(self._log, min=_entry_id(position), count=_READ_AT_ONCE)
                records = [_record(entry) for entry in found]
                yield from (one for one in records if one.at.offset < extent.end and one.appended_ms >= since_ms)
                position = records[-1].at.offset + 1 if records else extent.end

    def close(self) -> None:
        """See `TopicReader.close`."""
        self._redis.close()


class RedisStreamProducer:
    """`Producer` over Redis streams; each record is acknowledged before `send` returns."""

    def __init__(
        self,
        url: str,
        log_max_bytes: int = LOG_MAX_BYTES,
        full_timeout_s: float = _FULL_TIMEOUT_S,
        waiting_topics: Sequence[str] = (TOPIC_MEDIA,),
        retention_ms: Mapping[str, int] = RETENTION_MS,
    ) -> None:
        """`retention_ms` is how long the log keeps a topic's records: the next append, or their age, takes them out."""
        self._redis = redis.Redis.from_url(url)
        self._append = self._redis.register_script(APPEND)
        self._log_max_bytes = log_max_bytes
        self._full_timeout_s = full_timeout_s
        self._waiting_topics, self._retention_ms = frozenset(waiting_topics), retention_ms
        self._name = uuid.uuid4().hex
        self._sequence = 0

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        """See `Producer.send`. Waits while the log is full, at most `full_timeout_s`."""
        if len(value) > RECORD_MAX_BYTES:
            raise BadFragmentError("oversize", f"the record has {len(value)} bytes, the log takes {RECORD_MAX_BYTES}")
        log, waits = _log(topic), int(topic in self._waiting_topics)
        keys = [log, f"{log}:state", f"{log}:producer:{self._name}"]
        args: list[str | bytes | int] = [
            self._sequence,
            _PRODUCER_TTL_S,
            self._log_max_bytes,
            waits,
            key,
            value,
            _headers_json(headers),
            self._retention_ms.get(topic, max(self._retention_ms.values())),
        ]
        deadline_s = time.monotonic() + self._full_timeout_s
        with _redis_errors("appending"):
            while not self._append(keys=keys, args=args):
                if time.monotonic() > deadline_s:
                    raise SourceUnavailableError(
                        f"{topic} has held {self._log_max_bytes} unread bytes for {self._full_timeout_s:.0f} s:"
                        " start the worker that reads it (`undertone serve`)"
                    )
                time.sleep(_FULL_PAUSE_S)
        self._sequence += 1

    def flush(self) -> None:
        """See `Producer.flush`; nothing waits here."""

    def close(self) -> None:
        """See `Producer.close`."""
        self._redis.close()


@contextmanager
def _redis_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise SourceUnavailableError(
            f"the Redis log, {doing}: {error}; check UNDERTONE_REDIS and the server"
        ) from error


def _log(topic: str) -> str:
    return f"ut:log:{{{topic}}}"


def _entry_id(offset: int) -> str:
    return f"{offset + 1}-0"


def _headers_json(headers: Headers) -> str:
    # JSON has no bytes; Latin-1 maps each byte to one character and back.
    return json.dumps([[name, value.decode("latin-1")] for name, value in headers])


def _record(entry: tuple[bytes, Mapping[bytes, bytes]]) -> Record:
    entry_id, fields = entry
    return Record(
        at=Coordinates(_PARTITION, int(entry_id.partition(b"-")[0]) - 1),
        key=fields[b"key"],
        value=fields[b"value"],
        headers=tuple((name, value.encode("latin-1")) for name, value in json.loads(fields[b"headers"])),
        appended_ms=int(fields[b"appended_ms"]),
    )
