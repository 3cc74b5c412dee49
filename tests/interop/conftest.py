"""What the tests of this folder share, and the table that they end with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.upstream import make_their_environment
from tests.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _pytest.terminal import TerminalReporter

DRAWN = "a layout drawn for each day"
GRID = "interop grid"
"""Key of a test's properties: layout, who made the backups, who restores, good dates, dates."""


@pytest.fixture(scope="session")
def upstream() -> None:
    """collective.recipe.backup is installed."""
    make_their_environment()


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The grid: how many dates came back, for each layout, order of makers and restorer."""
    cells = [
        value
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, ())
        for key, value in report.user_properties
        if key == GRID
    ]
    if cells:
        terminalreporter.section("dates that came back, of all dates")
        for line in table(cells):
            terminalreporter.line(line)


def table(cells: Iterable[tuple[str, str, str, int, int]]) -> list[str]:
    """A line for each layout, a column for each order of makers and each restorer; cells of one place are added up."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for layout, makers, restorer, good, number in cells:
        place = (layout, f"{makers} {restorer}")
        before = sums.get(place, (0, 0))
        sums[place] = (before[0] + good, before[1] + number)
    layouts = sorted({layout for layout, _ in sums}, key=[*LAYOUTS, DRAWN].index)
    columns = sorted({column for _, column in sums})
    texts = {place: f"{good}/{number}" for place, (good, number) in sums.items()}
    lines = [["", *columns], *([layout, *(texts.get((layout, each), "") for each in columns)] for layout in layouts)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
