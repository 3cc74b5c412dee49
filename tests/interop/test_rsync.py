"""`rsync -n` finds no difference between a directory of ours and the site, in either direction, attributes and all."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.interop.history import live_through
from tests.interop.upstream import START
from tests.layouts import LAYOUTS
from tests.site import Site, blob_files

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

DIRECTORIES = ["directories", "first copy linked", "numbered directories", "copies", "numbered copies"]


def what_rsync_would_do(source: Path, target: Path) -> set[str]:
    """The lines of a dry run, without the folder tmp/ and the list of a pack, which are not backed up."""
    finished = subprocess.run(
        ["rsync", "-ani", "--delete", "--modify-window=-1", "--checksum", f"{source}/", f"{target}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    not_backed_up = (" tmp/", " .removed")
    return {line for line in finished.stdout.splitlines() if not line.endswith(not_backed_up)}


def newest_directory(site: Site, stamp: str) -> Path:
    mark = stamp if site.settings.blob_timestamps else "0"
    return site.blob_location / f"blobstorage.{mark}" / "blobstorage"


def change_attributes(site: Site, number: int) -> None:
    """Modes, owners and times that nobody would get by chance."""
    assert site.blob_storage is not None
    blobs = blob_files(site.blob_storage)
    path = blobs[min(blobs)]
    for each in (path.parent, path.parent.parent, site.blob_storage):
        each.chmod(0o2750 if number % 2 else 0o711)
        if os.geteuid() == 0:
            os.chown(each, 1200 + number, 1300)
        os.utime(each, ns=(1, 1_600_000_000_123_456_789 + number))


@pytest.mark.parametrize("blobs", ["bushy", "lawn"])
@pytest.mark.parametrize("layout", DIRECTORIES)
def test_rsync_finds_nothing_to_do(layout: str, blobs: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options=LAYOUTS[layout], layout=blobs, start=START)
    assert site.blob_storage is not None
    site.begin_with_a_blob()
    for day in live_through(site, 21, 5):
        change_attributes(site, day)
        stamp, _ = site.backed_up()
        directory = newest_directory(site, stamp)
        assert what_rsync_would_do(site.blob_storage, directory) == set()
        assert what_rsync_would_do(directory, site.blob_storage) == set()
    site.close()


@pytest.mark.parametrize("layout", ["directories", "copies"])
def test_only_a_blob_that_is_later_than_the_backup_differs(layout: str, tmp_path: Path) -> None:
    """ZODB puts a blob in its place before its transaction is finished; it may belong to nothing yet."""
    site = Site(tmp_path / "site", options=LAYOUTS[layout], start=START)
    assert site.blob_storage is not None
    site.begin_with_a_blob()
    site.commit_blobs(4)
    blob_storage, before = site.blob_storage, site.blobs.keys()
    found: list[tuple[set[str], set[str], set[str]]] = []

    def back_up_and_compare() -> None:
        stamp, _ = site.backed_up()
        directory = newest_directory(site, stamp)
        (later,) = blob_files(blob_storage).keys() - before
        path = str(blob_files(blob_storage)[later].relative_to(blob_storage))
        there = what_rsync_would_do(blob_storage, directory)
        back = what_rsync_would_do(directory, blob_storage)
        found.append((there, back, {path, f"{os.path.dirname(path)}/"}))

    site.commit_while(back_up_and_compare)
    ((there, back, later),) = found
    assert {line.split(" ", 1)[1] for line in there} == later
    assert {line.removeprefix("*deleting   ") for line in back} == later
    assert all(line.startswith((">f+++++++++", "cd+++++++++")) for line in there)
    site.close()
