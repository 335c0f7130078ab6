"""What is known of a stream that is being analysed: how far it is stored, where to go on, and how its fragments ended.

docs/architecture.md#nothing-lost-nothing-twice says how these values change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.types import Participant


@dataclass(frozen=True, slots=True)
class TrackCut:
    """How far one participant's track of a stream is analysed and stored, and how many utterances that were."""

    cut_sample: int
    utterances: int


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a stream's fragments at the offsets in `[first_at, counted_to)`; each is counted once.

    A fragment is analysed, or skipped with a reason, or stands in the dead-letter topic (the call counts those).
    `missing` are sequence numbers that never came, or came so broken that their stream could not be known; `lost` are
    those that the log dropped before they were read. How many were lost at the end of a stream cannot be known: they
    count as 1.
    """

    first_at: int | None = None
    counted_to: int = 0
    analysed: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What Redis knows of one stream (docs/architecture.md#nothing-lost-nothing-twice).

    A stream with two participants has two tracks, and their speech overlaps: each track has a cut of its own, so
    that one party's long speech does not hold the other's results back.

    `resume_at` is the offset of the fragment from which a new owner must read (one pre-roll before the lowest cut,
    for decoders that need it) and `resume_sample` the exact position of that fragment's first sample; None before
    the first result. `final` says that the whole stream is stored. `dead_letters` holds the offsets, from `resume_at`
    on, of the call's records that stand in the dead-letter topic: they are not decoded again.
    """

    tracks: Mapping[Participant, TrackCut]
    resume_at: int | None
    resume_seq: int | None
    resume_sample: int | None
    final: bool
    account: Account = field(default_factory=Account)
    dead_letters: frozenset[int] = frozenset()


NEW_STREAM = Checkpoint(tracks={}, resume_at=None, resume_seq=None, resume_sample=None, final=False)
"""The checkpoint of a stream of which nothing is stored."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many of a stream's fragments at offsets below `below` came to which end since the last count.

    `first_at` is the offset of the first fragment that was ever counted, None before it; outcomes are `analysed`, the reasons
    of skipping, `missing` and `lost`. The media of those that were analysed reach to `heard_to_ms` in the call, 0 without any.
    """

    below: int
    first_at: int | None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    heard_to_ms: int = 0


NOTHING_COUNTED = Counted(0, None)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a new owner of a stream starts to read: a fragment's offset, its `seq`, and its first sample's position."""

    offset: int
    seq: int
    start_sample: int
