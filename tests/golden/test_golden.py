"""What sites have on their disks: repositories of every format so far, and of other programs, restore and go on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ZODB.blob import Blob
from ZODB.scripts import repozo

from tests.golden.keeping import bring_back
from tests.golden.make_golden import VARIANTS, expectation, expectation_of_blobs
from tests.layouts import LAYOUTS
from tests.site import Site
from zodbvault.repository.records import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
GOLDEN = sorted(path.parent for path in HERE.glob("*/*/expected.json"))
OF_OTHERS = [path for path in GOLDEN if path.parent.name == "others"]
LARGEST = 800_000
"""Bytes of all golden repositories: they are in every clone."""


class Kept(Site):
    """An empty site with the backups of a golden repository. expected: what each date has to bring back."""

    def __init__(self, golden: Path, folder: Path) -> None:
        super().__init__(folder, blobs=any(golden.glob("blobstorage*")))
        kept = bring_back(golden, self.var)
        self.options |= kept.options
        self.source = kept.source
        self.expected: dict[str, Any] = json.loads((golden / "expected.json").read_text())
        self.lacks_manifests = golden.parent.name == "others" and self.blob_storage is not None
        self.set_clock("2027-12-24-12-00-00")

    @property
    def is_zip(self) -> bool:
        """Whether these are zip backups, of which each is a full and the only one."""
        return self.source == "zip"

    @property
    def repository(self) -> Path:
        """Where the data files are."""
        return self.var / "zipbackups" if self.is_zip else self.location

    def back_up(self, *, full: bool = False) -> str | None:
        """A backup of the kind of these; its timestamp, None when nothing is new."""
        return (self.zipbackup() if self.is_zip else self.backup(full=full)).timestamp

    def expectation(self) -> dict[str, Any]:
        """The site as it is now."""
        return expectation_of_blobs(self.blobs) if self.settings.only_blobs else expectation(self.state())

    def assert_verifies(self) -> None:
        """A deep verification finds every date good."""
        report = self.verify(deep=True, which="zips" if self.is_zip else "backups")
        verdicts = {
            date: verdict
            for place in report.found
            for chain in place.chains
            for date, verdict in chain.verdicts.items()
        }
        assert verdicts == dict.fromkeys(self.expected, True), report.lines
        assert report.good

    def assert_restores(self, stamp: str) -> None:
        """The state of a date comes back, and repozo brings the same bytes."""
        assert self.restore(stamp, source=self.source).timestamp == stamp
        assert self.expectation() == self.expected[stamp]
        if not self.settings.only_blobs:
            output = self.folder / "by-repozo.fs"
            repozo.main(["-R", "-r", str(self.repository), "-D", stamp, "-o", str(output)])
            assert output.read_bytes() == self.datafs.read_bytes()

    def assert_all_restore(self) -> None:
        """Every date comes back."""
        for stamp in self.expected:
            self.assert_restores(stamp)

    def go_live(self) -> None:
        """The newest date comes back, and the site works again."""
        if self.settings.only_blobs:
            # A first commit empties the folder of blobs, so it comes before the restore.
            self.commit_pages(1)
        self.restore(source=self.source)

    def change(self) -> None:
        """Something new, also a blob where there are any."""
        self.commit_pages(2)
        if self.blob_storage is not None:
            # Not one that is there already: the golden site may have lost it.
            with self.changing() as root:
                root[f"image of {self.clock.now()}"] = Blob(self.random.randbytes(90))
        self.close()


@pytest.fixture(params=GOLDEN, ids=lambda path: f"{path.parent.name} {path.name}")
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    site = Kept(request.param, tmp_path / "site")
    yield site
    site.close()


def test_every_format_and_layout_and_other_program_has_its_golden_repository() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in GOLDEN}
    formats = {name.partition("/")[0] for name in names} - {"others"}
    assert formats == {f"format-{number}" for number in range(1, FORMAT_VERSION + 1)}
    assert names >= VARIANTS.keys()
    assert names >= {f"format-1/{name.replace(' ', '-')}" for name in LAYOUTS}


def test_they_are_small() -> None:
    kept = (path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert sum(path.stat().st_size for path in kept) < LARGEST


def test_git_leaves_their_bytes_alone() -> None:
    """Else a checkout with `core.autocrlf` would change a blob that is text by chance."""
    attributes = (HERE / ".gitattributes").read_text()
    assert re.findall(r"^(\S+)/\*\* -text$", attributes, re.MULTILINE) == ["format-*", "old_data", "others"]
    assert {path.parent.name.partition("-")[0] for path in GOLDEN} == {"format", "others"}


def test_every_state_restores(site: Kept) -> None:
    if not site.settings.only_blobs:
        assert site.timestamps(site.repository) == list(site.expected)
    site.assert_all_restore()


def test_it_verifies_and_is_listed(site: Kept) -> None:
    site.assert_verifies()
    text = "\n".join(site.list(which="zips" if site.is_zip else "backups"))
    assert all(stamp in text for stamp in site.expected)


def test_it_is_continued_with_an_incremental_and_a_full(site: Kept) -> None:
    site.go_live()
    if not site.is_zip:
        # Nothing is new; of what another program backed up the newest date gets a manifest.
        assert site.back_up() == (max(site.expected) if site.lacks_manifests else None)
    for full in (False, False, True):
        site.change()
        wanted = site.expectation()
        stamp = site.back_up(full=full)
        assert stamp is not None
        if site.is_zip:
            site.expected.clear()
        site.expected[stamp] = wanted
        if not site.settings.only_blobs:
            assert f"{stamp}.{'fsz' if full or site.is_zip else 'deltafsz'}" in site.names(site.repository)
    site.assert_verifies()
    site.assert_all_restore()


@pytest.mark.parametrize("site", OF_OTHERS, ids=lambda path: path.name, indirect=True)
def test_what_another_program_wrote_goes_on_in_the_pool(site: Kept) -> None:
    """A site moves over and keeps none of its options: what was written before stands beside the pool."""
    site.go_live()
    site.options.clear()
    site.change()
    stamp = site.back_up()
    assert f"{stamp}.deltafsz" in site.names()
    assert stamp is not None
    site.expected[stamp] = site.expectation()
    site.assert_verifies()
    site.assert_all_restore()


def test_it_is_pruned_by_keep(site: Kept) -> None:
    site.go_live()
    old = list(site.expected)
    site.options |= {"keep": "1", "keep_blob_days": "0"}
    site.change()
    stamp = site.back_up(full=True)
    assert stamp is not None
    site.expected = {stamp: site.expectation()}
    folders = [folder for folder in site.var.iterdir() if "backups" in folder.name or "zips" in folder.name]
    left = [name for folder in folders for name in os.listdir(folder)]
    assert not [name for name in left if any(each in name for each in old)]
    assert len([name for name in left if name.startswith("blobstorage.") and not name.endswith(".snar")]) <= 1
    site.assert_verifies()
    site.assert_all_restore()
