"""The power goes while a command runs: whatever the disk made of it, nothing that was reported is lost.

docs/power-loss.rst tells the rules. A usual run tries states by chance, the same each time; `make faults` tries each.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import without_sync
from tests.faults.disk import write_tree
from tests.faults.power import (
    MORE_SCENARIOS,
    moments,
    moments_of,
    record,
    record_script,
    require_what_is_promised,
)
from tests.faults.scenarios import SCENARIOS, every_case, leftovers
from tests.layouts import LAYOUTS
from tests.site import PretendClock, Site
from zodbvault.errors import ZodbvaultError
from zodbvault.io import durable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.power import Moment, Recorded
    from tests.site import BlobKey

ALL = {**SCENARIOS, **MORE_SCENARIOS}
WHOLE = ("pool", "directories", "numbered directories", "archives", "incremental archives")
"""The layouts whose states are all tried in `make faults`; the others write in the same ways, and get a sample."""
SAMPLE, SMALL_SAMPLE = 150, 12
QUICK = ("incremental", "full that prunes")
"""Scenarios of layouts other than the pool that a usual run tries."""

CASES = [*every_case(), *((name, layout) for layout in ("pool", "directories") for name in MORE_SCENARIOS)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of runs say what they do."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def folder_of_many(tmp_path: Path) -> Iterator[Path]:
    """A folder in a file system where many files are synced with one call: not every place for temporary files is."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        serves = durable._syncfs_for(fd) is not None
    finally:
        os.close(fd)
    with tempfile.TemporaryDirectory(dir=tmp_path if serves else "/dev/shm") as folder:
        yield Path(folder)


def recorded_case(tmp_path: Path, name: str, layout: str, wrapper: tuple[str, ...] = ()) -> Recorded:
    (tmp_path / "work").mkdir()
    return record(ALL[name].start(tmp_path / "site", layout), tmp_path / "work", wrapper)


def require_all(recorded: Recorded, those: list[Moment], folder: Path) -> None:
    """In each of these states what is promised holds. An error says which state it was."""
    for moment in those:
        try:
            require_what_is_promised(recorded, moment, folder)
        except Exception as error:  # noqa: PERF203 - it says which state it was
            last = recorded.recording.calls[moment.number - 1]
            what = f"{last.kind} {last.path.rsplit('/', 1)[-1]}"
            message = f"after {moment.number} calls ({what}), told: {moment.told}: {type(error).__name__}: {error}"
            raise AssertionError(message) from error


@pytest.mark.parametrize(
    ("name", "layout"),
    [case for case in CASES if case[1] == "pool" or (case[0] in QUICK and case[1] != "pool")],
    ids=lambda value: value.replace(" ", "_"),
)
def test_a_cut_loses_nothing(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    some = moments(recorded, at_most=40 if layout == "pool" else SMALL_SAMPLE)
    require_all(recorded, some, tmp_path / "work")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_no_cut_loses_anything(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    # With many blobs most states are like one another, and there are tens of thousands.
    found = moments(recorded, at_most=None if layout in WHOLE and name in SCENARIOS else SAMPLE)
    require_all(recorded, found, tmp_path / "work")
    print(f"{name}, {layout}: {len(recorded.recording.calls)} calls, {len(found)} states")


@pytest.mark.parametrize(("name", "layout"), [("incremental", "pool"), ("first full", "directories")])
def test_a_backup_touches_no_live_file(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    live = [str(folder) + "/" for folder in recorded.start.live_folders]
    touched = [call for call in recorded.recording.calls if any(call.path.startswith(folder) for folder in live)]
    assert not touched


def test_a_live_blob_is_on_the_disk_before_it_has_its_name(folder_of_many: Path) -> None:
    """A restore that runs again takes a blob of the right name and size for good."""
    recorded = recorded_case(folder_of_many, "restore of many blobs", "pool")
    unsynced: set[str] = set()
    named = 0
    for call in recorded.recording.calls:
        if call.kind == "write":
            unsynced.add(call.path)
        elif call.kind == "sync":
            unsynced.discard(call.path)
        elif call.kind == "sync_all":
            unsynced.clear()
        elif call.kind == "rename" and call.other.endswith(".blob"):
            assert call.path not in unsynced
            named += 1
    assert named > durable.SYNCED_ONE_BY_ONE


# Blobs alone


def told_of_blobs_alone(site: Site) -> dict[str, dict[BlobKey, bytes]]:
    """Two backups of a site whose records live elsewhere, and changes after them: the blobs of each."""
    found = {}
    for _ in range(2):
        site.commit_blobs(3)
        stamp = site.backup(full=bool(found)).timestamp
        assert stamp is not None
        found[stamp] = site.blobs
    site.commit_blobs(3)
    site.pack()
    return found


def require_states_of_blobs(site: Site, states: dict[str, dict[BlobKey, bytes]], folder: Path, told: set[str]) -> None:
    """Those told of come back with exactly their blobs; the newest one is one of all `states`, the last of them new."""
    shutil.rmtree(folder, ignore_errors=True)
    other = Site(folder, options={**site.options, "blobbackuplocation": str(site.blob_location)})
    other.clock = site.clock
    assert site.verify().good
    newest = other.restore().timestamp
    assert other.blobs == states[newest]
    # What `keep` lets go stays until the new state is there.
    must = told if newest == max(states) else {*told, *sorted(states)[:-1]}
    for stamp in sorted(must - {newest}, reverse=True):
        assert other.restore(stamp).timestamp == stamp
        assert other.blobs == states[stamp]


@pytest.mark.parametrize("how", ["incremental", "full"])
@pytest.mark.parametrize("layout", ["pool", "directories", "archives", "incremental archives"])
@pytest.mark.parametrize("at_most", [12, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_cut_loses_no_state_of_blobs_alone(tmp_path: Path, layout: str, how: str, at_most: int | None) -> None:
    options = {"only_blobs": "true", "keep": "2", **LAYOUTS[layout]}
    site = Site(tmp_path / "site", options=options)
    site.begin_with_a_blob()
    states = told_of_blobs_alone(site)
    oldest, newest = sorted(states)
    site.close()
    before, recording = record_script(site, "backup", ("--full",) if how == "full" else (), tmp_path)
    now, clock = site.blobs, site.clock.now()
    (new,) = re.findall(r"Backup of blobs (\S+):", recording.finished.stderr)
    for moment in moments_of(before, recording.calls, at_most=at_most):
        write_tree(moment.tree, site.folder)
        site.clock = PretendClock(clock + 3600)
        told = {newest, *({new} if moment.told else ()), *({oldest} if how == "incremental" else ())}
        require_states_of_blobs(site, {**states, new: now}, tmp_path / "other", told)
        stamp = site.backup().timestamp
        require_states_of_blobs(site, {**states, new: now, stamp or new: now}, tmp_path / "other", {newest})
        assert not leftovers(site)
        assert site.verify(deep=True).good


# Each sync is needed

PROGRAM = without_sync.__file__
NEEDED = {
    "io.durable:make_folder:0": ("first full", "pool"),
    "io.durable:sync_file:0": ("incremental", "pool"),
    "io.durable:sync_folder:0": ("incremental", "pool"),
    "io.durable:PartFile.finish:0": ("incremental", "pool"),
    "io.durable:PartFile.publish:0": ("incremental", "pool"),
    "io.durable:rename_durably:0": ("prune", "pool"),
    "io.durable:remove_durably:0": ("prune", "pool"),
    "io.durable:SyncBatch.add_file:0": ("incremental", "pool"),
    "io.durable:SyncBatch.add_folder:0": ("incremental", "pool"),
    "io.durable:SyncBatch.catch_up:0": ("restore of many blobs", "pool"),
    "io.durable:SyncBatch.finish:0": ("many blobs", "pool"),
    "io.durable:FolderSyncs.enter:0": ("incremental", "pool"),
    "io.durable:FolderSyncs.make_folders:0": ("first full", "pool"),
    "io.durable:FolderSyncs.finish:0": ("incremental", "pool"),
}
"""Every call in io/ that asks for a sync, and the scenario that comes to grief without it."""
ONLY_ON_MACOS = {"io.durable:sync_file:1", "io.durable:_full_sync.full_sync:0"}
NEEDED_ELSEWHERE = {
    "blobs.copying:SharedBatch.add_file:0": ("incremental", "pool"),
    "blobs.copying:_finish:0": ("incremental", "pool"),
    "blobs.copying:SharedBatch.catch_up:0": ("restore of many blobs", "pool"),
    "blobs.directory_writer:DirectoryWriter.finish:0": ("incremental", "directories"),
    "blobs.directory_writer:DirectoryWriter.finish:1": ("many blobs", "directories"),
    "blobs.directory_writer:DirectoryWriter.begin:0": ("incremental", "directories"),
    "blobs.directory_writer:DirectoryWriter._make:0": ("incremental", "directories"),
    "blobs.pool:Pool.place:0": ("incremental", "pool"),
    "blobs.pool:Pool.finish:0": ("incremental", "pool"),
    "blobs.pool:Pool.finish:1": ("many blobs", "pool"),
    "blobs.target:Target.catch_up:0": ("restore of many blobs", "pool"),
    "blobs.target:add_blobs:0": ("restore of many blobs", "pool"),
    "blobs.target:Target.place:0": ("restore into nothing", "pool"),
    "blobs.target:Target.finish:0": ("restore into nothing", "pool"),
    "blobs.target:Target.finish:1": ("restore of many blobs", "pool"),
}
"""The same for those who use io/. Not among them are the syncs of what is durable already if nobody cut the power just
before (blobs that are linked), and of what nothing restores by (`TS.checks.json`, the link `latest`)."""


def test_each_sync_in_io_is_in_the_table() -> None:
    modules = sorted(path.stem for path in (without_sync.SOURCE / "zodbvault" / "io").glob("*.py"))
    found = [call.place for module in modules for call in without_sync.sync_calls(f"io.{module}")]
    assert sorted(found) == sorted({*NEEDED, *ONLY_ON_MACOS})


def require_damage(tmp_path: Path, place: str, name: str, layout: str) -> None:
    """Without the sync at this place there is a state in which something is lost."""
    recorded = recorded_case(tmp_path, name, layout, (PROGRAM, place))
    for moment in reversed(moments(recorded, at_most=1000)):
        try:
            require_what_is_promised(recorded, moment, tmp_path / "work")
        except (AssertionError, ZodbvaultError):  # noqa: PERF203 - the first one is enough
            return
    pytest.fail(f"{place} is not needed, or a state of the disk is missing")


@pytest.mark.parametrize(
    "place",
    # Without this one it takes long to find a broken state among so many good ones.
    [pytest.param(place, marks=[pytest.mark.slow] if "catch_up" in place else []) for place in NEEDED],
)
def test_no_sync_in_io_can_be_left_out(place: str, folder_of_many: Path) -> None:
    require_damage(folder_of_many, place, *NEEDED[place])


@pytest.mark.slow
@pytest.mark.parametrize("place", NEEDED_ELSEWHERE)
def test_no_sync_elsewhere_can_be_left_out(place: str, folder_of_many: Path) -> None:
    require_damage(folder_of_many, place, *NEEDED_ELSEWHERE[place])


def test_with_all_syncs_the_same_look_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="is not needed"):
        require_damage(tmp_path, "io.durable:sync_file:1", "prune", "pool")
