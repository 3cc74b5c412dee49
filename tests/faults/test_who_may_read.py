"""Whose new files are and who may read them: nobody who could not read the site."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.layouts import LAYOUTS
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

OWNER, ADMIN, GROUP = 12345, 23456, 34567
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


@pytest.fixture(params=LAYOUTS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site that is not backed up yet, in folders that everybody may enter."""
    mask = os.umask(0o022)
    site = Site(tmp_path / "site", options={**LAYOUTS[request.param], "full": "false"})
    site.begin_with_a_blob()
    site.commit_blobs(3)
    site.close()
    yield site
    site.close()
    os.umask(mask)


def those_that_may_be_read(folder: Path, bit: int) -> list[str]:
    """What in a folder can be read by whom a bit of the mode stands for, through folders that they may enter."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if status.st_mode & (bit >> 2):
                    found += those_that_may_be_read(folder / entry.name, bit)
            elif stat.S_ISREG(status.st_mode) and status.st_mode & bit:
                found.append(entry.path)
    return [path for path in found if not path.endswith((".zodbvault.lock", ".layout"))]


def test_what_only_the_owner_may_read_only_they_may_read_in_backups(site: Site) -> None:
    os.umask(0)
    os.chmod(site.datafs, 0o600)
    assert site.blob_storage is not None
    os.chmod(site.blob_storage, 0o700)
    for _ in range(2):
        site.backup()
        site.verify()
        site.commit_blobs(2)
        site.close()
    for folder in (site.location, site.blob_location):
        os.chmod(folder, 0o755)
        for bit in (stat.S_IRGRP, stat.S_IROTH):
            assert those_that_may_be_read(folder, bit) == []


def test_what_the_group_may_read_the_group_may_read_in_backups(site: Site) -> None:
    os.umask(0)
    os.chmod(site.datafs, 0o640)
    assert site.blob_storage is not None
    os.chmod(site.blob_storage, 0o750)
    site.backup()
    for folder in (site.location, site.blob_location):
        os.chmod(folder, 0o755)
        assert those_that_may_be_read(folder, stat.S_IROTH) == []
    assert len(those_that_may_be_read(site.location, stat.S_IRGRP)) >= 3


def test_a_umask_takes_away_more(site: Site) -> None:
    os.chmod(site.datafs, 0o644)
    os.umask(0o077)
    site.backup()
    for bit in (stat.S_IRGRP, stat.S_IROTH):
        assert those_that_may_be_read(site.location, bit) == []
        manifests_and_archives = [
            path for path in those_that_may_be_read(site.blob_location, bit) if not path.endswith(".blob")
        ]
        assert manifests_and_archives == []


@only_root
def test_what_root_backs_up_is_the_locations_owners(site: Site) -> None:
    for where, _, names in os.walk(site.var):
        for path in (where, *(os.path.join(where, name) for name in names)):
            os.chown(path, OWNER, GROUP)
    for folder in (site.location, site.blob_location):
        folder.mkdir()
        os.chown(folder, ADMIN, GROUP)
    for _ in range(2):
        site.backup()
        site.verify()
        site.commit_blobs()
        site.close()
    strange = [
        os.path.join(where, name)
        for folder in (site.location, site.blob_location)
        for where, _, names in os.walk(folder)
        for name in names
        if os.lstat(os.path.join(where, name)).st_uid != ADMIN
        and not os.path.islink(os.path.join(where, name))
        # A directory is as the site is, so that rsync finds nothing to do.
        and "/blobstorage/" not in where + "/"
    ]
    assert strange == []


@only_root
def test_what_is_restored_is_as_what_was_there(site: Site) -> None:
    site.backup()
    assert site.blob_storage is not None
    for path in list(site.blob_storage.rglob("*.blob"))[:2]:
        path.unlink()
    os.chown(site.datafs, OWNER, GROUP)
    os.chmod(site.datafs, 0o640)
    os.chown(site.blob_storage, OWNER, GROUP)
    os.chmod(site.blob_storage, 0o2750)
    there = set(site.blob_storage.rglob("*.blob"))
    os.umask(0o077)
    site.restore()
    status = site.datafs.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, OWNER, GROUP)
    new = set(site.blob_storage.rglob("*.blob")) - there
    assert new
    for path in new:
        status = path.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o440, OWNER, GROUP)
    site.close()
    assert list(site.datafs.parent.glob("*.restoring")) == []
