"""What a reader of the whole found: each story went wrong once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, blob_files
from zodbvault.blobs.manifest import read_manifest
from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands import completion, only_blobs
from zodbvault.commands import restore as restoring
from zodbvault.commands import survey as listing
from zodbvault.commands import verify as verifying
from zodbvault.errors import ZodbvaultError
from zodbvault.io.space import NotEnoughSpace
from zodbvault.io.stored import DamagedFile
from zodbvault.repository import sweep as sweeping
from zodbvault.scripts import run
from zodbvault.settings import settings_to_plain

if TYPE_CHECKING:
    from collections.abc import Iterator


SOMEBODY = 12345
"""uid and gid of nobody who exists."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def give_to_somebody(folder: Path) -> None:
    """Let the folder, with all in it, belong to the user that the site runs as."""
    for where, _, names in os.walk(folder):
        for path in (where, *(os.path.join(where, name) for name in names)):
            os.chown(path, SOMEBODY, SOMEBODY)


# Locks


@as_root
def test_a_lock_that_root_made_can_be_taken_by_the_owner_of_the_folder(site: Site) -> None:
    site.backup()
    site.close()
    Path(f"{site.datafs}.lock").unlink()
    (site.location / ".zodbvault.lock").unlink()
    site.settings.snapshotlocation.mkdir()
    give_to_somebody(site.folder)
    site.restore()
    site.backup(full=True)
    places = (Path(f"{site.datafs}.lock"), *site.folder.rglob(".zodbvault.lock"))
    assert len(places) == 4
    assert {path.stat().st_uid for path in places} == {SOMEBODY}
    assert {path.stat().st_gid for path in places} == {SOMEBODY}


# The choice of what is restored


def test_another_state_than_the_one_that_was_agreed_to_is_not_restored(site: Site) -> None:
    first, _ = site.backed_up()
    site.commit_pages(3)
    second, _ = site.backed_up()
    site.commit_pages(3)
    site.close()
    state = site.state()

    def agree_while_it_goes(question: str) -> bool:
        assert second in question
        for path in site.location.glob(f"{second}*"):
            path.unlink()
        dat = site.location / f"{first}.dat"
        dat.write_bytes(dat.read_bytes().splitlines(keepends=True)[0])
        return True

    with pytest.raises(ZodbvaultError, match=second):
        restoring.restore(
            site.settings,
            source="location",
            when=None,
            ask=agree_while_it_goes,
            clock=site.clock,
            accept_missing_blobs=False,
            checksum=False,
        )
    site.assert_is(state)


def test_a_mount_point_that_is_empty_until_pre_command_has_run(site: Site) -> None:
    _, state = site.backed_up()
    away = site.folder / "disk"
    site.location.rename(away)
    site.location.mkdir()
    site.commit_pages(3)
    site.options["pre_command"] = f"cp -p {away}/* {away}/.zodbvault.id {site.location}"
    site.restore()
    site.assert_is(state)


def test_a_folder_that_stays_empty_is_said_to_be_empty(site: Site) -> None:
    site.options["pre_command"] = "true"
    site.location.mkdir()
    with pytest.raises(ZodbvaultError, match="holds no backup"):
        site.restore()


def test_what_a_killed_restore_left_takes_no_space_from_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, state = site.backed_up()
    leftover = Path(f"{site.datafs}.restoring")
    leftover.write_bytes(b"x" * 1000)

    def one_more_fits(path: object, needed: int, what_for: str) -> None:
        if leftover.exists():
            raise NotEnoughSpace(what_for)

    monkeypatch.setattr(restoring, "require_space", one_more_fits)
    site.restore()
    site.assert_is(state)


# What is said of a restore that stopped behind the swap


def test_blobs_that_fail_behind_the_swap_are_not_called_an_untouched_database(site: Site) -> None:
    site.backup()
    site.close()
    pool = site.blob_location / "blobs"
    blob = next(iter(blob_files(pool).values()))
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(content)) if content.strip(b"\0") else b"x" * len(content))
    site.datafs.unlink()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    with pytest.raises(ZodbvaultError) as caught:
        site.restore()
    assert site.datafs.exists()
    assert "not changed" not in str(caught.value)
    assert "Data.fs was restored" in str(caught.value)
    assert blob.name in str(caught.value)


# An index is never needed


@pytest.mark.parametrize("live", [True, False])
def test_an_index_that_is_a_folder_stops_nothing(site: Site, live: bool) -> None:
    site.close()
    stamp = site.backed_up()[0]
    index = Path(f"{site.datafs}.index") if live else site.location / f"{stamp}.index"
    index.unlink(missing_ok=True)
    index.mkdir()
    if live:
        stamp, state = site.backed_up(full=True)
        assert not (site.location / f"{stamp}.index").exists()
        index.rmdir()
    else:
        state = site.state()
        site.close()
    site.restore()
    site.assert_is(state)


# Blobs


def test_a_new_source_layout_does_not_spoil_the_chain(site: Site) -> None:
    """The complete manifest of a full is written anew; the chain's sums have to count it once."""
    full, _ = site.backed_up()
    site.close()
    assert site.blob_storage is not None
    become_lawn(site.blob_storage)
    assert site.backup().timestamp == full
    assert site.backup().timestamp is None
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    assert (site.location / f"{stamp}.deltafsz").exists()
    site.restore(stamp)
    site.assert_is(state)
    assert site.verify(deep=True).good


def become_lawn(folder: Path) -> None:
    """Change a blobstorage into lawn layout."""
    files = blob_files(folder)
    contents = {key: path.read_bytes() for key, path in files.items()}
    for entry in list(folder.iterdir()):
        if entry.is_dir() and entry.name != "tmp":
            shutil.rmtree(entry)
    (folder / ".layout").write_text("lawn")
    for (oid, tid), content in contents.items():
        path = folder / f"0x{oid:x}" / f"0x{tid:x}.blob"
        names = files[oid, tid].name
        path = folder / f"0x{oid:02x}" / names
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def switched(tmp_path: Path) -> Iterator[Site]:
    """A site that is snapshot with its Data.fs, then its blobs alone, then with its Data.fs again."""
    site = Site(tmp_path / "site")
    site.commit_blobs(3)
    site.snapshot()
    site.options["only_blobs"] = "true"
    site.snapshot()
    del site.options["only_blobs"]
    site.commit_blobs(3)
    yield site
    site.close()


def test_a_snapshot_of_blobs_alone_leaves_the_manifests_of_other_snapshots(switched: Site) -> None:
    stamp = switched.snapshot().timestamp
    state = switched.state()
    manifest = switched.settings.blobsnapshotlocation / f"{stamp}.blobs.gz"  # type: ignore[operator]
    assert manifest.exists()
    switched.options["only_blobs"] = "true"
    switched.commit_blobs(1)
    switched.tick(3600)
    switched.snapshot()
    assert list(read_manifest(manifest))
    del switched.options["only_blobs"]
    switched.restore(stamp, source="snapshot")
    switched.assert_is(state)


# Verify


def test_a_date_whose_blobs_came_with_a_later_backup_is_good(site: Site) -> None:
    site.options["backup_blobs"] = "false"
    first, state = site.backed_up()
    site.options["backup_blobs"] = "true"
    site.commit_pages(2)
    site.backup()
    site.restore(first)
    assert site.data == state.data
    assert site.verify(first).good
    assert site.verify(first, deep=True).good


def test_a_chain_without_its_dat_is_verified_too(site: Site) -> None:
    first, _ = site.backed_up()
    site.close()
    (site.location / f"{first}.dat").unlink()
    assert site.verify().good
    data = site.location / f"{first}.fsz"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    assert not site.verify().good


def test_a_chain_that_was_pruned_while_it_was_verified_is_not_called_damaged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = site.backed_up()
    site.commit_blobs(3)
    site.backup(full=True)
    site.options["keep"] = "1"
    looked_up = verifying.verify_files

    def verify_after_a_prune(*arguments: Any) -> Any:
        if first in site.timestamps():
            site.backup(full=True)
        return looked_up(*arguments)

    monkeypatch.setattr(verifying, "verify_files", verify_after_a_prune)
    report = site.verify()
    assert first not in site.timestamps()
    assert report.good
    assert first not in str(report)


def test_verify_takes_its_scratch_files_elsewhere_where_the_repository_is_read_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.backup()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(SortedKeys, "__init__", refuse_below(site.location, SortedKeys.__init__))
    assert site.verify(deep=True).good


def refuse_below(folder: Path, make: Any) -> Any:
    """A constructor of sorted keys that refuses a folder for its temporary files."""

    def refusing(keys: Any, scratch: Path, **keywords: Any) -> None:
        assert scratch != folder
        make(keys, scratch, **keywords)

    return refusing


# Sweep


def test_a_left_over_that_the_disk_cannot_read_is_put_aside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = site.backed_up()
    site.commit_pages(3)
    second, _ = site.backed_up()
    dat = site.location / f"{first}.dat"
    dat.write_bytes(dat.read_bytes().splitlines(keepends=True)[0])

    def unreadable(path: Path) -> tuple[int, str]:
        raise DamagedFile("cannot be read: Input/output error", path=path)

    monkeypatch.setattr(sweeping, "sha256_of", unreadable)
    stamp, state = site.backed_up()
    assert f"{second}.deltafsz.orphan" in site.names()
    monkeypatch.undo()
    site.restore(stamp)
    site.assert_is(state)


def test_a_damaged_manifest_does_not_stop_the_next_complete_one(site: Site) -> None:
    """Its chain goes on with a complete manifest, since its newest backup has no blobs."""
    first, _ = site.backed_up()
    site.options["backup_blobs"] = "false"
    site.commit_pages(3)
    site.backup()
    site.options["backup_blobs"] = "true"
    manifest = site.blob_location / f"{first}.blobs.gz"
    content = bytearray(manifest.read_bytes())
    content[len(content) // 2] ^= 0x10
    manifest.write_bytes(bytes(content))
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    assert (site.blob_location / f"{stamp}.blobs.gz").exists()
    site.restore(stamp)
    site.assert_is(state)


def test_a_chain_that_was_pruned_while_it_was_listed_is_not_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = site.backed_up()
    site.options["keep"] = "1"
    measure = listing.size_of

    def measure_after_a_prune(path: Path) -> int | None:
        monkeypatch.setattr(listing, "size_of", measure)
        site.backup(full=True)
        return measure(path)

    monkeypatch.setattr(listing, "size_of", measure_after_a_prune)
    lines = "\n".join(site.list())
    assert "MISSING" not in lines
    assert first not in lines


# Scripts


def test_a_script_of_an_older_version_goes_on_with_the_defaults_of_new_options(site: Site) -> None:
    site.close()
    plain = settings_to_plain(site.settings)
    del plain["nice"], plain["io_priority"]
    assert run("backup", plain, ["-q"]) == 0
    assert len(site.timestamps()) == 1
    assert run("backup", {**plain, "of_the_future": True}, ["-q"]) == 2
    del plain["datafs"]
    assert run("backup", plain, ["-q"]) == 2


# Kills, and files that others own


def be_killed(*_: object) -> None:
    """What stands in for a call in the middle of which the process is killed."""
    raise KeyboardInterrupt


def test_a_completion_that_was_killed_before_its_record_is_done_again(site: Site, monkeypatch: Any) -> None:
    site.options["backup_blobs"] = "false"
    first, _ = site.backed_up()
    del site.options["backup_blobs"]
    with monkeypatch.context() as patched:
        patched.setattr(completion, "publish_record", be_killed)
        with pytest.raises(KeyboardInterrupt):
            site.backup()
    assert (site.blob_location / f"{first}.blobs.gz").exists()
    site.backup()
    site.commit_blobs(2)
    second, state = site.backed_up()
    # The next backup continues the chain: nothing in its sums is wrong.
    assert f"{second}.deltafsz" in site.names()
    site.commit_pages(2)
    third, _ = site.backed_up()
    assert f"{third}.deltafsz" in site.names()
    site.restore(second)
    site.assert_is(state)


def test_verify_reads_a_chain_that_lost_its_dat(site: Site) -> None:
    first, _ = site.backed_up()
    site.commit_pages(3)
    second, _ = site.backed_up()
    (site.location / f"{first}.dat").unlink()
    for name in (f"{first}.json", f"{second}.json"):
        (site.location / name).unlink()
    report = site.verify()
    assert report.good
    assert report.table.rows[0][:3] == (first, second, "2")
    delta = site.location / f"{second}.deltafsz"
    content = bytearray(delta.read_bytes())
    content[len(content) // 2] ^= 1
    delta.write_bytes(content)
    report = site.verify()
    assert not report.good
    assert "DAMAGED" in report.table.rows[0]


def test_a_chain_whose_blobs_nobody_backed_up_is_not_called_damaged(site: Site) -> None:
    site.options["backup_blobs"] = "false"
    first, _ = site.backed_up()
    del site.options["backup_blobs"]
    report = site.verify()
    assert not report.good
    assert report.table.rows == ((first, first, "1", report.table.rows[0][3], "-", "NO BLOBS", "none"),)
    assert report.lines[0].startswith(f"{first}: no known blobs: {first}.")


def test_a_state_of_blobs_alone_whose_removal_was_killed_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    site = Site(tmp_path / "blobs", options={"only_blobs": "true", "keep": "1"})
    site.commit_blobs(3)
    site.tick()
    first = site.backup(full=True).timestamp

    site.commit_blobs(3)
    site.tick()
    with monkeypatch.context() as patched:
        patched.setattr(only_blobs, "_remove_state", be_killed)
        with pytest.raises(KeyboardInterrupt):
            site.backup(full=True)
    assert (site.blob_location / f"{first}.json.pruned").exists()
    site.backup()
    assert not list(site.blob_location.glob(f"{first}*"))
    site.close()


@as_root
def test_a_private_data_fs_of_a_mode_that_lets_nobody_read_is_restored() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # pytest's own folders let nobody but root in
        site = Site(folder / "site")
        site.commit_blobs(2)
        _, state = site.backed_up()
        site.commit_pages(2)
        site.close()
        give_to_somebody(site.folder)
        site.datafs.chmod(0o000)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgid(SOMEBODY)
                os.setuid(SOMEBODY)
                site.restore()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        site.assert_is(state)


# An empty blobstorage that is right


def test_a_site_restored_to_a_time_before_its_first_blob_is_backed_up_again(tmp_path: Path) -> None:
    site = Site(tmp_path / "young")
    site.commit_pages(2)
    first, _ = site.backed_up()
    site.commit_blobs(3)
    site.backed_up()
    site.close()
    site.restore(first)
    assert not blob_files(site.settings.blob_storage)
    again, state = site.backed_up()
    site.commit_pages(1)
    site.backed_up()
    site.restore(again)
    site.assert_is(state)
    site.close()


def test_a_blobstorage_that_is_not_mounted_is_refused_when_a_full_is_due_too(site: Site) -> None:
    site.backed_up()
    site.commit_blobs(1)
    site.close()
    away = site.folder / "away"
    site.settings.blob_storage.rename(away)
    site.settings.blob_storage.mkdir()
    for full in (False, True):
        with pytest.raises(ZodbvaultError, match="is empty"):
            site.backup(full=full)


# Space


def test_a_restore_counts_data_and_blobs_on_one_disk_together(site: Site, monkeypatch: Any) -> None:
    site.commit_blobs(2, size=50_000)
    site.commit_pages(50)
    _, state = site.backed_up()
    site.close()
    shutil.rmtree(site.settings.blob_storage)
    blobs = sum(len(content) for content in state.blobs.values())
    from zodbvault.io import space

    # Room for each of them, and not for both.
    monkeypatch.setattr(space, "free_bytes", lambda path: max(len(state.data), blobs) + 100)
    with pytest.raises(NotEnoughSpace, match=r"and the new Data\.fs"):
        site.restore()
    assert site.datafs.read_bytes() == state.data


def test_the_first_copy_of_all_blobs_is_refused_where_it_would_fill_the_disk(site: Site, monkeypatch: Any) -> None:
    site.commit_blobs(2, size=500_000)
    from zodbvault.io import space

    needed = sum(len(content) for content in site.blobs.values())
    monkeypatch.setattr(space, "free_bytes", lambda path: needed - 1)
    with pytest.raises(NotEnoughSpace, match="first copy of all blobs"):
        site.backup()
    assert not site.timestamps()


@pytest.mark.parametrize("word", ["", "bus", "lawn"])
def test_a_pool_with_a_damaged_marker_says_what_to_do(site: Site, word: str) -> None:
    site.backup()
    marker = site.blob_location / "blobs" / ".layout"
    marker.write_text(word)
    site.commit_blobs(1)
    with pytest.raises(ZodbvaultError, match=r"If only its file \.layout is damaged, remove that"):
        site.backup()
    marker.unlink()
    stamp, state = site.backed_up()
    assert marker.read_text() == "bushy"
    site.restore(stamp)
    site.assert_is(state)
