from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blobs.sites import Blobs, blobs_in, entries, entry, files_below, key, put, refuse_to_look_at
from tests.leaks import no_descriptor_left
from zodbvault.blobs.layouts import bushy_path, lawn_path, path_for
from zodbvault.blobs.manifest import Entry
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.spill import SortedRecords
from zodbvault.blobs.target import (
    AddOutcome,
    DamagedBlob,
    RestorePlan,
    Target,
    add_blobs,
    finish_replacements,
    open_target,
    plan_restore,
    remove_blobs,
)
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zodbvault.blobs.layouts import Layout


class Place:
    def __init__(self, folder: Path, layout: Layout = "bushy", site: Blobs | None = None) -> None:
        self.layout: Layout = layout
        self.site = folder / "blobstorage"
        if site is not None:
            put(self.site, layout, site)
        self.location = folder / "backups"
        self.location.mkdir(parents=True)
        self.pool = Pool(self.location)
        self.pool.prepare()

    def back_up(self, blobs: Blobs) -> None:
        put(self.pool.folder, "bushy", blobs)

    @property
    def target(self) -> Target:
        return open_target(self.site, self.layout)

    def there(self) -> Blobs:
        return blobs_in(self.site, self.layout)

    def plan(
        self, state: Blobs, target: Target, *, checksum: bool = False, accept_missing: bool = False
    ) -> RestorePlan:
        return plan_restore(
            entries(state), self.pool, target, self.location, checksum=checksum, accept_missing=accept_missing
        )

    def add(self, state: Blobs, target: Target) -> AddOutcome:
        with self.plan(state, target) as plan:
            return add_blobs(plan, self.pool, target)

    def remove(self, state: Blobs, referenced: list[bytes], missing: list[bytes], target: Target) -> int:
        with self.plan(state, target) as plan:
            return remove_blobs(plan, referenced, missing, target)

    def restore(self, state: Blobs, *, checksum: bool = False, kept: Iterable[bytes] = ()) -> int:
        with self.target as target, self.plan(state, target, checksum=checksum) as plan:
            add_blobs(plan, self.pool, target)
            return remove_blobs(plan, sorted(kept), [], target)


@pytest.fixture(params=["bushy", "lawn"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param  # type: ignore[no-any-return]


A, B, C = {key(1): b"first"}, {key(2): b""}, {key(300, 5): b"third" * 300_000}


def test_a_restore_into_nothing_makes_a_blobstorage_that_zodb_opens(tmp_path: Path, layout: Layout) -> None:
    from ZODB.blob import FilesystemHelper

    place = Place(tmp_path, layout)
    place.back_up(A | B | C)
    with no_descriptor_left():
        assert place.restore(A | B | C) == 0
    assert place.there() == A | B | C
    helper = FilesystemHelper(str(place.site))
    helper.create()  # raises when the marker does not fit
    assert helper.layout_name == layout
    for k, content in (A | B | C).items():
        assert Path(helper.getBlobFilename(k[:8], k[8:])).read_bytes() == content
    assert files_below(place.site) == {".layout", *(path_for(layout, k) for k in A | B | C)}


def test_only_what_differs_is_copied(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A | B)
    place.back_up(A | C)
    before = {k: (place.site / path_for(layout, k)).stat().st_ino for k in A}
    with place.target as target:
        plan = place.plan(A | C, target)
        assert (plan.blobs, plan.bytes) == (1, 1_500_000)
        told: list[int] = []
        outcome = add_blobs(plan, place.pool, target, told.append)
        assert (outcome.added, outcome.replaced, outcome.bytes) == (1, 0, 1_500_000)
        assert told == [1_500_000]
        assert place.there() == A | B | C  # more blobs never hurt the old database
        assert remove_blobs(plan, [], [], target) == 1
        plan.close()
    assert place.there() == A | C
    assert {k: (place.site / path_for(layout, k)).stat().st_ino for k in A} == before
    assert not (place.site / path_for(layout, key(2))).parent.exists()


def test_blobs_that_are_there_and_good_are_counted_as_kept(tmp_path: Path) -> None:
    place = Place(tmp_path, site=A | C | {key(2): b"of another size", key(4): b"a later one"})
    place.back_up(B | {key(3): b"lost", key(4): b"A LATER ONE"})
    with place.target as target, place.plan(A | B | C | {key(3): b"lost"}, target) as plan:
        assert (plan.kept, plan.blobs) == (2, 2)
    with place.target as target, place.plan({key(4): b"A LATER ONE"} | A, target, checksum=True) as plan:
        assert (plan.kept, plan.blobs) == (1, 1)


def test_planning_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.back_up(A)
    with place.target as target:
        place.plan(A, target)
    assert not place.site.exists()


def test_a_damaged_copy_waits_until_the_swap(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, {key(1): b"fir", key(2): b""})
    place.back_up(A | B)
    path = place.site / path_for(layout, key(1))
    with place.target as target:
        outcome = place.add(A | B, target)
        assert (outcome.added, outcome.replaced) == (0, 1)
        assert path.read_bytes() == b"first"
        assert path.with_name(path.name + ".replaced").read_bytes() == b"fir"
        finish_replacements(place.plan(A | B, target), target)
    assert files_below(place.site) == {".layout", *(path_for(layout, k) for k in A | B)}


def test_after_a_kill_the_damaged_copy_goes_with_the_next_restore(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, {key(1): b"fir"})
    place.back_up(A)
    place.add(A, place.target)  # and killed here
    path = place.site / path_for(layout, key(1))
    assert path.with_name(path.name + ".replaced").exists()
    assert place.restore(A) == 0
    assert files_below(place.site) == {".layout", path_for(layout, key(1))}


def test_the_first_damaged_copy_is_the_one_that_is_kept(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", {key(1): b"fi"})
    place.back_up(A)
    path = place.site / bushy_path(key(1))
    path.with_name(path.name + ".replaced").write_bytes(b"original")
    place.add(A, place.target)
    assert path.with_name(path.name + ".replaced").read_bytes() == b"original"
    assert path.read_bytes() == b"first"


def test_without_hard_links_a_damaged_copy_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_a_damaged_copy_waits_until_the_swap(tmp_path, "bushy")


def test_checksum_finds_another_content_of_the_same_size(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, {key(1): b"FIRST"})
    place.back_up(A)
    place.restore(A)
    assert place.there() == {key(1): b"FIRST"}
    place.restore(A, checksum=True)
    assert place.there() == A
    assert files_below(place.site) == {".layout", path_for(layout, key(1))}


@pytest.mark.parametrize("damage", ["lost", "size", "link"])
def test_a_pool_that_lacks_something_is_found_before_anything_is_touched(tmp_path: Path, damage: str) -> None:
    place = Place(tmp_path, "bushy", A)
    place.back_up(A | B | C)
    stored = place.pool.folder / bushy_path(key(300, 5))
    stored.unlink()
    if damage == "size":
        stored.write_bytes(b"third")
    elif damage == "link":
        stored.symlink_to("/etc/passwd")
    with place.target as target, pytest.raises(DamagedBlob, match="lacks 1 of"):
        place.plan(A | B | C, target)
    assert place.there() == A
    # What the site has, and has right, need not be in the pool.
    (place.pool.folder / bushy_path(key(1))).unlink()
    with place.target as target:
        assert place.plan(A, target, checksum=True).blobs == 0
        assert place.plan({key(1): b"FIRST"}, target).blobs == 0
        with pytest.raises(DamagedBlob, match="lacks 1 of"):
            place.plan({key(1): b"FIRST"}, target, checksum=True)


def test_a_pool_that_loses_something_after_the_plan_is_noticed(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", A)
    place.back_up(A | B)
    with no_descriptor_left(), place.target as target, place.plan(A | B, target) as plan:
        (place.pool.folder / bushy_path(key(2))).unlink()
        with pytest.raises(DamagedBlob, match="missing from the pool"):
            add_blobs(plan, place.pool, target)
    assert place.there() == A


def test_a_flipped_bit_in_the_pool_never_reaches_the_site(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, B)
    place.back_up({key(1): b"FIRST"} | C)
    with no_descriptor_left(), place.target as target:
        with pytest.raises(DamagedBlob, match="is damaged") as caught:
            place.add(A | C, target)
        assert bushy_path(key(1)) in str(caught.value)
    assert place.there() == B
    assert not any("part" in name for name in files_below(place.site))


@pytest.mark.parametrize("where", ["0x00", "0x00/0x00/0x00", Path(bushy_path(key(1))).parent, "tmp"])
def test_a_symlink_in_the_way_is_refused(tmp_path: Path, where: str | Path) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    outside = tmp_path / "outside"
    (outside / "0x00" / "0x00").mkdir(parents=True)
    if where == "tmp":
        (place.site / "tmp").rmdir()
    (place.site / where).parent.mkdir(parents=True, exist_ok=True)
    (place.site / where).symlink_to(outside)
    with place.target as target, pytest.raises(ZodbvaultError, match="real folders"):
        place.add(A, target)
    assert files_below(outside) == set()


@pytest.mark.parametrize(("later", "depth"), [(0x0101, 8), ((1 << 56) + 1, 8), ((1 << 56) + 1, 1), (2, 8), (0x0201, 7)])
def test_a_symlink_among_later_folders_is_refused_too(tmp_path: Path, later: int, depth: int) -> None:
    """Where the last folder has the name of one that was found to be real a moment before, too."""
    place = Place(tmp_path, "bushy", {key(1): b"?"})
    state = A | {key(later): b"x"}
    place.back_up(state)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = place.site / "/".join(bushy_path(key(later)).split("/")[:depth])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with place.target as target, pytest.raises(ZodbvaultError) as error:
        place.plan(state, target)
    assert str(error.value) == (
        f"{link}: stands where a folder of blobs should be. A restore writes only real files in real folders below the "
        "blob storage: move it away"
    )
    assert files_below(outside) == set()


def test_a_symlink_in_the_place_of_a_blob_is_refused(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A)
    place.back_up(A)
    path = place.site / path_for(layout, key(1))
    path.unlink()
    (tmp_path / "secret").write_bytes(b"first")
    path.symlink_to(tmp_path / "secret")
    with place.target as target, pytest.raises(ZodbvaultError) as error:
        place.add(A, target)
    assert str(error.value) == (
        f"{path}: stands where a blob should, but is no regular file. A restore writes only real files in real folders "
        "below the blob storage: move it away"
    )
    assert (tmp_path / "secret").read_bytes() == b"first"


def test_removing_never_follows_a_symlink(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", A)
    outside = put(tmp_path / "outside", "bushy", B)
    (place.site / "0x01").symlink_to(outside / "0x00")
    with place.target as target:
        assert place.remove({}, [], [], target) == 1
    assert blobs_in(outside, "bushy") == B


def test_a_linked_blobstorage_is_written_where_it_really_is(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A)
    real = tmp_path / "disk"
    place.site.rename(real)
    place.site.symlink_to(real)
    place.back_up(A | C)
    place.restore(A | C)
    assert place.site.is_symlink()
    assert blobs_in(real, layout) == A | C


def test_never_removed_is_what_data_or_record_need(tmp_path: Path, layout: Layout) -> None:
    others = {key(number): b"x" for number in range(10, 14)}
    place = Place(tmp_path, layout, A | B | others)
    with place.target as target:
        assert place.remove(A, [key(10), key(12)], [key(13), key(2)], target) == 1
    assert place.there() == A | B | {k: b"x" for k in others if k != key(11)}


def test_what_is_not_a_blob_stays(tmp_path: Path, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(tmp_path, layout, A | B)
    leaf = (place.site / path_for(layout, key(1))).parent
    strangers = [place.site / ".removed", leaf / ".nfs0001", leaf / "x.blob.replaced", place.site / "tmp" / "BUC1"]
    strangers.insert(0, place.site / "0x03e8.blob.replaced")  # no blob has its place there
    for file in strangers:
        file.write_text("not ours")
    with place.target as target:
        assert place.remove({}, [], [], target) == 2
    assert all(file.exists() for file in strangers)
    (said,) = caplog.messages
    assert said in {
        f"{place.site}: left 4 files or folders alone that are not blobs of this storage, such as {file}"
        for file in strangers[:4]
    }


def test_a_filled_target_keeps_its_layout_and_an_empty_one_takes_the_sources(tmp_path: Path) -> None:
    full = put(tmp_path / "full", "lawn", A)
    with open_target(full, "bushy") as target:
        assert (target.layout, target.is_filled) == ("lawn", True)
        target.prepare()
    assert (full / ".layout").read_text() == "lawn"
    with open_target(put(tmp_path / "bushy", "bushy", A), "lawn") as target:
        assert (target.layout, target.is_filled) == ("bushy", True)
    empty = put(tmp_path / "empty", "lawn", {})
    with open_target(empty, "bushy") as target:
        assert (target.layout, target.is_filled) == ("bushy", False)
        assert (empty / ".layout").read_text() == "lawn"
        target.prepare()
    assert (empty / ".layout").read_text() == "bushy"
    unmarked = put(tmp_path / "unmarked", "lawn", A)
    (unmarked / ".layout").unlink()
    with open_target(unmarked, "bushy") as target:
        assert (target.layout, target.is_filled) == ("lawn", True)
        target.prepare()
    assert not (unmarked / ".layout").exists()


@pytest.mark.parametrize("what", ["zeocache", "file"])
def test_what_cannot_be_restored_to_is_refused(tmp_path: Path, what: str) -> None:
    if what == "file":
        (tmp_path / "blobs").write_text("")
    else:
        put(tmp_path / "blobs", "bushy", {})
        (tmp_path / "blobs" / ".layout").write_text("zeocache")
    with pytest.raises(ZodbvaultError, match=r"server|: the blob storage is not a folder$") as error:
        open_target(tmp_path / "blobs", "bushy")
    assert what != "file" or error.value.path == str(tmp_path / "blobs")


def test_left_overs_of_a_killed_restore_go_and_others_stay(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", A)
    place.back_up(A | B)
    left = place.site / "tmp" / f"zodbvault-{key(2).hex()}.part"
    left.write_bytes(b"half")
    (place.site / "tmp" / f"zodbvault-{key(9).hex()}.part").write_bytes(b"half")
    (place.site / "tmp" / "BUC1").write_bytes(b"Zope's")
    place.restore(A | B)
    assert files_below(place.site / "tmp") == {"BUC1"}
    assert place.there() == A | B


def test_new_blobs_and_folders_belong_to_whom_the_blobstorage_belongs(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    place.site.chmod(0o750)
    if os.getuid() == 0:
        os.chown(place.site, 12345, 23456)
    place.restore(A)
    blob = place.site / bushy_path(key(1))
    assert blob.stat().st_mode & 0o777 == 0o440
    for folder in (blob.parent, blob.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o750
        assert (folder.stat().st_uid, folder.stat().st_gid) == (place.site.stat().st_uid, place.site.stat().st_gid)
    assert (blob.stat().st_uid, blob.stat().st_gid) == (place.site.stat().st_uid, place.site.stat().st_gid)


def test_added_blobs_are_durable(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    monkeypatch.setattr("zodbvault.io.durable.sync_file", lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")))
    place = Place(tmp_path, layout)
    place.back_up(A)
    place.add(A, place.target)
    blob = place.site / path_for(layout, key(1))
    assert {str(folder) for folder in blob.parents if folder.is_relative_to(place.site)} <= synced
    assert any(name.startswith(str(place.site / "tmp" / "zodbvault-")) for name in synced)


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_a_blob_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int | None
) -> None:
    """Else a blob of the right name and size may hold anything after a power cut, and nobody looks into it again."""
    events: list[str] = []
    replace = os.replace

    def sync(_: int) -> None:
        events.append("sync")
        if events.count("sync") == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def named(source: str | Path, target: str | Path) -> None:
        if str(target).endswith(".blob"):
            events.append("name")
        replace(source, target)

    state = {key(number): b"x" * number for number in range(1, 4)}
    place = Place(tmp_path, "bushy", {})
    place.back_up(state)
    monkeypatch.setattr("zodbvault.io.durable.SYNCED_ONE_BY_ONE", 0)
    monkeypatch.setattr("zodbvault.io.durable._syncfs_for", lambda _: sync)
    monkeypatch.setattr("zodbvault.blobs.target._PLACED_AT_ONCE", 2)
    monkeypatch.setattr(os, "replace", named)
    with place.target as target, place.plan(state, target) as plan:
        if fails_at is None:
            add_blobs(plan, place.pool, target)
        else:
            with pytest.raises(ZodbvaultError) as error:
                add_blobs(plan, place.pool, target)
            what = "the blob storage cannot be brought to the disk: Input/output error"
            assert str(error.value) == f"{place.site}: {what}"
    expected = ["sync", "name", "name", "sync", "name", "sync"]
    assert events == {None: expected, 1: expected[:1], 2: expected[:4], 3: expected}[fails_at]
    assert files_below(place.site / "tmp") == set()


def test_a_name_that_cannot_be_given_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    with place.target as target, place.plan(A, target) as plan:
        target.prepare()
        monkeypatch.setattr(os, "replace", refusing(errno.EDQUOT))
        with pytest.raises(ZodbvaultError) as error:
            add_blobs(plan, place.pool, target)
    path = place.site / bushy_path(key(1))
    assert str(error.value) == f"{path}: the blob cannot be put in place: {os.strerror(errno.EDQUOT)}"


def test_a_full_disk_is_told_and_leaves_the_site_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, "bushy", B)
    place.back_up(A)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zodbvault.io.durable.WholeFile.write", no_space)
    with place.target as target, pytest.raises(ZodbvaultError, match="No space left"):
        place.add(A, target)
    assert files_below(place.site) == {".layout", bushy_path(key(2))}


def test_missing_is_what_neither_state_nor_target_has(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A)
    place.back_up({key(0): b"", key(3): b"", key(9): b""})
    referenced = [key(1), key(2), key(3), key(4)]
    with place.target as target:
        assert place.plan({key(0): b"", key(3): b"", key(9): b""}, target).count_missing(referenced) == 2
        assert place.plan({}, target).count_missing(referenced) == 3
        assert place.plan({key(3): b""}, target).count_missing([]) == 0
    with open_target(tmp_path / "none", layout) as target:
        assert place.plan({}, target).count_missing(referenced) == 4


LACKING = {key(number): b"x" * number for number in (3, 5, 6, 7, 9)}


def a_pool_that_lacks_blobs(tmp_path: Path, layout: Layout) -> tuple[Place, Blobs]:
    """With the state: of five blobs the pool has two in another size; the site has one of these, and one it lacks."""
    place = Place(tmp_path, layout, {key(1): b"1", key(6): b"?", key(7): b"?"})
    state = {key(number): b"x" * number for number in range(1, 11)}
    place.back_up({k: b"" if k in (key(7), key(9)) else content for k, content in state.items() if k != key(1)})
    for number in (3, 5, 6):
        (place.pool.folder / bushy_path(key(number))).unlink()
    return place, state


def test_what_the_pool_lacks_is_left_out_where_that_is_accepted(tmp_path: Path, layout: Layout) -> None:
    place, state = a_pool_that_lacks_blobs(tmp_path, layout)
    wanted = {k: content for k, content in state.items() if k not in LACKING and k != key(1)}
    with no_descriptor_left(), place.target as target:
        with place.plan(state, target, accept_missing=True) as plan:
            assert (plan.blobs, plan.bytes) == (4, sum(map(len, wanted.values())))
            assert plan.left_out.number == 5
            assert plan.left_out.examples == [place.pool.path_of(key(number)) for number in (3, 5, 6)]
            # What the site has stays, in whatever size.
            assert list(plan.absent) == [key(3), key(5), key(9)]
            assert plan.count_missing(sorted(state)) == 3
            assert plan.count_missing(sorted(state), [key(2), key(5)]) == 2
            outcome = add_blobs(plan, place.pool, target)
            assert (outcome.added, outcome.replaced, outcome.bytes) == (4, 0, plan.bytes)
            assert outcome.left_out.number == 0
            assert remove_blobs(plan, [], [], target) == 0
        assert list(plan.absent) == []
    assert place.there() == wanted | {key(1): b"1", key(6): b"?", key(7): b"?"}


def test_what_is_lacking_is_told_where_it_is_not_accepted(tmp_path: Path) -> None:
    place, state = a_pool_that_lacks_blobs(tmp_path, "bushy")
    before = files_below(place.site)
    with no_descriptor_left(), place.target as target, pytest.raises(DamagedBlob) as error:
        place.plan(state, target)
    examples = ", ".join(place.pool.path_of(key(number)) for number in (3, 5, 6))
    what = f"lacks 5 of the blobs that are needed, or has them in another size: {examples}"
    assert str(error.value) == (
        f"{place.pool.folder}: {what}. The database was not changed. Another date may be whole, a full backup mends "
        "the pool, and --accept-missing-blobs restores without what the backup cannot give"
    )
    assert files_below(place.site) == before


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_what_turns_out_to_be_damaged_is_left_out_where_that_is_accepted(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zodbvault.blobs.target")
    state = {key(number): b"x" * number for number in range(1, 8)}
    damaged = [key(number) for number in (2, 3, 5, 7)]
    place = Place(tmp_path, "bushy", {key(3): b"?", key(4): b"?"})
    place.back_up(state)
    told: list[int] = []
    with no_descriptor_left(), place.target as target, place.plan(state, target, accept_missing=True) as plan:
        for each in damaged:
            (place.pool.folder / bushy_path(each)).unlink()
        if damage == "flipped":
            place.back_up({each: b"y" * each[7] for each in damaged})
        outcome = add_blobs(plan, place.pool, target, told.append, accept_missing=True)
        assert (outcome.added, outcome.replaced, outcome.bytes) == (2, 1, 1 + 4 + 6)
        assert outcome.left_out.number == 4
        assert outcome.left_out.examples == [place.pool.path_of(each) for each in damaged[:3]]
        assert told[-1] == plan.bytes == sum(range(1, 8))
        for each in damaged:
            (said,) = [text for text in caplog.messages if place.pool.path_of(each) in text]
            assert said.startswith(f"{place.pool.path_of(each)}: is {'damaged' if damage == 'flipped' else 'missing'}")
        finish_replacements(plan, target)
    assert place.there() == {k: state[k] for k in (key(1), key(4), key(6))} | {key(3): b"?"}
    assert files_below(place.site / "tmp") == set()


def test_an_attempt_goes_on_where_the_one_before_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zodbvault.blobs.target._PLACED_AT_ONCE", 1)
    monkeypatch.setattr("zodbvault.blobs.containers._READ_AT_ONCE", 1)
    monkeypatch.setattr("zodbvault.blobs.ahead._SLOW", 1000)
    state = {key(number): b"x" * number for number in range(1, 5)}
    place = Place(tmp_path, "bushy", {key(1): b"??"})
    place.back_up(state | {key(3): b"yyy"})
    outcome = AddOutcome()
    with place.target as target, place.plan(state, target) as plan:
        with pytest.raises(DamagedBlob, match="is damaged"):
            add_blobs(plan, place.pool, target, outcome=outcome)
        assert (outcome.added, outcome.replaced, outcome.bytes) == (1, 1, 3)
    (place.pool.folder / bushy_path(key(3))).unlink()
    place.back_up({key(3): b"xxx"})
    with place.target as target, place.plan(state, target) as plan:
        assert add_blobs(plan, place.pool, target, outcome=outcome) is outcome
        assert (outcome.added, outcome.replaced, outcome.bytes) == (3, 1, 10)
        remove_blobs(plan, [], [], target)
    assert place.there() == state


def refusing(number: int) -> Callable[..., int]:
    """A call of the system that answers with an error, and names no file."""

    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM])
def test_a_blob_of_the_backup_that_cannot_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    with no_descriptor_left(), place.target as target, place.plan(A, target) as plan:
        monkeypatch.setattr(os, "pread", refusing(number))
        with pytest.raises(DamagedBlob) as error:
            add_blobs(plan, place.pool, target)
        assert error.value.path == place.pool.path_of(key(1))
        assert error.value.what == f"cannot be read: {os.strerror(number)}"
        assert "--accept-missing-blobs" in (error.value.hint or "")
        outcome = add_blobs(plan, place.pool, target, accept_missing=True)
        assert (outcome.added, outcome.left_out.number) == (0, 1)
    assert place.there() == {}


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EACCES, True), (errno.EMFILE, False)])
def test_a_blob_of_the_backup_that_cannot_be_opened_is_damaged_where_it_is_that_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_damage: bool
) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    path, real = place.pool.path_of(key(1)), os.open

    def opened(name: str | Path, *arguments: int) -> int:
        if name == path:
            raise OSError(number, os.strerror(number))
        return real(name, *arguments)

    with no_descriptor_left(), place.target as target, place.plan(A, target) as plan:
        monkeypatch.setattr(os, "open", opened)
        with pytest.raises(ZodbvaultError) as error:
            add_blobs(plan, place.pool, target)
        assert (type(error.value) is DamagedBlob) == is_damage
        assert (error.value.what, error.value.path) == (f"the blob cannot be opened: {os.strerror(number)}", path)
        assert ("--accept-missing-blobs" in (error.value.hint or "")) == is_damage


def test_a_damaged_blob_is_told_with_what_was_backed_up_and_what_to_do(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    path = place.pool.path_of(key(1))
    sha256 = hashlib.sha256(b"first, and more").hexdigest()

    def refused(known: str) -> ZodbvaultError:
        place.back_up(A)
        wanted = [Entry(key(1), 5, known)]
        with place.target as target, plan_restore(wanted, place.pool, target, place.location) as plan:
            place.back_up({key(1): b"first, and more"})
            with pytest.raises(DamagedBlob) as error:
                add_blobs(plan, place.pool, target)
        assert error.value.path == path
        assert "--accept-missing-blobs" in (error.value.hint or "")
        return error.value

    found = f"is damaged: it holds 15 bytes with sha256 {sha256}, backed up were 5 bytes with "
    assert refused("").what == f"{found}another content"
    assert refused("0" * 64).what == found + "0" * 64
    place.back_up(A)
    with place.target as target, place.plan(A, target) as plan:
        Path(path).unlink()
        with pytest.raises(DamagedBlob, match=r"is missing from the pool of blobs.*--accept-missing-blobs"):
            add_blobs(plan, place.pool, target)


def test_unless_told_otherwise_sizes_are_compared_and_nothing_is_left_out(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", {key(1): b"FIRST"})
    with place.target as target:
        with plan_restore(entries(A), place.pool, target, place.location) as plan:
            assert plan.blobs == 0
        with pytest.raises(DamagedBlob):
            plan_restore(entries(B), place.pool, target, place.location)


@pytest.mark.parametrize(
    ("call", "number"), [("os.pread", errno.ENOMEM), ("zodbvault.io.durable.QuietFile.write", errno.EIO)]
)
def test_what_is_wrong_with_the_sites_disk_or_the_machine_is_no_damage_of_a_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Else all blobs would be left out, where that is accepted."""
    place = Place(tmp_path, "bushy", {})
    place.back_up(A)
    with no_descriptor_left(), place.target as target, place.plan(A, target) as plan:
        monkeypatch.setattr(call, refusing(number))
        with pytest.raises(ZodbvaultError) as error:
            add_blobs(plan, place.pool, target, accept_missing=True)
        assert not isinstance(error.value, DamagedBlob)
        assert error.value.path == place.pool.path_of(key(1))
        what = f"the blob cannot be copied to {target.path_of(key(1))}: {os.strerror(number)}"
        assert error.value.what == what
    assert files_below(place.site) == {".layout"}


def test_nothing_to_remove_where_nothing_is(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.target as target:
        assert place.remove({}, [], [], target) == 0
        finish_replacements(place.plan({}, target), target)
    assert not place.site.exists()


def test_what_came_after_the_comparison_is_not_removed(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A | B)
    with place.target as target, place.plan(A, target) as plan:
        put(place.site, layout, C)
        assert remove_blobs(plan, [], [], target) == 1
    assert place.there() == A | C


def aside(place: Place, layout: Layout, *keys: bytes) -> list[Path]:
    """Damaged blobs that a killed restore has set aside."""
    files = [place.site / f"{path_for(layout, each)}.replaced" for each in keys]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"damaged")
    return files


def test_where_none_is_removed_only_what_a_good_one_has_replaced_goes(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A | B | C)
    left = aside(place, layout, key(1), key(7), key(300, 5))
    with place.target as target, place.plan(A, target) as plan:
        assert (list(plan.left_over), plan.strange) == ([key(1), key(7), key(300, 5)], 0)
        finish_replacements(plan, target)
    # The second one has no good one beside it: the restore was killed before that came.
    assert [file.exists() for file in left] == [False, True, False]
    assert place.there() == A | B | C


def test_what_was_set_aside_goes_without_a_removal_too(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", {key(1): b"?", key(2): b"?"})
    place.back_up(A | B)
    with place.target as target, place.plan(A | B, target) as plan:
        add_blobs(plan, place.pool, target)
        # Somebody was quicker with the first one.
        (place.site / f"{bushy_path(key(1))}.replaced").unlink()
        finish_replacements(plan, target)
    assert files_below(place.site) == {".layout", bushy_path(key(1)), bushy_path(key(2))}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    place = Place(tmp_path, "bushy", A)
    (left,) = aside(place, "bushy", key(1))
    path = place.site / bushy_path(key(1))
    with place.target as target, place.plan(A, target) as kept, place.plan({}, target) as plan:
        monkeypatch.setattr(os, "unlink", refusing(number))
        with pytest.raises(ZodbvaultError) as error:
            finish_replacements(kept, target)
        what = f"a damaged blob that was replaced cannot be removed: {os.strerror(number)}"
        assert str(error.value) == f"{left}: {what}"
        with pytest.raises(ZodbvaultError) as error:
            remove_blobs(plan, [], [], target)
        assert str(error.value) == f"{path}: the blob cannot be removed: {os.strerror(number)}"


@pytest.mark.parametrize("set_aside", [[], [key(7)]])
def test_the_last_blob_leaves_the_blobstorage_there(tmp_path: Path, layout: Layout, set_aside: list[bytes]) -> None:
    place = Place(tmp_path, layout, A)
    (place.site / "tmp").rmdir()
    aside(place, layout, *set_aside)
    with place.target as target, place.plan({}, target) as plan:
        (place.site / ".layout").unlink()
        assert remove_blobs(plan, [], [], target) == 1
    assert list(place.site.iterdir()) == []


def test_temporary_lists_stand_in_the_folder_for_them(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, state = a_pool_that_lacks_blobs(tmp_path, layout)
    seen: set[Path] = set()
    real = SortedRecords.__init__

    def noted(self: SortedRecords, length: int, folder: Path, **keywords: int) -> None:
        seen.add(folder)
        real(self, length, folder, **keywords)

    monkeypatch.setattr(SortedRecords, "__init__", noted)
    with place.target as target:
        assert seen == {place.site / "tmp"}
        seen.clear()
        place.plan(state, target, accept_missing=True).close()
        plan_restore(entries(A), place.pool, target, place.location / "not there", accept_missing=True).close()
    assert seen == {place.location}


def test_what_has_gone_meanwhile_is_no_reason_to_keep_the_rest(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A | B | C)
    with place.target as target, place.plan({}, target) as plan:
        (place.site / path_for(layout, key(1))).unlink()
        assert remove_blobs(plan, [], [], target) == 2
    assert place.there() == {}
    assert place.site.is_dir()


def test_a_link_in_the_place_of_what_was_set_aside_is_none(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", A | B)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    left = place.site / f"{bushy_path(key(1))}.replaced"
    left.symlink_to(elsewhere)
    with place.target as target:
        with place.plan(A, target) as plan:
            assert (list(plan.left_over), plan.strange, plan.strange_example) == ([], 1, str(left))
        # A folder that became a link meanwhile is not gone through.
        left.unlink()
        (left,) = aside(place, "bushy", key(1))
        with place.plan(A | B, target) as plan:
            left.parent.rename(tmp_path / "moved")
            left.parent.symlink_to(tmp_path / "moved")
            with pytest.raises(ZodbvaultError, match="stands where a folder of blobs should be"):
                remove_blobs(plan, [], [], target)
    assert (tmp_path / "moved" / left.name).exists()


def test_a_blob_of_the_site_that_cannot_be_read_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path, "bushy", A)
    place.back_up(A)
    path = place.site / bushy_path(key(1))
    with no_descriptor_left(), place.target as target:
        monkeypatch.setattr(os, "pread", refusing(errno.EIO))
        with place.plan(A, target, checksum=True) as plan:
            assert plan.blobs == 1
        assert caplog.messages == [f"{path}: cannot be read: Input/output error"]


def test_a_blob_of_the_site_that_vanishes_while_it_is_looked_at_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, "bushy", A)
    place.back_up(A)
    path, real = str(place.site / bushy_path(key(1))), os.open

    def opened(name: str | Path, *arguments: int) -> int:
        if name == path:
            os.unlink(path)
        return real(name, *arguments)

    with place.target as target:
        monkeypatch.setattr(os, "open", opened)
        with place.plan(A, target, checksum=True) as plan:
            assert plan.blobs == 1


@pytest.mark.parametrize("mode", [0o750, 0o711])
def test_folders_and_marker_are_made_as_the_folder_around_them(tmp_path: Path, mode: int) -> None:
    around = tmp_path / "site"
    around.mkdir()
    around.chmod(mode)
    place = Place(tmp_path)
    place.site = around / "blobstorage"
    place.back_up(A)
    place.add(A, place.target)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place.site, *place.site.rglob("*"))}
    assert modes.pop(".layout") == mode & 0o666
    assert modes.pop(os.path.basename(bushy_path(key(1)))) == mode & 0o444
    assert set(modes.values()) == {mode}


def test_half_a_marker_that_a_killed_restore_left_goes(tmp_path: Path) -> None:
    place = Place(tmp_path, "bushy", A)
    (place.site / ".layout.part").write_text("bus")
    place.restore(A)
    assert files_below(place.site) == {".layout", bushy_path(key(1))}


def test_a_blob_of_the_site_that_cannot_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, "bushy", A)
    path = place.target.path_of(key(1))
    with place.target as target:
        refuse_to_look_at(path, monkeypatch)
        with pytest.raises(ZodbvaultError) as error:
            target.status_of(key(1))
    assert str(error.value) == f"{path}: the site's blob cannot be read: Input/output error"
    folder = os.path.dirname(path)
    with place.target as target:
        refuse_to_look_at(folder, monkeypatch)
        with pytest.raises(ZodbvaultError) as error:
            target.status_of(key(1))
    assert str(error.value) == f"{folder}: cannot be looked at: Input/output error"


def test_a_blobstorage_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    with place.target as target:
        monkeypatch.setattr(os, "mkdir", refusing(errno.EROFS))
        with pytest.raises(ZodbvaultError) as error:
            target.prepare()
    assert str(error.value) == f"{place.site}: the blob storage cannot be written: {os.strerror(errno.EROFS)}"


def test_a_folder_that_became_a_symlink_is_not_removed_from(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A | B)
    folder = (place.site / path_for(layout, key(2))).parent
    with place.target as target, place.plan(A, target) as plan:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
        with pytest.raises(ZodbvaultError, match="real folders"):
            remove_blobs(plan, [], [], target)
    assert len(files_below(tmp_path / "moved")) == 1


@pytest.fixture(params=["quick", "slow"])
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the work is found to be slow, so that most of it goes to threads."""
    monkeypatch.setattr("zodbvault.blobs.ahead._SLOW", -1 if request.param == "slow" else 1000)


@pytest.mark.usefixtures("speed")
def test_many_blobs_on_several_threads(tmp_path: Path, layout: Layout) -> None:
    many = {key(number // 2, number): b"%d" % number for number in range(1, 700)}
    wrong = dict.fromkeys(list(many)[::70], b"other content")
    place = Place(tmp_path, layout, {k: content for k, content in many.items() if k[-1] % 3} | wrong | C)
    place.back_up(many)
    with no_descriptor_left():
        assert place.restore(many) == 1
    assert place.there() == many
    assert files_below(place.site) == {".layout", *(path_for(layout, k) for k in many)}


@pytest.mark.usefixtures("speed")
@pytest.mark.parametrize("damaged", [20, 390])
def test_damage_among_many_leaves_no_temporary_file(tmp_path: Path, damaged: int) -> None:
    """Nor an open file: behind many blobs one is kept, by which all are synced at once."""
    many = {key(number): b"%03d" % number for number in range(1, 400)}
    place = Place(tmp_path, "bushy", {})
    place.back_up(many | {key(damaged): b"???"})
    with no_descriptor_left(), place.target as target, pytest.raises(DamagedBlob, match="is damaged"):
        place.add(many, target)
    assert files_below(place.site / "tmp") == set()
    assert all(many[k] == content for k, content in place.there().items())


CONTENT = {key(number): b"content of %d" % number * number for number in range(7)}
KEYS = st.frozensets(st.sampled_from(sorted(CONTENT)))


class Killed(Exception):
    pass


@given(state=KEYS, site=KEYS, short=KEYS, kept=KEYS, lawn=st.booleans(), kill_after=st.integers(0, 30))
@settings(deadline=None, max_examples=150)
def test_a_restore_that_is_killed_anywhere_is_finished_by_the_next_one(
    tmp_path_factory: pytest.TempPathFactory,
    state: frozenset[bytes],
    site: frozenset[bytes],
    short: frozenset[bytes],
    kept: frozenset[bytes],
    lawn: bool,
    kill_after: int,
) -> None:
    place = Place(
        tmp_path_factory.mktemp("place"),
        "lawn" if lawn else "bushy",
        {k: CONTENT[k] for k in site} | dict.fromkeys(short & site, b"short"),
    )
    wanted = {k: CONTENT[k] for k in state}
    place.back_up(wanted)
    healthy = set(site - short)

    steps = 0
    patch = pytest.MonkeyPatch()

    def counted(really: object) -> object:
        def step(*args: object, **kw: object) -> object:
            nonlocal steps
            steps += 1
            if steps > kill_after:
                raise Killed
            return really(*args, **kw)  # type: ignore[operator]

        return step

    def restore(whole_before_the_swap: frozenset[bytes] | set[bytes]) -> None:
        with place.target as target, place.plan(wanted, target) as plan:
            add_blobs(plan, place.pool, target)
            during = place.there()
            assert all(during[k] == CONTENT[k] for k in whole_before_the_swap)
            remove_blobs(plan, sorted(kept), [], target)

    for name in ("replace", "link", "unlink", "mkdir", "rmdir", "rename"):
        patch.setattr(os, name, counted(getattr(os, name)))
    try:
        restore(healthy | state)
    except Killed:
        pass
    finally:
        patch.undo()
    there = place.there()
    assert all(there.get(k) == CONTENT[k] for k in healthy & state)
    restore(state)
    expected = state | (kept & site)
    assert set(place.there()) == expected
    assert all(place.there()[k] == CONTENT[k] for k in state)
    assert files_below(place.site) == {".layout", *(path_for(place.layout, k) for k in expected)}


def test_the_paths_follow_the_targets_layout_not_the_pools(tmp_path: Path) -> None:
    place = Place(tmp_path, "lawn", A)
    place.back_up(A | C)
    place.restore(A | C)
    assert (place.site / lawn_path(key(300, 5))).read_bytes() == C[key(300, 5)]
    assert place.pool.size_of(key(300, 5)) == 1_500_000
    assert entry(key(300, 5), C[key(300, 5)]).size == 1_500_000
