"""What goes wrong on a site or in a repository: it is noticed, said in one sentence, and nothing gets worse."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, State, blob_files, committed_tids, tree
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.copying import copy_range
from zodbvault.io.locks import AlreadyRunning, LockFile

if TYPE_CHECKING:
    from collections.abc import Callable


def flip(path: Path, where: float = 0.5) -> None:
    """Turn a bit of a file over, its size and time stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(len(data) * where))] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def untouched(site: Site) -> object:
    """Nothing of the live site changes in the block, and a ZodbvaultError ends it."""
    site.close()
    assert site.blob_storage is not None
    before = tree(site.datafs.parent, site.blob_storage, ignore=("Data.fs.lock", ".zodbvault.lock"))
    state = site.state()
    with pytest.raises(ZodbvaultError) as caught:
        yield caught
    assert tree(site.datafs.parent, site.blob_storage, ignore=("Data.fs.lock", ".zodbvault.lock")) == before
    site.assert_is(state)
    site.close()


def three_states(site: Site) -> dict[str, State]:
    """A full and two incrementals."""
    states = dict([site.backed_up()])
    for _ in range(2):
        site.commit_pages(30, 2000)
        site.commit_blobs(3)
        states.update([site.backed_up()])
    return states


# Damaged backups


@pytest.mark.parametrize("suffix", [".fsz", ".deltafsz"])
@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_flipped_bit_is_refused_and_the_live_site_is_untouched(site: Site, suffix: str, where: float) -> None:
    stamps = list(three_states(site))
    name = stamps[0] if suffix == ".fsz" else stamps[1]
    site.close()
    flip(site.location / (name + suffix), where)
    with untouched(site) as caught:
        site.restore()
    assert name + suffix in str(caught.value)
    assert not site.verify().good
    assert not site.verify(deep=True).good


def change_content(data: bytes, text: bytes) -> bytes:
    """The same bytes with another letter where `text` is met first: a sound database, and not the one it was."""
    where = data.index(text)
    return data[:where] + b"?" + data[where + 1 :]


@pytest.mark.parametrize("with_record", [True, False])
def test_other_content_in_a_sound_file_is_refused_by_its_sum(site: Site, with_record: bool) -> None:
    stamps = list(three_states(site))
    path = site.location / f"{stamps[0]}.fsz"
    size = path.stat().st_size
    path.write_bytes(gzip.compress(change_content(gzip.decompress(path.read_bytes()), b"text")))
    record = site.location / f"{stamps[0]}.json"
    if with_record:
        content = json.loads(record.read_text())
        assert content["stored_size"] == size
        record.write_text(json.dumps({**content, "stored_size": path.stat().st_size}))
    else:
        record.unlink()
    with untouched(site) as caught:
        site.restore()
    assert "md5" in str(caught.value)
    assert not site.verify().good
    assert not site.verify(deep=True).good


@pytest.mark.parametrize("with_record", [True, False])
def test_a_database_that_only_ends_like_the_one_before_is_not_continued(site: Site, with_record: bool) -> None:
    """Put there from elsewhere: the same transactions in the same places, with other content."""
    site.commit_pages(3)
    states = dict([site.backed_up()])
    site.close()
    if not with_record:
        (site.location / f"{site.timestamps()[0]}.json").unlink()
    other = change_content(site.datafs.read_bytes(), b"text")
    beside = site.datafs.with_name("other")
    beside.write_bytes(other)
    os.replace(beside, site.datafs)
    states.update([site.backed_up()])
    assert f"{site.timestamps()[1]}.fsz" in site.names()
    for stamp, state in states.items():
        site.restore(stamp)
        site.close()
        assert site.data == state.data


def test_another_database_written_over_the_old_one_is_not_continued(site: Site) -> None:
    """With `cp`, so that the inode is the same, and a transaction ends where the backup ended, but another one."""
    site.commit_pages(3)
    states = dict([site.backed_up()])
    site.close()
    data = site.datafs.read_bytes()
    tid = int.from_bytes(committed_tids(data)[-1][0], "big")
    inode = site.datafs.stat().st_ino
    site.datafs.write_bytes(data.replace(tid.to_bytes(8, "big"), (tid + 1).to_bytes(8, "big")))
    Path(f"{site.datafs}.index").unlink()
    assert site.datafs.stat().st_ino == inode
    for full in (True, False):
        states.update([site.backed_up()])
        assert (f"{site.timestamps()[-1]}.fsz" in site.names()) == full
        site.commit_pages(1)
    for stamp, state in states.items():
        site.restore(stamp)
        site.close()
        assert site.data == state.data


@pytest.mark.parametrize("by", [1, 10, 100000])
def test_a_shortened_data_file_is_refused(site: Site, by: int) -> None:
    stamps = list(three_states(site))
    path = site.location / f"{stamps[1]}.deltafsz"
    os.truncate(path, max(0, path.stat().st_size - by))
    with untouched(site):
        site.restore()
    assert not site.verify().good


def test_a_missing_data_file_is_refused_and_states_before_it_restore(site: Site) -> None:
    states = three_states(site)
    stamps = list(states)
    os.unlink(site.location / f"{stamps[1]}.deltafsz")
    for when in (None, stamps[2], stamps[1]):
        with untouched(site):
            site.restore(when)
    assert not site.verify().good
    site.restore(stamps[0])
    site.assert_is(states[stamps[0]])


def test_the_backup_after_a_loss_in_the_chain_is_a_full_with_a_warning(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = list(three_states(site))
    os.unlink(site.location / f"{stamps[1]}.deltafsz")
    site.commit_pages()
    caplog.clear()
    stamp, state = site.backed_up()
    assert f"{stamp}.fsz" in site.names()
    assert "WARNING" in caplog.text
    site.restore()
    site.assert_is(state)


@pytest.mark.parametrize("harm", ["empty", "garbage", "cut", "foreign line"])
def test_an_unreadable_dat_is_refused_and_nothing_is_built_on_it(site: Site, harm: str) -> None:
    stamps = list(three_states(site))
    dat = site.location / f"{stamps[0]}.dat"
    content = dat.read_bytes()
    dat.write_bytes(
        {
            "empty": b"",
            "garbage": b"\xff\0 what\n" + content,
            "cut": content[:-20],
            "foreign line": content + content,
        }[harm]
    )
    with untouched(site):
        site.restore()
    assert not site.verify().good
    site.commit_blobs(1)
    stamp, state = site.backed_up()
    assert f"{stamp}.fsz" in site.names()
    assert dat.exists()
    site.restore()
    site.assert_is(state)


def test_a_damaged_blob_of_the_pool_is_refused_and_a_later_full_mends_a_lost_one(site: Site) -> None:
    states = three_states(site)
    pool = blob_files(site.blob_location / "blobs")
    key, path = next((key, path) for key, path in pool.items() if path.stat().st_size > 10)
    good = path.read_bytes()
    flip(path)
    site.close()
    assert site.blob_storage is not None
    live = blob_files(site.blob_storage)[key]
    live.unlink()
    with pytest.raises(ZodbvaultError, match=path.name):
        site.restore()
    assert site.data == list(states.values())[-1].data
    assert not site.verify().good
    live.write_bytes(good)
    # The source has it and the pool lacks it: a full copies it again.
    path.unlink()
    site.tick()
    assert not site.verify().good
    site.backup(full=True)
    assert path.read_bytes() == good
    for stamp, state in states.items():
        site.restore(stamp)
        site.assert_is(state)


def test_a_blob_in_another_size_in_the_pool_is_mended_by_a_full(site: Site) -> None:
    states = three_states(site)
    path = next(p for p in blob_files(site.blob_location / "blobs").values() if p.stat().st_size > 10)
    good = path.read_bytes()
    path.write_bytes(good[:5])
    assert not site.verify().good
    site.backup(full=True)
    assert path.read_bytes() == good
    assert site.verify(deep=True).good
    site.restore()
    site.assert_is(list(states.values())[-1])


@pytest.mark.parametrize("suffix", [".blobs.gz", ".deltablobs.gz"])
@pytest.mark.parametrize("harm", ["lost", "cut", "flipped", "emptied"])
def test_a_damaged_manifest_is_never_taken_for_a_whole_one(site: Site, suffix: str, harm: str) -> None:
    states = three_states(site)
    path = next(p for p in sorted(site.blob_location.iterdir()) if p.name.endswith(suffix))
    content = path.read_bytes()
    if harm == "lost":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-12])
    elif harm == "emptied":
        path.write_bytes(b"")
    else:
        flip(path)
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    assert not site.verify().good
    with contextlib.suppress(ZodbvaultError):
        site.restore()
        site.assert_is(list(states.values())[-1])


def test_what_changes_in_the_target_is_found_by_size_or_with_checksum_by_content(site: Site) -> None:
    states = three_states(site)
    site.close()
    assert site.blob_storage is not None
    live = [path for path in blob_files(site.blob_storage).values() if path.stat().st_size > 20]
    for path in live[:2]:
        os.chmod(path, 0o600)
    live[0].write_bytes(b"shorter")
    site.restore()
    site.assert_is(list(states.values())[-1])
    site.close()
    flip(live[1])
    site.restore(checksum=True)
    site.assert_is(list(states.values())[-1])


# A damaged site


@pytest.mark.parametrize("back", [40, 400, 4000])
def test_damage_in_the_live_database_stops_the_backup_and_nothing_is_pruned(site: Site, back: int) -> None:
    site.options["keep"] = "1"
    first, state = site.backed_up()
    site.commit_pages(30, 2000)
    site.close()
    data = bytearray(site.datafs.read_bytes())
    assert len(data) - len(state.data) > 4000
    # A hole that the system left when the machine stopped: zeros before the last transaction's end.
    data[len(state.data) : len(state.data) + back] = bytes(back)
    site.datafs.write_bytes(data)
    files = tree(site.location, site.blob_location)
    for full in (False, True):
        with pytest.raises(ZodbvaultError, match=r"\d"):
            site.backup(full=full)
    assert tree(site.location, site.blob_location) == files
    assert site.timestamps() == [first]


def test_blobs_that_the_site_lost_are_recorded_and_warned_about(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.backup()
    site.commit_blobs(4)
    site.close()
    assert site.blob_storage is not None
    newest = max(blob_files(site.blob_storage))
    key = max(blob_files(site.blob_storage), key=lambda key: key[1])
    content = blob_files(site.blob_storage)[key].read_bytes()
    blob_files(site.blob_storage)[key].unlink()
    assert newest
    caplog.clear()
    stamp, _ = site.backed_up()
    assert "WARNING" in caplog.text
    record = json.loads((site.location / f"{stamp}.json").read_text())
    assert len(record["blobs"]["missing"]) == 1
    assert f"0x{key[1]:016x}.blob" in record["blobs"]["missing"][0]
    # The site finds it again (in an older copy of the machine): a full takes it.
    path = site.blob_storage / record["blobs"]["missing"][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    site.restore()
    assert path.read_bytes() == content
    stamp, state = site.backed_up(full=True)
    assert not json.loads((site.location / f"{stamp}.json").read_text())["blobs"]["missing"]
    path.unlink()
    site.restore()
    site.assert_is(state)


def test_a_blob_that_the_site_lost_stays_in_the_backups(site: Site) -> None:
    _, state = site.backed_up()
    site.close()
    assert site.blob_storage is not None
    lost = next(iter(blob_files(site.blob_storage).values()))
    lost.unlink()
    site.backup(full=True)
    site.restore()
    site.assert_is(state)


def test_a_blobstorage_that_is_not_mounted_is_not_backed_up_as_empty(site: Site) -> None:
    site.backup()
    site.commit_pages()
    site.close()
    assert site.blob_storage is not None
    os.rename(site.blob_storage, site.var / "elsewhere")
    site.blob_storage.mkdir()
    files = tree(site.location, site.blob_location)
    for full in (False, True):
        with pytest.raises(ZodbvaultError, match="blobstorage"):
            site.backup(full=full)
    assert tree(site.location, site.blob_location) == files


def test_a_blobstorage_that_is_the_wrong_one_fails(site: Site, tmp_path: Path) -> None:
    for _ in range(12):
        site.commit_blobs(2)
    site.close()
    other = Site(tmp_path / "other", seed=7)
    other.commit_blobs(1)
    other.close()
    assert site.blob_storage is not None
    assert other.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    shutil.copytree(other.blob_storage, site.blob_storage)
    with pytest.raises(ZodbvaultError, match="blob"):
        site.backup()
    assert site.timestamps() == []


def test_the_cache_of_a_zeo_client_is_not_backed_up(site: Site) -> None:
    assert site.blob_storage is not None
    (site.blob_storage / ".layout").write_text("zeocache")
    with pytest.raises(ZodbvaultError, match="server"):
        site.backup()
    assert site.timestamps() == []


def test_a_name_that_comes_back_with_other_content_is_never_overwritten(site: Site) -> None:
    site.backup()
    site.commit_blobs(1)
    site.close()
    assert site.blob_storage is not None
    key = max(blob_files(site.blob_storage), key=lambda key: key[1])
    path = blob_files(site.blob_storage)[key]
    site.backup()
    good = path.read_bytes()
    # The database was restored by other means, the clock set back, and the same tid was given again.
    os.chmod(path, 0o600)
    path.write_bytes(good + b"!")
    pool = blob_files(site.blob_location / "blobs")[key]
    with pytest.raises(ZodbvaultError, match=path.name):
        site.backup(full=True)
    assert pool.read_bytes() == good


def test_strange_files_in_a_blobstorage_are_left_alone(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert site.blob_storage is not None
    site.close()
    (site.blob_storage / "lost+found").mkdir()
    (site.blob_storage / ".nfs0001").write_bytes(b"x")
    (site.blob_storage / "0x00" / "notes.txt").write_bytes(b"mine")
    (site.blob_storage / "0x00" / "link").symlink_to("/etc/passwd")
    stamp, state = site.backed_up()
    assert caplog.text.count("WARNING") == 1
    site.commit_blobs(1)
    site.restore(stamp)
    site.assert_is(state)
    assert (site.blob_storage / "0x00" / "notes.txt").read_bytes() == b"mine"
    assert (site.blob_storage / "0x00" / "link").is_symlink()
    assert (site.blob_storage / "lost+found").is_dir()
    assert not [path for path in (site.blob_location / "blobs").rglob("*") if path.name in ("notes.txt", "link")]


# Two at once


def test_a_second_backup_is_turned_away_with_75(site: Site) -> None:
    site.backup()
    site.commit_pages()
    for folder in (site.location, site.blob_location):
        with LockFile(folder / ".zodbvault.lock", since="2076-11-23T18:00:00Z"):
            files = tree(site.folder)
            with pytest.raises(AlreadyRunning) as caught:
                site.backup()
            assert caught.value.exit_code == 75
            assert str(os.getpid()) in str(caught.value)
            assert "2076-11-23T18:00:00Z" in str(caught.value)
            assert tree(site.folder) == files
            finished = site.command("backup")
            assert finished.returncode == 75
            assert len(finished.stderr.splitlines()) == 1
    assert site.backup().timestamp is not None


def test_a_restore_waits_for_no_backup(site: Site) -> None:
    site.backup()
    site.close()
    for folder in (site.location, site.blob_location):
        with LockFile(folder / ".zodbvault.lock", since="2076-11-23T18:00:00Z"), untouched(site):
            site.restore()
    site.restore()


def test_a_restore_is_refused_while_a_filestorage_is_open(site: Site) -> None:
    site.backup()
    site.commit_pages()
    assert site.is_open
    state = site.state()
    files = tree(site.folder)
    with pytest.raises(ZodbvaultError, match="in use"):
        site.restore_while_open()
    assert tree(site.folder) == files
    finished = site.command("restore", "-n")
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    site.assert_is(state)


def test_a_restore_through_a_symlink_is_refused_while_the_real_file_is_open(site: Site, tmp_path: Path) -> None:
    site.backup()
    site.close()
    real = tmp_path / "Real.fs"
    os.rename(site.datafs, real)
    site.datafs.symlink_to(real)
    with LockFile(f"{real}.lock"), pytest.raises(ZodbvaultError, match="in use"):
        site.restore()
    site.restore()


def test_a_read_only_copy_of_a_repository_can_be_restored_from(site: Site) -> None:
    if os.geteuid() == 0:
        # root writes anywhere; what is looked at is that nothing tries to, apart from the lock.
        stamp, state = site.backed_up()
        files = tree(site.location, site.blob_location)
        site.restore(stamp)
        assert tree(site.location, site.blob_location) == files
        site.assert_is(state)


# A pack in the middle of a backup


def while_copying(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], times: int = 1) -> list[int]:
    """Let `act` happen after the copy of Data.fs, the first `times` times; counts the copies."""
    copies: list[int] = []
    original = copy_range

    def copy(*arguments: object, **keywords: object) -> object:
        result = original(*arguments, **keywords)  # type: ignore[arg-type]
        copies.append(1)
        if len(copies) <= times:
            act()
        return result

    for module in [each for name, each in sys.modules.items() if name.startswith("zodbvault.commands.")]:
        if getattr(module, "copy_range", None) is original:
            monkeypatch.setattr(module, "copy_range", copy)
    return copies


@pytest.mark.parametrize("keep_old", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_pack_during_the_backup_costs_no_blob(
    site: Site, monkeypatch: pytest.MonkeyPatch, keep_old: bool, full: bool
) -> None:
    site.backup()
    for _ in range(5):
        site.commit_blobs(3)
    copies = while_copying(monkeypatch, lambda: site.pack(keep_old=keep_old))
    site.backup(full=full)
    stamp = site.timestamps()[-1]
    # An incremental that finds every blob, in its place or where the pack put it, need not start over.
    assert len(copies) == (1 if keep_old and not full else 2)
    packed = site.state()
    site.commit_blobs(3)
    site.restore(stamp)
    if len(copies) == 2:
        site.assert_is(packed)
    else:
        site.close()
        state = site.state()
        assert set(state.referenced) == set(state.needed) > set(packed.needed)
        site.read_everything()


def test_a_site_that_packs_all_the_time_is_not_backed_up_wrongly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp, state = site.backed_up()
    site.commit_blobs(3)

    def pack() -> None:
        site.commit_blobs(2)
        site.pack()

    copies = while_copying(monkeypatch, pack, times=100)
    with pytest.raises(ZodbvaultError, match="pack"):
        site.backup(full=True)
    assert len(copies) == 4
    assert site.timestamps() == [stamp]
    site.restore()
    site.assert_is(state)


def test_the_instant_without_a_database_during_a_pack_is_waited_for(site: Site) -> None:
    _, state = site.backed_up()
    site.close()
    pack = Path(f"{site.datafs}.pack")
    os.rename(site.datafs, pack)

    class Packing(type(site.clock)):  # type: ignore[misc]
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if pack.exists():
                os.rename(pack, site.datafs)

    site.clock = Packing(site.clock.now())
    original, site.tick = site.tick, lambda seconds_=60.0: None  # type: ignore[method-assign]
    assert site.backup().timestamp is None
    site.tick = original  # type: ignore[method-assign]
    assert site.state() == state


# The clock


def test_a_clock_that_goes_back_makes_timestamps_that_still_grow(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    first, before = site.backed_up()
    site.commit_blobs(1)
    site.set_clock("2020-02-29-00-00-00")
    second, after = site.backed_up()
    assert second > first
    assert "clock" in caplog.text
    site.restore(first)
    site.assert_is(before)
    site.restore(second)
    site.assert_is(after)


def test_two_backups_in_one_second_get_two_timestamps(site: Site) -> None:
    first, _ = site.backed_up()
    site.commit_pages()
    site.set_clock(first)
    site.clock.sleep(-60)
    site.tick = lambda seconds_=60.0: None  # type: ignore[method-assign]
    second, state = site.backed_up()
    assert second > first
    site.restore()
    site.assert_is(state)
