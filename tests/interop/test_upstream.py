"""collective.recipe.backup's backups, made by its own scripts from a buildout, restore with ours and are continued."""

from __future__ import annotations

import fcntl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from benchmarks.environments import FOLDER, THEIRS, make_buildout, make_environment

from tests.site import PretendClock, Site, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

LAYOUTS = {
    "directories": {},
    "numbered directories": {"blob_timestamps": "false"},
    "copies": {"use_rsync": "false"},
    "numbered copies": {"use_rsync": "false", "blob_timestamps": "false"},
    "first copy linked": {"rsync_hard_links_on_first_copy": "true"},
    "archives": {"archive_blob": "true"},
    "compressed archives": {"archive_blob": "true", "compress_blob": "true"},
    "numbered archives": {"archive_blob": "true", "blob_timestamps": "false"},
    "incremental archives": {"archive_blob": "true", "incremental_blobs": "true"},
    "compressed incremental archives": {"archive_blob": "true", "incremental_blobs": "true", "compress_blob": "true"},
}


@pytest.fixture(scope="session")
def _environment() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Tests run in several processes; one of them makes it.
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_environment(THEIRS)


@pytest.fixture(params=LAYOUTS)
def site(_environment: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    site.clock = PretendClock(time.time())
    site.begin_with_a_blob()
    options = {**site.plain_options(), **LAYOUTS[request.param]}
    make_buildout(THEIRS, site.folder, options)
    yield site
    site.close()


def their_backup(site: Site) -> tuple[str, State]:
    """bin/backup of theirs; the timestamp and what the site was. Their names have seconds, by the real clock."""
    time.sleep(1.1)
    site.close()
    before = set(site.timestamps())
    finished = subprocess.run(
        [site.folder / "bin/backup", "-q"], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (stamp,) = set(site.timestamps()) - before
    return stamp, site.state()


def history(site: Site) -> dict[str, State]:
    """Some of their backups, of a site that grows, shrinks by packs, is undone and changed."""
    states: dict[str, State] = {}
    for step in range(5):
        site.commit_pages(3)
        site.commit_blobs(3)
        if step == 1:
            site.undo()
        if step == 3:
            site.delete()
            site.pack()
        states.update([their_backup(site)])
    return states


def require_each_date(site: Site, states: dict[str, State]) -> None:
    for stamp, state in sorted(states.items(), reverse=True):
        site.restore(stamp)
        assert site.data == state.data, stamp
        found = site.blobs
        assert {key: found.get(key) for key in state.needed} == state.needed, stamp
        # What belongs to another date only is not left behind.
        assert not found.keys() - state.blobs.keys(), stamp


def test_every_date_of_theirs_restores_and_goes_on_to_restore_when_ours_continue(site: Site) -> None:
    states = history(site)
    newest = max(states)
    require_each_date(site, states)
    site.restore(newest)
    site.clock = PretendClock(time.time() + 3600)
    site.commit_blobs(2)
    for _ in range(2):
        site.commit_pages()
        report = site.backup()
        assert report.timestamp is not None
        states[report.timestamp] = site.state()
    require_each_date(site, states)


def test_a_half_copied_directory_is_never_taken_for_the_state(site: Site) -> None:
    states = history(site)
    newest = max(states)
    site.restore(newest)
    for path in sorted(site.blob_location.glob("blobstorage.*")):
        if path.is_dir():
            for blob in list(path.rglob("*.blob"))[::2]:
                blob.unlink()
        elif path.suffix != ".snar":
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 3])
    lost = next(iter(site.state().needed))
    for path in site.var.joinpath("blobstorage").rglob("*.blob"):
        path.unlink()
    before = site.datafs.read_bytes()
    with pytest.raises(Exception, match=r"neither in the backup|cut short|holds|lacks"):
        site.restore(newest)
    assert site.datafs.read_bytes() == before
    assert lost not in site.blobs
