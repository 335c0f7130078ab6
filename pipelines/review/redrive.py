"""Sends dead letters back into the log, at their place in the call."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from pipelines.checkpoints import Checkpoint
from pipelines.errors import BadFragmentError
from pipelines.log.dead_letter import Letter
from pipelines.log.records import call_of, parse_record
from pipelines.settings import MediaLimits
from pipelines.store.keys import letter_name
from pipelines.types import CallRef, Coordinates, MediaFragment

_STREAM_KEPT = 40

NO_STATES: Mapping[Coordinates, str] = {}
BEGUN = "redriving"
"""The decision on a letter that is being sent; it becomes `redriven` once the log has acknowledged it."""

Obstacle = Literal["cut", "still_refused", "duplicate", "call_deleted"]


@dataclass(frozen=True, slots=True)
class Redrive:
    """What is to be sent for a letter, or why it cannot be: `detail` then says more."""

    letter: Letter
    fragment: MediaFragment | None
    obstacle: Obstacle | None = None
    detail: str = ""


def of_deleted_call(letter: Letter) -> Redrive:
    """Nothing is to be sent for the letter, whose call was deleted."""
    return Redrive(letter, None, "call_deleted", "its call was deleted: nothing is taken of it any more")


def begun(fragment: MediaFragment) -> str:
    """What to note of a letter before its fragment is sent, so that a redrive that broke off repeats itself."""
    return f"{BEGUN} {fragment.stream} {fragment.seq} {int(fragment.final)}"


def redrives(
    letters: Iterable[Letter],
    known: Mapping[CallRef, Mapping[str, Checkpoint]],
    limits: MediaLimits,
    states: Mapping[Coordinates, str] = NO_STATES,
    deleted: Collection[CallRef] = (),
) -> Iterator[Redrive]:
    """What to send for each letter, in the order in which to send it.

    A stream of which nothing is `known` (by call, then stream) gets its own fragments. One that has gone on without
    them would take them for duplicates: they make a stream of their own beside it, `STREAM.rOFFSET`, with the times they
    had in the call, one for each run of consecutive fragments; so their utterances stand where they were spoken.

    A letter whose redrive had begun, as `states` (by the record's place) says, is sent as it was then: if the first copy
    arrived, a worker skips the second as a duplicate. Nothing is to be sent of a call that was `deleted`.
    """
    readable: list[tuple[MediaFragment, Letter]] = []
    for letter in letters:
        if call_of(letter.record) in deleted:
            yield of_deleted_call(letter)
            continue
        if not letter.whole:
            yield Redrive(letter, None, "cut", "the dead-letter topic did not take all of it")
            continue
        try:
            fragment = replace(parse_record(letter.record, limits), recorded=True)  # whoever waited does so no more
        except BadFragmentError as error:
            yield Redrive(letter, None, "still_refused", str(error))
            continue
        state = states.get(letter.record.at, "")
        if state.startswith(BEGUN):
            _, stream, seq, final = state.split()
            yield Redrive(letter, replace(fragment, stream=stream, seq=int(seq), final=final == "1"))
        else:
            readable.append((fragment, letter))
    # One of each sequence number: a sender's duplicate would have its speech analysed twice.
    firsts: dict[tuple[CallRef, str, int], tuple[MediaFragment, Letter]] = {}
    for fragment, letter in readable:
        place = (fragment.call, fragment.stream, fragment.seq)
        if firsts.setdefault(place, (fragment, letter))[1] is not letter:
            yield Redrive(letter, None, "duplicate", f"{letter_name(firsts[place][1].record.at)} is the same fragment")
    once = [firsts[place] for place in sorted(firsts)]
    for (call, stream), group in groupby(once, key=lambda one: (one[0].call, one[0].stream)):
        if stream in known.get(call, {}):
            yield from _as_new_stream(list(group))
        else:
            yield from (Redrive(letter, fragment) for fragment, letter in group)


def _as_new_stream(group: list[tuple[MediaFragment, Letter]]) -> Iterator[Redrive]:
    runs = groupby(enumerate(group), key=lambda one: one[1][0].seq - one[0])
    for _, run in runs:
        members = [member for _, member in run]
        name = f"{members[0][0].stream[:_STREAM_KEPT]}.r{members[0][1].record.at.offset}"
        for seq, (fragment, letter) in enumerate(members):
            own = replace(fragment, stream=name, seq=seq, final=seq == len(members) - 1)
            yield Redrive(letter, own)
