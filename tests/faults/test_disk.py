"""The rules of what a disk may hold after the power was cut, one by one (docs/power-loss.rst tells them in words)."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.disk import Content, Disk, Entry, Tree, key_of, read_tree, write_tree
from tests.faults.recording import Call

if TYPE_CHECKING:
    from pathlib import Path

State = frozenset[tuple[str, bytes]]
"""Files by path, with their content."""

OLD = Content(b"old", 0o644, 0)
EMPTY: Tree = {"/a": Entry(1), "/b": Entry(2)}


def create(path: str, data: bytes) -> list[Call]:
    return [
        Call("open", path, creates=True, may_write=True, mode=0o644),
        Call("write", path, data=data),
    ]


def after(calls: list[Call], before: Tree = EMPTY) -> Disk:
    """A disk after these calls, each of which began when the one before had ended."""
    disk = Disk(before)
    for number, call in enumerate(calls):
        disk.apply(number, call._replace(begun=number))
    return disk


def possible(disk: Disk) -> set[State]:
    """The states that a cut may leave."""
    trees = [disk.tree_after(cut) for cut in disk.cuts(random.Random(1))]
    return {
        frozenset((path, entry.content.data) for path, entry in tree.items() if entry.content is not None)
        for tree in trees
    }


def names(states: set[State]) -> set[frozenset[str]]:
    return {frozenset(path for path, _ in state) for state in states}


def state(**files: bytes) -> State:
    """Files in /a."""
    return frozenset((f"/a/{name}", data) for name, data in files.items())


def test_a_new_file_may_be_gone_empty_cut_short_zeros_or_whole() -> None:
    assert possible(after(create("/a/x", b"data"))) == {
        state(),
        state(x=b""),
        state(x=b"da"),
        state(x=bytes(4)),
        state(x=b"data"),
    }


def test_a_synced_file_may_be_without_its_name() -> None:
    assert possible(after([*create("/a/x", b"data"), Call("sync", "/a/x")])) == {state(), state(x=b"data")}


def test_a_name_may_be_there_without_its_content() -> None:
    states = possible(after([*create("/a/x", b"data"), Call("sync", "/a")]))
    assert states == {state(x=b""), state(x=b"da"), state(x=bytes(4)), state(x=b"data")}


def test_file_and_folder_synced_is_durable() -> None:
    disk = after([*create("/a/x", b"data"), Call("sync", "/a/x"), Call("sync", "/a")])
    assert possible(disk) == {state(x=b"data")}


def test_what_is_written_after_the_sync_is_not_covered() -> None:
    calls = [*create("/a/x", b"data"), Call("sync", "/a"), Call("sync", "/a/x"), Call("write", "/a/x", data=b"DATA")]
    assert possible(after(calls)) == {state(x=b"data"), state(x=b"DA"), state(x=bytes(4)), state(x=b"DATA")}


def test_a_rename_shows_the_old_file_or_the_new_one() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    calls = [*create("/a/x.part", b"new"), Call("sync", "/a/x.part"), Call("rename", "/a/x.part", "/a/x")]
    assert possible(after(calls, before)) == {
        state(x=b"old"),
        frozenset({("/a/x", b"old"), ("/a/x.part", b"new")}),
        state(x=b"new"),
    }
    assert possible(after([*calls, Call("sync", "/a")], before)) == {state(x=b"new")}


def test_a_rename_without_a_sync_of_the_content_may_show_an_empty_file() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    calls = [*create("/a/x.part", b"new"), Call("rename", "/a/x.part", "/a/x"), Call("sync", "/a")]
    assert possible(after(calls, before)) == {state(x=b""), state(x=b"n"), state(x=bytes(3)), state(x=b"new")}


def test_names_of_a_folder_persist_in_any_combination() -> None:
    calls = [Call("link", "/a/x", f"/a/{name}") for name in "123"] + [Call("unlink", "/a/x")]
    states = names(possible(after(calls, {**EMPTY, "/a/x": Entry(3, OLD)})))
    every = [frozenset(f"/a/{name}" for number, name in enumerate("123x") if bits >> number & 1) for bits in range(16)]
    assert states == set(every)


def test_a_rename_between_folders_is_a_change_in_each() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    rename = Call("rename", "/a/x", "/b/y")
    both = {frozenset({"/a/x"}), frozenset({"/b/y"}), frozenset({"/a/x", "/b/y"}), frozenset()}
    assert names(possible(after([rename], before))) == both
    assert names(possible(after([rename, Call("sync", "/b")], before))) == {
        frozenset({"/b/y"}),
        frozenset({"/a/x", "/b/y"}),
    }


def test_a_new_folder_may_be_gone_with_all_that_was_synced_in_it() -> None:
    calls = [
        Call("mkdir", "/a/f", mode=0o755),
        *create("/a/f/x", b"data"),
        Call("sync", "/a/f/x"),
        Call("sync", "/a/f"),
    ]
    assert possible(after(calls)) == {frozenset(), frozenset({("/a/f/x", b"data")})}
    assert possible(after([*calls, Call("sync", "/a")])) == {frozenset({("/a/f/x", b"data")})}


def test_a_removed_file_may_come_back_whole() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    assert possible(after([Call("unlink", "/a/x")], before)) == {state(x=b"old"), state()}
    assert possible(after([Call("unlink", "/a/x"), Call("sync", "/a")], before)) == {state()}


def test_syncfs_covers_all_that_was_done_before() -> None:
    calls = [*create("/a/x", b"data"), Call("rename", "/a/x", "/b/x"), Call("sync_all", ""), *create("/a/y", b"")]
    assert names(possible(after(calls))) == {frozenset({"/b/x"}), frozenset({"/a/y", "/b/x"})}


def test_a_sync_does_not_cover_what_another_thread_does_meanwhile() -> None:
    disk = Disk(EMPTY)
    calls = [*create("/a/x", b"data"), Call("sync", "/a/x", begun=1), Call("sync", "/a", begun=0)]
    for number, call in enumerate(calls):
        disk.apply(number, call)
    assert possible(disk) == {state(), state(x=b""), state(x=b"da"), state(x=bytes(4)), state(x=b"data")}


def test_a_change_of_mode_or_time_does_not_touch_the_content() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    disk = after([Call("chmod", "/a/x", mode=0o400), Call("utime", "/a/x", time=7)], before)
    assert possible(disk) == {state(x=b"old")}
    contents = {disk.tree_after(cut)["/a/x"].content for cut in disk.cuts(random.Random(1))}
    assert contents == {OLD, Content(b"old", 0o400, 7)}


def test_hard_links_are_one_file() -> None:
    before = {**EMPTY, "/a/x": Entry(3, OLD)}
    calls = [Call("link", "/a/x", "/b/x"), Call("write", "/b/x", data=b"n", offset=-1), Call("sync", "/b")]
    assert {dict(each)["/a/x"] for each in possible(after(calls, before))} == {b"old", b"ol", bytes(4), b"oldn"}
    assert all(dict(each)["/a/x"] == dict(each)["/b/x"] for each in possible(after(calls, before)))


def test_what_is_written_lands_where_it_was_written() -> None:
    calls = [
        *create("/a/x", b"0123456789"),
        Call("write", "/a/x", data=b"ab", offset=3),
        Call("write", "/a/x", data=b"z", offset=-1),
        Call("truncate", "/a/x", size=12),
        *create("/a/y", b""),
        Call("copy", "/a/y", "/a/x", offset=2, from_offset=3, size=2),
        Call("open", "/a/x", truncates=True),
        Call("symlink", "/a/f", "../b"),
        *create("/a/f/z", b"through a link"),
    ]
    tree = after(calls).tree()
    assert {path: entry.content.data for path, entry in tree.items() if entry.content is not None} == {
        "/a/x": b"",
        "/a/y": b"\0\0ab",
        "/b/z": b"through a link",
    }


def test_many_changes_are_tried_one_by_one_and_by_chance() -> None:
    calls = [Call("link", "/a/x", f"/a/{number}") for number in range(20)]
    disk = after(calls, {**EMPTY, "/a/x": Entry(3, OLD)})
    kept = [len(each) - 1 for each in names(possible(disk))]
    assert set(range(21)) <= set(kept)
    assert kept.count(1) == kept.count(19) == 20
    assert 60 < len(kept) < 100


def test_a_tree_becomes_a_real_folder_and_back(tmp_path: Path) -> None:
    top = str(tmp_path / "top")
    os.mkdir(top)
    write_tree({f"{top}/old": Entry(1, OLD), f"{top}/f": Entry(2), f"{top}/f/gone": Entry(3, OLD)}, tmp_path / "top")
    inode = os.stat(f"{top}/old").st_ino
    tree: Tree = {
        f"{top}/old": Entry(1, OLD),
        f"{top}/f": Entry(2, mode=0o750, time=10**18),
        f"{top}/f/one": Entry(3, Content(b"1", 0o400, 10**18 + 5)),
        f"{top}/f/two": Entry(3, Content(b"1", 0o400, 10**18 + 5)),
        f"{top}/latest": Entry(4, leads_to="f"),
    }
    write_tree(tree, tmp_path / "top")
    assert os.stat(f"{top}/old").st_ino == inode
    assert os.path.samefile(f"{top}/f/one", f"{top}/f/two")
    assert os.stat(f"{top}/f/one").st_mtime_ns == 10**18 + 5
    found = {path: entry for path, entry in read_tree(tmp_path / "top").items() if path.startswith(top + "/")}
    assert key_of(found) == key_of(tree)


@pytest.mark.parametrize("change", [Entry(1, Content(b"x", 0o644, 0)), Entry(1, OLD._replace(mode=0o600)), Entry(1)])
def test_a_key_tells_trees_apart(change: Entry) -> None:
    assert key_of({"/a": Entry(1, OLD)}) != key_of({"/a": change})
    assert key_of({"/a.lock": Entry(1, OLD)}) == key_of({"/a.lock": Entry(1, Content(b"pid", 0o644, 0))})
