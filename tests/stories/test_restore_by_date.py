"""A site is brought back as it was: by date, after a loss, on another machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from zc.zlibstorage import ZlibStorage

from tests.site import Site, State, blob_files, tree
from zodbvault.errors import ZodbvaultError


def lived(site: Site) -> dict[str, State]:
    """Some days of a site: states by the timestamp of their backup."""
    states = dict([site.backed_up()])
    for step in range(4):
        site.commit_pages(3)
        site.commit_blobs(2)
        if step == 1:
            site.undo()
        states.update([site.backed_up()])
    site.pack()
    site.commit_blobs(1)
    states.update([site.backed_up()])
    site.delete()
    states.update([site.backed_up()])
    return states


def test_every_state_comes_back_by_its_timestamp_and_in_any_order(site: Site) -> None:
    states = lived(site)
    assert len(states) == 7
    for stamp in [*reversed(states), *states]:
        site.restore(stamp)
        site.assert_is(states[stamp])


def test_without_a_date_the_newest_state_comes_back(site: Site) -> None:
    states = lived(site)
    site.commit_pages(5)
    site.restore()
    site.assert_is(list(states.values())[-1])


def test_a_date_between_two_backups_means_the_earlier_one(site: Site) -> None:
    site.set_clock("2076-11-22-23-00-00")
    stamp, first = site.backed_up()
    site.set_clock("2076-11-23-12-00-00")
    site.commit_blobs(2)
    site.backup()
    site.restore("2076-11-23-11-59")
    site.assert_is(first)
    assert stamp < "2076-11-23"


def test_a_date_alone_means_its_midnight_and_says_what_came_later(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.set_clock("2076-11-22-23-00-00")
    _, first = site.backed_up()
    site.set_clock("2076-11-23-12-00-00")
    site.commit_blobs(2)
    newest, _ = site.backed_up()
    site.restore("2076-11-23")
    site.assert_is(first)
    assert f"ewest of 2076-11-23: {newest}" in caplog.text


def test_after_the_loss_of_everything_the_site_is_what_it_was(site: Site) -> None:
    states = lived(site)
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.datafs.parent)
    shutil.rmtree(site.blob_storage)
    site.restore()
    site.assert_is(list(states.values())[-1])
    assert (site.blob_storage / ".layout").read_text().strip() == "bushy"


def test_on_another_machine_from_a_copy_without_times(site: Site, tmp_path: Path) -> None:
    states = lived(site)
    other = site.standby(tmp_path / "elsewhere")
    for stamp, state in states.items():
        other.restore(stamp)
        other.assert_is(state)
    # What was copied can be carried on there.
    other.commit_blobs(2)
    stamp, state = other.backed_up()
    other.commit_pages(2)
    other.restore(stamp)
    other.assert_is(state)
    other.close()


def test_a_standby_is_brought_up_to_date_again_and_again_with_only_the_new_blobs(site: Site, tmp_path: Path) -> None:
    site.commit_blobs(8)
    site.backup()
    other = Site(tmp_path / "elsewhere", options={name: site.plain_options()[name] for name in PLACES})
    other.restore()
    assert other.blob_storage is not None
    inodes = {key: status[2] for key, status in tree(other.blob_storage).items()}
    for _ in range(3):
        site.commit_blobs(1)
        _, state = site.backed_up()
        other.restore()
        other.assert_is(state)
        other.close()
        now = {key: status[2] for key, status in tree(other.blob_storage).items()}
        assert {key: now.get(key) for key in inodes} == inodes
        inodes = now


PLACES = ("location", "snapshotlocation", "blobbackuplocation", "blobsnapshotlocation")


def test_blobs_that_came_after_the_date_are_gone_and_those_that_a_pack_took_are_back(site: Site) -> None:
    for _ in range(5):
        site.commit_blobs(3)
    stamp, before = site.backed_up()
    site.pack()
    site.commit_blobs(3)
    _, after = site.backed_up()
    assert set(before.blobs) - set(after.blobs)
    assert set(after.blobs) - set(before.blobs)
    site.restore(stamp)
    site.assert_is(before)
    site.restore()
    site.assert_is(after)


def test_a_blob_whose_change_was_undone_comes_back_with_both_revisions(site: Site) -> None:
    site.backup()
    with site.changing() as root, root.setdefault("blob0", root[_any_blob(root)]).open("w") as file:
        file.write(b"a mistake")
    site.backup()
    assert site.undo()
    stamp, state = site.backed_up()
    site.delete()
    site.pack()
    site.backup()
    site.restore(stamp)
    site.assert_is(state)


def _any_blob(root: dict[str, object]) -> str:
    return next(name for name in root if name.startswith("blob"))


@pytest.mark.parametrize("target_layout", ["bushy", "lawn"])
def test_a_lawn_is_backed_up_and_goes_into_any_layout(tmp_path: Path, target_layout: str) -> None:
    site = Site(tmp_path / "site", layout="lawn")
    states: dict[str, State] = {}
    for _ in range(3):
        site.commit_pages(2)
        site.commit_blobs(3)
        states.update([site.backed_up()])
    site.close()
    # The pool can be rescued with cp -r: it is a blobstorage.
    assert (site.blob_location / "blobs" / ".layout").read_text().strip() == "bushy"
    other = Site(tmp_path / "other", layout=target_layout)
    other.options = {name: site.plain_options()[name] for name in PLACES}
    other.commit_blobs(1)
    for stamp, state in states.items():
        other.restore(stamp)
        other.assert_is(state)
    assert other.blob_storage is not None
    assert (other.blob_storage / ".layout").read_text().strip() == target_layout
    other.close()


def test_an_empty_target_gets_the_layout_of_the_source(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", layout="lawn")
    site.commit_blobs(3)
    _, state = site.backed_up()
    site.close()
    other = Site(tmp_path / "other", options={name: site.plain_options()[name] for name in PLACES})
    other.restore()
    other.assert_is(state)
    assert other.blob_storage is not None
    assert (other.blob_storage / ".layout").read_text().strip() == "lawn"
    other.close()


def test_a_symlinked_data_fs_and_blobstorage_stay_symlinks(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    assert site.blob_storage is not None
    disk = tmp_path / "big disk"
    site.commit_blobs(1)
    site.close()
    disk.mkdir()
    os.rename(site.blob_storage, disk / "blobs")
    site.blob_storage.symlink_to(disk / "blobs")
    site.commit_blobs(2)
    site.close()
    os.rename(site.datafs, disk / "Real.fs")
    site.datafs.symlink_to(disk / "Real.fs")
    stamp, first = site.backed_up()
    site.commit_pages(2)
    site.commit_blobs(2)
    site.backed_up()
    site.restore(stamp)
    assert site.datafs.is_symlink()
    assert site.blob_storage.is_symlink()
    assert sorted(os.listdir(disk)) == ["Real.fs", "Real.fs.lock", "blobs"]
    site.assert_is(first)
    # A pack replaces the link by a file, as ZODB does it, and the backup goes on.
    site.pack()
    site.commit_blobs(1)
    stamp, packed = site.backed_up()
    site.commit_blobs(1)
    site.restore(stamp)
    site.assert_is(packed)
    site.close()


def test_names_with_spaces_and_strange_bytes_are_only_names(tmp_path: Path) -> None:
    site = Site(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a site; rm -rf * \xff 'x'")))
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    site.commit_blobs(2)
    site.backup()
    site.restore(stamp)
    site.assert_is(state)
    site.close()


def test_a_stale_index_is_not_left_beside_a_restored_database(site: Site) -> None:
    stamp, first = site.backed_up()
    site.commit_pages(20)
    site.close()
    index = Path(f"{site.datafs}.index")
    stale = index.read_bytes()
    site.restore(stamp)
    assert not index.exists() or index.read_bytes() != stale
    site.assert_is(first)


def test_the_index_of_a_full_comes_back_with_it(site: Site) -> None:
    site.close()
    index = Path(f"{site.datafs}.index")
    whole = index.read_bytes()
    stamp, _ = site.backed_up()
    site.commit_pages(20)
    site.backup()
    site.restore(stamp)
    assert index.read_bytes() == whole


def test_an_index_that_does_not_belong_is_no_part_of_a_backup(site: Site, tmp_path: Path) -> None:
    site.close()
    other = Site(tmp_path / "other", seed=99)
    other.commit_pages(9)
    other.close()
    shutil.copyfile(f"{other.datafs}.index", f"{site.datafs}.index")
    stamp, state = site.backed_up()
    assert f"{stamp}.index" not in site.names()
    site.restore()
    site.assert_is(state)


def test_a_restored_database_is_backed_up_and_carried_on(site: Site) -> None:
    stamp, _ = site.backed_up()
    site.commit_blobs(2)
    site.backup()
    site.restore(stamp)
    site.commit_blobs(2)
    site.commit_pages(1)
    later, state = site.backed_up()
    site.commit_pages(9)
    site.restore(later)
    site.assert_is(state)
    # Restored and not changed since: the same bytes in a new file are nothing to back up.
    site.restore(later)
    assert site.backup().timestamp is None


def test_records_that_zlibstorage_compressed_hide_no_blob(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", wrap=ZlibStorage)
    states: dict[str, State] = {}
    for _ in range(3):
        with site.changing() as root:
            root["text"] = "the same again and again " * 200
        site.commit_blobs(2)
        states.update([site.backed_up()])
    assert all(state.referenced for state in states.values())
    for stamp, state in states.items():
        site.restore(stamp)
        site.close()
        assert site.data == state.data
        assert site.blobs == state.blobs
        site.read_everything()
        site.close()


def test_a_snapshot_stands_apart(site: Site) -> None:
    stamp, first = site.backed_up()
    site.commit_blobs(2)
    site.snapshot()
    snapshot = site.state()
    site.commit_blobs(2)
    site.restore(source="snapshot")
    site.assert_is(snapshot)
    site.restore()
    site.assert_is(first)
    assert site.timestamps() == [stamp]


def test_an_empty_database_is_backed_up_and_restored(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", blobs=False)
    site.datafs.write_bytes(b"FS30")
    stamp, empty = site.backed_up()
    site.commit_pages(2)
    later, state = site.backed_up()
    site.restore(stamp)
    assert site.datafs.read_bytes() == b"FS30"
    site.restore(later)
    site.assert_is(state)
    assert empty.data == b"FS30"
    site.close()


def test_a_site_without_blobs(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", blobs=False)
    site.commit_pages(2)
    stamp, state = site.backed_up()
    site.commit_pages(2)
    site.backup()
    site.restore(stamp)
    site.assert_is(state)
    assert sorted(os.listdir(site.var)) == ["backups", "filestorage"]
    site.close()


def test_a_backup_between_vote_and_end_of_a_transaction_does_not_have_it(site: Site) -> None:
    before = site.state()
    site.commit_while(lambda: _note(site))
    (stamp,) = site.timestamps()
    later, after = site.backed_up()
    site.restore(stamp)
    site.assert_is(before)
    site.restore(later)
    site.assert_is(after)


def _note(site: Site) -> None:
    assert site.backup().timestamp is not None


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.1, 0.5, 0.9, 1.0])
def test_a_transaction_that_was_cut_short_is_no_part_of_a_backup(site: Site, keep: float) -> None:
    stamp, first = site.backed_up()
    site.crash("cut", keep)
    assert site.backup().timestamp is None
    assert site.backup(full=True).timestamp is not None
    site.commit_blobs(1)
    later, after = site.backed_up()
    site.restore(later)
    site.assert_is(after)
    site.restore(stamp)
    site.assert_is(first)


def test_nobody_who_may_not_read_the_database_may_read_its_backups(site: Site) -> None:
    site.close()
    os.chmod(site.datafs, 0o640)
    stamp, _ = site.backed_up()
    for name in (f"{stamp}.fsz", f"{stamp}.json", f"{stamp}.dat"):
        assert (site.location / name).stat().st_mode & 0o777 == 0o640
    os.chmod(site.datafs, 0o600)
    site.restore()
    assert site.datafs.stat().st_mode & 0o777 == 0o600


def test_a_date_before_the_first_backup_finds_nothing_and_touches_nothing(site: Site) -> None:
    site.backup()
    site.close()
    before = tree(site.folder)
    with pytest.raises(ZodbvaultError, match="no backup at or before 2001-01-01"):
        site.restore("2001-01-01")
    assert tree(site.folder) == before


def test_what_is_kept_is_told_and_how_it_was_compared(site: Site) -> None:
    site.commit_blobs(6, names=6)
    stamp, state = site.backed_up()
    site.commit_blobs(1, names=40)
    site.close()
    assert site.blob_storage is not None
    files = blob_files(site.blob_storage)
    lost, damaged, *_ = sorted((key for key in state.blobs if len(state.blobs[key]) > 3), reverse=True)
    files[lost].unlink()
    files[damaged].chmod(0o600)
    files[damaged].write_bytes(b"?" * len(state.blobs[damaged]))
    kept = len(state.blobs) - 1
    # Nobody looked into it; so the line says how it was compared.
    assert site.restore(stamp).summary.endswith(f", 1 removed, {kept} kept (same name and size).")
    assert site.blobs[damaged] != state.blobs[damaged]
    report = site.restore(stamp, checksum=True)
    assert report.summary.endswith(f", 1 damaged ones replaced, 0 removed, {kept} kept (same content).")
    site.assert_is(state)
    # Into nothing nothing is kept.
    site.close()
    shutil.rmtree(site.blob_storage)
    assert site.restore(stamp).summary.endswith(", 0 removed.")
    # Of what another program made nobody knows the content, whatever is asked.
    for path in site.blob_location.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(site.blob_storage, site.blob_location / f"blobstorage.{stamp}" / "blobstorage")
    (site.location / f"{stamp}.json").unlink()
    report = site.restore(stamp, checksum=True)
    assert report.summary.endswith(f", 0 removed, {len(state.blobs)} kept (same name and size).")
