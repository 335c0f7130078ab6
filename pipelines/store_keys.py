"""Every Redis key of the store, and how what it holds is read. Nobody but `store.py` and the scripts in `lua/` uses them.

All keys of one call carry the call id as hash tag, so they share a slot and one script may touch them all on a
Cluster. They expire together, `ttl_s` after the last result.

    ut:{CALL}:call            hash: `tenant`, `status` (live, final), `started_ms` (wall clock), `last_ms` (end of the
                              latest utterance), `utterances` (count)
    ut:{CALL}:streams         hash: stream -> live | final
    ut:{CALL}:stream:STREAM   hash, the checkpoint (DESIGN §4.2): `owner`, `final`, `resume_at` (offset), `resume_seq`,
                              `resume_sample`, and per participant `cut:P` (sample) and `utterances:P`
    ut:{CALL}:results         hash: member -> the result's JSON; a member is `start_ms/participant/stream`
    ut:{CALL}:order           sorted set of members, in the order of `start_ms`, then participant
    ut:{CALL}:digests         hash: member -> `participant|polarity|emotion|score`, for filters and trends
    ut:{CALL}:events          stream of `kind` (utterance, call-final) and `member`, cut to about `EVENTS_MAX`
    ut:{CALL}:deleted         the tombstone of a deleted call, for longer than the log keeps its fragments

Keys that several calls share stand in slots of their own. They are written before the call's own step, and writing
them again changes nothing, so a crash in between loses nothing.

    ut:calls:TENANT           sorted set of call ids by `started_ms`; ids of expired calls go when a listing meets them
    ut:trend:TENANT:MINUTE    hash: utterance id -> digest; MINUTE counts from 1970, by the call's start plus `start_ms`
    ut:{metrics}:workers      sorted set of worker ids by when their metrics expire, ms since 1970
    ut:{metrics}:worker:ID    the worker's metrics as Prometheus text
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import CorruptResultError
from pipelines.queries import MINUTE_MS, CallEvent, CallInfo, Digest, read_result
from pipelines.types import Checkpoint, Participant, TrackCut

log = logging.getLogger(__name__)

WORKERS = "ut:{metrics}:workers"


@dataclass(frozen=True, slots=True)
class CallKeys:
    """The keys of one call."""

    call_id: str

    def __call__(self, name: str) -> str:
        """The key of that name in the table above."""
        return f"ut:{{{self.call_id}}}:{name}"

    def stream(self, stream: str) -> list[str]:
        """What every script on a stream starts with: call, streams, checkpoint, tombstone."""
        return [self("call"), self("streams"), self(f"stream:{stream}"), self("deleted")]


def calls_key(tenant: str) -> str:
    """The index of a tenant's calls."""
    return f"ut:calls:{tenant}"


def trend_key(tenant: str, minute_ms: int) -> str:
    """The trend bucket that starts at `minute_ms`."""
    return f"ut:trend:{tenant}:{minute_ms // MINUTE_MS}"


def worker_key(worker_id: str) -> str:
    """The metrics of one worker."""
    return f"ut:{{metrics}}:worker:{worker_id}"


def member(start_ms: int, participant: str, stream: str) -> str:
    """An utterance's name within its call; members sort by start, then participant."""
    return f"{start_ms:010d}/{participant}/{stream}"


def read_checkpoint(fields: Mapping[str, str]) -> Checkpoint:
    """The checkpoint that a stream's hash holds."""
    tracks = {
        Participant(name.removeprefix("cut:")): TrackCut(
            int(value), int(fields[f"utterances:{name.removeprefix('cut:')}"])
        )
        for name, value in fields.items()
        if name.startswith("cut:")
    }
    offset, seq, sample = (fields.get(name) for name in ("resume_at", "resume_seq", "resume_sample"))
    return Checkpoint(
        tracks=tracks,
        resume_at=None if offset is None else int(offset),
        resume_seq=None if seq is None else int(seq),
        resume_sample=None if sample is None else int(sample),
        final="final" in fields,
    )


def read_call(call_id: str, fields: Mapping[str, str], streams: Mapping[str, str]) -> CallInfo | None:
    """What a call's two hashes say; None for a call that is not there."""
    if not {"tenant", "status", "started_ms"} <= fields.keys():
        return None
    return CallInfo(
        call_id=call_id,
        tenant=fields["tenant"],
        status="final" if fields["status"] == "final" else "live",
        started_ms=int(fields["started_ms"]),
        last_ms=int(fields.get("last_ms", 0)),
        utterances=int(fields.get("utterances", 0)),
        streams={name: state == "final" for name, state in streams.items()},
    )


def read_event(entry: tuple[str, Mapping[str, str]], results: Mapping[str, str | None]) -> CallEvent:
    """An entry of the event stream with its result; `unreadable`, and a warning, when that is gone or none."""
    event_id, fields = entry
    if fields["kind"] == "call-final":
        return CallEvent(event_id, "call-final", None)
    try:
        return CallEvent(event_id, "utterance", read_result(results[fields["member"]] or ""))
    except CorruptResultError as error:
        log.warning("event %s names what is %s", event_id, error)
        return CallEvent(event_id, "unreadable", None)


def read_digests(texts: Sequence[str]) -> Iterator[Digest]:
    """Those that can be read; a warning for each other."""
    for text in texts:
        try:
            yield Digest.read(text)
        except CorruptResultError as error:
            log.warning("left out: %s", error)
