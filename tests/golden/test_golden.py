"""What sites have on their disks: repositories of every format so far restore, verify, and are continued."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ZODB.scripts import repozo

from tests.golden.make_golden import expectation, expectation_of_blobs
from tests.site import PretendClock, Site, seconds
from zodbvault.repository.records import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
GOLDEN = sorted(path.parent for path in HERE.glob("format-*/*/expected.json"))


def test_the_present_format_has_its_golden_repositories() -> None:
    formats = {path.parent.name for path in GOLDEN}
    assert formats == {f"format-{number}" for number in range(1, FORMAT_VERSION + 1)}


@pytest.fixture(params=GOLDEN, ids=lambda path: f"{path.parent.name} {path.name}")
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty site with the backups of a golden repository."""
    golden: Path = request.param
    site = Site(tmp_path / "site", blobs=(golden / "blobstoragebackups").exists())
    if not (golden / "backups").exists():
        site.options |= {"only_blobs": "true", "keep_blob_days": "0"}
    for name in ("backups", "blobstoragebackups"):
        if (golden / name).exists():
            shutil.copytree(golden / name, site.var / name)
    site.clock = PretendClock(seconds("2027-12-24-12-00-00"))
    yield site
    site.close()


@pytest.fixture
def expected(request: pytest.FixtureRequest, site: Site) -> dict[str, Any]:
    golden: Path = request.node.callspec.params["site"]
    found: dict[str, Any] = json.loads((golden / "expected.json").read_text())
    return found


def assert_restores(site: Site, stamp: str, expected: dict[str, Any]) -> None:
    site.restore(stamp)
    if site.settings.only_blobs:
        assert expectation_of_blobs(site.blobs) == expected
        return
    site.close()
    assert expectation(site.state()) == expected
    output = site.folder / "by-repozo.fs"
    repozo.main(["-R", "-r", str(site.location), "-D", stamp, "-o", str(output)])
    assert output.read_bytes() == site.datafs.read_bytes()


def test_every_state_restores(site: Site, expected: dict[str, Any]) -> None:
    if not site.settings.only_blobs:
        assert site.timestamps() == list(expected)
    for stamp, state in expected.items():
        assert_restores(site, stamp, state)


def test_it_verifies_and_is_listed(site: Site, expected: dict[str, Any]) -> None:
    report = site.verify(deep=True)
    assert report.good, report.lines
    text = "\n".join(site.list())
    assert all(stamp in text for stamp in expected)


def test_it_is_continued(site: Site, expected: dict[str, Any]) -> None:
    if site.settings.only_blobs:
        continue_blobs_alone(site, expected)
        return
    site.restore()
    assert site.backup().timestamp is None
    site.commit_pages(2)
    stamp, state = site.backed_up()
    assert f"{stamp}.deltafsz" in site.names()
    if site.blob_storage is not None:
        site.commit_blobs(1)
        stamp, state = site.backed_up()
    assert site.verify(deep=True).good
    assert_restores(site, stamp, expectation(state))
    for old, content in expected.items():
        assert_restores(site, old, content)


def continue_blobs_alone(site: Site, expected: dict[str, Any]) -> None:
    """The same for a repository of blobs alone. A first commit empties the folder, so it comes before the restore."""
    site.commit_pages(1)
    site.restore()
    site.commit_blobs(2)
    stamp, blobs = site.backup().timestamp, site.blobs
    assert stamp is not None
    assert site.verify(deep=True).good
    assert_restores(site, stamp, expectation_of_blobs(blobs))
    for old, content in expected.items():
        assert_restores(site, old, content)


def test_it_is_pruned_by_keep(site: Site, expected: dict[str, Any]) -> None:
    site.restore()
    site.options |= {"keep": "1", "keep_blob_days": "0"}
    site.backup(full=True)
    location = site.blob_location if site.settings.only_blobs else site.location
    assert not [name for name in os.listdir(location) if name[:19] in expected]
    assert site.verify(deep=True).good
