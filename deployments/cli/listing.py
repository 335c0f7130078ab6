"""Rows under headings, at any width: what is to be copied is never cut or broken."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

GAP = 2
"""Spaces between columns, and before what stands below a row."""
Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; `below` lets its values go to a line below the row where the rows are wider than the window."""

    heading: str
    below: bool = False
    right: bool = False


class Listing:
    """A table where it fits. Else the columns that may stand below do so, wrapped, and the others are never broken."""

    def __init__(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """`rows` have a cell for each of `columns`; an empty one below its row is left out."""
        self._columns = tuple(columns)
        self._rows = [[one if isinstance(one, Text) else Text(one) for one in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich asks this, which knows how wide the window is."""
        widths = [
            max(map(cell_len, (column.heading, *(row[place].plain for row in self._rows))))
            for place, column in enumerate(self._columns)
        ]
        fits = sum(widths) + GAP * (len(widths) - 1) <= options.max_width
        first = [place for place, column in enumerate(self._columns) if fits or not column.below]
        yield self._line([Text(self._columns[place].heading, style="bold") for place in first], first, widths)
        for row in self._rows:
            yield self._line([row[place] for place in first], first, widths)
            if not fits:
                yield from self._below(row)

    def _line(self, cells: Sequence[Text], places: Sequence[int], widths: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="ignore")
        for cell, place in zip(cells, places, strict=True):
            room = " " * (widths[place] - cell_len(cell.plain))
            line.append_text(Text.assemble(room, cell) if self._columns[place].right else Text.assemble(cell, room))
            line.append(" " * GAP)
        line.rstrip()
        return line

    def _below(self, row: Sequence[Text]) -> Iterable[RenderableType]:
        """One line of all that has no place in the row; what has no heading speaks for itself."""
        told = [
            Text.assemble((f"{column.heading} ", "dim"), cell) if column.heading else cell
            for column, cell in zip(self._columns, row, strict=True)
            if column.below and cell.plain
        ]
        if told:
            yield Padding(Text("   ").join(told), (0, 0, 0, GAP))


def listing(rows: Iterable[Mapping[str, object]], first: Mapping[str, str], below: Mapping[str, str]) -> Listing:
    """The rows' values by key; `first` and `below` map the keys that are shown to their headings."""
    columns = [*map(Column, first.values()), *(Column(heading, below=True) for heading in below.values())]
    names = (*first, *below)
    return Listing(columns, (["" if row[name] is None else str(row[name]) for name in names] for row in rows))


def values(row: Mapping[str, object]) -> Group:
    """Names and their values, one a line, none of them cut."""
    width = max(map(len, row), default=0) + GAP
    lines = (
        Text.assemble((f"{name if not place else '':<{width}}", "dim"), line)
        for name, value in row.items()
        for place, line in enumerate(str(value).split("\n"))
    )
    return Group(*(Text.assemble(line, no_wrap=True, overflow="ignore") for line in lines))
