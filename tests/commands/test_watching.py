"""States from facts: tables of cases, and what holds for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.commands.watching import (
    DAY,
    Facts,
    Footprint,
    FreeSpace,
    State,
    Thresholds,
    UnreadableThreshold,
    growth_per_day,
    judge,
    parse_age,
    parse_free_space,
    thresholds_from,
    worst,
)

NOW = 1_800_000_000.0
HOUR = 3600
GB = 10**9
STRICT = Thresholds(26 * HOUR, 8 * DAY, 45 * DAY, FreeSpace(share=0.1))
GOOD = Facts(
    NOW,
    newest=NOW - HOUR,
    newest_full=NOW - 3 * DAY,
    is_current=False,
    unsaved_since=NOW - HOUR / 2,
    verified=NOW - DAY,
    verified_good=True,
    drilled=NOW - 10 * DAY,
    drilled_good=True,
    free=50 * GB,
    total=100 * GB,
    next_full=GB,
    growth=0.1 * GB,
    backups=3,
)


def states(facts: Facts, thresholds: Thresholds = STRICT) -> dict[str, State]:
    """What is not OK, by name."""
    return {each.name: each.state for each in judge(facts, thresholds) if each.state is not State.OK}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"newest": None}, {"backup": State.CRITICAL}),
        # Age
        ({"newest": NOW - 27 * HOUR, "unsaved_since": NOW - 27 * HOUR}, {"backup": State.CRITICAL}),
        ({"newest": NOW - 26 * HOUR, "unsaved_since": NOW - 27 * HOUR}, {}),
        ({"newest": NOW - 5 * DAY, "unsaved_since": NOW - HOUR}, {}),
        ({"newest": NOW - 30 * DAY, "newest_full": NOW - 31 * DAY, "is_current": True, "unsaved_since": None}, {}),
        ({"newest": NOW - 27 * HOUR, "is_current": None, "unsaved_since": None}, {"backup": State.CRITICAL}),
        ({"newest": NOW - 27 * HOUR, "is_current": False, "unsaved_since": None}, {"backup": State.CRITICAL}),
        ({"newest": NOW + DAY, "is_current": True}, {"backup": State.WARNING}),
        ({"newest": NOW + 60, "unsaved_since": None}, {}),
        # Chains and blobs
        ({"newest_problem": "a is missing"}, {"chain": State.CRITICAL}),
        ({"newest_problem": "a is missing", "older_problems": ("b",)}, {"chain": State.CRITICAL}),
        ({"older_problems": ("b is missing",)}, {"chain": State.WARNING}),
        ({"lacks_blobs": True}, {"blobs": State.WARNING}),
        ({"lost_blobs": 3}, {"blobs": State.WARNING}),
        # Full
        ({"newest_full": NOW - 9 * DAY}, {"full": State.WARNING}),
        ({"newest_full": None}, {}),
        ({"newest_full": NOW - 9 * DAY, "newest": NOW - 8 * DAY, "is_current": True}, {}),
        # Verification
        ({"verified": None, "verified_good": None}, {}),
        ({"bad": ("2026-11-23-18-05-00",)}, {"verify": State.WARNING}),
        ({"bad": ("2026-11-23-18-05-00",), "is_newest_bad": True}, {"verify": State.CRITICAL}),
        # Drill
        ({"drilled": None, "drilled_good": None}, {"drill": State.WARNING}),
        ({"drilled": NOW - 46 * DAY}, {"drill": State.WARNING}),
        ({"drilled_good": False}, {"drill": State.CRITICAL}),
        # Space
        ({"free": 9 * GB}, {"space": State.WARNING}),
        ({"free": 10 * GB}, {}),
        ({"free": 11 * GB, "next_full": 12 * GB}, {"space": State.WARNING}),
        ({"free": 0, "total": 0}, {}),
        ({"free": 9 * GB, "newest": None}, {"backup": State.CRITICAL, "space": State.WARNING}),
    ],
)
def test_what_is_thought_of_the_facts(changes: dict[str, Any], expected: dict[str, State]) -> None:
    assert states(GOOD._replace(**changes)) == expected


def test_ages_of_full_and_drill_are_judged_only_where_that_is_asked_for() -> None:
    old = GOOD._replace(newest_full=NOW - 100 * DAY, drilled=None)
    assert states(old, Thresholds()) == {}
    assert states(old._replace(drilled=NOW - 100 * DAY), Thresholds()) == {}


maybe = st.none() | st.floats(NOW - 100 * DAY, NOW + DAY)
facts = st.builds(
    Facts,
    now=st.just(NOW),
    newest=maybe,
    newest_full=maybe,
    is_current=st.sampled_from([None, False, True]),
    unsaved_since=maybe,
    newest_problem=st.none() | st.text(),
    older_problems=st.lists(st.text()).map(tuple),
    lacks_blobs=st.booleans(),
    lost_blobs=st.integers(0, 10),
    verified=maybe,
    bad=st.lists(st.text()).map(tuple),
    drilled=maybe,
    drilled_good=st.sampled_from([None, False, True]),
    free=st.none() | st.integers(0, 10**15),
    total=st.none() | st.integers(0, 10**15),
    next_full=st.none() | st.integers(0, 10**15),
    growth=st.none() | st.floats(-1e12, 1e12),
)


@given(facts)
def test_any_facts_are_judged(known: Facts) -> None:
    judgements = judge(known, STRICT)
    names = [each.name for each in judgements]
    assert len(names) == len(set(names))
    assert all(each.text for each in judgements)
    assert known.newest is not None or worst(each.state for each in judgements) is State.CRITICAL
    assert known.age is None or known.age >= 0


@given(facts, st.floats(0, 1000 * HOUR), st.floats(0, 1000 * HOUR))
def test_a_longer_age_that_is_allowed_never_makes_it_worse(known: Facts, one: float, other: float) -> None:
    less, more = (
        worst(each.state for each in judge(known, STRICT._replace(max_age=age))) for age in sorted((one, other))
    )
    severity = [State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL]
    assert severity.index(more) <= severity.index(less)


def test_the_worst_state() -> None:
    assert worst([]) is State.UNKNOWN
    assert worst([State.OK, State.WARNING]) is State.WARNING
    assert worst([State.UNKNOWN, State.WARNING]) is State.UNKNOWN
    assert worst([State.UNKNOWN, State.CRITICAL]) is State.CRITICAL


# Growth


def footprints(days: int, data: int, blobs: int) -> list[Footprint]:
    """A backup a day of a site that grows by so many bytes of data and blobs."""
    return [
        Footprint(NOW - (days - day) * DAY, 10 * GB + day * data, 5 * GB + day * blobs, data + blobs)
        for day in range(days + 1)
    ]


@pytest.mark.parametrize(
    ("seen", "prunes", "growth"),
    [
        (footprints(10, 100, 1000), True, 100 * 0.5 * 2 + 1000),
        (footprints(10, 100, 1000), False, 1100),
        (footprints(10, -100, 0), True, -100),
        # What is older than 90 days does not count.
        ([Footprint(NOW - 100 * DAY, 0, 0, 0), *footprints(10, 100, 1000)], True, 1100),
        (footprints(0, 100, 100), True, None),
        ([], True, None),
        ([Footprint(NOW - HOUR, 0, 0, 0), Footprint(NOW, 9, 9, 9)], True, None),
    ],
)
def test_growth(seen: list[Footprint], prunes: bool, growth: float | None) -> None:
    assert growth_per_day(seen, now=NOW, chains=2, copies=1.0, ratio=0.5, prunes=prunes) == growth


def test_blobs_that_are_kept_several_times_grow_as_often() -> None:
    seen = footprints(10, 100, 1000)
    assert growth_per_day(seen, now=NOW, chains=2, copies=3.0, ratio=0.5, prunes=True) == 100 * 0.5 * 2 + 3 * 1000


def test_days_until_the_disk_is_full() -> None:
    assert Facts(NOW, free=100, growth=10.0).days_until_full == 10
    assert Facts(NOW, free=100, growth=-1.0).days_until_full is None
    assert Facts(NOW, free=100).days_until_full is None


# Thresholds as they are written


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("26h", 93600), ("8d", 691200), ("1.5d", 129600), ("2w", 1209600)]
)
def test_an_age(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "26", "h", "-1h", "1y", "26h ago", "1e3h", "٣h"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UnreadableThreshold, match="length of time"):
        parse_age(text)


@pytest.mark.parametrize(
    ("text", "total", "size"),
    [("10%", 1000, 100), ("0%", 1000, 0), ("5GB", 1, 5 * GB), ("5 gb", 1, 5 * GB), ("1.5k", 1, 1500), ("7", 1, 7)],
)
def test_free_space(text: str, total: int, size: int) -> None:
    assert parse_free_space(text).of(total) == size


@pytest.mark.parametrize("text", ["", "%", "101%", "-5GB", "5PB", "10 percent"])
def test_what_is_no_free_space(text: str) -> None:
    with pytest.raises(UnreadableThreshold, match="free space"):
        parse_free_space(text)


def test_thresholds() -> None:
    assert thresholds_from(None, None, None, None) == Thresholds(93600, None, None, FreeSpace(share=0.1))
    assert thresholds_from("1h", "8d", "45d", "1kB") == Thresholds(3600, 8 * DAY, 45 * DAY, FreeSpace(size=1000))
