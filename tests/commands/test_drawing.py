"""Pictures from numbers: well-formed, within their frame, and right."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.commands.drawing import HEIGHT, WIDTH, Scale, Series, bars, calendar, lines, round_limit

SVG = "{http://www.w3.org/2000/svg}"
moments = st.dictionaries(st.integers(0, 10**9).map(float), st.floats(0, 1e15), max_size=12)
series = st.lists(moments.map(lambda found: tuple(sorted(found.items()))), min_size=1, max_size=3)


def parsed(picture: str) -> ElementTree.Element:
    """The picture as a browser sees it. Raises ParseError when it is not well-formed."""
    return ElementTree.fromstring(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def words(value: float) -> str:
    return f"{value:.0f} <&>"


@given(series)
def test_bars_and_lines_stay_within_their_frame(found: list[tuple[tuple[float, float], ...]]) -> None:
    every = [Series(f"s{number}", "full", values) for number, values in enumerate(found)]
    bar_chart, line_chart = parsed(bars("A <title>", every, words, words)), parsed(lines("t", every, words, words))
    assert bar_chart[0].text == "A <title>"
    for rect in bar_chart.iter(f"{SVG}rect"):
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + width <= WIDTH
        assert y >= -0.1
        assert y + height <= HEIGHT
    assert len(list(bar_chart.iter(f"{SVG}rect"))) == sum(map(len, found))
    for line in line_chart.iter(f"{SVG}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_bars_of_one_moment_stand_above_one_another() -> None:
    chart = parsed(bars("t", [Series("a", "full", ((0, 10),)), Series("b", "blobs", ((0, 30),))], words, words))
    one, other = chart.iter(f"{SVG}rect")
    assert float(other.attrib["y"]) + float(other.attrib["height"]) == pytest.approx(float(one.attrib["y"]), abs=0.2)
    assert float(other.attrib["height"]) == pytest.approx(3 * float(one.attrib["height"]), rel=0.05)
    assert [rect[0].text for rect in (one, other)] == ["0 <&>, a: 10 <&>", "0 <&>, b: 30 <&>"]


def test_a_day_stands_in_the_column_of_its_week() -> None:
    days = [(f"2026-11-{number:02}", "none", "x") for number in range(1, 15)]
    squares = list(parsed(calendar("t", days, 6)).iter(f"{SVG}rect"))
    assert len(squares) == 14
    columns = [float(square.attrib["x"]) for square in squares]
    # A Sunday, a week from Monday to Sunday, six days of another one.
    assert [columns.count(column) for column in sorted(set(columns))] == [1, 7, 6]
    assert squares[0].attrib["y"] == squares[7].attrib["y"]
    assert squares[0][0].text == "2026-11-01: x"


@given(st.integers(1, 400), st.integers(0, 6))
def test_a_calendar_of_any_length_fits(number: int, weekday: int) -> None:
    picture = calendar("t", [("2026-11-01", "full", "x")] * number, weekday)
    for square in parsed(picture).iter(f"{SVG}rect"):
        assert float(square.attrib["x"]) + float(square.attrib["width"]) <= WIDTH
    height = re.search(r'viewBox="0 0 360 (\d+)"', picture)
    assert height is not None
    assert max(float(square.attrib["y"]) for square in parsed(picture).iter(f"{SVG}rect")) < int(height[1])


@pytest.mark.parametrize(
    ("value", "limit"), [(0, 1), (1, 1), (1.5, 2), (3, 5), (5, 5), (7, 10), (10, 10), (101, 200), (4e9, 5e9)]
)
def test_where_an_axis_ends(value: float, limit: float) -> None:
    assert round_limit(value) == limit


def test_a_scale() -> None:
    assert Scale(0, 10, 100, 0).at(2.5) == 75
    assert Scale(3, 3, 0, 10).at(3) == 5
