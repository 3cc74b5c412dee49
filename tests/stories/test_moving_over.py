"""A site moves over: what the old recipe left beside the pool saves space, and goes when it is old."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, blob_files, seconds
from zodbvault.io import space
from zodbvault.io.space import NotEnoughSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = "2076-11-20-18-05-00"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", options={"keep": "1"})
    site.begin_with_a_blob()
    for _ in range(4):
        site.commit_blobs(3, size=9000)
    yield site
    site.close()


def old_directory(site: Site, stamp: str = OLD) -> Path:
    """A directory as the old recipe's rsync makes it."""
    folder = site.blob_location / f"blobstorage.{stamp}"
    folder.mkdir(parents=True)
    assert site.blob_storage is not None
    shutil.copytree(site.blob_storage, folder / "blobstorage")
    latest = site.blob_location / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder


def inodes(folder: Path) -> dict[tuple[int, int], int]:
    return {key: path.stat().st_ino for key, path in blob_files(folder).items()}


def test_the_first_pool_shares_the_blobs_of_the_newest_old_directory(site: Site) -> None:
    old_directory(site, "2076-11-19-18-05-00")
    folder = old_directory(site)
    old = inodes(folder / "blobstorage")
    site.commit_blobs(2)
    site.backup()
    pool = inodes(site.blob_location / "blobs")
    assert pool.keys() == site.blobs.keys()
    assert {key: pool[key] for key in old} == old
    live = inodes(site.blob_storage or folder)
    assert not set(pool.values()) & set(live.values())


def test_a_blob_that_is_not_the_same_there_is_copied(site: Site) -> None:
    folder = old_directory(site)
    other, shorter, linked, gone = list(blob_files(folder / "blobstorage").items())[:4]
    for path in (other[1], shorter[1], linked[1], gone[1]):
        path.chmod(0o644)
    content = other[1].read_bytes()
    other[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shorter[1].write_bytes(shorter[1].read_bytes()[:-1])
    live = blob_files(site.blob_storage or folder)
    linked[1].unlink()
    os.link(live[linked[0]], linked[1])
    gone[1].unlink()
    gone[1].symlink_to("/etc/passwd")
    state = site.state()
    report = site.backup()
    old, pool = inodes(folder / "blobstorage"), inodes(site.blob_location / "blobs")
    for key, _ in (other, shorter, linked, gone):
        assert pool[key] != old[key]
        assert pool[key] != live[key].stat().st_ino
    site.commit_blobs(3)
    site.restore(report.timestamp)
    assert (site.data, site.blobs) == (state.data, state.blobs)


def test_what_is_shared_needs_no_space(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(len(blob) for blob in site.blobs.values())
    monkeypatch.setattr(space, "free_bytes", lambda _: needed - 1)
    with pytest.raises(NotEnoughSpace, match="first copy of all blobs"):
        site.backup()
    old_directory(site)
    site.backup()


def test_old_directories_and_archives_go_with_their_data_and_the_pool_stays_whole(site: Site) -> None:
    folder = old_directory(site)
    (site.blob_location / f"blobstorage.{OLD}.tar").write_bytes(b"old")
    numbered = site.blob_location / "blobstorage.0"
    shutil.copytree(folder, numbered)
    os.utime(numbered, (seconds(OLD), seconds(OLD)))
    others = ["elsewhere.2001-01-01-00-00-00", "blobstorage.notes", "blobstorage.2001-01-01-00-00-00.zip"]
    for name in others:
        (site.blob_location / name).mkdir()
    first = site.backup()
    assert folder.exists()
    site.commit_blobs(1)
    state = site.state()
    second = site.backup(full=True)
    assert not folder.exists()
    assert not numbered.exists()
    names = os.listdir(site.blob_location)
    assert not [name for name in names if OLD in name or name == "latest"]
    assert set(others) <= set(names)
    assert site.timestamps() == [second.timestamp]
    assert first.timestamp != second.timestamp
    assert site.verify(deep=True).good
    for path in blob_files(site.blob_storage or folder).values():
        path.unlink()
    site.restore()
    assert (site.data, site.blobs) == (state.data, state.blobs)


def test_another_sites_old_backups_are_restored_here_and_nothing_is_changed_there(site: Site, tmp_path: Path) -> None:
    live = Site(tmp_path / "live", seed=2)
    live.begin_with_a_blob()
    live.commit_blobs(4)
    stamp, state = live.backed_up()
    directory = old_directory(live, stamp)
    for manifest in live.blob_location.glob("*.gz"):
        manifest.unlink()
    shutil.rmtree(live.blob_location / "blobs")
    live.close()
    before = sorted(path for path in live.folder.rglob("*") if path.name != ".zodbvault.lock")
    site.options["alternative_restore_source"] = f"Data '{live.location}' '{live.blob_location}'"
    site.options["post_command"] = f"env | grep ZODBVAULT_RUN_ | sort > {tmp_path}/told"
    site.restore(source="alternative")
    assert (site.data, site.blobs) == (state.data, state.blobs)
    assert directory.is_dir()
    assert sorted(path for path in live.folder.rglob("*") if path.name != ".zodbvault.lock") == before
    assert (tmp_path / "told").read_text().splitlines() == [
        "ZODBVAULT_RUN_COMMAND=altrestore",
        f"ZODBVAULT_RUN_LOCATION={live.location}",
        f"ZODBVAULT_RUN_TIMESTAMP={stamp}",
    ]


def test_verify_goes_on_to_the_next_state_as_a_restore_does(site: Site) -> None:
    """A half directory of the old recipe, and a whole one of the same date beside it."""
    stamp, state = site.backed_up()
    site.close()
    for path in [*site.blob_location.glob("*.gz"), *site.location.glob("*.json")]:
        path.unlink()
    shutil.rmtree(site.blob_location / "blobs")
    half = old_directory(site, stamp)
    (site.blob_location / f"blobstorage.{stamp}.tar").write_bytes(tar_of(site))
    for path in list(blob_files(half / "blobstorage").values())[::2]:
        path.unlink()
    assert site.verify(deep=True).good, site.verify(deep=True).lines
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.restore(stamp)
    assert site.blobs == state.blobs


def tar_of(site: Site) -> bytes:
    command = ["tar", "-c", "-C", str(site.blob_storage), "."]
    return subprocess.run(command, capture_output=True, check=True).stdout
