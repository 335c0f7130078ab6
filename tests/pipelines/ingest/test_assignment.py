from pipelines.ingest.assignment import Assignment
from pipelines.log.source import Backlog, Gap, Polled
from pipelines.types import Coordinates, Record
from tests.pipelines.ingest.contexts import context
from tests.pipelines.working import counter


def records(partition: int, *offsets: int, key: bytes = b"c", recorded: bool = False) -> tuple[Record, ...]:
    headers = (("recorded", b"1"),) if recorded else ()
    return tuple(Record(Coordinates(partition, offset), key, b"x", headers, 0) for offset in offsets)


def polled(
    *found: Record,
    assigned: frozenset[int] = frozenset(),
    revoked: frozenset[int] = frozenset(),
    gaps: tuple[Gap, ...] = (),
) -> Polled:
    return Polled(found, assigned, revoked, gaps)


def taken(assignment: Assignment) -> list[tuple[int, int]]:
    """Partition and offset of everything that waits, as it takes its turns."""
    order = []
    while (turn := assignment.next()) is not None:
        partition, one = turn
        partition.waiting.take(one)
        order.append((partition.number, one.record.at.offset))
    return order


async def test_partitions_take_turns_a_record_each(redis_url: str) -> None:
    assignment = Assignment(context(redis_url))
    assignment.apply(polled(*records(0, 1, 2, 3), *records(1, 7), assigned=frozenset({0, 1})))
    assert taken(assignment) == [(0, 1), (1, 7), (0, 2), (0, 3)]


async def test_nothing_is_worked_on_while_a_partition_must_be_read_again_and_what_waited_comes_again(
    redis_url: str,
) -> None:
    assignment = Assignment(context(redis_url))
    assignment.apply(polled(*records(0, 4, 5), *records(1, 7), assigned=frozenset({0, 1})))
    turn = assignment.next()
    assert turn is not None
    first, one = turn
    first.waiting.take(one)
    first.progress.note_read(one.record.at.offset)
    first.rewind(2)
    assert (assignment.next(), assignment.rewinds) == (None, {0: 2})
    assignment.apply(polled(*records(0, 6)))
    assert not first.waiting
    assignment.rewound([0])
    assignment.apply(polled(*records(0, 2, 3)))
    assert [record.at.offset for record in first.waiting] == [2, 3]


async def test_a_revoked_partition_is_forgotten_and_one_in_both_sets_begins_anew(redis_url: str) -> None:
    assignment = Assignment(context(redis_url))
    assignment.apply(polled(*records(0, 1), *records(1, 2), assigned=frozenset({0, 1})))
    before = {partition.number: partition for partition in assignment}
    assignment.apply(polled(*records(2, 9), revoked=frozenset({0, 1}), assigned=frozenset({1})))
    assert assignment.numbers == {1}
    assert [partition for partition in assignment if partition is before[1]] == []
    assert assignment.idle, "what came of a partition that is not assigned is its next owner's"


async def test_marks_of_ended_work_follow_a_partition_that_is_won_back(redis_url: str) -> None:
    made = context(redis_url)
    assignment = Assignment(made)
    assignment.apply(polled(assigned=frozenset({0, 1})))
    for partition in assignment:
        at = Coordinates(partition.number, 5)
        await made.store.ledger.mark_in_progress(at, made.owner)
        partition.marks_to_clear.append(at.offset)
    assignment.apply(polled(revoked=frozenset({0, 1}), assigned=frozenset({0})))
    (again,) = assignment
    assert again.marks_to_clear == [5]
    await assignment.clear_revoked()
    assert await made.store.ledger.mark_in_progress(Coordinates(1, 5), "another") == 1
    assert await made.store.ledger.mark_in_progress(Coordinates(0, 5), "another") == 2, (
        "it is cleared with the next work"
    )
    await made.store.close()


async def test_records_that_the_log_dropped_are_counted_once(redis_url: str) -> None:
    made = context(redis_url)
    assignment = Assignment(made)
    assignment.apply(polled(assigned=frozenset({0}), gaps=(Gap(0, 3, 8), Gap(0, 5, 10), Gap(4, 0, 9))))
    assert counter(made.metrics.records_lost) == 7


async def test_what_somebody_waits_for_comes_first_in_whatever_partition(redis_url: str) -> None:
    assignment = Assignment(context(redis_url))
    uploads = (*records(0, 1, 2, key=b"u", recorded=True), *records(1, 1, 2, key=b"v", recorded=True))
    live = (*records(0, 3, 5, key=b"l"), *records(0, 4, key=b"m"))
    assignment.apply(polled(*uploads, *live, assigned=frozenset({0, 1})))
    assert taken(assignment) == [(0, 3), (0, 4), (0, 5), (1, 1), (0, 1), (1, 2), (0, 2)]


async def test_what_waits_here_is_behind_too(redis_url: str) -> None:
    assignment = Assignment(context(redis_url))
    assignment.apply(polled(*records(0, 1, 2), assigned=frozenset({0, 1})))
    behind = assignment.behind({0: Backlog(3, 40), 1: Backlog(0, 0)})
    assert behind == {0: Backlog(5, 40), 1: Backlog(0, 0)}
    assert assignment.held_bytes == 2 * (1 + 1024)  # a record takes more than its media


async def test_a_gap_of_the_log_is_behind_the_records_before_it(redis_url: str) -> None:
    """However many are read before it is their turn."""
    assignment = Assignment(context(redis_url))
    assignment.apply(polled(*records(0, 1), assigned=frozenset({0})))
    assignment.apply(polled(*records(0, 9, key=b"d"), gaps=(Gap(0, 2, 9),)))
    (partition,) = assignment
    found = []
    while (one := partition.next(recorded=False)) is not None:
        partition.waiting.take(one)
        found.append((one.record.at.offset, one.lost_before))
    assert found == [(1, 0), (9, 9)]
