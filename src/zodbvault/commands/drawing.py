"""Pictures for the report as plain SVG: numbers in, text out. Knows nothing of backups.

Colours are classes that the page's style sheet gives; each picture has a title for who cannot see it.
"""

from __future__ import annotations

import itertools
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

WIDTH = 360
"""Units of a picture's width: as many pixels as the smallest screen has, so that its text is readable there."""
HEIGHT = 150
LEFT, RIGHT, TOP, BOTTOM = 58, 6, 8, 20


class Series(NamedTuple):
    """Values over time. style: class of its colour. values: moment (seconds since 1970) and value, oldest first."""

    name: str
    style: str
    values: tuple[tuple[float, float], ...]


class Scale(NamedTuple):
    """Where a value stands in a picture: from `low` to `high` are the units from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The units of a value; the middle where all values are one."""
        if self.high == self.low:
            return (self.first + self.last) / 2
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def round_limit(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not smaller: where an axis ends."""
    if value <= 0:
        return 1.0
    limit = 1.0
    while limit < value:
        for factor in (2, 5, 10):
            if limit * factor >= value:
                return limit * factor
        limit *= 10
    return limit


def bars(title: str, stacks: Sequence[Series], label: Callable[[float], str], date: Callable[[float], str]) -> str:
    """A bar for each moment, of the values that the series have then, one above the other.

    label: a value in words. date: a moment in words.
    """
    sums: dict[float, float] = {}
    for series in stacks:
        for moment, value in series.values:
            sums[moment] = sums.get(moment, 0.0) + value
    across, up = _scales(sums, sums.values())
    width = max(1.0, min(12.0, (WIDTH - LEFT - RIGHT) / max(1, _slots(sums)) * 0.8))
    parts, bottoms = [], dict.fromkeys(sums, 0.0)
    for series in stacks:
        for moment, value in series.values:
            low, high = up.at(bottoms[moment]), up.at(bottoms[moment] + value)
            bottoms[moment] += value
            x = min(max(across.at(moment) - width / 2, LEFT), WIDTH - RIGHT - width)
            text = escape(f"{date(moment)}, {series.name}: {label(value)}")
            parts.append(
                f'<rect class="{series.style}" x="{x:.1f}" y="{high:.1f}" width="{width:.1f}"'
                f' height="{max(0.5, low - high):.1f}"><title>{text}</title></rect>'
            )
    return _picture(title, HEIGHT, [*_axes(across, up, label, date), *parts])


def lines(title: str, every: Sequence[Series], label: Callable[[float], str], date: Callable[[float], str]) -> str:
    """A line for each series."""
    moments = {moment: 0.0 for series in every for moment, _ in series.values}
    across, up = _scales(moments, [value for series in every for _, value in series.values])
    parts = []
    for series in every:
        points = " ".join(f"{across.at(moment):.1f},{up.at(value):.1f}" for moment, value in series.values)
        parts.append(f'<polyline class="line {series.style}" points="{points}"/>')
        if series.values:
            moment, value = series.values[-1]
            text = escape(f"{date(moment)}, {series.name}: {label(value)}")
            x, y = across.at(moment), up.at(value)
            parts.append(
                f'<circle class="{series.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{text}</title></circle>'
            )
    return _picture(title, HEIGHT, [*_axes(across, up, label, date), *parts])


def calendar(title: str, days: Sequence[tuple[str, str, str]], first_weekday: int) -> str:
    """A square for each day, a column for each week, Monday on top.

    days: date, class and words of each day, oldest first, without a gap. first_weekday: of the first day, 0 is Monday.
    """
    weeks = max(1, (first_weekday + len(days) + 6) // 7)
    left = 26
    pitch = min(14.0, (WIDTH - left - RIGHT) / weeks)
    parts = [
        f'<text x="0" y="{TOP + 8 + (row + 0.8) * pitch:.1f}">{name}</text>'
        for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun"))
    ]
    month = ""
    for number, (day, style, words) in enumerate(days):
        column, row = divmod(first_weekday + number, 7)
        x, y = left + column * pitch, TOP + 8 + row * pitch
        if day[:7] != month and column < weeks - 1:
            if month:
                parts.append(f'<text x="{x:.1f}" y="{TOP + 2}">{day[5:7]}</text>')
            month = day[:7]
        parts.append(
            f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{pitch - 2:.1f}" height="{pitch - 2:.1f}" rx="2">'
            f"<title>{escape(f'{day}: {words}')}</title></rect>"
        )
    return _picture(title, TOP + 8 + 7 * pitch + 4, parts)


def _slots(moments: Mapping[float, float]) -> int:
    """How many bars would stand side by side if none was missing: as many as the least distance fits in."""
    ordered = sorted(moments)
    least = min((after - before for before, after in itertools.pairwise(ordered)), default=0.0)
    return int((ordered[-1] - ordered[0]) / least) + 1 if least else 1


def _scales(moments: Iterable[float], values: Iterable[float]) -> tuple[Scale, Scale]:
    """The scales of time and of values."""
    ordered = sorted(moments) or [0.0]
    highest = max(values, default=0.0)
    across = Scale(ordered[0], ordered[-1], LEFT + 6, WIDTH - RIGHT - 6)
    return across, Scale(0.0, round_limit(highest), HEIGHT - BOTTOM, TOP)


def _axes(across: Scale, up: Scale, label: Callable[[float], str], date: Callable[[float], str]) -> list[str]:
    """Lines for none, half and all of the greatest value, and the first and the last date."""
    parts = []
    for value in (0.0, up.high / 2, up.high):
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 4}" y="{y + 4:.1f}">{escape(label(value))}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 5}">{escape(date(across.low))}</text>')
    if across.high > across.low:
        parts.append(f'<text class="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">{escape(date(across.high))}</text>')
    return parts


def _picture(title: str, height: float, parts: Sequence[str]) -> str:
    content = "\n".join(parts)
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-label="{escape(title)}">\n'
        f"<title>{escape(title)}</title>\n{content}\n</svg>"
    )
