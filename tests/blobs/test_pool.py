from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blobs.sites import (
    Blobs,
    blobs_in,
    entries,
    entry,
    files_below,
    gone,
    key,
    put,
    refuse_to_look_at,
    tid,
    write_manifest,
)
from tests.leaks import no_descriptor_left
from zodbvault.blobs.containers import has_all
from zodbvault.blobs.intake import backup_change, backup_complete, backup_only_blobs
from zodbvault.blobs.layouts import bushy_path, path_for
from zodbvault.blobs.manifest import Entry, merge_state, read_manifest
from zodbvault.blobs.pool import BlobConflict, Pool, prune_pool
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.spill import SortedKeys
from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import PartFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.outcome import BlobOutcome

NOW = 2_000_000_000.0


class Location:
    """A blob backup location with its pool and manifests, and a site beside it."""

    def __init__(self, folder: Path, layout: Layout = "bushy") -> None:
        self.layout: Layout = layout
        self.folder = folder / "backups"
        self.folder.mkdir(parents=True)
        self.site = put(folder / "blobstorage", layout, {})
        self.pool = Pool(self.folder)
        self.pool.prepare()
        self.count = 0

    @property
    def source(self) -> SourceBlobs:
        return SourceBlobs(self.site)

    def add(self, blobs: Blobs) -> None:
        put(self.site, self.layout, blobs)

    def lose(self, *keys: bytes) -> None:
        for k in keys:
            (self.site / path_for(self.layout, k)).unlink()

    def manifests(self) -> list[Path]:
        return sorted(self.folder.glob("*blobs.gz"))

    def next_name(self, suffix: str) -> Path:
        self.count += 1
        return self.folder / f"{self.count:04d}{suffix}"

    def full(
        self, *met: bytes, last: int = 1000, previous: Iterable[Entry] | None = None, new_run: bool = True
    ) -> BlobOutcome:
        pool = self.pool = Pool(self.folder) if new_run else self.pool
        with SortedKeys(pool.scratch) as keys, PartFile(self.next_name(".blobs.gz")) as part:
            for k in met:
                keys.add(k)
            before = self.manifests()
            outcome = backup_complete(self.source, pool, part, previous, before, keys, tid(last))
            part.publish()
        return outcome

    def change(self, *met: bytes, new_run: bool = True, total: int | None = None) -> BlobOutcome:
        pool = self.pool = Pool(self.folder) if new_run else self.pool
        with SortedKeys(pool.scratch) as keys, PartFile(self.next_name(".deltablobs.gz")) as part:
            for k in met:
                keys.add(k)
            outcome = backup_change(self.source, pool, part, keys, self.manifests, previous_total=total)
            part.publish()
        return outcome

    def only_blobs(
        self, *, complete: bool, previous: Iterable[Entry] | None = None, now: float = NOW * 2
    ) -> BlobOutcome:
        pool = self.pool = Pool(self.folder)
        suffix = ".blobs.gz" if complete else ".deltablobs.gz"
        with PartFile(self.next_name(suffix)) as part:
            outcome = backup_only_blobs(self.source, pool, part, previous, self.manifests(), complete, now)
            part.publish()
        return outcome

    def newest(self) -> list[Entry]:
        return list(read_manifest(self.manifests()[-1]))

    def state(self) -> list[Entry]:
        complete, *deltas = self.manifests()
        return list(merge_state(complete, deltas, self.folder))

    def pooled(self) -> Blobs:
        return blobs_in(self.folder / "blobs", "bushy")


@pytest.fixture(params=["bushy", "lawn"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(tmp_path, request.param)


A, B, C = {key(1): b"first"}, {key(2): b""}, {key(300, 5): b"third" * 100_000}


def test_a_first_full_takes_everything(place: Location) -> None:
    place.add(A | B | C)
    with no_descriptor_left():
        outcome = place.full(*A, *B, *C)
    assert place.pooled() == A | B | C
    assert place.newest() == entries(A | B | C)
    assert (outcome.copied, outcome.copied_bytes, outcome.missing, outcome.needed) == (3, 500_005, (), 3)
    assert outcome.summary.layout == place.layout
    assert outcome.summary.total_blobs == outcome.summary.blobs == 3
    assert (place.folder / "blobs" / ".layout").read_text() == "bushy"
    assert files_below(place.folder / "blobs" / "tmp") == set()


def test_a_second_full_copies_only_what_is_new_and_reads_nothing_else(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add(A)
    place.full()
    previous = place.newest()
    place.add(B)
    opened: list[bytes] = []
    really = SourceBlobs.open
    monkeypatch.setattr(SourceBlobs, "open", lambda self, k: opened.append(k) or really(self, k))  # type: ignore[func-returns-value]
    outcome = place.full(previous=previous)
    assert outcome.copied == 1
    assert opened == list(B)
    assert place.newest() == entries(A | B)


def test_only_blobs_up_to_the_last_transaction_belong_to_a_full(place: Location) -> None:
    place.add({key(1, 5): b"in time", key(1, 6): b"half done", key(2, 7): b"later"})
    outcome = place.full(last=5)
    assert place.newest() == entries({key(1, 5): b"in time"})
    assert outcome.copied == 1


def test_no_blob_belongs_to_an_empty_database(place: Location) -> None:
    place.add(A)
    with SortedKeys(place.pool.scratch) as met, PartFile(place.next_name(".blobs.gz")) as part:
        outcome = backup_complete(place.source, place.pool, part, None, [], met, None)
        part.publish()
    assert place.newest() == []
    assert outcome.copied == 0


def test_a_change_is_exactly_what_was_met(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(A | B | C)
    place.full(last=1)
    monkeypatch.setattr(SourceBlobs, "walk", None)
    place.add({key(9, 9): b"not met", key(8, 8): b"new", key(7, 7): b""})
    asked: list[int] = []
    monkeypatch.setattr(Location, "manifests", lambda self: asked.append(1) or [])  # type: ignore[func-returns-value]
    outcome = place.change(key(8, 8), key(7, 7), total=2)
    monkeypatch.undo()
    assert place.newest() == entries({key(8, 8): b"new", key(7, 7): b""})
    assert outcome.summary.complete is False
    assert outcome.summary.total_blobs == 4
    assert outcome.copied == 2
    assert key(9, 9) not in place.pooled()
    assert asked == []


def test_an_empty_change_is_a_manifest_too(place: Location) -> None:
    outcome = place.change()
    assert place.newest() == []
    assert (outcome.copied, outcome.needed, outcome.summary.blobs) == (0, 0, 0)


def test_a_blob_that_nobody_has_is_missing(place: Location) -> None:
    place.add(A)
    assert place.change(*A, *B).missing == tuple(B)
    assert place.newest() == entries(A)
    outcome = place.full(*A, *B)
    assert outcome.missing == tuple(B)
    assert outcome.needed == 2
    assert not outcome.misses_most


@pytest.mark.parametrize(
    ("missing", "there", "wrong"), [(10, 0, False), (11, 0, True), (11, 11, False), (12, 11, True)]
)
def test_the_wrong_blobstorage_is_noticed(tmp_path: Path, missing: int, there: int, wrong: bool) -> None:
    place = Location(tmp_path)
    found = {key(1000 + number): b"" for number in range(there)}
    place.add(found)
    outcome = place.change(*found, *(key(number) for number in range(missing)))
    assert len(outcome.missing) == missing
    assert outcome.misses_most is wrong


def test_a_blob_that_a_pack_moved_to_old_is_found(place: Location) -> None:
    place.add(A | B)
    place.full(last=0)
    os.rename(place.site, f"{place.site}.old")
    place.site = put(place.site, place.layout, {})
    assert place.change(*A).missing == ()
    assert place.full(*A, *B).missing == ()
    assert place.newest() == entries(A | B)


def test_what_the_data_refer_to_stays_even_where_the_site_has_lost_it(place: Location) -> None:
    place.add(A | B | C)
    place.full(*A, *B, *C)
    previous = place.newest()
    place.lose(*A, *B)
    outcome = place.full(*A, *C, previous=previous)
    assert place.newest() == entries(A | C)  # B was packed away
    assert outcome.missing == ()
    # Another manifest is as good as the newest state.
    outcome = place.full(*B, *C, previous=place.newest())
    assert place.newest() == entries(B | C)
    assert outcome.missing == ()
    (place.folder / "blobs" / bushy_path(key(2))).unlink()
    assert place.full(*B, *C, previous=place.newest()).missing == tuple(B)


@pytest.mark.parametrize("damage", ["lost", "shorter", "link", "link of that size", "gone folder"])
def test_a_full_heals_the_pool(place: Location, damage: str) -> None:
    place.add(A | C)
    place.full()
    stored = place.folder / "blobs" / bushy_path(key(1))
    stored.unlink()
    if damage == "shorter":
        stored.write_bytes(b"fir")
    elif damage == "link":
        stored.symlink_to(place.site / path_for(place.layout, key(1)))
    elif damage == "link of that size":
        stored.symlink_to("12345")
    elif damage == "gone folder":
        stored.parent.rmdir()
    assert not has_all(place.pool, place.newest())
    outcome = place.full(previous=place.newest())
    assert outcome.copied == 1
    assert place.pooled() == A | C
    assert not stored.is_symlink()
    assert has_all(place.pool, place.newest())


def test_the_truth_about_a_blob_comes_from_the_manifest_not_from_the_pool(place: Location) -> None:
    place.add(A)
    place.full()
    stored = place.folder / "blobs" / bushy_path(key(1))
    stored.chmod(0o600)
    stored.write_bytes(b"FIRST")  # a flipped bit, of the same size
    place.full(previous=place.newest())
    assert place.newest() == entries(A)
    place.lose(*A)
    place.full(*A, previous=place.newest())
    assert place.newest() == entries(A)


def test_a_pool_file_that_no_manifest_names_is_copied_anew(place: Location) -> None:
    for backup in (place.full, place.change):
        k = key(place.count + 50)
        put(place.folder / "blobs", "bushy", {k: b"\0\0\0\0"})  # left by a crash, of the right size
        place.add({k: b"good"})
        outcome = backup(k)
        assert outcome.copied == 1
        assert place.pooled()[k] == b"good"
        assert entry(k, b"good") in place.newest()


def test_a_pool_file_that_no_manifest_names_does_not_count_where_the_site_lacks_it(place: Location) -> None:
    put(place.folder / "blobs", "bushy", {key(1): b"who knows"})
    assert place.change(key(1)).missing == (key(1),)
    assert place.full(key(1)).missing == (key(1),)


@pytest.mark.parametrize("other", [b"FIRST", b"longer than first", b""])
def test_another_content_under_a_known_name_is_refused(place: Location, other: bytes) -> None:
    place.add(A)
    place.full()
    before = place.pooled()
    place.add({key(1): other})
    with no_descriptor_left():
        with pytest.raises(BlobConflict, match=r"0x01/0x03e8000000000001\.blob"):
            place.change(*A)
        with pytest.raises(BlobConflict):
            place.full()
        (place.folder / "blobs" / bushy_path(key(1))).unlink()
        with pytest.raises(BlobConflict):
            place.full()
    assert key(1) not in place.pooled()
    put(place.folder / "blobs", "bushy", before)
    assert len(place.manifests()) == 1
    assert files_below(place.folder / "blobs" / "tmp") == set()


def test_a_blob_that_the_site_has_shorter_than_the_newest_state_is_refused(place: Location) -> None:
    place.add(A)
    place.full()
    place.add({key(1): b"fir"})
    with pytest.raises(BlobConflict, match="3 bytes"):
        place.full(previous=place.newest())
    assert place.pooled() == A


def test_a_restored_older_blob_is_recognised_by_its_content(place: Location) -> None:
    place.add(A)
    place.full()
    place.lose(*A)
    place.full()
    place.add(A)
    outcome = place.full(previous=place.newest())
    assert outcome.copied == 0
    assert place.newest() == entries(A)
    assert place.change(*A).copied == 0


def test_an_attempt_that_starts_over_does_not_copy_again(place: Location) -> None:
    place.add(A | B)
    with SortedKeys(place.folder) as met, PartFile(place.folder / "x.deltablobs.gz") as part:
        for k in A | B:
            met.add(k)
        assert backup_change(place.source, place.pool, part, met, place.manifests).copied == 2
    place.add(C)
    outcome = place.full(*A, *B, *C, new_run=False)
    assert outcome.copied == 1
    assert place.newest() == entries(A | B | C)


def test_a_damaged_older_manifest_does_not_stop_a_full(place: Location, caplog: pytest.LogCaptureFixture) -> None:
    place.add(A | B)
    place.full()
    place.manifests()[0].write_bytes(b"nonsense")
    place.add(C)

    def previous() -> Iterable[Entry]:
        yield entry(*next(iter(A.items())))
        yield from read_manifest(place.manifests()[0])

    outcome = place.full(previous=previous())
    assert outcome.copied == 2
    assert list(read_manifest(place.manifests()[-1])) == entries(A | B | C)
    assert "0001.blobs.gz" in caplog.text


def test_the_pool_gets_the_modes_of_the_site(place: Location) -> None:
    place.folder.chmod(0o750)
    place.pool = Pool(place.folder)
    place.add(A)
    (place.site / path_for(place.layout, key(1))).chmod(0o440)
    place.full()
    assert (place.folder / "blobs" / bushy_path(key(1))).stat().st_mode & 0o777 == 0o440


def test_progress_tells_the_bytes(place: Location) -> None:
    place.add(A | C)
    told: list[int] = []
    with SortedKeys(place.folder) as met, PartFile(place.next_name(".blobs.gz")) as part:
        backup_complete(place.source, place.pool, part, None, [], met, tid(1000), told.append)
    assert told == [5, 500_005]


def test_a_full_disk_stops_the_backup_and_leaves_no_temporary_file(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add(A)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zodbvault.io.durable.WholeFile.write", no_space)
    # A file system that shares content writes nothing.
    monkeypatch.setattr("zodbvault.blobs.copying._clone", lambda *_: False)
    with no_descriptor_left(), pytest.raises(ZodbvaultError, match="No space left"):
        place.change(*A)
    monkeypatch.undo()
    assert files_below(place.folder / "blobs") == {".layout"}


MANY = {key(number // 2, number): b"%d" % number for number in range(1, 400)}


@pytest.fixture(params=["quick", "slow"])
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the work is found to be slow, so that most of it goes to threads."""
    monkeypatch.setattr("zodbvault.blobs.ahead._SLOW", -1 if request.param == "slow" else 1000)


@pytest.mark.usefixtures("speed")
def test_many_blobs_on_several_threads(place: Location) -> None:
    place.add(MANY)
    with no_descriptor_left():
        assert place.full(*list(MANY)[::3], last=500).copied == len(MANY)
        place.pool.close()
    assert place.newest() == entries(MANY)
    assert place.pooled() == MANY
    more = {key(number, 450): b"more" for number in range(0, 200, 7)}
    place.add(more)
    outcome = place.full(last=500, previous=place.newest())
    assert (outcome.copied, place.newest()) == (len(more), entries(MANY | more))
    assert place.pooled() == MANY | more
    assert files_below(place.pool.scratch) == set()


@pytest.mark.usefixtures("speed")
@pytest.mark.parametrize("incremental", [True, False])
def test_a_conflict_among_many_leaves_no_temporary_file(place: Location, incremental: bool) -> None:
    strange = key(40)
    place.add({strange: b"one"})
    place.change(strange)
    place.add(MANY | {strange: b"another one"})
    previous = place.newest()
    with no_descriptor_left():
        with pytest.raises(BlobConflict):
            _ = place.change(*MANY, strange) if incremental else place.full(last=500, previous=previous)
        place.pool.close()
    assert files_below(place.pool.scratch) == set()
    assert place.pooled()[strange] == b"one"
    assert all(MANY[k] == content for k, content in place.pooled().items() if k != strange)


def test_blobs_are_durable_before_the_manifest_is_finished(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name, method in (
        ("blobs", "zodbvault.blobs.pool.Pool.finish"),
        ("manifest", "zodbvault.io.durable.PartFile.finish"),
    ):
        owner, _, attribute = method.rpartition(".")
        module, _, cls = owner.rpartition(".")
        import importlib

        really = getattr(getattr(importlib.import_module(module), cls), attribute)
        monkeypatch.setattr(method, lambda self, really=really, name=name: order.append(name) or really(self))
    place.add(A)
    for backup in (place.full, place.change):
        order.clear()
        backup()
        assert order[:2] == ["blobs", "manifest"]


def test_files_and_all_new_folders_are_synced(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()

    def note(fd: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr("zodbvault.io.durable.sync_file", note)
    place.add(C)
    place.change(*C)
    blob = place.folder / "blobs" / bushy_path(key(300, 5))
    folders = {str(folder) for folder in blob.parents if folder.is_relative_to(place.folder / "blobs")}
    assert folders <= synced
    assert any(name.startswith(str(place.pool.scratch)) for name in synced)


def test_a_folder_that_was_there_is_synced_when_it_gets_another_revision(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add({key(1, 1): b"one", key(1, 2): b"two"})
    place.change(key(1, 1))
    synced: set[str] = set()
    monkeypatch.setattr("zodbvault.io.durable.sync_file", lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")))
    place.change(key(1, 2))
    assert str((place.folder / "blobs" / bushy_path(key(1, 2))).parent) in synced


def test_a_removed_line_somewhere_names_no_blob(place: Location) -> None:
    write_manifest(place.folder / "0000.deltablobs.gz", [gone(key(2))])
    put(place.folder / "blobs", "bushy", B)
    assert place.full(*B).missing == tuple(B)
    assert place.newest() == []


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
@pytest.mark.parametrize("keep_old", [True, False])
def test_a_real_pack_between_walks(tmp_path: Path, layout: Layout, keep_old: bool) -> None:
    import time

    import transaction
    from ZODB.blob import Blob
    from ZODB.DB import DB
    from ZODB.FileStorage import FileStorage

    place = Location(tmp_path, layout)
    db = DB(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(place.site), pack_keep_old=keep_old))
    connection = db.open()
    root = connection.root()
    contents: Blobs = {}
    for number in range(3):
        root[number] = Blob(b"first %d" % number)
    transaction.commit()
    for number in range(3):
        root[number]._p_activate()
        contents[root[number]._p_oid + root[number]._p_serial] = b"first %d" % number
    old = dict(contents)
    for number in range(3):
        with root[number].open("w") as file:
            file.write(b"second %d" % number)
    transaction.commit()
    db.pack(time.time() + 1)
    connection.close()
    db.close()
    outcome = place.change(*old)
    assert outcome.missing == (() if keep_old else tuple(sorted(old)))
    outcome = place.full(*old, last=1 << 60)
    assert outcome.missing == (() if keep_old else tuple(sorted(old)))
    assert outcome.summary.blobs == (6 if keep_old else 3)
    assert place.newest()[0].size == len(b"first 0" if keep_old else b"second 0")


def test_prepare_refuses_another_layout_and_sweep_takes_only_our_left_overs(tmp_path: Path) -> None:
    place = Location(tmp_path)
    ours = place.pool.scratch / f"zodbvault-{key(1).hex()}.part"
    for file in (ours, place.pool.scratch / "BUCxyz", place.pool.scratch / "zodbvault-1.part"):
        file.write_text("left")
    assert place.pool.sweep() == 1
    assert files_below(place.pool.scratch) == {"BUCxyz", "zodbvault-1.part"}
    ours.write_text("a copy of a killed run")
    place.add(A)
    assert place.change(*A).copied == 1
    assert Pool(tmp_path / "none").sweep() == 0
    (place.folder / "blobs" / ".layout").write_text("lawn")
    with pytest.raises(ZodbvaultError, match="lawn"):
        place.pool.prepare()
    (tmp_path / "file").write_text("")
    with pytest.raises(ZodbvaultError):
        Pool(tmp_path / "file").prepare()


# -- only blobs -------------------------------------------------------------------------------------------------------


def test_only_blobs_complete_then_changes_with_removals(place: Location) -> None:
    place.add(A | B)
    outcome = place.only_blobs(complete=True)
    assert place.newest() == entries(A | B)
    assert (outcome.copied, outcome.summary.total_blobs, outcome.needed) == (2, 2, 2)
    place.add(C)
    place.lose(*A)
    outcome = place.only_blobs(complete=False, previous=place.newest())
    assert place.newest() == [gone(key(1)), *entries(C)]
    assert (outcome.copied, outcome.removed, outcome.summary.total_blobs) == (1, 1, 2)
    assert place.state() == entries(B | C)
    outcome = place.only_blobs(complete=False, previous=place.state())
    assert place.newest() == []
    assert (outcome.copied, outcome.removed, outcome.summary.blobs) == (0, 0, 0)
    outcome = place.only_blobs(complete=True, previous=entries(B | C))
    assert place.newest() == entries(B | C)
    assert outcome.copied == 0


def test_a_blob_that_came_back_is_new_in_a_delta(place: Location) -> None:
    place.add(A | B)
    place.only_blobs(complete=True)
    place.lose(*A)
    place.only_blobs(complete=False, previous=place.state())
    place.add(A)
    outcome = place.only_blobs(complete=False, previous=place.state())
    assert place.newest() == entries(A)
    assert outcome.copied == 0


def test_young_files_wait(place: Location) -> None:
    place.add(A | B)
    file = place.site / path_for(place.layout, key(1))
    os.utime(file, (NOW - 2, NOW - 2))
    outcome = place.only_blobs(complete=True, now=NOW)
    assert (outcome.waiting, place.newest()) == (1, entries(B))
    outcome = place.only_blobs(complete=False, previous=place.state(), now=NOW + 10)
    assert (outcome.waiting, place.newest()) == (0, entries(A))
    # One that stands in the future is not young for ever.
    file = place.site / path_for(place.layout, key(300, 5))
    place.add(C)
    os.utime(file, (NOW + 1000, NOW + 1000))
    assert place.only_blobs(complete=False, previous=place.state(), now=NOW + 10).waiting == 0


def test_a_file_that_changes_while_it_is_copied_waits(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(A | B)
    file = place.site / path_for(place.layout, key(1))
    file.chmod(0o600)
    really = Pool.copy_in

    def copy_while_it_grows(self: Pool, k: bytes, fd: int, *rest: object) -> Entry:
        found = really(self, k, fd, *rest)  # type: ignore[arg-type]
        if k == key(1):
            with file.open("ab") as growing:
                growing.write(b" and more")
        return found

    monkeypatch.setattr(Pool, "copy_in", copy_while_it_grows)
    outcome = place.only_blobs(complete=True)
    assert (outcome.waiting, place.newest()) == (1, entries(B))
    monkeypatch.undo()
    place.only_blobs(complete=False, previous=place.state())
    assert place.newest() == entries({key(1): b"first and more"})
    assert place.pooled()[key(1)] == b"first and more"


def test_a_young_file_of_another_size_keeps_its_old_entry(place: Location) -> None:
    place.add(A)
    place.only_blobs(complete=True)
    place.add({key(1): b"longer now"})
    os.utime(place.site / path_for(place.layout, key(1)), (NOW, NOW))
    outcome = place.only_blobs(complete=True, previous=place.newest(), now=NOW)
    assert (outcome.waiting, place.newest()) == (1, entries(A))
    with pytest.raises(BlobConflict):
        place.only_blobs(complete=False, previous=place.newest(), now=NOW + 100)


def test_an_unmounted_blobstorage_is_no_change(place: Location) -> None:
    place.add(A)
    place.only_blobs(complete=True)
    place.lose(*A)
    for complete in (True, False):
        with pytest.raises(ZodbvaultError, match="mounted"):
            place.only_blobs(complete=complete, previous=place.newest())


def test_only_blobs_heals_the_pool_in_a_delta(place: Location) -> None:
    place.add(A)
    place.only_blobs(complete=True)
    (place.folder / "blobs" / bushy_path(key(1))).unlink()
    outcome = place.only_blobs(complete=False, previous=place.newest())
    assert (outcome.copied, place.newest(), place.pooled()) == (1, [], A)


# -- prune ------------------------------------------------------------------------------------------------------------


def test_prune_removes_what_no_manifest_names(place: Location) -> None:
    place.add(A | B)
    place.full()
    place.lose(*A)
    place.add(C)
    place.full()
    put(place.folder / "blobs", "bushy", {key(77): b"left by a crash"})
    (place.folder / "blobs" / "lost+found").mkdir()
    note = place.folder / "blobs" / bushy_path(key(1))
    (note.parent / "note.txt").write_text("not ours")
    assert prune_pool(place.manifests(), place.pool) == 1
    assert prune_pool(place.manifests()[1:], place.pool) == 1
    assert place.pooled() == B | C
    assert not (place.folder / "blobs" / bushy_path(key(77))).parent.exists()
    assert (note.parent / "note.txt").exists()
    assert (place.folder / "blobs" / "tmp").is_dir()
    assert (place.folder / "blobs" / ".layout").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "newer"])
def test_an_unreadable_manifest_saves_every_blob(
    place: Location, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    place.add(A | B)
    place.full()
    first, second = place.manifests()[0], place.folder / "9999.blobs.gz"
    if damage == "cut":
        second.write_bytes(first.read_bytes()[:-5])
    elif damage == "newer":
        import gzip

        second.write_bytes(gzip.compress(b"#\t9\tbushy\n"))
    put(place.folder / "blobs", "bushy", {key(77): b"nobody's"})
    assert prune_pool([first, second], place.pool) == 0
    assert "No blob is removed" in caplog.text
    assert len(place.pooled()) == 3


def test_a_removed_line_keeps_no_blob_and_a_deltas_line_does(place: Location) -> None:
    put(place.folder / "blobs", "bushy", A | B)
    write_manifest(place.folder / "1.deltablobs.gz", [gone(key(1)), *entries(B)])
    assert prune_pool(place.manifests(), place.pool) == 1
    assert place.pooled() == B


def test_a_blob_of_the_pool_that_the_disk_cannot_look_at_is_an_error_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing one would be copied anew, or let another state be taken."""
    put(tmp_path / "blobs", "bushy", {key(1): b"one"})
    with Pool(tmp_path) as pool:
        assert pool.size_of(key(1)) == 3
        refuse_to_look_at(pool.path_of(key(1)), monkeypatch)
        with pytest.raises(ZodbvaultError, match="the pool's blob cannot be read: Input/output error"):
            pool.size_of(key(1))


def test_prune_without_a_pool_does_nothing(tmp_path: Path) -> None:
    assert prune_pool([], Pool(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


# -- any order of events ----------------------------------------------------------------------------------------------

CONTENT = {key(number): b"content of %d" % number * number for number in range(7)}
KEYS = st.frozensets(st.sampled_from(sorted(CONTENT)))


@given(
    site=KEYS,
    old=KEYS,
    pool_good=KEYS,
    previous=KEYS,
    others=KEYS,
    met=KEYS,
    leftovers=KEYS,
)
@settings(deadline=None, max_examples=150)
def test_a_full_makes_the_best_of_any_situation(
    tmp_path_factory: pytest.TempPathFactory,
    site: frozenset[bytes],
    old: frozenset[bytes],
    pool_good: frozenset[bytes],
    previous: frozenset[bytes],
    others: frozenset[bytes],
    met: frozenset[bytes],
    leftovers: frozenset[bytes],
) -> None:
    place = Location(tmp_path_factory.mktemp("place"))
    place.add({k: CONTENT[k] for k in site})
    if old:
        put(Path(f"{place.site}.old"), "bushy", {k: CONTENT[k] for k in old})
    write_manifest(place.folder / "0000.blobs.gz", entries({k: CONTENT[k] for k in others}))
    put(place.folder / "blobs", "bushy", {k: CONTENT[k] for k in pool_good})
    put(place.folder / "blobs", "bushy", dict.fromkeys(leftovers, b"rubbish" * 20))
    named = previous | others
    outcome = place.full(*met, previous=entries({k: CONTENT[k] for k in previous}))

    held = (pool_good - leftovers) & named
    kept = {k for k in met - site if k in held or k in old}
    expected = site | kept
    assert place.newest() == entries({k: CONTENT[k] for k in expected})
    assert set(outcome.missing) == met - expected
    assert outcome.needed == len(met)
    assert outcome.copied == len(expected - held)
    pooled = place.pooled()
    assert all(pooled[k] == CONTENT[k] for k in expected)


@given(site=KEYS, pool_good=KEYS, others=KEYS, met=KEYS, leftovers=KEYS)
@settings(deadline=None, max_examples=100)
def test_a_change_makes_the_best_of_any_situation(
    tmp_path_factory: pytest.TempPathFactory,
    site: frozenset[bytes],
    pool_good: frozenset[bytes],
    others: frozenset[bytes],
    met: frozenset[bytes],
    leftovers: frozenset[bytes],
) -> None:
    place = Location(tmp_path_factory.mktemp("place"))
    place.add({k: CONTENT[k] for k in site})
    write_manifest(place.folder / "0000.blobs.gz", entries({k: CONTENT[k] for k in others}))
    put(place.folder / "blobs", "bushy", {k: CONTENT[k] for k in pool_good})
    put(place.folder / "blobs", "bushy", dict.fromkeys(leftovers, b"rubbish" * 20))
    outcome = place.change(*met)
    held = (pool_good - leftovers) & others
    expected = met & (site | held)
    assert place.newest() == entries({k: CONTENT[k] for k in expected})
    assert set(outcome.missing) == met - expected
    assert outcome.copied == len(expected - held)
    pooled = place.pooled()
    assert all(pooled[k] == CONTENT[k] for k in expected)


def test_what_a_run_copied_goes_again_but_for_what_was_there_before(place: Location) -> None:
    """On a full disk: not what a manifest names, nor what took the place of another file."""
    place.add({key(1): b"named, and lost in the pool", key(2): b"new", key(3): b"left by a killed run"})
    with place.pool as pool:
        Path(pool.path_of(key(3))).parent.mkdir(parents=True)
        Path(pool.path_of(key(3))).write_bytes(b"left by a kil")
        for k, expected in ((key(1), [entry(key(1), b"named, and lost in the pool")]), (key(2), []), (key(3), [])):
            with (place.site / path_for(place.layout, k)).open("rb") as blob:
                pool.copy_in(k, blob.fileno(), expected)
        assert set(blobs_in(place.folder / "blobs", "bushy")) == {key(1), key(2), key(3)}
        assert pool.remove_own() == 1
        assert set(blobs_in(place.folder / "blobs", "bushy")) == {key(1), key(3)}
        assert pool.remove_own() == 0
