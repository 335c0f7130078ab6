"""Every Redis key of the store, and how what it holds is read. Nobody but the store's own files and `lua/` builds them.

All keys of one call carry its tenant and its id as hash tag, CALL being `TENANT/ID`: they share a slot, so that one script
may touch them all on a Cluster, and no tenant can reach another's call, whatever id it names. They expire together,
`ttl_s` after the last result.

    ut:{CALL}:call            hash: `status` (as the most open of its streams; `waiting` before it has one), `started_ms` (wall clock), `last_ms` (end
                              of the latest utterance), `length_ms` (to where its media was heard), `utterances` (count)
    ut:{CALL}:streams         hash: stream -> live | stalled | closed | final
    ut:{CALL}:stream:STREAM   hash, the checkpoint (docs/architecture.md#nothing-lost-nothing-twice): `owner`, `partition`, `final`, `resume_at` (offset),
                              `resume_seq`, `resume_sample`, per participant `cut:P` (sample) and `utterances:P`; and
                              the account: `first_at` and `counted_to` (offsets), `n:OUTCOME` (fragments)
    ut:{CALL}:results         hash: member -> the result's JSON; a member is `start_ms/participant/stream`
    ut:{CALL}:order           sorted set of members, in the order of `start_ms`, then participant
    ut:{CALL}:digests         hash: member -> `participant|polarity|emotion|score`, for filters and trends
    ut:{CALL}:kinds           hash: `participant|polarity|emotion` -> `lowest,highest` score of such utterances, for filters
    ut:{CALL}:events          stream of `kind` and, of an utterance, `member`, cut to about `EVENTS_MAX`
    ut:{CALL}:senders         hash: stream -> hash of the word with which its sender goes on, where it came over HTTP; of one that
                              broke off `STREAM/taken` -> how many fragments the log has, and the SHA-256 of the last one's media
    ut:{CALL}:seals:TOPIC     hash: seal -> the key (hex) of what that topic of the log holds of the call (`seals.py`)
    ut:{CALL}:letters         sorted set: `partition:offset` of the call's latest dead letters, by offset
    ut:{CALL}:letter-counts   hash: reason -> how many of the call's records are dead letters
    ut:{CALL}:runs            set of the other runs that hold results of the call
    ut:{CALL}:customers       set of the customers whose call it is, each as a keyed hash of their reference
    ut:{CALL}:unstored        set of members that a trend bucket may have while `results` has them not
    ut:{CALL}:deleted         the tombstone of a deleted call, for longer than the log keeps its fragments: erasing | erased

`streams`, the checkpoints and the letters live longer than the log keeps fragments, so that none is worked on again.
What a replay or a shadow writes stands under `ut:{CALL}:run:RUN:…`, beside the live results; its shared keys begin
with `ut:run:RUN:`.

Keys that several calls share stand in slots of their own. They are written before the call's own step, and writing
them again changes nothing, so a crash in between loses nothing.

    ut:calls:TENANT           sorted set of call ids by `started_ms`; ids of expired calls go when a listing meets them
    ut:customer:TENANT:HASH   sorted set of the ids of a customer's calls, by when nothing is kept of them any more, s since 1970
    ut:customer-key:TENANT    the secret under which a tenant's references are hashed, 256 bits in hexadecimal
    ut:trend:TENANT:MINUTE    hash: utterance id -> digest, and `#` -> the sums of all, as JSON; MINUTE counts from 1970, by the
                              call's start plus `start_ms`
    ut:{metrics}:workers      sorted set of worker ids by when their metrics expire, ms since 1970
    ut:{metrics}:worker:ID    the worker's metrics as Prometheus text
    ut:work:PARTITION         hash: offset -> how many workers have marked the record as in progress, and the last of them
    ut:open:PARTITION         sorted set of `tenant/call/stream` of streams that are not stored to their end, by when
                              they were opened, s since 1970
    ut:interim:TENANT         no key but a channel: words of utterances that go on; Redis keeps nothing of what is published
    ut:accesses:{TENANT}:head     hash, where the tenant's trail of accesses ends: `hash` and `number` of the last entry, its `at_ms`,
                              `kept_s`, and `trimmed`, how many entries have gone for their age
    ut:accesses:{TENANT}:entries  stream of `entry`, a line of JSON that holds the hash of the line before (chain.py); an id begins
                              with the entry's `at_ms`. Both expire `kept_s` after the last entry, the head a day later
    ut:tenants                the settings of the live service's tenants, by which replays and shadows go, too
    ut:rewrite                a server's file still holds what was deleted: it is to be written anew (`deletion.py`)
    ut:rewriter               the process that sees to it
    ut:probe                  written to see whether Redis takes anything
    ut:{letter}:PARTITION:OFFSET  what was decided about a dead letter: redriving STREAM SEQ FINAL | redriven | dropped
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pipelines.checkpoints import Account, Checkpoint, TrackCut
from pipelines.errors import CorruptResultError
from pipelines.store.queries import MINUTE_MS, CallChange, CallEvent, CallInfo, CallState, Digest
from pipelines.types import LIVE_RUN, RETENTION_DAYS, TOPIC_MEDIA, CallRef, Coordinates, Participant, read_result

logger = logging.getLogger(__name__)

_STATES: Mapping[str, CallState] = {state: state for state in get_args(CallState)}
_KINDS: Mapping[str, CallChange] = {kind: kind for kind in get_args(CallChange)}

LETTER_STATES = "ut:{letter}"
PROBE = "ut:probe"
TENANTS = "ut:tenants"
REWRITE, REWRITER = "ut:rewrite", "ut:rewriter"

CHECKPOINT_TTL_S = (RETENTION_DAYS[TOPIC_MEDIA] + 1) * 86_400
"""A day longer than the log keeps fragments: none is analysed again."""


@dataclass(frozen=True, slots=True)
class CallKeys:
    """The keys of one call, of one run."""

    call: CallRef
    run: str = LIVE_RUN

    def __call__(self, name: str) -> str:
        """The key of that name in the table above."""
        if self.run == LIVE_RUN or name == "deleted":  # one tombstone holds for all runs
            return f"ut:{{{self.call.tenant}/{self.call.call_id}}}:{name}"
        return f"ut:{{{self.call.tenant}/{self.call.call_id}}}:run:{self.run}:{name}"

    def stream(self, stream: str) -> list[str]:
        """What every script on a stream starts with: call, streams, checkpoint, tombstone, events."""
        return [self("call"), self("streams"), self(f"stream:{stream}"), self("deleted"), self("events")]


def shared(run: str) -> str:
    """The prefix of a run's keys that several calls share."""
    return "ut" if run == LIVE_RUN else f"ut:run:{run}"


def calls_key(run: str, tenant: str) -> str:
    """The index of a tenant's calls."""
    return f"{shared(run)}:calls:{tenant}"


def customer_key(tenant: str, customer: str) -> str:
    """The index of a customer's calls, whatever run holds their results; `customer` is the keyed hash."""
    return f"ut:customer:{tenant}:{customer}"


def customer_secret_key(tenant: str) -> str:
    """The secret under which the references of a tenant's customers are hashed."""
    return f"ut:customer-key:{tenant}"


def trend_key(run: str, tenant: str, minute_ms: int) -> str:
    """The trend bucket that starts at `minute_ms`."""
    return f"{shared(run)}:trend:{tenant}:{minute_ms // MINUTE_MS}"


def work_key(run: str, partition: int) -> str:
    """The in-progress marks on a partition's records."""
    return f"{shared(run)}:work:{partition}"


def open_key(run: str, partition: int) -> str:
    """The streams of a partition that are not stored to their end."""
    return f"{shared(run)}:open:{partition}"


def interim_channel(run: str, tenant: str) -> str:
    """Where the words of a tenant's utterances that go on are published."""
    return f"{shared(run)}:interim:{tenant}"


def trail_keys(tenant: str) -> list[str]:
    """The head of a tenant's trail of accesses, and its entries."""
    return [f"ut:accesses:{{{tenant}}}:{name}" for name in ("head", "entries")]


def letter_name(at: Coordinates) -> str:
    """A record's place as one word."""
    return f"{at.partition}:{at.offset}"


def workers_key(run: str) -> str:
    """The workers of a run that have left metrics."""
    return f"{shared(run)}:{{metrics}}:workers"


def worker_key(run: str, worker_id: str) -> str:
    """The metrics of one worker."""
    return f"{shared(run)}:{{metrics}}:worker:{worker_id}"


def member(start_ms: int, participant: str, stream: str) -> str:
    """An utterance's name within its call; members sort by start, then participant."""
    return f"{start_ms:010d}/{participant}/{stream}"


def read_checkpoint(fields: Mapping[str, str], letters: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint that a stream's hash holds, with the places of its call's dead letters."""
    tracks = {
        Participant(name.removeprefix("cut:")): TrackCut(
            int(value), int(fields[f"utterances:{name.removeprefix('cut:')}"])
        )
        for name, value in fields.items()
        if name.startswith("cut:")
    }
    places = (letter.split(":") for letter in letters)
    offset, seq, sample = (fields.get(name) for name in ("resume_at", "resume_seq", "resume_sample"))
    return Checkpoint(
        tracks=tracks,
        resume_at=None if offset is None else int(offset),
        resume_seq=None if seq is None else int(seq),
        resume_sample=None if sample is None else int(sample),
        final="final" in fields,
        account=read_account(fields),
        dead_letters=frozenset(int(offset) for partition, offset in places if partition == fields.get("partition")),
    )


def read_account(fields: Mapping[str, str]) -> Account:
    """The account that a stream's hash holds."""
    counts = {name.removeprefix("n:"): int(value) for name, value in fields.items() if name.startswith("n:")}
    first_at = fields.get("first_at")
    return Account(
        first_at=None if first_at is None else int(first_at),
        counted_to=int(fields.get("counted_to", 0)),
        analysed=counts.pop("analysed", 0),
        missing=counts.pop("missing", 0),
        lost=counts.pop("lost", 0),
        skipped=counts,
    )


def read_call(call: CallRef, fields: Mapping[str, str], streams: Mapping[str, str]) -> CallInfo | None:
    """What a call's two hashes say; None for a call that is not there."""
    if not {"status", "started_ms"} <= fields.keys():
        return None
    return CallInfo(
        call_id=call.call_id,
        tenant=call.tenant,
        status=_STATES.get(fields["status"], "live"),
        started_ms=int(fields["started_ms"]),
        last_ms=int(fields.get("last_ms", 0)),
        length_ms=int(fields["length_ms"]) if "length_ms" in fields else None,
        utterances=int(fields.get("utterances", 0)),
        streams={name: _STATES.get(state, "live") for name, state in streams.items()},
    )


def read_event(entry: tuple[str, Mapping[str, str]], results: Mapping[str, str | None]) -> CallEvent:
    """An entry of the event stream with its result; `unreadable`, and a warning, when that is gone or none."""
    event_id, fields = entry
    kind = _KINDS.get(fields["kind"])
    if kind is not None:
        return CallEvent(event_id, kind, None)
    try:
        return CallEvent(event_id, "utterance", read_result(results[fields["member"]] or ""))
    except CorruptResultError as error:
        logger.warning("event %s names what is %s", event_id, error)
        return CallEvent(event_id, "unreadable", None)


def read_digests(texts: Sequence[str]) -> Iterator[Digest]:
    """Those that can be read; a warning for each other."""
    for text in texts:
        try:
            yield Digest.read(text)
        except CorruptResultError as error:
            logger.warning("left out: %s", error)
