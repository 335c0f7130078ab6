"""From which fragment a new owner reads: one pre-roll before the cut, at a key frame where one is near."""

import pytest

from pipelines.checkpoints import ResumePoint
from pipelines.media.resume import KEY_ROLL_MAX_MS, PRE_ROLL_MS, SPACING_MS, ResumePoints

MS = 16


def points(every_ms: int, count: int, key_every: int = 1) -> ResumePoints:
    """Fragments of `every_ms`; every so many opens with a key frame."""
    made = ResumePoints()
    for seq in range(count):
        made.add(ResumePoint(100 + seq, seq, seq * every_ms * MS), starts_at_key_frame=seq % key_every == 0)
    return made


def test_it_is_the_last_one_a_pre_roll_before_the_cut() -> None:
    assert points(1000, 20).before(10_000 * MS) == ResumePoint(109, 9, 9000 * MS)
    assert points(1000, 20).before(10_999 * MS).seq == 9
    assert points(1000, 20).before(500 * MS).seq == 0


def test_a_key_frame_that_is_near_is_chosen_and_one_that_is_not_is_passed_over() -> None:
    assert points(1000, 100, key_every=10).before(29_000 * MS).seq == 20
    far = KEY_ROLL_MAX_MS // 1000 + 5
    assert points(1000, 100, key_every=90).before((far * 1000 + PRE_ROLL_MS) * MS).seq == far


def test_a_cut_never_moves_back_so_earlier_points_are_dropped() -> None:
    made = points(1000, 20)
    assert made.before(15_000 * MS).seq == 14
    assert len(made) == 6
    assert made.before(3_000 * MS).seq == 14


def test_short_fragments_are_remembered_no_closer_than_half_a_second() -> None:
    assert len(points(20, 1000)) == 20_000 // SPACING_MS
    assert points(20, 1000).before(10_000 * MS).start_sample == 9_000 * MS


def test_a_key_frame_is_remembered_however_close() -> None:
    made = points(100, 4, key_every=1000)
    made.add(ResumePoint(104, 4, 400 * MS), starts_at_key_frame=True)
    assert len(made) == 1  # the first opened with one, and is near enough
    without = ResumePoints()
    without.add(ResumePoint(100, 0, 0), starts_at_key_frame=False)
    without.add(ResumePoint(101, 1, 100 * MS), starts_at_key_frame=True)
    assert without.before(10_000 * MS).seq == 1


def test_without_a_fragment_there_is_nothing_to_resume_from() -> None:
    with pytest.raises(LookupError, match="no fragment"):
        ResumePoints().before(0)
