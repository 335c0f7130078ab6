from pipelines.ingest.offsets import Offsets


def held(delay_s: float = 0.0, **partitions: int) -> Offsets:
    offsets = Offsets(delay_s)
    for name, read_to in partitions.items():
        offsets.assign(int(name[1:]))
        offsets.read(int(name[1:]), read_to - 1)
    return offsets


def test_the_lowest_offset_that_an_open_stream_needs_is_committed() -> None:
    offsets = held(p0=10, p1=20)
    assert offsets.committable(0, [(0, 7), (0, 4), (1, 30)]) == {0: 4, 1: 20}
    assert offsets.committable(1, []) == {0: 10, 1: 20}


def test_a_partition_of_which_nothing_was_read_is_not_committed() -> None:
    offsets = held(p0=10)
    offsets.assign(1)
    assert offsets.committable(0, [(1, 3), (5, 3)]) == {0: 10}


def test_what_may_be_committed_is_committed_later() -> None:
    offsets = held(5.0, p0=10)
    assert offsets.committable(100.0, []) == {}
    offsets.read(0, 29)
    assert offsets.committable(104.9, []) == {}
    assert offsets.committable(105.0, []) == {0: 10}
    assert offsets.committable(109.9, []) == {0: 30}


def test_what_will_be_read_again_was_never_to_be_committed() -> None:
    offsets = held(5.0, p0=10, p1=20)
    offsets.committable(100.0, [])
    offsets.rewind(0, 3)
    assert offsets.committable(105.0, []) == {0: 3, 1: 20}


def test_a_revoked_partition_is_forgotten_also_where_it_waits_to_be_committed() -> None:
    offsets = held(5.0, p0=10, p1=20)
    offsets.committable(100.0, [])
    offsets.revoke(0)
    assert offsets.committable(105.0, []) == {1: 20}
    assert (offsets.first, offsets.read_to) == ({1: 19}, {1: 20})
