"""repozo and we read and continue each other's repositories. repozo runs as the child process that it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.site import PretendClock, Site, State, committed_part, timestamp
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")


START = timestamp(time.time() - 10 * 86400)
"""repozo takes no backup that is later than the real time."""


def repozo(*arguments: str | Path) -> str:
    """Run repozo; what it prints."""
    finished = subprocess.run(
        [sys.executable, "-m", "ZODB.scripts.repozo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def recovered(location: Path, output: Path, when: str | None = None) -> bytes:
    """The bytes that repozo restores."""
    repozo("-R", "-r", location, "-o", output, *(["-D", when] if when else []))
    return output.read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", start=START)
    site.commit_pages(5)
    site.commit_blobs(3)
    yield site
    site.close()


# What we write


def test_repozo_restores_every_date_and_verifies(site: Site, tmp_path: Path) -> None:
    states: dict[str, State] = dict([site.backed_up()])
    for step in range(6):
        site.commit_pages(3)
        site.commit_blobs(1)
        if step == 3:
            site.undo()
            site.pack()
        states.update([site.backed_up()])
        if step in (2, 3, 5):
            repozo("-V", "-r", site.location)
            repozo("-V", "-Q", "-r", site.location)
    # A folder with a space in its name stops repozo's own repositories when they are moved; ours are read anywhere.
    moved = tmp_path / "moved to here"
    shutil.copytree(site.location, moved)
    for location in (site.location, moved):
        for stamp, state in states.items():
            assert recovered(location, tmp_path / "out.fs", stamp) == state.data
        assert recovered(location, tmp_path / "out.fs") == list(states.values())[-1].data
        repozo("-V", "-r", location)


def test_repozo_verifies_an_empty_database_and_one_of_several_members(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", blobs=False, start=START)
    site.datafs.write_bytes(b"FS30")
    empty, _ = site.backed_up()
    for _ in range(4):
        site.commit_pages(40, 40_000)
    assert site.datafs.stat().st_size > 3_000_000
    _, state = site.backed_up()
    site.backup(full=True)
    for when in (empty, None):
        expected = b"FS30" if when else state.data
        assert recovered(site.location, tmp_path / "out.fs", when) == expected
    repozo("-V", "-r", site.location)
    site.close()


def test_repozo_continues_our_repository_and_we_continue_repozos_lines(site: Site, tmp_path: Path) -> None:
    states = dict([site.backed_up()])
    site.commit_pages(3)
    states.update([site.backed_up()])
    site.commit_blobs(2)
    stamp, state = by_repozo(site, "-B", "-z", "-r", str(site.location), "-f", str(site.datafs))
    assert stamp + ".deltafsz" in site.names()
    states[stamp] = state
    # Nothing was committed since; the blobs that repozo does not know of are caught up with.
    assert "blobs" in site.backup().summary
    assert site.timestamps()[-1] == stamp
    site.commit_blobs(2)
    states.update([site.backed_up()])
    assert [name for name in site.names() if name.endswith(".dat")] == [next(iter(states)) + ".dat"]
    assert_all_restore(site, states, tmp_path)


# What repozo writes


def by_repozo(site: Site, *arguments: str) -> tuple[str, State]:
    """A backup by repozo at this site's time; its timestamp, and the state that was backed up."""
    before = set(site.timestamps())
    site.tick()
    stamp = timestamp(site.clock.now())
    code = (
        "import sys, time; from ZODB.scripts import repozo; now = time.strptime(sys.argv.pop(1), '%Y-%m-%d-%H-%M-%S');"
        "time.gmtime = lambda *_: now; repozo.main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, stamp, *arguments], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert set(site.timestamps()) - before == {stamp}
    return stamp, site.state()


def assert_all_restore(site: Site, states: dict[str, State], tmp_path: Path) -> None:
    """Every state comes back, by us and by repozo."""
    for stamp, state in states.items():
        assert recovered(site.location, tmp_path / "out.fs", stamp) == state.data
        site.restore(stamp)
        site.assert_is(state)
    repozo("-V", "-r", site.location)


@pytest.mark.parametrize("flags", [["-z"], [], ["-F"], ["-z", "-Q"]], ids=["compressed", "plain", "all full", "quick"])
@pytest.mark.parametrize("moved", [False, True], ids=["in place", "moved"])
def test_we_restore_and_continue_repozos_repository(tmp_path: Path, flags: list[str], moved: bool) -> None:
    # repozo writes whole paths and its own parser breaks on spaces in them, so the place has none.
    site = Site(tmp_path / "site", start=START)
    states: dict[str, State] = {}
    site.location.mkdir()
    for _ in range(3):
        site.commit_pages(3)
        site.commit_blobs(2)
        states.update([by_repozo(site, "-B", "-r", str(site.location), "-f", str(site.datafs), *flags)])
    if moved:
        shutil.copytree(site.location, tmp_path / "new place", copy_function=shutil.copyfile)
        shutil.rmtree(site.location)
        site.options["location"] = str(tmp_path / "new place")
    # The blobs are all on the site still, so every state has what it refers to.
    for stamp, state in states.items():
        other = Site(tmp_path / f"other {stamp}", options={"location": str(site.location)})
        other.clock = PretendClock(site.clock.now())
        assert other.blob_storage is not None
        assert site.blob_storage is not None
        shutil.rmtree(other.blob_storage)
        shutil.copytree(site.blob_storage, other.blob_storage)
        other.restore(stamp)
        assert committed_part(other.datafs.read_bytes()) == state.data
        other.read_everything()
        other.close()
    files = {name: (site.location / name).read_bytes() for name in site.names()}
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    assert stamp + ".deltafsz" in site.names()
    for name, content in files.items():
        if not name.endswith(".dat"):
            assert (site.location / name).read_bytes() == content
    assert recovered(site.location, tmp_path / "out.fs") == state.data
    site.commit_pages(1)
    stamp, state = site.backed_up()
    site.restore()
    site.assert_is(state)
    # Fulls of repozo's have no blobs of their own in our repository, and verify says so.
    assert site.verify(deep=True).good == ("-F" not in flags)
    if not moved:
        repozo("-V", "-r", site.location)
    site.close()


def test_a_repository_of_repozos_that_lost_its_dat_restores_with_a_warning(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.location.mkdir()
    states: dict[str, State] = {}
    for _ in range(3):
        site.commit_pages(3)
        states.update([by_repozo(site, "-B", "-z", "-r", str(site.location), "-f", str(site.datafs))])
    for name in site.names():
        if name.endswith(".dat"):
            os.unlink(site.location / name)
    for stamp, state in states.items():
        caplog.clear()
        site.restore(stamp)
        site.close()
        assert site.data == state.data
        assert "WARNING" in caplog.text
    # Nothing is built on what has neither record nor .dat.
    site.commit_pages(1)
    stamp, _ = site.backed_up()
    assert stamp + ".fsz" in site.names()


def test_blobs_that_repozos_state_needs_and_nobody_has_stop_the_restore(site: Site) -> None:
    site.location.mkdir()
    stamp, state = by_repozo(site, "-B", "-z", "-r", str(site.location), "-f", str(site.datafs))
    for _ in range(5):
        site.commit_blobs(3)
    site.pack()
    site.close()
    live = site.state()
    assert set(state.needed) - set(live.blobs)
    with pytest.raises(ZodbvaultError, match="blob"):
        site.restore(stamp)
    site.assert_is(live)
    site.restore(stamp, accept_missing_blobs=True)
    site.close()
    assert site.data == state.data


def test_a_data_file_of_repozos_that_was_never_finished_is_put_aside(site: Site, tmp_path: Path) -> None:
    """repozo was killed between its data file and its line in the .dat: its restore would join the file."""
    site.location.mkdir()
    arguments = ("-B", "-z", "-r", str(site.location), "-f", str(site.datafs))
    first, _ = by_repozo(site, *arguments)
    dat = site.location / f"{first}.dat"
    before = dat.read_bytes()
    site.commit_pages(2)
    unfinished, _ = by_repozo(site, *arguments)
    dat.write_bytes(before)
    site.commit_pages(2)
    site.tick()
    _, state = site.backed_up()
    assert f"{unfinished}.deltafsz.orphan" in site.names()
    assert recovered(site.location, tmp_path / "out.fs") == state.data
    site.restore()
    site.assert_is(state)
