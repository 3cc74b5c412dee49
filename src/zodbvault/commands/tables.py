"""Results for people: tables as values, lines of text made of them, and lengths of time in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container


class Column(NamedTuple):
    """A column of a table. is_shown: there is something in it. spare: from 1 on; the greatest goes first for room."""

    heading: str
    is_number: bool = False
    is_shown: bool = True
    spare: int = 0


class Table(NamedTuple):
    """Rows of cells for people."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


ALARMS = ("MISSING", "DAMAGED", "NO BLOBS", "UNKNOWN", " lost")
"""What a cell says that is not as it should be."""


class Result(NamedTuple):
    """What a command found that only looks: for people a table, lines and warnings, for programs data for JSON."""

    table: Table
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    data: dict[str, object]


def aligned(table: Table) -> tuple[str, ...]:
    """The lines of a table, its headings first: columns of equal width, two spaces between. None without rows."""
    if not table.rows:
        return ()
    lines = [tuple(column.heading for column in table.columns), *table.rows]
    return tuple(
        "  ".join(
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, _widths(table), table.columns, strict=True)
        ).rstrip()
        for line in lines
    )


def fitting(table: Table, width: int, between: int) -> Table:
    """The table without as many spare columns as it takes to fit into lines of `width` characters.

    between: characters between two columns.
    """
    while width_of(table, between) > width:
        most = max(column.spare for column in table.columns)
        if not most:
            break
        table = without(table, [number for number, column in enumerate(table.columns) if column.spare == most])
    return table


def width_of(table: Table, between: int) -> int:
    """Characters of a line of the table."""
    return sum(_widths(table)) + between * (len(table.columns) - 1)


def without(table: Table, numbers: Container[int]) -> Table:
    """The table without the columns that have these numbers, from 0 on."""
    kept = [number for number in range(len(table.columns)) if number not in numbers]
    return Table(
        tuple(table.columns[number] for number in kept),
        tuple(tuple(row[number] for number in kept) for row in table.rows),
    )


def shown(table: Table) -> Table:
    """The table without the columns that there is nothing in."""
    return without(table, [number for number, column in enumerate(table.columns) if not column.is_shown])


def _widths(table: Table) -> list[int]:
    """Characters of the longest cell of each column."""
    return [
        max([len(column.heading), *(len(row[number]) for row in table.rows)])
        for number, column in enumerate(table.columns)
    ]


def duration_text(seconds: float) -> str:
    """A length of time for people, its two largest units: `42 s`, `3 min 5 s`, `26 h`, `8 d 4 h`."""
    whole = int(seconds)
    for size, name, smaller, name_of_smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {name_of_smaller}" if rest else "")
    return f"{whole} s"
