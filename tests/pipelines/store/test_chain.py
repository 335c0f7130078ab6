import json
from collections.abc import Sequence

import pytest

from pipelines.errors import CorruptResultError
from pipelines.store.chain import START, TEXT_MAX_CHARS, CallAccess, Entry, Mark, chained, hash_of
from pipelines.store.chain_check import FINDINGS_MAX, ChainCheck, Head, TrailReport
from pipelines.types import CallRef
from tests.pipelines.stored import acme

AT_MS = 1_763_700_000_000


def access(call_id: str = "a-17", who: str = "token:1") -> CallAccess:
    return CallAccess("read", acme(call_id), who, "192.0.2.7", "summary")


def trail(count: int = 5) -> tuple[list[str], Mark]:
    return chained([access(f"c{number}") for number in range(count)], AT_MS, Mark(0, START))


def checked(
    lines: Sequence[str], mark: Mark, *, trimmed: int = 0, expected: Mark | None = None, now_ms: int = AT_MS
) -> TrailReport:
    head = Head(mark, AT_MS, 86_400, trimmed, now_ms)
    check = ChainCheck("acme", head, expected)
    for number, line in enumerate(lines):
        check.add(f"{AT_MS}-{number}", line)
    return check.report(head)


def found(report: TrailReport) -> list[tuple[str, int]]:
    return [(one.kind, one.number) for one in report.findings]


def test_an_entry_is_one_line_that_names_the_hash_of_the_line_before() -> None:
    first, second = trail(2)[0]
    assert json.loads(second) == {
        "v": 1,
        "number": 2,
        "at_ms": AT_MS,
        "tenant": "acme",
        "call_id": "c1",
        "action": "read",
        "who": "token:1",
        "origin": "192.0.2.7",
        "detail": "summary",
        "previous": hash_of(first),
    }
    assert Entry.read(second).write() == second


def test_a_whole_trail_is_whole_and_says_its_head() -> None:
    lines, mark = trail()
    report = checked(lines, mark)
    assert report.whole
    assert (report.entries, report.first_number, report.head) == (5, 1, f"5:{hash_of(lines[-1])}")


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("change", [("token:1", "token:2"), ('"c', '"d'), ('"v":1', '"v": 1'), ("{", "nonsense {")])
def test_an_altered_entry_is_found(number: int, change: tuple[str, str]) -> None:
    lines, mark = trail()
    lines[number - 1] = lines[number - 1].replace(*change)
    assert ("altered", number) in found(checked(lines, mark))


def test_removed_entries_are_found_in_the_middle_at_the_end_and_at_the_start() -> None:
    lines, mark = trail()
    assert found(checked([*lines[:2], *lines[4:]], mark)) == [("removed", 3)]
    assert found(checked(lines[:3], mark)) == [("removed", 4)]
    assert found(checked(lines[2:], mark)) == [("removed", 1)]
    assert found(checked([], mark)) == [("removed", 1)]


def test_a_trail_may_begin_in_its_middle_where_the_first_ones_went_for_their_age() -> None:
    lines, mark = trail()
    report = checked(lines[2:], mark, trimmed=2)
    assert report.whole
    assert (report.entries, report.first_number) == (3, 3)
    assert found(checked(lines[3:], mark, trimmed=2)) == [("removed", 3)]


def test_a_trail_whose_last_entry_is_past_its_time_may_be_empty() -> None:
    _, mark = trail()
    assert checked([], mark, now_ms=AT_MS + 86_400_000).whole
    assert not checked([], mark, now_ms=AT_MS + 86_399_999).whole
    assert checked([], Mark(0, START)).head is None


def test_entries_that_were_added_are_found() -> None:
    lines, mark = trail()
    (forged,), _ = chained([access("c9")], AT_MS, Mark(2, hash_of(lines[1])))
    assert found(checked([*lines[:3], forged, *lines[3:]], mark)) == [("added", 3)]
    (behind,), _ = chained([access("c9")], AT_MS, mark)
    assert found(checked([*lines, behind], mark)) == [("added", 6)]
    assert found(checked(lines, Mark(0, START)))[-1] == ("no_head", 5)


def test_the_trail_of_another_tenant_or_another_time_is_none_of_this_one() -> None:
    theirs, mark = chained([CallAccess("read", CallRef("rival", "c"), "w", "o")], AT_MS, Mark(0, START))
    assert found(checked(theirs, mark)) == [("altered", 1)]
    late, mark = chained([access()], AT_MS + 1, Mark(0, START))
    assert found(checked(late, mark)) == [("altered", 1)]


def test_only_a_head_that_was_noted_tells_a_trail_that_was_written_anew() -> None:
    lines, mark = trail()
    other, other_mark = chained([access("other")] * 5, AT_MS, Mark(0, START))
    noted = Mark(3, hash_of(lines[2]))
    assert checked(other, other_mark).whole
    assert checked(other, other_mark, expected=noted).expected == "not_contained"
    assert not checked(other, other_mark, expected=noted).whole
    assert checked(lines, mark, expected=noted).expected == "contained"
    assert checked(lines, mark, expected=noted).whole
    assert checked(lines, mark, expected=Mark(6, "0" * 64)).expected == "not_contained"


def test_a_head_that_went_for_its_age_proves_nothing_unless_it_is_the_last_that_did() -> None:
    lines, mark = trail()
    kept, last_gone = lines[3:], Mark(3, hash_of(lines[2]))
    assert checked(kept, mark, trimmed=3, expected=last_gone).expected == "contained"
    assert checked(kept, mark, trimmed=3, expected=Mark(3, "0" * 64)).expected == "not_contained"
    gone = checked(kept, mark, trimmed=3, expected=Mark(2, hash_of(lines[1])))
    assert gone.expected == "past_retention"
    assert not gone.whole


def test_what_came_or_went_while_the_trail_was_read_is_no_finding() -> None:
    lines, mark = trail(8)
    before = Head(Mark(6, hash_of(lines[5])), AT_MS, 86_400, 0, AT_MS)
    check = ChainCheck("acme", before)
    for number in (0, 1, 4, 5, 6, 7):  # the third and the fourth went with the first two for their age
        check.add(f"{AT_MS}-{number}", lines[number])
    assert check.complete
    report = check.report(Head(mark, AT_MS, 86_400, 4, AT_MS))
    assert report.whole, report.findings
    assert report.head == str(before.mark)


def test_findings_are_counted_and_a_hundred_of_them_named() -> None:
    lines, mark = trail(2)
    report = checked([lines[0], *["nonsense"] * 500], mark)
    assert len(report.findings) == FINDINGS_MAX
    assert report.findings_in_all >= 500


def test_long_names_are_cut_and_stay_different() -> None:
    one, two = (
        Entry.read(line) for line in chained([access(who="x" * 9_999), access(who="x" * 9_998)], 0, Mark(0, START))[0]
    )
    assert len(one.who) == len(two.who) == TEXT_MAX_CHARS
    assert one.who != two.who


def test_what_would_steer_a_terminal_and_is_no_text_is_written_as_ascii() -> None:
    line = chained([access(who="\x1b[2J\u202e\ud800é")], 0, Mark(0, START))[0][0]
    assert line.isascii()
    assert line.isprintable()


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"v":1}', "\ufffd"])
def test_a_line_that_is_no_entry_says_so(line: str) -> None:
    with pytest.raises(CorruptResultError):
        Entry.read(line)


@pytest.mark.parametrize(
    "text", ["", "5", ":", "0:" + "a" * 64, "-1:" + "a" * 64, "5:" + "A" * 64, "5:aa", "\u0665:" + "a" * 64]
)
def test_a_mark_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NUMBER:HASH"):
        Mark.read(text)


def test_a_mark_reads_as_it_was_written() -> None:
    mark = Mark(5120, "ab" * 32)
    assert Mark.read(f" {mark}\n") == mark


def test_a_noted_head_of_a_trail_that_is_not_there_any_more_is_not_contained() -> None:
    assert checked([], Mark(0, START), expected=Mark(3, "a" * 64)).expected == "not_contained"
    _, mark = trail()
    assert checked([], mark, expected=mark, now_ms=AT_MS + 86_400_000).expected == "past_retention"


def test_the_first_entry_of_all_is_chained_to_nothing() -> None:
    lines, mark = chained([access()], AT_MS, Mark(0, "a" * 64))
    assert found(checked(lines, mark)) == [("altered", 1)]
