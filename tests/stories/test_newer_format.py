"""An administrator goes back to an older version, which does not know the format that a newer one wrote its backups in.

It says so and touches nothing; and when the newer version is back, everything goes on.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.layouts import LAYOUTS
from tests.site import Site, State, tree
from zodbvault.commands.drill import drill
from zodbvault.commands.places import BACKUPS
from zodbvault.repository.records import FORMAT_VERSION, NewerFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASES: dict[str, dict[str, str]] = {
    "pool": {},
    "directories": LAYOUTS["directories"],
    "numbered archives": LAYOUTS["numbered archives"],
    "incremental archives": LAYOUTS["incremental archives"],
    "blobs alone": {"only_blobs": "true"},
    "blobs alone in incremental archives": {"only_blobs": "true", **LAYOUTS["incremental archives"]},
}
CLEAR = (
    rf"has format {FORMAT_VERSION + 1}, and this version of zodbvault knows up to {FORMAT_VERSION}\. Use the version"
)


class Downgraded(Site):
    """A site whose newest backup is in the next format, with what both versions may leave behind."""

    def __init__(self, folder: Path, options: dict[str, str]) -> None:
        super().__init__(folder, options={**options, "keep": "1", "keep_blob_days": "1"})
        self.begin_with_a_blob()
        self.states: dict[str, State] = {}
        for _ in range(3):
            self.commit_pages(1)
            self.commit_blobs(2)
            stamp, state = self.backed_up()
            self.states[stamp] = state
        self.newest = stamp
        self.record = self.repository / f"{stamp}.json"
        self.set_format(FORMAT_VERSION + 1)
        for folder in (self.repository, self.blob_location):
            # Left by a killed run.
            (folder / "2076-11-23-19-00-00.fsz.part").write_bytes(b"half")
        self.commit_pages(1)
        self.commit_blobs(1)
        self.close()
        # Long after: what is old would go.
        self.tick(90 * 86400)

    @property
    def repository(self) -> Path:
        """Where the records are."""
        return self.blob_location if self.settings.only_blobs else self.location

    def set_format(self, number: int) -> None:
        """The format that the newest record is in."""
        values = json.loads(self.record.read_text())
        self.record.write_text(json.dumps({**values, "format": number}))

    def everything_there(self) -> dict[str, tuple[int, int, int]]:
        """Every file of the site and its backups, but the scripts and locks.

        A verification may say of older states of blobs alone that they are good: no chain binds them to the newest.
        """
        verdicts = [f"{stamp}.checks.json" for stamp in self.states if self.settings.only_blobs and stamp < self.newest]
        return tree(self.var, ignore=(".zodbvault.lock", "Data.fs.lock", *verdicts))


@pytest.fixture(params=CASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Downgraded]:
    site = Downgraded(tmp_path / "site", CASES[request.param])
    yield site
    site.close()


REFUSED = {
    "backup": (),
    "restore": ("-n",),
    "backup-prune": (),
    "backup-prune --dry-run": ("--dry-run",),
    "backup-verify": (),
    "backup-verify --deep": ("--deep",),
    "backup-verify of a date": ("2076-12-24",),
    "backup-drill": (),
}


@pytest.mark.parametrize("command", REFUSED)
def test_it_says_so_and_touches_nothing(site: Downgraded, command: str) -> None:
    before = site.everything_there()
    finished = site.command(command.split()[0], *REFUSED[command])
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert len(re.findall(CLEAR, finished.stdout + finished.stderr)) == 1
    assert "Traceback" not in finished.stderr
    assert site.everything_there() == before


def test_what_shows_the_backups_shows_them_and_says_so_once(site: Downgraded) -> None:
    before = site.everything_there()
    finished = site.command("backup-list")
    assert finished.returncode == 0
    assert all(stamp in finished.stdout for stamp in site.states)
    assert len(re.findall(CLEAR, finished.stdout + finished.stderr)) == 1, finished.stdout + finished.stderr
    finished = site.command("backup-check")
    assert finished.returncode == 2
    assert re.search(f"CRITICAL.*{CLEAR}", finished.stdout), finished.stdout
    assert site.everything_there() == before


def test_it_shows_backups_whose_manifest_has_a_name_that_only_the_newer_version_knows(site: Downgraded) -> None:
    for manifest in site.blob_location.glob(f"{site.newest}.*blobs.gz"):
        manifest.rename(manifest.with_name(f"{site.newest}.newblobs.gz"))
    finished = site.command("backup-list")
    assert finished.returncode == 0, finished.stderr
    assert all(stamp in finished.stdout for stamp in site.states)
    finished = site.command("backup-check")
    assert finished.returncode == 2
    assert re.search(f"CRITICAL.*{CLEAR}", finished.stdout), finished.stdout


def test_the_dates_before_it_restore(site: Downgraded) -> None:
    first = min(site.states)
    site.restore(first)
    if not site.settings.only_blobs:
        site.assert_is(site.states[first])


def test_with_the_newer_version_everything_goes_on(site: Downgraded) -> None:
    """A verification or a rehearsal by the older version has left no verdict."""
    site.verify(deep=True)
    with pytest.raises(NewerFormat):
        drill(site.settings, when=None, which=BACKUPS, sample=None, tmp=None, clock=site.clock)
    site.set_format(FORMAT_VERSION)
    assert site.verify(quick=True).good
    finished = site.command("backup-check", "--max-age", "1000d")
    assert "CRITICAL" not in finished.stdout
    stamp, state = site.backed_up()
    site.commit_blobs(3)
    site.restore()
    if not site.settings.only_blobs:
        assert f"{stamp}.deltafsz" in site.names()
        site.assert_is(state)


def with_an_unknown_manifest(folder: Path, stamp: str) -> None:
    """The manifests of a state get a name that only the newer version knows."""
    manifests = list(folder.glob(f"{stamp}.*blobs.gz"))
    assert manifests
    for manifest in manifests:
        manifest.rename(manifest.with_name(f"{stamp}.newblobs.gz"))


@pytest.mark.parametrize("site", [case for case in CASES if case.startswith("blobs alone")], indirect=True)
@pytest.mark.parametrize("command", [*REFUSED, "restore --dry-run"])
def test_of_blobs_alone_an_unknown_manifest_is_not_called_missing(site: Downgraded, command: str) -> None:
    with_an_unknown_manifest(site.blob_location, site.newest)
    before = site.everything_there()
    finished = site.command(command.split()[0], *REFUSED.get(command, ("--dry-run",)))
    assert finished.returncode == 1, finished.stdout + finished.stderr
    said = finished.stdout + finished.stderr
    assert len(re.findall(CLEAR, said)) == 1, said
    assert "cannot be read" not in said
    assert "is missing" not in said
    assert site.everything_there() == before


@pytest.mark.parametrize("site", [case for case in CASES if case.startswith("blobs alone")], indirect=True)
def test_list_with_a_date_says_why_it_is_refused(site: Downgraded) -> None:
    with_an_unknown_manifest(site.blob_location, site.newest)
    finished = site.command("backup-list", "2076-12-24")
    assert finished.returncode == 0, finished.stderr
    assert re.search(rf"A restore of {site.newest} is refused: .*{CLEAR}", finished.stdout), finished.stdout


@pytest.mark.parametrize("is_known", [True, False], ids=["known manifest", "unknown manifest"])
def test_of_blobs_alone_what_stands_on_a_state_of_the_newer_version_is_refused_and_check_says_so(
    tmp_path: Path, is_known: bool
) -> None:
    """Both versions have written in turns."""
    site = Downgraded(tmp_path / "site", CASES["blobs alone"])
    site.set_format(FORMAT_VERSION)
    middle = sorted(site.states)[1]
    if not is_known:
        with_an_unknown_manifest(site.blob_location, middle)
    site.record = site.record.with_name(f"{middle}.json")
    site.set_format(FORMAT_VERSION + 1)
    finished = site.command("restore", "-n")
    assert finished.returncode == 1, finished.stdout
    assert re.search(rf"ERROR: .*{middle}\.json: {CLEAR}", finished.stderr), finished.stderr
    finished = site.command("backup-check", "--max-age", "1000d")
    assert finished.returncode == 2, finished.stdout
    what = rf"CRITICAL: the newest backup may not restore: {middle}\.json has format {FORMAT_VERSION + 1}"
    assert re.search(what, finished.stdout), finished.stdout
    site.restore(min(site.states))
    site.close()


def test_an_older_state_of_the_newer_version_with_an_unknown_manifest_is_named_by_its_format(tmp_path: Path) -> None:
    site = Downgraded(tmp_path / "site", CASES["blobs alone"])
    with_an_unknown_manifest(site.blob_location, site.newest)
    site.set_format(FORMAT_VERSION)
    site.options |= {"keep": "0", "keep_blob_days": "0"}
    site.backup()
    site.set_format(FORMAT_VERSION + 1)
    finished = site.command("backup-check")
    what = f"WARNING: an older backup may not restore: {site.record.name} has format {FORMAT_VERSION + 1}"
    assert finished.stdout.startswith(f"ZODBVAULT {what}"), finished.stdout
    site.close()
