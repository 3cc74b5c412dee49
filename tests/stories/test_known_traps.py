"""The traps that are known: each with the test that falls into it once the rule behind it is taken out.

What other tests show already is not told again: `SHOWN_ELSEWHERE` says where. All traps are in `TRAPS`, and a test
holds that list and the tests together.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.scripts import migrateblobs, repozo
from ZODB.serialize import ObjectWriter

from tests.faults.killing import killed_at
from tests.layouts import LAYOUTS
from tests.races.steps import Step, let_happen
from tests.site import PretendClock, Site, State, blob_files, committed_tids, timestamp, tree
from zodbvault.commands.backup_blobs import BlobBackup, BlobResult
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.identity import ForeignBlobs

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAPS = {
    "the blobstorage is not mounted": "test_a_blobstorage_that_is_not_mounted",
    "a restore of what a backup of it would have been": "test_a_restore_of_a_backup_without_its_blobs",
    "a record whose data file went with a crash": "test_a_record_whose_data_file_went_with_a_crash",
    "a symlink: restored beside a running Zope": "test_what_went_wrong: through a symlink",
    "a symlink: a pack replaces it": "test_a_pack_that_replaces_the_link",
    "a symlink: the index beside the configured name": "test_an_index_beside_the_configured_name",
    "a pack while a complete manifest is caught up on": "test_a_pack_while_a_complete_manifest_is_caught_up_on",
    "a prune killed at each point, then repozo for every date": "test_a_prune_killed_at_each_point_and_repozo",
    "blobs moved from bushy to lawn between two backups": "test_blobs_that_migrateblobs_moved",
    "power lost between the folders of records and of blobs": "test_power_lost_between_the_two_folders",
    "a damaged length in the middle of a live file": "test_a_damaged_length_in_the_middle",
    "repozo -B -Q continues our chain": "test_repozo_continues_our_chain",
    "a pool file left empty by a crash": "test_after_a_kill: an empty pool file",
    "a Data.fs whose tids go back once": "test_tids_that_go_back_once",
    "root restores a site of another user": "test_found_by_breaking: root restores",
    "root backs up a site of another user": "test_found_by_breaking: root backs up",
    "the magic changed in place": "test_the_magic_changed_in_place",
    "a target without Data.fs, killed, then opened by ZODB": "test_a_target_without_data_fs_is_killed_and_opened",
    "clock set back: new blobs with the same oid and tid": "test_what_went_wrong: a name that comes back",
    "two sites on one blob location": "test_two_sites_on_one_blob_location",
    "two sites in one location": "test_two_sites_in_one_location",
    "a site that was moved, with its backups": "test_a_site_that_was_moved_and_packed_goes_on",
    "two databases on one source blobstorage": "test_shared: a restore of one",
    "a half-copied upstream directory": "test_a_half_copied_directory_over_a_good_site",
    "aborted blobs that stay behind with a low tid": "test_aborted_blobs_that_stay_behind",
    "no Data.fs between a pack's two renames": "test_what_went_wrong: the instant without a database",
}
"""Each trap, and the test of it: in this module, or by its name in SHOWN_ELSEWHERE."""

SHOWN_ELSEWHERE = {
    "test_what_went_wrong: through a symlink": (
        "tests.stories.test_what_goes_wrong",
        "test_a_restore_through_a_symlink_is_refused_while_the_real_file_is_open",
    ),
    "test_after_a_kill: an empty pool file": (
        "tests.stories.test_after_a_kill",
        "test_an_empty_pool_file_that_a_crash_left_is_not_believed",
    ),
    "test_found_by_breaking: root restores": (
        "tests.stories.test_found_by_breaking",
        "test_what_root_restores_for_somebody_is_theirs_so_that_zope_starts",
    ),
    "test_found_by_breaking: root backs up": (
        "tests.stories.test_found_by_breaking",
        "test_what_root_backs_up_for_somebody_is_theirs_so_that_their_cron_goes_on",
    ),
    "test_what_went_wrong: a name that comes back": (
        "tests.stories.test_what_goes_wrong",
        "test_a_name_that_comes_back_with_other_content_is_never_overwritten",
    ),
    "test_shared: a restore of one": (
        "tests.stories.test_shared_blob_storage",
        "test_a_restore_of_one_takes_no_blob_of_the_other",
    ),
    "test_what_went_wrong: the instant without a database": (
        "tests.stories.test_what_goes_wrong",
        "test_the_instant_without_a_database_during_a_pack_is_waited_for",
    ),
}


def test_each_trap_has_its_test() -> None:
    for name in TRAPS.values():
        module, test = SHOWN_ELSEWHERE.get(name, (__name__, name))
        assert callable(getattr(importlib.import_module(module), test))
    assert set(SHOWN_ELSEWHERE) <= set(TRAPS.values())
    here = {name for name in globals() if name.startswith("test_")}
    assert here - {"test_each_trap_has_its_test"} <= set(TRAPS.values())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    site.begin_with_a_blob()
    site.commit_blobs(4)
    site.commit_pages(5)
    yield site
    site.close()


def blob_storage_of(site: Site) -> Path:
    assert site.blob_storage is not None
    return site.blob_storage


def require_each(site: Site, states: dict[str, State]) -> None:
    """Each state comes back, into a blobstorage that is empty before."""
    site.close()
    for stamp, state in states.items():
        for path in blob_files(blob_storage_of(site)).values():
            path.unlink()
        site.restore(stamp)
        site.assert_is(state)
        site.close()


def unmount(site: Site) -> Path:
    """Take the disk of the blobs away; what is left is an empty folder. Where the blobs are now."""
    site.close()
    elsewhere = site.var / "disk"
    os.rename(blob_storage_of(site), elsewhere)
    blob_storage_of(site).mkdir()
    return elsewhere


# The blobstorage is not mounted


@pytest.mark.parametrize("what", ["nothing new", "pages", "blobs", "full"])
def test_a_blobstorage_that_is_not_mounted(site: Site, what: str) -> None:
    states = dict([site.backed_up()])
    if what == "pages":
        site.commit_pages()
    elif what != "nothing new":
        site.commit_blobs(2)
    disk = unmount(site)
    files = tree(site.location, site.blob_location)
    with pytest.raises(ZodbvaultError, match="mounted"):
        site.backup(full=what == "full")
    assert tree(site.location, site.blob_location) == files
    blob_storage_of(site).rmdir()
    os.rename(disk, blob_storage_of(site))
    site.commit_blobs(1)
    states.update([site.backed_up()])
    require_each(site, states)


def test_a_restore_of_a_backup_without_its_blobs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made as if nobody had looked whether the blobs are there: the restore takes none of those the data refer to."""
    disk = unmount(site)
    with monkeypatch.context() as patched:
        patched.setattr(BlobBackup, "refuse_if_not_mounted", lambda *_: None)
        patched.setattr(BlobResult, "judge_missing", lambda *_: None)
        stamp, state = site.backed_up()
    blob_storage_of(site).rmdir()
    os.rename(disk, blob_storage_of(site))
    blobs = site.blobs
    assert len(blobs) == len(state.referenced) > 3
    site.commit_blobs(2)
    site.restore(stamp)
    assert site.datafs.read_bytes() == state.data
    assert site.blobs == blobs
    site.read_everything()


# What a crash left


def test_a_record_whose_data_file_went_with_a_crash(site: Site) -> None:
    """Record and manifest reached the disk, data file and line did not; something else is committed then."""
    states = dict([site.backed_up()])
    (dat,) = (site.location / name for name in site.names() if name.endswith(".dat"))
    before = dat.read_bytes()
    site.commit_blobs(2)
    gone, _ = site.backed_up()
    dat.write_bytes(before)
    (site.location / f"{gone}.deltafsz").unlink()
    # The clock stands before the record, as after a battery that is empty: the name must not come again.
    site.clock = PretendClock(site.clock.now() - 300)
    site.commit_blobs(2)
    states.update([site.backed_up()])
    assert f"{gone}.json" not in site.names()
    assert not [name for name in os.listdir(site.blob_location) if name.startswith(gone)]
    assert gone not in states
    site.commit_blobs(1)
    states.update([site.backed_up()])
    assert site.verify(deep=True).good
    require_each(site, states)


# Data.fs is a symlink


def linked(site: Site, elsewhere: Path) -> Path:
    """Let Data.fs be a link to a file elsewhere; that one."""
    site.close()
    elsewhere.mkdir()
    real = elsewhere / "Real.fs"
    os.rename(site.datafs, real)
    Path(f"{site.datafs}.index").unlink(missing_ok=True)
    site.datafs.symlink_to(real)
    return real


@pytest.mark.parametrize("full", [True, False])
def test_a_pack_that_replaces_the_link(site: Site, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file behind the link stays as it was: only the configured name tells that a pack took blobs away."""
    real = linked(site, tmp_path / "elsewhere")
    states = dict([site.backed_up()])
    for _ in range(4):
        site.commit_blobs(3)
        site.delete()

    def pack() -> None:
        site.pack()
        assert not site.datafs.is_symlink()
        assert real.exists()

    step = Step("copied", "zodbvault.commands.attempt", "copy_range", is_before=False)
    with monkeypatch.context() as patched:
        happening = let_happen(patched, step, pack)
        stamp = site.backup(full=full).timestamp
    assert happening.times == 1
    assert happening.calls == 2, "the backup did not start over"
    assert stamp is not None
    states[stamp] = site.state()
    site.commit_blobs(1)
    states.update([site.backed_up()])
    require_each(site, states)


def test_an_index_beside_the_configured_name(site: Site, tmp_path: Path) -> None:
    """ZODB reads and writes it there, so the stale one there goes, and that of the backup comes there."""
    real = linked(site, tmp_path / "elsewhere")
    site.commit_pages()
    site.close()
    stamp, state = site.backed_up()
    assert f"{stamp}.index" in site.names(), "the backup has the index that stands beside the link"
    site.commit_pages(5)
    site.close()
    index = Path(f"{site.datafs}.index")
    stale = index.read_bytes()
    site.restore(stamp)
    assert index.read_bytes() != stale
    assert index.read_bytes() == (site.location / f"{stamp}.index").read_bytes()
    assert not Path(f"{real}.index").exists()
    (site.location / f"{stamp}.index").unlink()
    index.write_bytes(stale)
    site.restore(stamp)
    assert not index.exists()
    site.assert_is(state)


# Packs and prunes


@pytest.mark.parametrize("layout", ["pool", "directories", "incremental archives"])
def test_a_pack_while_a_complete_manifest_is_caught_up_on(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blobs of the newest backup are being collected, in a layout that is new, while a pack takes some of them."""
    before = {"blob_layout": "pool"} if layout != "pool" else {"blob_layout": "directories"}
    site = Site(tmp_path / "site", options=before)
    site.begin_with_a_blob()
    for _ in range(4):
        site.commit_blobs(3)
    states = dict([site.backed_up()])
    site.options = dict(LAYOUTS[layout])
    step = Step("looking", "zodbvault.commands.backup_blobs", "BlobBackup.catch_up")
    with monkeypatch.context() as patched:
        happening = let_happen(patched, step, site.pack)
        stamp = site.backup().timestamp
    assert happening.times == 1
    assert stamp is not None
    assert f"{stamp}.fsz" in site.names(), "the backup did not start over as a full"
    assert stamp not in states
    states[stamp] = site.state()
    assert site.verify(deep=True).good
    require_each(site, states)
    site.close()


def test_a_prune_killed_at_each_point_and_repozo(tmp_path: Path) -> None:
    """For every date repozo brings a state that was, or finds nothing; never two chains joined to one file."""
    origin = Site(tmp_path / "origin")
    origin.begin_with_a_blob()
    states: dict[str, State] = {}
    for _ in range(3):
        states.update([origin.backed_up(full=True)])
        for _ in range(2):
            origin.commit_blobs(2)
            origin.commit_pages(3)
            states.update([origin.backed_up()])
        origin.pack()
    origin.close()
    output = tmp_path / "by-repozo.fs"
    number = 0
    while True:
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        shutil.copytree(origin.folder, tmp_path / "site", symlinks=True)
        site = Site(tmp_path / "site", options={"keep": "1"})
        site.clock = PretendClock(origin.clock.now())
        was_killed = killed_at(number, lambda site=site: site.backup(full=True))  # type: ignore[misc]
        if any(f"{stamp}.fsz" not in site.names() and f"{stamp}.deltafsz" not in site.names() for stamp in states):
            for stamp in states:
                require_repozo_is_right(site, stamp, states, output)
        if not was_killed:
            break
        site.tick(3600)
        last, state = site.backed_up(full=True)
        assert [name for name in site.names() if name.endswith("fsz")] == [f"{last}.fsz"]
        require_each(site, {last: state})
        number += 1
    assert number > 30
    assert len([name for name in site.names() if name.endswith("fsz")]) == 1


def require_repozo_is_right(site: Site, stamp: str, states: dict[str, State], output: Path) -> None:
    output.unlink(missing_ok=True)
    try:
        repozo.main(["-R", "-r", str(site.location), "-o", str(output), "-D", stamp])
    except SystemExit as nothing:
        if "No files in repository" not in str(nothing):
            raise
        return
    assert output.read_bytes() in [state.data for state in states.values()]


# Layouts


@pytest.mark.parametrize("target", ["bushy", "lawn", "nothing"])
@pytest.mark.parametrize("changes", [True, False], ids=["with commits", "nothing committed"])
def test_blobs_that_migrateblobs_moved(site: Site, target: str, changes: bool) -> None:
    states = dict([site.backed_up()])
    site.commit_blobs(2)
    states.update([site.backed_up()])
    site.close()
    place, moved = blob_storage_of(site), site.var / "moved"
    migrateblobs.migrate(str(place), str(moved), "lawn")
    shutil.rmtree(place)
    os.rename(moved, place)
    if changes:
        site.commit_blobs(2)
        states.update([site.backed_up()])
    else:
        site.backup()
    site.commit_blobs(1)
    states.update([site.backed_up()])
    assert site.verify(deep=True).good
    site.close()
    for stamp, state in reversed(states.items()):
        if target == "nothing":
            shutil.rmtree(place)
        else:
            fill(place, target, site.var / "other")
        site.restore(stamp)
        found = (place / ".layout").read_text().strip()
        if target != "nothing":
            assert found == target, "the layout of a blobstorage that has blobs was changed"
        elif stamp in (min(states), max(states)):
            assert found == ("bushy" if stamp == min(states) else "lawn")
        paths = [path.relative_to(place) for path in blob_files(place).values()]
        assert {len(path.parts) for path in paths} == {9 if found == "bushy" else 2}
        site.assert_is(state)
        site.close()


def fill(place: Path, layout: str, other: Path) -> None:
    """Let a blobstorage have another layout, and of its blobs the first one only."""
    migrateblobs.migrate(str(place), str(other), layout)
    for _, path in sorted(blob_files(other).items())[1:]:
        path.unlink()
    shutil.rmtree(place)
    os.rename(other, place)


# Power


@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
@pytest.mark.parametrize("lost", ["blobs", "records"])
@pytest.mark.parametrize("with_line", [True, False])
def test_power_lost_between_the_two_folders(
    site: Site, lost: str, full: bool, with_line: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One of the two folders is as before the last backup, though a disk that keeps its promises has both."""
    states = dict([site.backed_up()])
    site.commit_blobs(2)
    folders = {"blobs": site.blob_location, "records": site.location}
    kept = site.var / "kept"
    shutil.copytree(folders[lost], kept)
    (old_dat,) = (name for name in site.names() if name.endswith(".dat"))
    before = (site.location / old_dat).read_bytes()
    stamp, state = site.backed_up(full=full)
    if not with_line and lost == "blobs":
        (site.location / old_dat).write_bytes(before)
        if full:
            (site.location / f"{stamp}.dat").unlink()
    shutil.rmtree(folders[lost])
    os.rename(kept, folders[lost])
    site.tick(3600)
    site.commit_blobs(2)
    states.update([site.backed_up()])
    newest, _ = next(reversed(states.items()))
    assert newest != stamp
    site.commit_blobs(1)
    states.update([site.backed_up()])
    if lost == "blobs" and with_line:
        # What had its line has lost its manifest, which is said; nothing was built on it.
        assert f"{newest}.fsz" in site.names()
        assert not site.verify(stamp).good
        site.close()
        shutil.rmtree(blob_storage_of(site))
        site.restore(stamp)  # the later chain has the blobs
        site.assert_is(state)
        assert f"{stamp}.{'blobs' if full else 'deltablobs'}.gz: is missing" in caplog.text
    elif lost == "blobs" and full:
        # A full stays where it is: nobody joins anything to it.
        assert f"{stamp}.fsz has no line in a .dat file" in caplog.text
        assert all(site.verify(when).good for when in states)
    else:
        assert stamp not in {name.partition(".")[0] for name in site.names() if name.endswith(("fs", "fsz"))}
        assert site.verify(deep=True).good
    require_each(site, states)


def test_a_damaged_length_in_the_middle(site: Site) -> None:
    """Made longer, a length may lead beyond the end, and the rest of the file seems to be one unfinished record."""
    stamp, state = site.backed_up()
    ends = []
    for _ in range(3):
        site.commit_pages(2)
        ends.append(len(site.data))
    site.close()
    good = site.datafs.read_bytes()
    files = tree(site.location, site.blob_location)
    for number in range(8):
        for change in (1, 0x40):
            data = bytearray(good)
            data[ends[0] + 8 + number] ^= change
            site.datafs.write_bytes(data)
            for full in (False, True):
                with pytest.raises(ZodbvaultError, match=r"\d"):
                    site.backup(full=full)
    assert tree(site.location, site.blob_location) == files
    site.datafs.write_bytes(good)
    last, _ = site.backed_up()
    assert last > stamp
    site.restore(stamp)
    site.assert_is(state)


# Other programs


def back_up_by_repozo(site: Site) -> str:
    """`repozo -B -Q -z`, which knows nothing of blobs and of records; the timestamp."""
    site.tick()
    before = set(site.timestamps())
    moment = site.clock.now()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(repozo, "gen_filename", _names_at(timestamp(moment)))
        repozo.main(["-B", "-Q", "-z", "-r", str(site.location), "-f", str(site.datafs)])
    (new,) = set(site.timestamps()) - before
    return new


def _names_at(stamp: str) -> Any:
    original = repozo.gen_filename

    def gen_filename(options: Any, ext: str | None = None, now: Any = None) -> str:
        return original(options, ext, now=(*map(int, stamp.split("-")),))

    return gen_filename


@pytest.mark.parametrize("with_blobs", [True, False], ids=["with a blob backup", "without"])
def test_repozo_continues_our_chain(site: Site, with_blobs: bool) -> None:
    states = dict([site.backed_up()])
    site.commit_blobs(2)
    states.update([site.backed_up()])
    site.commit_blobs(2)
    theirs = back_up_by_repozo(site)
    state = site.state()
    if with_blobs:
        shutil.copytree(blob_storage_of(site), site.blob_location / f"blobstorage.{theirs}" / "blobstorage")
        states[theirs] = state
    site.commit_blobs(2)
    # Over the site, which has the blobs that their state needs, it always goes.
    site.close()
    live = site.datafs.read_bytes(), shutil.copytree(blob_storage_of(site), site.var / "saved")
    site.restore(theirs)
    assert site.datafs.read_bytes() == state.data
    assert state.needed.items() <= site.blobs.items()
    if not with_blobs:
        for key, path in blob_files(blob_storage_of(site)).items():
            assert path.unlink() is None, key
        with pytest.raises(ZodbvaultError, match="blobs that the data refer to"):
            site.restore(theirs)
    shutil.rmtree(blob_storage_of(site))
    os.rename(live[1], blob_storage_of(site))
    site.datafs.write_bytes(live[0])
    Path(f"{site.datafs}.index").unlink(missing_ok=True)
    # Ours goes on with theirs; what it writes has all blobs.
    states.update([site.backed_up()])
    site.commit_blobs(1)
    states.update([site.backed_up()])
    require_each(site, states)


# Databases that are strange, and good


def test_tids_that_go_back_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """ZODB opens such a file, with a warning. What counts for blobs is the greatest tid, not the last one."""
    for content in (b"first", b"second"):
        with site.changing() as root, root.setdefault("undone", Blob()).open("w") as file:
            file.write(content)
    assert site.undo()
    before = len(site.data)
    site.commit_blobs(1)
    site.close()
    data = bytearray(site.datafs.read_bytes())
    go_back(data, site, before)
    site.datafs.write_bytes(data)
    Path(f"{site.datafs}.index").unlink()
    tids = [tid for tid, _ in committed_tids(bytes(data))]
    assert tids[-1] < tids[-2]
    with caplog.at_level(logging.WARNING, logger="ZODB"):
        FileStorage(str(site.datafs), blob_dir=str(site.blob_storage)).close()
    assert "time-stamp reduction" in caplog.text
    states = dict([site.backed_up()])
    assert "goes back" in caplog.text
    record = json.loads((site.location / f"{next(iter(states))}.json").read_text())
    assert (record["last_tid"], record["tail_tid"]) == (max(tids).hex(), tids[-1].hex())
    states.update([site.backed_up(full=True)])
    store_blob(site)
    states.update([site.backed_up()])
    assert site.verify(deep=True).good
    site.close()
    for stamp, state in states.items():
        shutil.rmtree(blob_storage_of(site))
        site.restore(stamp)
        assert site.datafs.read_bytes() == state.data
        assert state.referenced == set(state.needed) == set(site.blobs)
        assert site.blobs == state.needed


def go_back(data: bytearray, site: Site, start: int) -> None:
    """Give the last transaction, which begins at `start`, a tid of an hour before, and its blob that name."""
    old = bytes(data[start : start + 8])
    new = (int.from_bytes(committed_tids(bytes(data))[0][0], "big") + 1).to_bytes(8, "big")
    position = data.find(old, start)
    while position >= 0:
        data[position : position + 8] = new
        position = data.find(old, position + 8)
    for (_, tid), path in blob_files(blob_storage_of(site)).items():
        if tid == int.from_bytes(old, "big"):
            os.rename(path, path.with_name(f"0x{new.hex()}.blob"))


def store_blob(site: Site) -> None:
    """One transaction with a new blob, past ZODB.DB, which reads nothing that is later than the last transaction."""
    with contextlib.closing(FileStorage(str(site.datafs), blob_dir=str(site.blob_storage))) as storage:
        content = Path(storage.temporaryDirectory(), "content")
        content.write_bytes(b"new")
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        record = ObjectWriter().serialize(Blob())
        storage.storeBlob(storage.new_oid(), bytes(8), record, str(content), "", transaction)
        storage.tpc_vote(transaction)
        storage.tpc_finish(transaction)


def test_the_magic_changed_in_place(site: Site) -> None:
    """zodbupdate writes another one into the same file; not a single transaction is new then."""
    site.close()
    states: dict[str, bytes] = {}
    blobs = site.blobs
    for magic in (b"FS30", b"FS21", b"FS30"):
        with site.datafs.open("r+b") as file:
            file.write(magic)
        stamp = site.backup().timestamp
        assert stamp is not None
        assert f"{stamp}.fsz" in site.names()
        states[stamp] = site.datafs.read_bytes()
    assert len(set(states.values())) == 2
    for stamp, data in states.items():
        site.restore(stamp)
        assert site.datafs.read_bytes() == data
        assert site.blobs == blobs


# A restore


def test_a_target_without_data_fs_is_killed_and_opened(site: Site, tmp_path: Path) -> None:
    """A Zope that makes an empty database there empties the blob folder too: no blob may be there before Data.fs."""
    stamp, state = site.backed_up()
    number = 0
    opened = set()
    while True:
        folder = tmp_path / "standby"
        shutil.rmtree(folder, ignore_errors=True)
        other = site.standby(folder)
        shutil.rmtree(blob_storage_of(other))
        was_killed = killed_at(number, lambda other=other: other.restore(stamp))  # type: ignore[misc]
        if was_killed:
            had_database = other.datafs.exists()
            blobs = set(blob_files(blob_storage_of(other)))
            assert had_database or not blobs
            FileStorage(str(other.datafs), blob_dir=str(other.blob_storage)).close()
            assert set(blob_files(blob_storage_of(other))) == blobs
            opened.add((had_database, bool(blobs)))
            other.restore(stamp)
        other.assert_is(state)
        other.close()
        if not was_killed:
            break
        number += 1
    assert opened == {(False, False), (True, False), (True, True)}


# Who belongs to whom


def test_two_sites_on_one_blob_location(site: Site, tmp_path: Path) -> None:
    states = dict([site.backed_up()])
    other = Site(tmp_path / "other", options={"blobbackuplocation": str(site.blob_location)}, seed=3)
    other.begin_with_a_blob()
    other.commit_blobs(3)
    files = tree(site.location, site.blob_location)
    with pytest.raises(ForeignBlobs):
        other.backup()
    assert tree(site.location, site.blob_location) == files
    assert not [name for name in other.names() if name.endswith("fsz")]
    other.close()
    site.options["keep"] = "1"
    site.commit_blobs(1)
    states.update([site.backed_up()])
    require_each(site, states)


def test_two_sites_in_one_location(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is configured by itself, so neither sees the other; only what was backed up tells."""
    site.backup()
    places = {"location": str(site.location), "blobbackuplocation": str(site.blob_location)}
    other = Site(tmp_path / "other", options=places, seed=3, start="2076-11-24-18-05-00")
    other.begin_with_a_blob()
    other.close()
    other.restore()
    assert f"This backup was made of another Data.fs, {site.datafs}, which is still there." in caplog.text
    other.begin_with_a_blob()
    other.backup()
    warning = f"{site.location}: the newest backup there is of another database, "
    assert warning not in caplog.text  # It goes on with what was restored.
    site.set_clock("2076-11-25-18-05-00")
    for one, beside in ((site, other), (other, site)):
        caplog.clear()
        one.commit_blobs(1)
        one.backup(full=one is other)
        assert f"{warning}{beside.datafs}. Where both" in caplog.text
    caplog.clear()
    other.set_clock("2076-11-26-18-05-00")
    other.backup(full=True)
    assert warning not in caplog.text
    other.close()


def test_a_site_that_was_moved_and_packed_goes_on(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = dict([site.backed_up()])
    site.close()
    os.rename(site.folder, tmp_path / "moved")
    moved = Site(tmp_path / "moved", start="2076-11-24-18-05-00")
    moved.pack()
    moved.commit_blobs(1)
    states.update([moved.backed_up()])
    require_each(moved, states)
    moved.close()
    # The same file by another name is no other database.
    site.folder.symlink_to(moved.folder)
    site.set_clock("2076-11-25-18-05-00")
    site.pack()
    states.update([site.backed_up()])
    require_each(site, states)
    assert "another database" not in caplog.text


@pytest.mark.parametrize("over", ["the site", "a site that lacks them"])
def test_a_half_copied_directory_over_a_good_site(site: Site, over: str) -> None:
    """An rsync that was interrupted left a directory of the newest backup, and nothing tells that it is not whole."""
    site.options = {"blob_layout": "directories"}
    stamp, state = site.backed_up()
    site.close()
    for name in site.names():
        if name.endswith(".json"):
            (site.location / name).unlink()
    for name in os.listdir(site.blob_location):
        if name.endswith(".gz"):
            (site.blob_location / name).unlink()
    copy = site.blob_location / f"blobstorage.{stamp}"
    gone = sorted(blob_files(copy / "blobstorage").items())[1::2]
    for _, path in gone:
        path.unlink()
    assert len(gone) >= 2
    live = site.blobs
    if over == "the site":
        site.restore(stamp)
        assert site.blobs == live
        site.assert_is(state)
        return
    lacking = blob_files(blob_storage_of(site))
    for key, _ in gone:
        lacking[key].unlink()
    files = tree(site.datafs.parent, blob_storage_of(site))
    with pytest.raises(ZodbvaultError, match="blobs that the data refer to"):
        site.restore(stamp)
    after = {path: what for path, what in tree(site.datafs.parent, blob_storage_of(site)).items() if path in files}
    assert {path: what for path, what in after.items() if not path.endswith(".lock")} == {
        path: what for path, what in files.items() if not path.endswith(".lock")
    }


def test_aborted_blobs_that_stay_behind(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The server died behind a vote: the transaction is cut off, its blob stays, and later tids are higher."""
    states = dict([site.backed_up()])
    referenced = set(site.state().referenced)
    site.crash("voted")
    stray = set(blob_files(blob_storage_of(site))) - referenced
    assert len(stray) == 1
    site.commit_blobs(2)
    states.update([site.backed_up()])
    states.update([site.backed_up(full=True)])
    site.commit_blobs(1)
    states.update([site.backed_up()])
    assert min(tid for _, tid in stray) < int.from_bytes(site.state().last_tid or b"", "big")
    assert stray <= set(site.blobs) - site.state().referenced
    caplog.clear()
    for deep in (False, True):
        report = site.verify(deep=deep)
        assert report.good, report.lines
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    require_each(site, states)
