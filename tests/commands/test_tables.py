"""Tables and lengths of time in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.commands.tables import Column, Table, aligned, duration_text, fitting, shown, width_of, without

TABLE = Table(
    (Column("name"), Column("size", is_number=True, spare=1), Column("note", spare=2), Column("end")),
    (("a", "1 kB", "very long text", "x"), ("bcdefg", "12 kB", "", "y")),
)


def test_columns_stand_below_one_another() -> None:
    assert aligned(TABLE) == (
        "name     size  note            end",
        "a        1 kB  very long text  x",
        "bcdefg  12 kB                  y",
    )
    assert aligned(Table(TABLE.columns, ())) == ()


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (34, ["name", "size", "note", "end"]),
        (33, ["name", "size", "end"]),
        (18, ["name", "size", "end"]),
        (17, ["name", "end"]),
        (1, ["name", "end"]),
    ],
)
def test_columns_to_spare_go_first(width: int, headings: list[str]) -> None:
    assert [column.heading for column in fitting(TABLE, width, between=2).columns] == headings


@given(st.integers(0, 60))
def test_what_fits_is_as_wide_as_it_says(width: int) -> None:
    table = fitting(TABLE, width, between=2)
    assert width_of(table, between=2) == max(map(len, aligned(table)))
    assert width_of(table, between=2) <= width or not any(column.spare for column in table.columns)


def test_a_column_with_nothing_in_it_is_not_shown() -> None:
    columns = (Column("location", is_shown=False), Column("backup", is_shown=True))
    assert shown(Table(columns, (("backups", "one"),))) == Table(columns[1:], (("one",),))
    assert shown(TABLE) == TABLE


def test_a_column_goes_with_its_cells() -> None:
    assert without(TABLE, (0, 2)) == Table((TABLE.columns[1], TABLE.columns[3]), (("1 kB", "x"), ("12 kB", "y")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (93600, "1 d 2 h"),
        (86400 * 45, "45 d"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
