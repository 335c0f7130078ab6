from pipelines.ingest.progress import Progress


def read(read_to: int, delay_s: float = 0.0) -> Progress:
    progress = Progress(delay_s)
    progress.note_read(read_to - 1)
    return progress


def test_the_lowest_offset_that_an_open_stream_needs_is_committed() -> None:
    progress = read(10)
    assert progress.committable(0, 4) == 4
    assert progress.committable(1, 30) == 10
    assert progress.committable(2, None) == 10


def test_a_partition_of_which_nothing_was_read_is_not_committed() -> None:
    assert Progress(0.0).committable(0, None) is None
    assert Progress(0.0).committable(0, 3) is None


def test_what_may_be_committed_is_committed_later() -> None:
    progress = read(10, 5.0)
    assert progress.committable(100.0, None) is None
    progress.note_read(29)
    assert progress.committable(104.9, None) is None
    assert progress.committable(105.0, None) == 10
    assert progress.committable(109.9, None) == 30


def test_what_will_be_read_again_was_never_to_be_committed() -> None:
    progress = read(10, 5.0)
    progress.committable(100.0, None)
    progress.rewind(3)
    assert progress.committable(105.0, None) == 3
    assert (progress.first, progress.read_to) == (9, 3)


def test_what_waits_for_its_turn_is_committed_by_nobody() -> None:
    progress = Progress(0.0)
    progress.note_read(50, 10)  # a live call's, before an upload's
    assert (progress.first, progress.committable(0, None)) == (10, 10)
    progress.note_read(10, 30)
    assert progress.committable(1, None) == 30
    progress.note_read(30)
    assert progress.committable(2, None) == 51
    progress.rewind(20)
    progress.note_read(20)
    assert progress.committable(3, None) == 21
