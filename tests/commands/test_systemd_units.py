"""Units of systemd: systemd itself takes them for the same times, and no two sites have the same."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

import pytest

from zodbvault.commands.systemd_units import on_calendar, unit_stem
from zodbvault.commands.timetable import JOBS, Times, timetable


@pytest.mark.parametrize("every", [1, 15, 60, 360, 1440])
def test_systemd_takes_it_for_the_same_times(every: int) -> None:
    base = datetime(2026, 11, 28, 22, 59)
    for entry in timetable(every, "plone"):
        for times in entry.times:
            finished = subprocess.run(
                ["systemd-analyze", "calendar", "--iterations=80", f"--base-time={base} UTC", on_calendar(times)],
                capture_output=True,
                text=True,
                check=True,
                env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )
            found = [
                datetime.strptime(" ".join(line.split()[-3:-1]), "%Y-%m-%d %H:%M:%S")
                for line in finished.stdout.splitlines()
                if "Next elapse" in line or "Iter." in line
            ]
            assert len(found) == 80
            assert found == following(times, base, 80)


def following(times: Times, base: datetime, number: int) -> list[datetime]:
    """The next times after `base`, by looking at each minute."""
    found: list[datetime] = []
    moment = base
    while len(found) < number:
        moment += timedelta(minutes=1)
        sunday = moment.isoweekday() == 7
        days = {"all": True, "sunday": sunday, "other": not sunday}[times.days]
        if not days or times.day_of_month not in (None, moment.day) or moment.hour not in times.hours:
            moment = moment.replace(minute=59)
        elif moment.minute in times.minutes:
            found.append(moment)
    return found


def test_names_of_units() -> None:
    assert unit_stem("plone", "/a").startswith("zodbvault-plone-")
    assert unit_stem("plone", "/a") != unit_stem("plone", "/b")
    assert unit_stem("a b-ü%", "/a").startswith("zodbvault-a\\x20b\\x2d\\xc3\\xbc\\x25-")
    # Each job has units of its own name.
    assert len({*JOBS}) == 4
