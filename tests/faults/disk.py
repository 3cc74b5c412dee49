"""What a disk may hold after the power was cut: the rules of docs/power-loss.rst, on plain data.

A `Disk` is told of a command's calls, one after the other. It knows what is durable and what is only in memory, and
gives the states that a cut may leave: any choice of the changes of names that no sync covers, each file that no sync
covers as it was, as it is, cut short, or full of zeros. Knows nothing of databases and backups, and touches no disk.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from tests.faults.recording import Call

OLD, NEW, HALF, ZEROS = "old", "new", "half", "zeros"
CONTENTS = (NEW, OLD, HALF, ZEROS)
"""What an unsynced file may hold: all of it, what was durable, the first half, zeros in the full length."""

ALL_SUBSETS = 4
"""So many changes of names in memory, at most, are tried in all combinations."""


class Content(NamedTuple):
    """Of a file. time: nanoseconds since 1970."""

    data: bytes
    mode: int
    time: int


class Entry(NamedTuple):
    """What stands at a path: a file (content), a symlink (leads_to) or a folder. node: hard links share it."""

    node: int
    content: Content | None = None
    leads_to: str | None = None
    mode: int = 0o755
    time: int = 0


Tree = dict[str, Entry]
"""All that is on a disk, by path; folders come before what is in them."""


@dataclass
class _File:
    durable: Content
    current: Content
    changed: int = -1
    """Number of the last call that changed it."""

    @property
    def is_synced(self) -> bool:
        return self.durable == self.current

    def as_it_may_be(self, which: str) -> Content:
        data, mode, time = self.current
        if which in (HALF, ZEROS) and data == self.durable.data:
            return self.current  # only its mode or its time was changed
        if which == HALF:
            return Content(_half(data), mode, time)
        if which == ZEROS:
            return Content(_zeros(len(data)), mode, time)
        return self.durable if which == OLD else self.current


@functools.lru_cache(maxsize=256)
def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@functools.lru_cache(maxsize=256)
def _zeros(length: int) -> bytes:
    return bytes(length)


@functools.lru_cache(maxsize=1024)
def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class _Folder:
    mode: int
    time: int = 0
    durable: dict[str, int] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Symlink:
    leads_to: str


class Change(NamedTuple):
    """A change of names in one folder that is only in memory; `added` then stands for `node`. None: no such name.

    A rename within a folder is one change, and replaces what stood at `added` in the same instant. One between two
    folders is a change in each.
    """

    number: int
    folder: int
    removed: str | None
    added: str | None
    node: int


class Cut(NamedTuple):
    """What the disk made of what was in memory. kept: the changes that reached it. contents: of unsynced files."""

    kept: frozenset[Change]
    contents: Mapping[int, str]


class Disk:
    """A disk with folders and files, all of them durable. umask: that of the command."""

    def __init__(self, tree: Tree, umask: int = 0) -> None:
        self._bits = 0o777 & ~umask
        self._nodes: dict[int, _File | _Folder | _Symlink] = {}
        self._next = itertools.count(max((entry.node for entry in tree.values()), default=0) + 1)
        self._root = next(self._next)
        self._nodes[self._root] = _Folder(0o755)
        self.changes: list[Change] = []
        for path, entry in tree.items():
            self._place(path, entry)

    def _place(self, path: str, entry: Entry) -> None:
        if entry.node not in self._nodes:
            if entry.content is not None:
                self._nodes[entry.node] = _File(entry.content, entry.content)
            elif entry.leads_to is not None:
                self._nodes[entry.node] = _Symlink(entry.leads_to)
            else:
                self._nodes[entry.node] = _Folder(entry.mode, entry.time)
        parent, name = self._parent(path)
        folder = self._folder(parent)
        folder.durable[name] = folder.current[name] = entry.node

    # What happens

    def apply(self, number: int, call: Call) -> None:
        """The call of this number (its place in the recording) was made. Names are paths as in the tree."""
        if call.deleted or call.kind in ("say", "end"):
            return
        getattr(self, f"_{call.kind}")(number, call)

    def _open(self, number: int, call: Call) -> None:
        node = self._find(call.path)
        if node is None:
            assert call.creates, call
            nothing = Content(b"", call.mode & self._bits, 0)
            node = next(self._next)
            self._nodes[node] = _File(nothing, nothing)
            self._add(number, call.path, node)
        elif call.truncates:
            self._change_content(number, call.path, b"")

    def _write(self, number: int, call: Call) -> None:
        data = self._file(call.path).current.data
        offset = len(data) if call.offset == -1 else call.offset
        data = data.ljust(offset, b"\0")
        self._change_content(number, call.path, data[:offset] + call.data + data[offset + len(call.data) :])

    def _copy(self, number: int, call: Call) -> None:
        source = self._file(call.other).current.data
        data = source if call.size == -1 else source[call.from_offset : call.from_offset + call.size]
        assert call.size in (-1, len(data)), call
        self._write(number, call._replace(data=data))

    def _truncate(self, number: int, call: Call) -> None:
        data = self._file(call.path).current.data
        self._change_content(number, call.path, data[: call.size].ljust(call.size, b"\0"))

    def _rename(self, number: int, call: Call) -> None:
        old_parent, old = self._parent(call.path)
        new_parent, new = self._parent(call.other)
        node = self._folder(old_parent).current[old]
        if self._folder(new_parent).current.get(new) == node:
            return  # POSIX: two names of one file, nothing happens
        if old_parent == new_parent:
            self._change_names(Change(number, old_parent, old, new, node))
            return
        # A folder in two places, or in none, is what file systems protect themselves from.
        assert isinstance(self._nodes[node], _File | _Symlink), call
        self._change_names(Change(number, new_parent, None, new, node))
        self._change_names(Change(number, old_parent, old, None, node))

    def _link(self, number: int, call: Call) -> None:
        node = self._find(call.path)
        assert node is not None, call
        self._add(number, call.other, node)

    def _symlink(self, number: int, call: Call) -> None:
        node = next(self._next)
        self._nodes[node] = _Symlink(call.other)
        self._add(number, call.path, node)

    def _unlink(self, number: int, call: Call) -> None:
        parent, name = self._parent(call.path)
        self._change_names(Change(number, parent, name, None, self._folder(parent).current[name]))

    _rmdir = _unlink

    def _mkdir(self, number: int, call: Call) -> None:
        node = next(self._next)
        self._nodes[node] = _Folder(call.mode & self._bits)
        self._add(number, call.path, node)

    def _chmod(self, number: int, call: Call) -> None:
        node = self._node(call.path)
        if isinstance(node, _File):
            node.current, node.changed = node.current._replace(mode=call.mode), number
        else:
            assert isinstance(node, _Folder)
            node.mode = call.mode

    def _chown(self, number: int, call: Call) -> None:
        pass

    def _utime(self, number: int, call: Call) -> None:
        node, time = self._node(call.path), call.time or 0
        if isinstance(node, _File):
            node.current, node.changed = node.current._replace(time=time), number
        else:
            assert isinstance(node, _Folder)
            node.time = time

    def _sync(self, _: int, call: Call) -> None:
        """What began to change after the sync began is not promised."""
        node = self._find(call.path)
        assert node is not None, call
        self._make_durable(lambda each: each == node, call.begun)

    def _sync_all(self, _: int, call: Call) -> None:
        self._make_durable(lambda _: True, call.begun)

    def _make_durable(self, is_meant: object, begun: int) -> None:
        assert callable(is_meant)
        for number, node in self._nodes.items():
            if isinstance(node, _File) and is_meant(number) and node.changed < begun:
                node.durable = node.current
        done = [change for change in self.changes if is_meant(change.folder) and change.number < begun]
        for change in done:
            folder = self._folder(change.folder)
            _apply(change, folder.durable)
        self.changes = [change for change in self.changes if change not in done]

    # Names in memory

    def _parent(self, path: str) -> tuple[int, str]:
        """The folder that a path's last name is in, and the name."""
        parent, name = os.path.split(path)
        found = self._find(parent, follow=True)
        assert found is not None, f"{path}: its folder is not there"
        return found, name

    def _find(self, path: str, *, follow: bool = False) -> int | None:
        """What a path stands for, None for nothing. Symlinks on the way are followed, at its end where `follow` is."""
        node = self._root
        names = [name for name in path.split("/") if name]
        for place, name in enumerate(names):
            folder = self._nodes[node]
            if not isinstance(folder, _Folder) or name not in folder.current:
                return None
            node = folder.current[name]
            found, rest = self._nodes[node], names[place + 1 :]
            if isinstance(found, _Symlink) and (rest or follow):
                leads_to = os.path.normpath(os.path.join("/", *names[:place], found.leads_to, *rest))
                return self._find(leads_to, follow=follow)
        return node

    def _node(self, path: str) -> _File | _Folder | _Symlink:
        node = self._find(path)
        assert node is not None, f"{path}: is not there"
        return self._nodes[node]

    def _file(self, path: str) -> _File:
        node = self._node(path)
        assert isinstance(node, _File), path
        return node

    def _folder(self, node: int) -> _Folder:
        folder = self._nodes[node]
        assert isinstance(folder, _Folder)
        return folder

    def _add(self, number: int, path: str, node: int) -> None:
        parent, name = self._parent(path)
        self._change_names(Change(number, parent, None, name, node))

    def _change_names(self, change: Change) -> None:
        _apply(change, self._folder(change.folder).current)
        self.changes.append(change)

    def _change_content(self, number: int, path: str, data: bytes) -> None:
        file = self._file(path)
        file.current, file.changed = file.current._replace(data=data), number

    # What a cut leaves

    @property
    def unsynced(self) -> list[int]:
        """The files whose content is not durable, and that have or may have a name."""
        held = {node for each in self._nodes.values() if isinstance(each, _Folder) for node in each.durable.values()}
        held |= {change.node for change in self.changes}
        return [
            number
            for number, node in self._nodes.items()
            if isinstance(node, _File) and not node.is_synced and number in held
        ]

    def cuts(self, random_: random.Random, sampled: int = 6) -> Iterator[Cut]:
        """What a cut may do to what is in memory now; the extremes always, of all else `sampled` by chance.

        Kept are: the first of the changes, each number of them; each one alone; all but each one; every combination
        where they are few. Of the contents: all files alike, and each one for itself.
        """
        files = self.unsynced
        for kept in _choices(self.changes, random_, sampled):
            yield Cut(kept, dict.fromkeys(files, NEW))
            yield Cut(kept, dict.fromkeys(files, OLD))
            if files:
                yield Cut(kept, {node: random_.choice(CONTENTS) for node in files})
        everything = frozenset(self.changes)
        for which in CONTENTS:
            yield Cut(everything, dict.fromkeys(files, which))
            for node in files:
                yield Cut(everything, {**dict.fromkeys(files, NEW), node: which})

    def tree_after(self, cut: Cut) -> Tree:
        """What the disk holds then."""
        folders = {number: node.durable for number, node in self._nodes.items() if isinstance(node, _Folder)}
        for change in self.changes:
            if change in cut.kept:
                folders[change.folder] = dict(folders[change.folder])
                _apply(change, folders[change.folder])
        return self._tree(folders, cut.contents)

    def tree(self) -> Tree:
        """What a running system sees."""
        folders = {number: node.current for number, node in self._nodes.items() if isinstance(node, _Folder)}
        return self._tree(folders, {})

    def _tree(self, folders: Mapping[int, Mapping[str, int]], contents: Mapping[int, str]) -> Tree:
        found: Tree = {}
        waiting = [("", self._root)]
        while waiting:
            path, number = waiting.pop()
            for name, child in sorted(folders[number].items()):
                node = self._nodes[child]
                if isinstance(node, _File):
                    found[f"{path}/{name}"] = Entry(child, node.as_it_may_be(contents.get(child, NEW)))
                elif isinstance(node, _Symlink):
                    found[f"{path}/{name}"] = Entry(child, leads_to=node.leads_to)
                else:
                    found[f"{path}/{name}"] = Entry(child, mode=node.mode, time=node.time)
                    waiting.append((f"{path}/{name}", child))
        return found


def _apply(change: Change, names: dict[str, int]) -> None:
    """Change the names of a folder; a name that stands for another node by now is left alone."""
    if change.removed is not None and names.get(change.removed) == change.node:
        del names[change.removed]
    if change.added is not None:
        names[change.added] = change.node


def _choices(changes: list[Change], random_: random.Random, sampled: int) -> Iterator[frozenset[Change]]:
    """Which changes are kept: the extremes, all combinations of a few, and some by chance."""
    found = [frozenset(changes[:number]) for number in range(len(changes), -1, -1)]
    found += [frozenset((change,)) for change in changes]
    found += [frozenset(changes) - {change} for change in changes]
    if len(changes) <= ALL_SUBSETS:
        found += [frozenset(each) for size in range(len(changes)) for each in itertools.combinations(changes, size)]
    else:
        found += [frozenset(change for change in changes if random_.random() < 0.5) for _ in range(sampled)]
    yield from dict.fromkeys(found)


def key_of(tree: Tree) -> bytes:
    """The same for two trees that hold the same; what stands in a lock file means nothing."""
    state = hashlib.sha256()
    for path, entry in sorted(tree.items()):
        content = entry.content
        if content is not None and not path.endswith(".lock"):
            state.update(repr((path, _digest(content.data), content.mode)).encode())
        else:
            state.update(repr((path, entry.leads_to, content is None)).encode())
    return state.digest()


# Trees in a real folder


def read_tree(folder: Path) -> Tree:
    """What is below a folder, by its whole path; the folders above it too."""
    found: Tree = {}
    numbers: dict[tuple[int, int], int] = {}
    for parent in [*reversed(folder.parents), folder][1:]:
        found[str(parent)] = Entry(len(found) + 1)
    for where, folders, names in os.walk(folder):
        for name in sorted((*folders, *names)):
            path = os.path.join(where, name)
            status = os.lstat(path)
            node = numbers.setdefault((status.st_dev, status.st_ino), len(found) + 1)
            found[path] = _read_entry(path, status, node)
    return found


def _read_entry(path: str, status: os.stat_result, node: int) -> Entry:
    mode, time = status.st_mode & 0o7777, status.st_mtime_ns
    if os.path.islink(path):
        return Entry(node, leads_to=os.readlink(path))
    if os.path.isdir(path):
        return Entry(node, mode=mode, time=time)
    with open(path, "rb") as file:
        return Entry(node, Content(file.read(), mode, time))


def write_tree(tree: Tree, folder: Path) -> None:
    """Make all below a folder like this tree. What is so already is left alone, with its inode."""
    top = str(folder)
    wanted = {path: entry for path, entry in tree.items() if path.startswith(top + "/")}
    there = {path: entry for path, entry in read_tree(folder).items() if path.startswith(top + "/")}
    same = _same_paths(there, wanted)
    for path in sorted(there, reverse=True):
        if path not in same:
            if there[path].content is None and there[path].leads_to is None:
                os.rmdir(path)
            else:
                os.unlink(path)
    made: dict[int, str] = {wanted[path].node: path for path in same}
    for path, entry in sorted(wanted.items()):
        if path not in same:
            _write_entry(path, entry, made.get(entry.node))
            made[entry.node] = path
    for path, entry in sorted(wanted.items(), reverse=True):
        if entry.content is None and entry.leads_to is None and entry.time:
            os.utime(path, ns=(entry.time, entry.time))


def _same_paths(there: Tree, wanted: Tree) -> set[str]:
    """The paths that may stay: the same content, and hard-linked to the same others. Folders stay where they are."""
    links_there, links_wanted = _links(there), _links(wanted)
    found = set()
    for path, entry in wanted.items():
        old = there.get(path)
        if old is None or (old.content is None) != (entry.content is None) or old.leads_to != entry.leads_to:
            continue
        if entry.content is None or (
            old.content is not None
            and old.content.data == entry.content.data
            and old.content.mode == entry.content.mode
            and entry.content.time in (0, old.content.time)
            and links_there[old.node] == links_wanted[entry.node]
        ):
            found.add(path)
    return found


def _links(tree: Tree) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path, entry in tree.items():
        found.setdefault(entry.node, []).append(path)
    return found


def _write_entry(path: str, entry: Entry, other_name: str | None) -> None:
    if entry.leads_to is not None:
        Path(path).symlink_to(entry.leads_to)
    elif entry.content is None:
        os.mkdir(path)
        os.chmod(path, entry.mode)
    elif other_name is not None:
        os.link(other_name, path)
    else:
        with open(path, "wb") as file:
            file.write(entry.content.data)
        os.chmod(path, entry.content.mode)
        if entry.content.time:
            os.utime(path, ns=(entry.content.time, entry.content.time))
