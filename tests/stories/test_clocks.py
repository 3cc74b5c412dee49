"""Clocks that are wrong, seconds that come twice, a year that is the last: nothing is lost or overwritten.

And dates: each one that cannot be read is wrong usage, whichever command gets it.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, seconds, tree
from tests.tour import ALL_LAYOUTS, InProcess, good
from zodbvault.io.clock import PretendClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.site import State
    from tests.tour import Runner

EVERYTHING_KEPT = {"enable_zipbackup": "true", "keep": "0"}
BERLIN = "CET-1CEST,M3.5.0/2,M10.5.0/3"
"""As Europe/Berlin, for systems that do not know that name."""
FURTHEST_EAST, FURTHEST_WEST = "LINT-14", "AoE12"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs commands in this process."""
    return InProcess(monkeypatch)


@pytest.fixture(params=ALL_LAYOUTS)
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site with every script, and no backup."""
    site = Site(tmp_path / "site", options={**EVERYTHING_KEPT, **ALL_LAYOUTS[request.param]})
    site.commit_pages(3)
    site.commit_blobs(3)
    yield site
    site.close()


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test set TZ."""
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def change(site: Site) -> State:
    """Something new in the site."""
    site.commit_pages(1)
    site.commit_blobs(1)
    site.close()
    return site.state()


def backed_up(run_: Runner, site: Site, *arguments: str) -> tuple[str, str]:
    """Change and back up; the new timestamp and what was said. What stood in the backups is not touched."""
    before = contents(site)
    known = set(site.timestamps())
    said = good(run_, site, "backup", *arguments).err
    after = contents(site)
    assert {name: after.get(name) for name in before} == before
    (stamp,) = set(site.timestamps()) - known
    assert not known or stamp > max(known)
    return stamp, said


def contents(site: Site) -> dict[Path, bytes]:
    """Every file of the backups but those that a later one writes anew."""
    return {
        path: path.read_bytes()
        for folder in (site.location, site.blob_location)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith((".dat", ".snar", ".lock")) and "latest" not in path.parts
    }


def all_restore(run_: Runner, site: Site, states: dict[str, State]) -> None:
    """Every date restores the state that it had, and whoever looks sees them all."""
    good(run_, site, "backup-verify", "--deep", "--all")
    listed = good(run_, site, "backup-list").out
    assert all(stamp in listed for stamp in states)
    for name in ("backup-log", "backup-drill", "backup-report"):
        assert good(run_, site, name).out
    assert run_(site, "backup-check").code < 3
    good(run_, site, "backup-prune", "--dry-run")
    for stamp, state in states.items():
        good(run_, site, "restore", "-n", stamp)
        site.assert_is(state)
        site.close()


# Wrong clocks


def test_the_clock_goes_back_by_a_year_and_forth_again(site: Site, run: Runner) -> None:
    states = {}
    first, said = backed_up(run, site)
    states[first] = site.state()
    assert "WARNING" not in said
    newest = first
    site.set_clock("2075-11-23-18-05-00")
    for arguments in ((), ("--full",), ()):
        state = change(site)
        stamp, said = backed_up(run, site, *arguments)
        states[stamp] = state
        assert re.search(rf"WARNING: The clock stands 36\d d .*before the newest backup, {newest}; this one is", said)
        newest = stamp
        assert stamp in said
    for name in ("snapshotbackup", "zipbackup"):
        assert "WARNING" not in good(run, site, name).err
    site.set_clock("2076-12-01-00-00-00")
    state = change(site)
    stamp, said = backed_up(run, site)
    assert "WARNING" not in said
    assert stamp.startswith("2076-12-01")
    states[stamp] = state
    assert len(states) == 5
    all_restore(run, site, states)


def test_a_backup_of_the_future_stands_in_the_repository(site: Site, run: Runner) -> None:
    site.set_clock("2199-01-01-00-00-00")
    states = {}
    future, _ = backed_up(run, site)
    states[future] = site.state()
    site.set_clock("2077-01-01-00-00-00")
    site.options |= {"full_after_days": "7", "keep_daily": "3", "keep": "1"}
    for _ in range(2):
        state = change(site)
        stamp, said = backed_up(run, site)
        states[stamp] = state
        assert "WARNING: The clock stands" in said
        assert stamp.startswith("2199-01-01-00-0")
    assert "nothing to do" in good(run, site, "backup").err
    all_restore(run, site, states)
    for name in ("backup-check", "backup-list"):
        assert "Traceback" not in run(site, name).err


@pytest.mark.parametrize("name", ["backup", "snapshotbackup", "zipbackup"])
def test_two_backups_in_the_same_second(site: Site, name: str, run: Runner) -> None:
    location, restore = {
        "backup": ("location", "restore"),
        "snapshotbackup": ("snapshotlocation", "snapshotrestore"),
        "zipbackup": ("ziplocation", "ziprestore"),
    }[name]
    stamps = []
    for _ in range(3):
        state = change(site)
        site.set_clock("2077-01-01-00-00-00")
        good(run, site, name)
        stamps.append(max(site.timestamps(getattr(site.settings, location))))
    assert stamps == ["2077-01-01-00-01-00", "2077-01-01-00-01-01", "2077-01-01-00-01-02"]
    good(run, site, restore, "-n")
    site.assert_is(state)


def test_blobs_alone_with_a_clock_that_goes_back_and_a_second_that_comes_twice(site: Site, run: Runner) -> None:
    site.options |= {"only_blobs": "true", "keep_blob_days": "14"}
    site.options.pop("enable_zipbackup")
    site.close()
    states = {}
    for moment in ("2077-01-01-00-00-00", "2077-01-01-00-00-00", "2076-01-01-00-00-00"):
        site.set_clock(moment)
        said = good(run, site, "backup").err
        stamp = max(path.name[:19] for path in site.blob_location.glob("*.json") if "checks" not in path.name)
        states[stamp] = site.blobs
        assert ("WARNING: The clock stands" in said) is (moment[:4] == "2076")
        change(site)
    assert len(states) == 3
    good(run, site, "backup-verify")
    for stamp, blobs in states.items():
        good(run, site, "restore", "-n", stamp)
        assert site.blobs == blobs


# The last year


@pytest.mark.parametrize("zone", ["UTC", FURTHEST_EAST, FURTHEST_WEST])
def test_the_end_of_the_year_9999(site: Site, zone: str, run: Runner, in_zone: pytest.MonkeyPatch) -> None:
    in_zone.setenv("TZ", zone)
    time.tzset()
    states = {}
    site.set_clock("9999-12-31-23-50-00")
    for name in ("snapshotbackup", "zipbackup"):
        good(run, site, name)
    for moment in ("9999-12-31-23-55-00", "9999-12-31-23-58-59"):
        site.set_clock(moment)
        state = change(site)
        stamp, said = backed_up(run, site)
        assert "WARNING" not in said
        states[stamp] = state
    assert list(states) == ["9999-12-31-23-56-00", "9999-12-31-23-59-59"]
    change(site)
    before = contents(site)
    for arguments in ((), ("--full",)):
        site.set_clock("9999-12-31-23-50-00")
        ended = run(site, "backup", *arguments)
        assert ended.code == 1
        assert "no timestamp is left after 9999-12-31-23-59-59" in ended.err
        assert "move it away" in ended.err
        assert "Traceback" not in ended.err
        assert contents(site) == before
    site.set_clock("2077-01-01-00-00-00")
    all_restore(run, site, states)


# Zones


@pytest.mark.parametrize("zone", [BERLIN, FURTHEST_EAST, FURTHEST_WEST])
def test_dates_are_utc_when_the_local_hour_comes_twice_or_never(
    site: Site, zone: str, run: Runner, in_zone: pytest.MonkeyPatch
) -> None:
    in_zone.setenv("TZ", zone)
    time.tzset()
    # The hour from 02:00 comes twice on the 25th of October 2076 in Berlin, and not at all on the 28th of March 2077.
    moments = {
        "2076-10-25-00-30-00": "2076-10-25 02:30 CEST",
        "2076-10-25-01-30-00": "2076-10-25 02:30 CET",
        "2077-03-28-00-59-00": "2077-03-28 01:59 CET",
        "2077-03-28-01-00-00": "2077-03-28 03:00 CEST",
    }
    states = {}
    for moment in moments:
        site.clock = PretendClock(seconds(moment) - 60)
        state = change(site)
        stamp, said = backed_up(run, site)
        assert stamp == moment
        assert "WARNING" not in said
        states[stamp] = state
    listed = good(run, site, "backup-list").out
    if zone == BERLIN:
        assert all(local in listed for local in moments.values())
    all_restore(run, site, states)
    for date, stamp in (
        ("2076-10-25T02:30:00+02:00", "2076-10-25-00-30-00"),
        ("2076-10-25T02:30:00+01:00", "2076-10-25-01-30-00"),
        ("2076-10-25T02:29:59+01:00", "2076-10-25-00-30-00"),
        ("2077-03-28T03:00:00+02:00", "2077-03-28-01-00-00"),
        ("2077-03-28T02:59:59+02:00", "2077-03-28-00-59-00"),
        ("2077-03-28-01", "2077-03-28-00-59-00"),
    ):
        good(run, site, "restore", "-n", date)
        site.assert_is(states[stamp])
        site.close()


# Dates that are none

UNREADABLE = (
    "tomorrow", "", " ", "2026", "2026-1-1", "2026-13-01", "2026-02-30", "2026-00-10", "2026-11-00", "2026-11-23-24",
    "2026-11-23-18-60", "2026-11-23-18-05-60", "2026-11-23-18-05-00-00", "23.11.2026", "11/23/2026", "20261123",
    "2026-11-23 18:05", "2026-11-23T18:05:00", "2026-11-23T18:05:00+25:00", "2026-11-23T18:05:00+01:60",
    "2026-11-23T25:05:00Z", "0000-01-01", "10000-01-01", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00",
    "\u0662\u0660\u0662\u0666-11-23", "2026-11-23\n-01", "2026-11-23\0", "-5", "1795657635", "latest!", "newest",
    "x" * 5000, "2026\u201311\u201323", "\udcff",
)  # fmt: skip


@pytest.fixture
def backed_up_site(tmp_path: Path) -> Site:
    """A site with one backup of each kind."""
    site = Site(tmp_path / "site", options=dict(EVERYTHING_KEPT))
    site.commit_pages(3)
    site.commit_blobs(1)
    site.backup()
    site.snapshot()
    site.zipbackup()
    site.options["alternative_restore_source"] = f"Data {site.location} {site.blob_location}"
    site.close()
    return site


WITH_DATE = ("restore", "snapshotrestore", "ziprestore", "altrestore", "backup-verify", "backup-list", "backup-drill")
RESTORES = WITH_DATE[:4]


@pytest.mark.parametrize("date", UNREADABLE, ids=ascii)
def test_a_date_that_cannot_be_read_is_wrong_usage_on_every_command(
    backed_up_site: Site, date: str, run: Runner
) -> None:
    site = backed_up_site
    ways = [(name, f"--date={date}") for name in WITH_DATE]
    ways += [(name, "-n", f"--at={date}") for name in RESTORES]
    ways += [(name, "--dry-run", f"--date={date}") for name in RESTORES]
    ways += [(name, f"--to={site.folder / 'copy'}", f"--date={date}") for name in RESTORES]
    if not date.startswith("-"):
        ways += [(name, date) for name in WITH_DATE]
        ways.append(("backup-log", f"{date}..2076-11-24"))
    ways.append(("backup-log", f"2020-11-24..{date}"))
    before = tree(site.folder)
    for name, *arguments in ways:
        if name == "backup-log" and not date.strip():
            continue  # an end that lacks is open
        is_of_tid = "--at" in arguments[-1] or name == "backup-log"
        ended = run(site, name, *arguments)
        assert ended.code == 2, (name, arguments, ended)
        assert ended.out == ""
        assert ended.err.count("\n") == 1, ended.err
        assert ended.err.startswith("ERROR: ")
        assert ascii(date)[1:-1][:40] in ascii(ended.err).replace("\\\\", "\\") or repr(date)[1:-1][:40] in ended.err
        assert "YYYY-MM-DD" in ended.err
        assert "16 hexadecimal digits" in ended.err or not is_of_tid
    assert tree(site.folder) == before
