from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blobs.sites import Blobs, blobs_in, entries, entry, files_below, key, put
from tests.leaks import no_descriptor_left
from zodbvault.blobs.layouts import bushy_path, lawn_path, path_for
from zodbvault.blobs.pool import Pool
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
    from collections.abc import Iterable

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

    def plan(self, state: Blobs, target: Target, *, checksum: bool = False) -> RestorePlan:
        return plan_restore(entries(state), self.pool, target, self.location, checksum=checksum)

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


def test_a_symlink_among_later_folders_is_refused_too(tmp_path: Path) -> None:
    later = {key(0x0100 + 1): b"x", key((1 << 56) + 1): b"y"}
    for k in later:
        place = Place(tmp_path / k.hex(), "bushy", A)
        place.back_up(A | later)
        outside = tmp_path / k.hex() / "outside"
        outside.mkdir()
        # The last folder has the name of one that was found to be real a moment before.
        link = place.site / Path(bushy_path(k)).parent
        link.parent.mkdir(parents=True)
        link.symlink_to(outside)
        with place.target as target, pytest.raises(ZodbvaultError, match="real folders"):
            place.add(A | {k: later[k]}, target)
        assert files_below(outside) == set()


def test_a_symlink_in_the_place_of_a_blob_is_refused(tmp_path: Path, layout: Layout) -> None:
    place = Place(tmp_path, layout, A)
    place.back_up(A)
    path = place.site / path_for(layout, key(1))
    path.unlink()
    (tmp_path / "secret").write_bytes(b"first")
    path.symlink_to(tmp_path / "secret")
    with place.target as target, pytest.raises(ZodbvaultError, match="no regular file"):
        place.add(A, target)
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
    for file in strangers:
        file.write_text("not ours")
    with place.target as target:
        assert place.remove({}, [], [], target) == 2
    assert all(file.exists() for file in strangers)
    assert "left 3 files" in caplog.text


def test_a_filled_target_keeps_its_layout_and_an_empty_one_takes_the_sources(tmp_path: Path) -> None:
    full = put(tmp_path / "full", "lawn", A)
    with open_target(full, "bushy") as target:
        assert (target.layout, target.is_filled) == ("lawn", True)
        target.prepare()
    assert (full / ".layout").read_text() == "lawn"
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
    with pytest.raises(ZodbvaultError, match=r"server|not a folder"):
        open_target(tmp_path / "blobs", "bushy")


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
def test_damage_among_many_leaves_no_temporary_file(tmp_path: Path) -> None:
    many = {key(number): b"%d" % number for number in range(1, 400)}
    place = Place(tmp_path, "bushy", {})
    place.back_up(many | {key(20): b"??"})
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
