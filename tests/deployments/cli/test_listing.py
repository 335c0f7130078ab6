import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from deployments.cli.console import stdout
from deployments.cli.listing import Column, Listing, values

ID = "call-" + "7" * 100
ROWS = [
    (ID, "why it was refused, in more words than there is room for in a window of 80 columns, or beside it", ""),
    ("short", "why", "note"),
]
COLUMNS = (Column("call"), Column("why", below=True), Column("", below=True))


def seen(monkeypatch: pytest.MonkeyPatch, renderable: RenderableType, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    console = stdout()
    with console.capture() as captured:
        console.print(renderable, crop=False)
    return captured.get().splitlines()


@pytest.mark.parametrize("columns", [20, 80, 120, 300])
def test_an_id_stands_whole_in_one_line_at_any_width_and_words_are_wrapped(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    lines = seen(monkeypatch, Listing(COLUMNS, ROWS), columns)

    assert [line for line in lines if ID in line]
    assert all(cell_len(line) <= columns for line in lines if ID not in line)
    assert " ".join(" ".join(lines).split()).count(ROWS[0][1]) == 1


def test_where_there_is_room_everything_stands_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    head, _, row = seen(monkeypatch, Listing(COLUMNS, ROWS), 300)

    assert head.split() == ["call", "why"]
    assert row.split() == ["short", "why", "note"]
    assert head.index("why") == row.index("why")


def test_numbers_end_below_each_other_also_beside_wide_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = seen(monkeypatch, Listing((Column("who"), Column("n", right=True)), [("日本", "7"), ("a", "1234")]), 80)

    assert {cell_len(line) for line in lines} == {cell_len("日本  1234")}


def test_values_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = seen(monkeypatch, values({"call_id": ID, "headers": "a: 1\nb: 2"}), 40)

    assert lines == [f"call_id  {ID}", "headers  a: 1", "         b: 2"]
