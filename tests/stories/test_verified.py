"""What a verification found is kept beside the backups."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_bad_input import unprivileged
from zodbvault.commands.summary import iso_time
from zodbvault.commands.verify_result import Finding, VerifiedChain, from_then_on
from zodbvault.commands.verify_verdicts import replaces
from zodbvault.io.durable import Ownership
from zodbvault.repository.checks import Checks, read_checks, write_checks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.site import Site


def kept(site: Site, location: Path | None = None) -> dict[str, bool | None]:
    """What stands in the files: whether the backup is good, by its timestamp."""
    folder = location or site.location
    found = {}
    for name in site.names(folder):
        if name.endswith(".checks.json"):
            checks = read_checks(folder, name[:19])
            assert checks is not None
            found[checks.timestamp] = checks.verified_good
    return found


def three_backups(site: Site) -> list[str]:
    stamps = []
    for _ in range(3):
        stamps.append(site.backed_up()[0])
        site.commit_pages(2)
        site.commit_blobs(1)
    return stamps


def test_good_backups(site: Site) -> None:
    stamps = three_backups(site)
    for deep in (False, True):
        site.tick()
        assert site.verify(deep=deep).good
        moment = iso_time(site.clock.now())
        for stamp in stamps:
            assert read_checks(site.location, stamp) == Checks(stamp, moment, True, "deep" if deep else "default")
        mode = (site.location / f"{stamps[0]}.json").stat().st_mode
        assert (site.location / f"{stamps[0]}.checks.json").stat().st_mode == mode


def test_those_that_a_date_needs(site: Site) -> None:
    stamps = three_backups(site)
    assert site.verify(stamps[1]).good
    assert list(kept(site)) == stamps[:2]


def test_what_stands_on_a_damaged_backup_is_not_good_either(site: Site) -> None:
    stamps = three_backups(site)
    path = site.location / f"{stamps[1]}.deltafsz"
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    assert not site.verify().good
    assert kept(site) == {stamps[0]: True, stamps[1]: False, stamps[2]: False}


def test_data_without_known_blobs_are_neither(site: Site) -> None:
    site.options["backup_blobs"] = "false"
    stamps = three_backups(site)
    site.options["backup_blobs"] = "true"
    assert not site.verify().good
    assert kept(site) == dict.fromkeys(stamps)


def test_the_last_rehearsal_is_not_forgotten(site: Site) -> None:
    stamp, _ = site.backed_up()
    drilled = Checks(stamp, drilled="2026-11-23T18:05:00Z", drilled_good=True, drill_seconds=3)
    write_checks(site.location, drilled, Ownership(0o600, None, None))
    site.verify()
    checks = read_checks(site.location, stamp)
    assert checks is not None
    assert checks._replace(verified=None, verified_good=None, verified_how=None) == drilled


def test_of_blobs_alone(site: Site) -> None:
    site.options["only_blobs"] = "true"
    stamps = three_backups(site)
    assert site.verify().good
    assert kept(site, site.blob_location) == dict.fromkeys(stamps, True)
    # They are no states.
    assert len(site.list()) == 2 + len(stamps)
    late = Checks("2076-01-01-00-00-00")
    write_checks(site.blob_location, late, Ownership(0o600, None, None))
    site.commit_blobs(1)
    site.backup()
    assert kept(site, site.blob_location) == dict.fromkeys(stamps, True)


def test_a_backup_goes_on_after_a_verification(site: Site) -> None:
    three_backups(site)
    site.verify()
    site.commit_pages(3)
    stamp, state = site.backed_up()
    assert f"{stamp}.deltafsz" in site.names()
    site.restore()
    site.assert_is(state)


def test_a_repository_that_cannot_be_written_is_verified_all_the_same(site: Site) -> None:
    three_backups(site)
    names = site.names()
    os.chmod(site.location, 0o555)
    with unprivileged() as prefix:
        finished = site.command("backup-verify", prefix=prefix)
    os.chmod(site.location, 0o755)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert site.names() == names


@given(st.integers(1, 6), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_verdicts(number: int, damaged: set[int], without_blobs: set[int]) -> None:
    stamps = tuple(f"2026-11-23-18-0{minute}-00" for minute in range(number))
    findings = tuple(Finding(from_then_on(stamps, f"2026-11-23-18-0{each}-00"), "is damaged") for each in damaged)
    unknown = frozenset(stamps[each] for each in without_blobs if each < number)
    chain = VerifiedChain(stamps[0], stamps, stamps[-1:], findings, unknown)
    first = min(damaged, default=number)
    wanted = [False if each >= first else None if stamps[each] in unknown else True for each in range(number)]
    assert list(chain.verdicts.values()) == wanted
    assert chain.good == (wanted[-1] is True)


@pytest.mark.parametrize("good", [True, None, False])
@pytest.mark.parametrize("before", [True, None, False])
@pytest.mark.parametrize("how", ["quick", "default", "deep"])
@pytest.mark.parametrize("how_before", ["quick", "default", "deep", None])
def test_less_does_not_clear_what_more_has_found(
    good: bool | None, before: bool | None, how: str, how_before: str | None
) -> None:
    depths = ["quick", "default", "deep"]
    is_less = how_before is not None and depths.index(how) < depths.index(how_before)
    known = Checks("2026-11-23-18-05-00", "2026-11-23T18:05:00Z", before, how_before)
    assert replaces(good, how, known) == (not (before is False and good is not False and is_less))


def test_a_quick_look_does_not_clear_what_reading_has_found(site: Site) -> None:
    stamps = three_backups(site)
    path = site.location / f"{stamps[1]}.deltafsz"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"123456789")
    assert not site.verify().good
    found = read_checks(site.location, stamps[1])
    quick = site.verify(quick=True)
    assert not quick.good
    (finding,) = quick.found[0].chains[0].findings
    assert finding == Finding(tuple(stamps[1:]), "was found to be damaged by a more thorough verification (default)")
    assert site.verify(stamps[0], quick=True).good
    assert read_checks(site.location, stamps[1]) == found
    checks = read_checks(site.location, stamps[0])
    assert checks is not None
    assert (checks.verified_good, checks.verified_how) == (True, "quick")
    path.write_bytes(content)
    assert site.verify().good
    assert kept(site) == dict.fromkeys(stamps, True)
