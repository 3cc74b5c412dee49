"""What a run that was killed leaves behind: the next one finishes it or puts it aside, and nothing is lost.

The left-overs are made here by hand, each as it stands on disk between two steps.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ZODB.scripts import repozo

from tests.site import Site, State, blob_files, tree
from zodbvault.errors import ZodbvaultError


def by_repozo(site: Site) -> bytes:
    """What repozo restores from this site's repository."""
    output = site.folder / "by-repozo.fs"
    repozo.main(["-R", "-r", str(site.location), "-o", str(output), "-D", "2099-01-01"])
    return output.read_bytes()


def unnamed(site: Site) -> tuple[str, State]:
    """A backup that lacks only its line in the .dat file."""
    (full,) = [name for name in site.names() if name.endswith(".dat")]
    before = (site.location / full).read_bytes()
    stamp, state = site.backed_up()
    (site.location / full).write_bytes(before)
    return stamp, state


@pytest.fixture
def backed_up(site: Site) -> Site:
    """A site with a full backup, an incremental and changes after it."""
    site.backup()
    site.commit_blobs(2)
    site.backup()
    site.commit_blobs(2)
    site.commit_pages(3)
    return site


def test_one_step_from_done_is_finished_by_the_next_backup(backed_up: Site) -> None:
    stamp, state = unnamed(backed_up)
    assert backed_up.backup().timestamp is None
    assert stamp in backed_up.timestamps()
    assert by_repozo(backed_up) == state.data
    backed_up.commit_blobs(1)
    later, after = backed_up.backed_up()
    backed_up.restore(stamp)
    backed_up.assert_is(state)
    backed_up.restore(later)
    backed_up.assert_is(after)


def test_one_step_from_done_counts_for_a_restore_although_it_writes_no_repository(
    backed_up: Site, caplog: pytest.LogCaptureFixture
) -> None:
    stamp, state = unnamed(backed_up)
    files = tree(backed_up.location, backed_up.blob_location)
    caplog.clear()
    backed_up.restore()
    backed_up.assert_is(state)
    assert "WARNING" in caplog.text
    assert stamp in caplog.text
    assert tree(backed_up.location, backed_up.blob_location) == files


def test_a_first_full_that_is_one_step_from_done_is_finished(site: Site) -> None:
    stamp, state = site.backed_up()
    (site.location / f"{stamp}.dat").unlink()
    site.backup()
    assert (site.location / f"{stamp}.dat").exists()
    site.commit_pages()
    site.backup()
    site.restore(stamp)
    site.assert_is(state)


@pytest.mark.parametrize("full", [False, True], ids=["incremental", "full"])
@pytest.mark.parametrize(
    "options",
    [
        {"blob_layout": "directories"},
        {"blob_timestamps": "false"},
        {"archive_blob": "true"},
        {"archive_blob": "true", "incremental_blobs": "true"},
    ],
    ids=lambda options: ", ".join(f"{name} = {value}" for name, value in options.items()),
)
def test_one_step_from_done_is_finished_in_a_directory_or_an_archive_too(
    backed_up: Site, options: dict[str, str], full: bool
) -> None:
    backed_up.options |= options
    backed_up.backup()
    backed_up.commit_blobs(2)
    lines = {path: path.read_bytes() for path in backed_up.location.glob("*.dat")}
    stamp, state = backed_up.backed_up(full=full)
    for path in backed_up.location.glob("*.dat"):
        path.unlink()
        if path in lines:
            path.write_bytes(lines[path])
    assert backed_up.backup().timestamp is None
    assert stamp in backed_up.timestamps()
    backed_up.commit_blobs(1)
    later, after = backed_up.backed_up()
    backed_up.restore(stamp)
    backed_up.assert_is(state)
    backed_up.restore(later)
    backed_up.assert_is(after)


@pytest.mark.parametrize("lost", ["record", "manifest", "half of the data", "a blob of the pool"])
def test_what_is_not_whole_is_put_aside_and_never_joined(
    backed_up: Site, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = backed_up.timestamps()[-1]
    pool = set(blob_files(backed_up.blob_location / "blobs"))
    stamp, _ = unnamed(backed_up)
    if lost == "record":
        (backed_up.location / f"{stamp}.json").unlink()
    elif lost == "manifest":
        (backed_up.blob_location / f"{stamp}.deltablobs.gz").unlink()
    elif lost == "half of the data":
        os.truncate(backed_up.location / f"{stamp}.deltafsz", 30)
    else:
        files = blob_files(backed_up.blob_location / "blobs")
        files[(set(files) - pool).pop()].unlink()
    caplog.clear()
    later, state = backed_up.backed_up()
    assert f"{stamp}.deltafsz.orphan" in backed_up.names()
    assert f"{stamp}.deltafsz" not in backed_up.names()
    assert "WARNING" in caplog.text
    assert later > whole
    assert by_repozo(backed_up) == state.data
    backed_up.restore()
    backed_up.assert_is(state)


def test_what_was_still_being_written_goes(backed_up: Site) -> None:
    whole, before = backed_up.timestamps()[-1], backed_up.data
    leftovers = [
        backed_up.location / "2076-11-23-23-00-00.deltafsz.part",
        backed_up.location / "2076-11-23-23-00-00.json.part",
        backed_up.location / "2076-11-23-23-00-00.dat.part",
        backed_up.blob_location / "2076-11-23-23-00-00.deltablobs.gz.part",
        # A record and a manifest whose data file never came.
        backed_up.blob_location / "2076-11-23-23-00-01.deltablobs.gz",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    shutil.copyfile(backed_up.location / f"{whole}.json", backed_up.location / "2076-11-23-23-00-01.json")
    (backed_up.blob_location / "blobs" / "tmp").mkdir(exist_ok=True)
    stray = backed_up.blob_location / "blobs" / "0x00" / "0x00" / "0x00" / "0x00" / "0x00" / "0x00" / "0x00" / "0x77"
    stray.mkdir(parents=True)
    (stray / "0x0000000000000001.blob").write_bytes(b"")
    _, state = backed_up.backed_up()
    assert state.data == before
    assert not [path for path in leftovers if path.exists()]
    assert not (backed_up.location / "2076-11-23-23-00-01.json").exists()
    assert backed_up.verify(deep=True).good
    backed_up.restore()
    backed_up.assert_is(state)


def test_an_empty_pool_file_that_a_crash_left_is_not_believed(backed_up: Site) -> None:
    """The blob was renamed into the pool, its content never reached the disk, and no manifest names it."""
    assert backed_up.blob_storage is not None
    pool = backed_up.blob_location / "blobs"
    new = set(blob_files(backed_up.blob_storage)) - set(blob_files(pool))
    assert len(new) >= 1
    for key in new:
        path = pool / blob_files(backed_up.blob_storage)[key].relative_to(backed_up.blob_storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * blob_files(backed_up.blob_storage)[key].stat().st_size)
    _, state = backed_up.backed_up()
    backed_up.close()
    shutil.rmtree(backed_up.blob_storage)
    backed_up.restore()
    backed_up.assert_is(state)


def test_foreign_data_files_stay_and_nothing_is_built_on_them(
    backed_up: Site, caplog: pytest.LogCaptureFixture
) -> None:
    (backed_up.location / "notes.txt").write_text("mine")
    (backed_up.location / "2076-11-23-23-00-00.fsz").write_bytes(b"whose?")
    caplog.clear()
    stamp, state = backed_up.backed_up()
    assert f"{stamp}.fsz" in backed_up.names()
    assert (backed_up.location / "2076-11-23-23-00-00.fsz").read_bytes() == b"whose?"
    assert (backed_up.location / "notes.txt").read_text() == "mine"
    assert "WARNING" in caplog.text
    backed_up.restore()
    backed_up.assert_is(state)


@pytest.mark.parametrize("left", ["everything", "the full", "only the mark"])
def test_a_prune_that_was_begun_is_finished(backed_up: Site, left: str) -> None:
    old = backed_up.timestamps()
    backed_up.backup(full=True)
    newest, state = backed_up.timestamps()[-1], backed_up.state()
    os.rename(backed_up.location / f"{old[0]}.dat", backed_up.location / f"{old[0]}.dat.pruned")
    if left != "everything":
        (backed_up.location / f"{old[1]}.deltafsz").unlink()
    if left == "only the mark":
        (backed_up.location / f"{old[0]}.fsz").unlink()
    # From the mark on nobody sees the chain.
    with pytest.raises(ZodbvaultError):
        backed_up.restore(old[0])
    assert backed_up.backup().timestamp is None
    assert backed_up.timestamps() == [newest]
    assert not [name for name in backed_up.names() if name[:19] in old]
    assert backed_up.verify(deep=True).good
    backed_up.restore()
    backed_up.assert_is(state)


# A killed restore


def test_a_restore_that_was_killed_while_writing_is_run_again(backed_up: Site) -> None:
    stamp, state = backed_up.backed_up()
    backed_up.commit_blobs(1)
    backed_up.close()
    Path(f"{backed_up.datafs}.restoring").write_bytes(b"FS30 half")
    backed_up.restore(stamp)
    backed_up.assert_is(state)


@pytest.mark.parametrize("step", ["adding blobs", "swapping", "removing blobs"])
@pytest.mark.parametrize("with_database", [True, False])
def test_a_restore_that_was_killed_at_any_step_is_finished_by_the_next(
    backed_up: Site, step: str, with_database: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodbvault.commands import restore as module
    from zodbvault.commands.restore_blobs import BlobRestore

    stamp, state = backed_up.backed_up()
    backed_up.pack()
    backed_up.commit_blobs(3)
    backed_up.close()
    live = backed_up.state()
    assert backed_up.blob_storage is not None
    some = next(path for path in blob_files(backed_up.blob_storage).values() if path.stat().st_size > 3)
    os.chmod(some, 0o600)
    if not with_database:
        backed_up.datafs.unlink()
        shutil.rmtree(backed_up.blob_storage)

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "adding blobs":
            patch.setattr(BlobRestore, "add", kill)
        elif step == "swapping":
            patch.setattr(module, "swap", kill)
        else:
            patch.setattr(BlobRestore, "remove", kill)
        with pytest.raises(Killed):
            backed_up.restore(stamp)
    if with_database:
        # Whole, the old one or the new one; more blobs never hurt.
        assert backed_up.data in (live.data, state.data)
        whole = live if backed_up.data == live.data else state
        assert {key: backed_up.blobs.get(key) for key in whole.needed} == whole.needed
    backed_up.restore(stamp)
    backed_up.assert_is(state)


def test_a_restore_without_a_database_swaps_before_it_adds_blobs(
    backed_up: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Zope that is started after a kill would make an empty database and wipe the blob folder."""
    from zodbvault.commands.restore_blobs import BlobRestore

    backed_up.backup()
    backed_up.close()
    backed_up.datafs.unlink()
    seen = []
    original = BlobRestore.add

    def add(self: object, *arguments: object) -> object:
        seen.append(backed_up.datafs.exists())
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobRestore, "add", add)
    backed_up.restore()
    assert seen == [True]
