"""When everything runs: the plain decision, as a crontab says it."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zodbvault.commands.crontab import cron_times
from zodbvault.commands.timetable import BACKUP, DRILL, EVERY, FULL, VERIFY, minutes_from, spans, timetable
from zodbvault.site_settings import ConfigurationError

MONDAY = datetime(2026, 11, 23)
DAY, WEEK = 24 * 60, 7 * 24 * 60


def numbers(field: str, all_of_them: range) -> set[int]:
    """A field of a crontab line, as crontab(5) explains it."""
    if field == "*":
        return set(all_of_them)
    found: set[int] = set()
    for span in field.split(","):
        first, _, last = span.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found <= set(all_of_them)
    return found


def minutes_of(job: str, every: int, name: str, days: int = 7) -> list[int]:
    """The minutes since Monday's midnight when a job runs, by its crontab lines; growing, one for each line."""
    (entry,) = (entry for entry in timetable(every, name) if entry.job == job)
    found = []
    for times in entry.times:
        minute, hour, day, month, weekday = cron_times(times).split()
        assert month == "*"
        minutes, hours = numbers(minute, range(60)), numbers(hour, range(24))
        weekdays, days_of_month = numbers(weekday, range(7)), numbers(day, range(1, 32))
        for number in range(days):
            date = MONDAY + timedelta(number)
            if date.isoweekday() % 7 in weekdays and date.day in days_of_month:
                found += [number * DAY + each * 60 + one for each in hours for one in minutes]
    return sorted(found)


@pytest.mark.parametrize("every", EVERY)
@settings(max_examples=25)
@given(name=st.text(max_size=20))
def test_every_so_many_minutes_there_is_one_backup_and_once_a_week_it_is_a_full_one(every: int, name: str) -> None:
    full = minutes_of(FULL, every, name)
    assert len(full) == 1
    assert full[0] // DAY == 6
    assert 3 <= full[0] % DAY // 60 <= 5
    incremental = minutes_of(BACKUP, every, name)
    # None comes twice, none is at the time of the full one, and none may still be at work then.
    assert len(set(incremental)) == len(incremental)
    assert full[0] - max(minute for minute in [full[0] - WEEK, *incremental] if minute < full[0]) >= max(every, 10)
    left_out = {full[0] - minute for minute in range(every, 10, every)}
    runs = sorted({*incremental, *full, *left_out})
    assert len(runs) == len(incremental) + 1 + len(left_out) == WEEK // every
    assert {later - earlier for earlier, later in pairwise(runs)} <= {every}
    assert runs[0] + WEEK - runs[-1] == every


@given(name=st.text(max_size=20))
def test_all_is_verified_each_night_and_a_restore_rehearsed_each_month(name: str) -> None:
    nights = minutes_of(VERIFY, 15, name)
    assert [minute // DAY for minute in nights] == list(range(7))
    (full,) = minutes_of(FULL, 15, name)
    assert nights[6] > full
    drills = minutes_of(DRILL, 15, name, days=365)
    months = [(MONDAY + timedelta(minutes=minute)).strftime("%Y-%m") for minute in drills]
    assert len(months) in (11, 12, 13)
    assert len(set(months)) == len(months)


def test_sites_do_not_all_begin_at_once_and_each_always_at_its_time() -> None:
    tables = [timetable(60, f"plone{number}") for number in range(100)]
    assert len({cron_times(table[0].times[0]) for table in tables}) > 30
    assert timetable(15, "plone /srv/zodbvault.toml") == timetable(15, "plone /srv/zodbvault.toml")
    lines = [cron_times(times) for entry in timetable(15, "plone /srv/zodbvault.toml") for times in entry.times]
    # Those that are installed stay where they are with the next version.
    assert lines == [
        "1,16,31,46 * * * 1-6",
        "1,16,31,46 0-3,5-23 * * 0",
        "16,31,46 4 * * 0",
        "1 4 * * 0",
        "48 5 * * *",
        "33 6 20 * *",
    ]


def test_a_distance_that_cannot_be() -> None:
    assert minutes_from(None) == 15
    assert [minutes_from(text) for text in ("1", "60", "1440")] == [1, 60, 1440]
    for text in ("0", "7", "-15", "15.0", "", "2880", "\u0661\u0665"):
        with pytest.raises(ConfigurationError, match="divide hours or days: 1, 2, 3, 4, 5, 6, 10, 12, 15"):
            minutes_from(text)


def test_spans() -> None:
    assert spans((0, 1, 2, 5, 7, 8)) == ((0, 2), (5, 5), (7, 8))
    assert spans(()) == ()
