"""Checks that nothing is missing or double: the log's offsets, the store's accounts and the dead-letter topic compared.

They are read in this order, so that each is newer than the one before: the extents of the log, its records, the accounts,
the dead letters. Records still in progress when the audit reads are counted as pending, not as missing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.checkpoints import Account, Checkpoint
from pipelines.errors import BadFragmentError
from pipelines.log.dead_letter import Letter
from pipelines.log.records import call_of, parse_record
from pipelines.log.topic_reader import Extent
from pipelines.settings import MediaLimits
from pipelines.store.ledger import StreamId
from pipelines.store.store import Store
from pipelines.types import LIVE_RUN, CallRef, Coordinates, Faults, Record, UtteranceSentiment, add_faults, count_faults

FINDINGS_MAX = 1_000

Kind = Literal[
    "fragments_missing",
    "fragments_doubled",
    "letters_missing",
    "letters_uncounted",
    "utterances_missing",
    "utterances_doubled",
    "offsets_ahead",
]


class Finding(BaseModel):
    """Something missing or double: how many, of which tenant, call and stream (empty where that cannot be known)."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    tenant: str
    call_id: str
    stream: str
    count: int
    detail: str


REPEATS: Mapping[str, str] = {
    "already_stored": "of a part that was stored already, or after the stream's end",
    "duplicate": "with a number that had come before",
    "after_final": "after the stream's end",
}
"""Reasons to skip a fragment that say nothing of its media: its sender may have sent it again, or other media under the same name."""


class Repeated(BaseModel):
    """Fragments of a stream that were not analysed since something with their numbers had come, and by which reasons."""

    model_config = ConfigDict(frozen=True)

    tenant: str
    call_id: str
    stream: str
    count: int
    reasons: dict[str, int]


class AuditReport(BaseModel):
    """What the audit counted, and its findings.

    `records` is the sum of `analysed`, `skipped`, `dead_lettered`, `deleted`, `pending` and of what is missing, where the
    log still holds every fragment that the accounts count.
    `missing` and `lost` count sequence numbers that never reached the log's readers: they are no findings.
    """

    run: str
    records: int
    calls: int
    streams: int
    streams_cut: int
    """Of these, how many began before what was read of the log: whether all before is accounted for cannot be seen."""
    analysed: int
    skipped: dict[str, int]
    dead_lettered: dict[str, int]
    deleted: int
    pending: int
    missing: int
    lost: int
    utterances: int
    faults: Faults
    """Results that are there and lack a modality by a fault of the service: nothing is missing of the call, but of them."""
    findings: list[Finding]
    repeated: list[Repeated]
    """No finding, since senders may repeat, and to be looked at: it may have been another recording under the same call id."""

    @property
    def clean(self) -> bool:
        """Whether there are no findings, and no result lacks anything by a fault."""
        return not self.findings and not self.faults


@dataclass(slots=True)
class LogIndex:
    """The records of the log by stream, and those that could not be parsed."""

    limits: MediaLimits
    streams: dict[StreamId, list[Coordinates]] = field(default_factory=lambda: defaultdict(list))
    refused: list[tuple[CallRef | None, Coordinates]] = field(default_factory=list)
    read_from: dict[int, int] = field(default_factory=dict)
    """The first offset read, by partition."""
    records: int = 0

    def add(self, record: Record) -> None:
        """Takes the next record of the log; those of a partition come in order."""
        self.records += 1
        self.read_from.setdefault(record.at.partition, record.at.offset)
        try:
            fragment = parse_record(record, self.limits)
        except BadFragmentError:
            self.refused.append((call_of(record), record.at))
        else:
            self.streams[StreamId(fragment.call, fragment.stream)].append(record.at)


async def audit(
    log_index: LogIndex, extents: Mapping[int, Extent], store: Store, letters: Callable[[], Iterable[Letter]], run: str
) -> AuditReport:
    """Compare `log_index`, made of all records in `extents`, with the store, and with the letters that are then read.

    Raises:
        StoreUnavailableError: Redis is away.
        SourceUnavailableError: the log is away.
    """
    named = {stream_id.call for stream_id in log_index.streams} | {call for call, _ in log_index.refused}
    calls = sorted(call for call in named if call is not None)
    checkpoints = {call: await store.checkpoints(call) for call in calls}
    noted = {call: await store.ledger.dead_letter_counts(call) for call in calls}
    deleted = {call for call in calls if await store.deleted(call)}
    dead = {letter.record.at: _without_media(letter) for letter in letters()}
    totals = _Totals(extents, log_index, dead, frozenset(named))
    # A replay or a shadow analyses the calls it was asked for: others are not missing.
    taken = {call for call in calls if run == LIVE_RUN or checkpoints[call]}
    for stream_id, places in log_index.streams.items():
        call, stream = stream_id.call, stream_id.stream
        if call in deleted:
            totals.deleted += len(places)
        elif call in taken:
            totals.check_stream(call, stream, places, checkpoints[call].get(stream))
    for whose, at in log_index.refused if run == LIVE_RUN else ():
        if at not in dead:
            totals.check_uncounted(whose, "", [at], "a record that breaks the contract has no dead letter")
    for call in sorted(taken - deleted):
        totals.check_letters(call, noted[call])
        if await store.archive.call(call) is not None:  # results may expire before the checkpoints do
            totals.check_utterances(call, await store.archive.results(call), checkpoints[call])
    totals.check_offsets()
    return totals.report(run, calls=len(calls))


def _without_media(letter: Letter) -> Letter:
    whose = tuple(header for header in letter.record.headers if header[0] == "tenant")
    return replace(letter, record=replace(letter.record, value=b"", headers=whose))


@dataclass(slots=True)
class _Totals:
    extents: Mapping[int, Extent]
    log_index: LogIndex
    dead: Mapping[Coordinates, Letter]
    named: frozenset[CallRef | None]
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    deleted: int = 0
    faults: Faults = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    by_call: dict[CallRef | None, list[Letter]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for letter in self.dead.values():
            self.by_call[call_of(letter.record)].append(letter)

    def find(self, kind: Kind, call: CallRef | None, stream: str, count: int, detail: str) -> None:
        tenant, call_id = ("", "") if call is None else (call.tenant, call.call_id)
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(
                Finding(kind=kind, tenant=tenant, call_id=call_id, stream=stream, count=count, detail=detail)
            )

    def check_stream(
        self, call: CallRef, stream: str, places: Sequence[Coordinates], checkpoint: Checkpoint | None
    ) -> None:
        """One stream's records against its account."""
        own = [at for at in places if at not in self.dead]
        account = Account() if checkpoint is None else checkpoint.account
        self.counts["analysed"] += account.analysed
        self.counts["missing"] += account.missing
        self.counts["lost"] += account.lost
        self.skipped.update(account.skipped)
        again = {reason: count for reason, count in account.skipped.items() if count and reason in REPEATS}
        if again and len(self.repeated) < FINDINGS_MAX:
            whose = {"tenant": call.tenant, "call_id": call.call_id, "stream": stream}
            self.repeated.append(Repeated(**whose, count=sum(again.values()), reasons=again))
        counted = [at for at in own if at.offset < account.counted_to]
        later = [at for at in own if at.offset >= account.counted_to]
        ended = account.analysed + sum(account.skipped.values())
        read_from = self.log_index.read_from[places[0].partition]
        self.counts["streams_cut"] += account.first_at is not None and account.first_at < read_from
        if ended < len(counted):
            detail = f"{len(counted)} stand in the log below offset {account.counted_to}, {ended} are accounted for"
            self.find("fragments_missing", call, stream, len(counted) - ended, detail)
        if ended > len(counted) and self._sees_all(account, places):
            detail = f"{ended} are accounted for, {len(counted)} stand in the log below offset {account.counted_to}"
            self.find("fragments_doubled", call, stream, ended - len(counted), detail)
        self.check_uncounted(call, stream, later, "below the committed offset, and in no account")

    def check_uncounted(self, call: CallRef | None, stream: str, places: Sequence[Coordinates], detail: str) -> None:
        """Records in no account: pending, unless the group's committed offset has passed them."""
        passed = [at for at in places if at.offset < (self.extents[at.partition].committed or 0)]
        self.counts["pending"] += len(places) - len(passed)
        if passed:
            first, last = passed[0], passed[-1]
            where = f"partition {first.partition}, offsets {first.offset} to {last.offset}"
            self.find("fragments_missing", call, stream, len(passed), f"{detail} ({where})")

    def check_offsets(self) -> None:
        """Committed offsets against the ends of their partitions."""
        for partition, extent in self.extents.items():
            ahead = (extent.committed or 0) - extent.end
            if ahead > 0:
                self.find("offsets_ahead", None, "", ahead, f"partition {partition} is committed beyond its end")

    def check_letters(self, call: CallRef, noted: Mapping[str, int]) -> None:
        """A call's dead letters in the topic against those that the store has counted."""
        own = self.by_call.get(call, [])
        inside = [one for one in own if self._inside(one.record.at)]
        counted = sum(noted.values())
        if counted > len(own):
            detail = f"{counted} are counted, {len(own)} stand in the dead-letter topic"
            self.find("letters_missing", call, "", counted - len(own), detail)
        passed = [
            one for one in inside if one.record.at.offset < (self.extents[one.record.at.partition].committed or 0)
        ]
        if len(passed) > counted:
            detail = f"{len(passed)} stand in the dead-letter topic, {counted} are counted"
            self.find("letters_uncounted", call, "", len(passed) - counted, detail)

    def check_utterances(
        self, call: CallRef, results: Sequence[UtteranceSentiment], checkpoints: Mapping[str, Checkpoint]
    ) -> None:
        """A call's results against the number of utterances in its checkpoints, and against each other."""
        self.counts["utterances"] += len(results)
        add_faults(self.faults, count_faults(results))
        for stream, checkpoint in checkpoints.items():
            for participant, cut in checkpoint.tracks.items():
                track = [one for one in results if (one.stream, one.participant) == (stream, participant)]
                if len(track) < cut.utterances:
                    detail = f"{participant}: {cut.utterances} were stored, {len(track)} are there"
                    self.find("utterances_missing", call, stream, cut.utterances - len(track), detail)
                twice = sum(one.end_ms > following.start_ms for one, following in pairwise(track))
                if len(track) > cut.utterances or twice:
                    detail = f"{participant}: {cut.utterances} were stored, {len(track)} are there, {twice} overlap"
                    self.find("utterances_doubled", call, stream, max(twice, len(track) - cut.utterances), detail)

    def report(self, run: str, calls: int) -> AuditReport:
        own = (letter for call in self.named for letter in self.by_call.get(call, []))
        inside = Counter(letter.reason for letter in own if self._inside(letter.record.at))
        return AuditReport(
            run=run,
            records=self.log_index.records,
            calls=calls,
            streams=len(self.log_index.streams),
            streams_cut=self.counts["streams_cut"],
            analysed=self.counts["analysed"],
            skipped=dict(self.skipped),
            dead_lettered=dict(inside),
            deleted=self.deleted,
            pending=self.counts["pending"],
            missing=self.counts["missing"],
            lost=self.counts["lost"],
            utterances=self.counts["utterances"],
            faults=self.faults,
            findings=self.findings,
            repeated=self.repeated,
        )

    def _sees_all(self, account: Account, places: Sequence[Coordinates]) -> bool:
        """Whether every fragment that the account counts is among the records read."""
        extent = self.extents[places[0].partition]
        start = self.log_index.read_from[places[0].partition]
        return (account.first_at or 0) >= start and account.counted_to <= extent.end

    def _inside(self, at: Coordinates) -> bool:
        extent = self.extents.get(at.partition)
        return extent is not None and self.log_index.read_from.get(at.partition, extent.end) <= at.offset < extent.end
