"""What a real command does to the disk: its system calls, recorded with strace, as plain values.

Each call that changes something below the given folders becomes a `Call`, in the order in which the calls ended, with
whole paths, offsets and data; what the command says (to its standard output and error) stands between them. Calls that
failed, and those on other folders, are left out. Knows nothing of what the files are.
"""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.site import Site

_CHANGES = (
    "open openat creat write pwrite64 writev pwritev pwritev2 rename renameat renameat2 link linkat unlink unlinkat"
    " mkdir mkdirat rmdir symlink symlinkat fsync fdatasync sync syncfs truncate ftruncate fallocate copy_file_range"
    " sendfile ioctl chmod fchmod fchmodat chown fchown lchown fchownat utime utimes futimesat utimensat"
)
_ALIEN = "openat2 splice mmap mknod mknodat setxattr fsetxattr io_uring_setup msync sync_file_range chdir fchdir"
"""Other ways to change something, or what names mean: nothing of ours does, and a recording says so if it does."""
_BOOKKEEPING = "read readv pread64 lseek close close_range dup dup2 dup3 fcntl clone clone3 fork vfork execve"

STRACE = (
    *("strace", "-f", "-y", "-xx", "-s", "1000000000", "--seccomp-bpf", "--quiet=attach,personality", "--signal=none"),
    *("-e", "trace=" + ",".join((_CHANGES + " " + _ALIEN + " " + _BOOKKEEPING).split())),
    *("-e", "raw=read,readv,pread64"),
)
"""The beginning of a command line; `-o FILE` and the command follow. All text is hexadecimal: nothing is ambiguous."""


class RecordingFailed(Exception):
    """The log has something that the recording does not understand; nothing is passed over in silence."""


class Call(NamedTuple):
    """One change, of one of these kinds; what a kind does not use is empty or 0.

    open      `path` is opened. creates: it is made where it is missing; must_be_new; truncates; may_write; mode.
    write     `data` goes to `path` at `offset`; offset -1: to its end.
    copy      `size` bytes of `other` at `from_offset` go to `path` at `offset` (copy_file_range, sendfile, reflink;
              size -1: all of it).
    truncate  `path` gets `size` bytes.
    rename    `path` becomes `other`.
    link      `path` is now `other`, too.
    symlink   `path` leads to `other`.
    unlink, mkdir (mode), rmdir, chmod (mode), chown, utime (`time`: nanoseconds since 1970; None: now)
    sync      `path`, a file or a folder, is brought to the disk.
    sync_all  everything is.
    say       `data` is written to the standard output or error (`path`: "1" or "2").
    end       the first process ended; `size`: its exit code.

    begun: how many calls of the list had ended when this one began; threads make it less than its place in the list.
    deleted: the name of the open file was gone already.
    """

    kind: str
    path: str
    other: str = ""
    data: bytes = b""
    offset: int = 0
    from_offset: int = 0
    size: int = 0
    mode: int = 0
    time: int | None = None
    creates: bool = False
    must_be_new: bool = False
    truncates: bool = False
    may_write: bool = False
    deleted: bool = False
    begun: int = 0


class Recording(NamedTuple):
    """calls: what was done. finished: exit code and output of the command."""

    calls: tuple[Call, ...]
    finished: subprocess.CompletedProcess[str]


def recorded(site: Site, name: str, *arguments: str, log: Path, **keywords: object) -> Recording:
    """Run a script of `site` and record it. log: where strace writes, outside of the site's folder."""
    finished = site.command(name, *arguments, prefix=(*STRACE, "-o", str(log)), **keywords)
    return Recording(parse_log(log.read_text("ascii"), [str(site.folder)]), finished)


def parse_log(text: str, folders: Iterable[str]) -> tuple[Call, ...]:
    """The calls in a log of STRACE that concern what is below `folders`."""
    return _Parser(tuple(folders)).parse(text)


def is_change(call: Call) -> bool:
    """Whether a call changes the disk's state or makes it durable: a point to kill a command at."""
    return call.kind not in ("say", "end") and not (call.kind == "open" and not (call.creates or call.truncates))


# The lines of strace


class _Line(NamedTuple):
    """A finished call: result is strace's text of it."""

    thread: int
    name: str
    arguments: list[str]
    result: str
    begun: int

    @property
    def failed(self) -> bool:
        return self.result.startswith(("-1", "?"))

    @property
    def number(self) -> int:
        """The result as a number."""
        return int(re.split(r"[< ]", self.result)[0], 0)


_WHOLE = re.compile(r"(\w+)\((.*)\)\s+= (.*)")
_UNFINISHED = re.compile(r"(\w+)\((.*?)\s*<unfinished \.\.\.>(?:\)\s*= \?)?")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)\)\s+= (.*)")
_EXIT = re.compile(r"exited with (\d+)")
_CLONE = re.compile(r"(?:clone3?|v?fork)\(|<\.\.\. (?:clone3?|v?fork) resumed>")


def _split(text: str) -> list[str]:
    """Arguments at the top level; strings are hexadecimal, so that brackets and commas are strace's own."""
    found, depth, start = [], 0, 0
    for match in re.finditer(r"[\[{(]|[\]})]|, ", text):
        if match[0] in "[{(":
            depth += 1
        elif match[0] in "]})":
            depth -= 1
        elif depth == 0:
            found.append(text[start : match.start()])
            start = match.end()
    return [*found, text[start:]] if text else []


def _unhex(text: str) -> bytes:
    """The bytes of a string as strace prints it."""
    match = re.fullmatch(r'"((?:\\x[0-9a-f]{2})*)"', text)
    if match is None:
        raise RecordingFailed(f"not a whole string: {text[:100]}")
    return bytes.fromhex(match[1].replace("\\x", ""))


def _bytes_of_vector(text: str) -> bytes:
    """What an array of struct iovec points to."""
    return b"".join(_unhex(part) for part in re.findall(r"iov_base=([^,]*)", text))


def _octal(text: str) -> int:
    return int(text, 8)


# Open files


class _OpenFile:
    """An open file description: what dup() and fork() share."""

    def __init__(self, *, appends: bool) -> None:
        self.position = 0
        self.appends = appends


class _Descriptor(NamedTuple):
    """A file descriptor as strace shows it. path: None for what is not in the file system."""

    number: int
    path: str | None
    deleted: bool


def _descriptor(text: str) -> _Descriptor:
    match = re.fullmatch(r"(-?\w+)(?:<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?)?", text)
    if match is None:
        raise RecordingFailed(f"not a descriptor: {text[:100]}")
    number = -100 if match[1] == "AT_FDCWD" else int(match[1], 0)
    name = os.fsdecode(bytes.fromhex((match[2] or "").replace("\\x", "")))
    return _Descriptor(number, name if name.startswith("/") else None, bool(match[3]))


class _Birth(NamedTuple):
    """A thread or process that `maker` made. shares: it has its maker's table of descriptors, not a copy."""

    maker: int
    shares: bool


def _births(lines: list[str]) -> dict[int, deque[_Birth]]:
    """Who made each thread of a log, the oldest first (numbers come back).

    Read before anything else, because a thread may be at work before the call that made it has come back.
    """
    found: defaultdict[int, deque[_Birth]] = defaultdict(deque)
    begun: dict[int, str] = {}
    for line in lines:
        thread, rest = line.split(maxsplit=1)
        if not _CLONE.match(rest):
            continue
        if match := _UNFINISHED.fullmatch(rest):
            begun[int(thread)] = match[2]
        elif match := _RESUMED.fullmatch(rest) or _WHOLE.fullmatch(rest):
            arguments = begun.pop(int(thread), "") + match[2]
            if match[3][0].isdigit():
                found[int(match[3].split()[0])].append(_Birth(int(thread), "CLONE_FILES" in arguments))
    return found


class _Parser:
    """Follows processes, threads and descriptors through a log."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._calls: list[Call] = []
        self._unfinished: dict[int, tuple[str, int]] = {}
        self._first: int | None = None
        # The table of descriptors of each thread; threads of a process share one.
        self._tables: dict[int, dict[int, _OpenFile]] = {}
        self._births: dict[int, deque[_Birth]] = {}

    def parse(self, text: str) -> tuple[Call, ...]:
        lines = text.splitlines()
        self._births = _births(lines)
        for line in lines:
            thread, rest = line.split(maxsplit=1)
            if self._first is None:
                self._first = int(thread)
            if int(thread) not in self._tables:
                self._begin(int(thread))
            self._read(int(thread), rest)
        return tuple(self._calls)

    def _begin(self, thread: int) -> None:
        """Give a thread its descriptors: when it is met first, or when the call that made it comes back before that."""
        births = self._births.get(thread)
        if births:
            birth = births.popleft()
            table = self._tables[birth.maker]
            self._tables[thread] = table if birth.shares else dict(table)
        else:
            self._tables[thread] = {}

    def _read(self, thread: int, rest: str) -> None:
        if rest.startswith(("+++", "---")):
            if rest.startswith("+++"):
                self._tables.pop(thread, None)
                self._unfinished.pop(thread, None)
            match = _EXIT.search(rest)
            if thread == self._first:
                code = int(match[1]) if match else -int(signal.SIGKILL)
                self._add(Call("end", "", size=code, begun=len(self._calls)))
        elif match := _RESUMED.fullmatch(rest):
            arguments, begun = self._unfinished.pop(thread)
            if match[1] == "close":
                return
            self._take(_Line(thread, match[1], _split(arguments + match[2]), match[3], begun))
        elif match := _WHOLE.fullmatch(rest):
            self._take(_Line(thread, match[1], _split(match[2]), match[3], len(self._calls)))
        elif match := _UNFINISHED.fullmatch(rest):
            self._unfinished[thread] = (match[2], len(self._calls))
            if match[1] == "close":
                # The number is free at once: another thread may have it again before this call comes back.
                self._forget(thread, match[2])
        else:
            raise RecordingFailed(rest[:200])

    def _take(self, line: _Line) -> None:
        if line.failed:
            return
        name = f"_on_{_HANDLERS.get(line.name, line.name)}"
        handler: Callable[[_Line], None] | None = getattr(self, name, None)
        if handler is not None:
            handler(line)
        elif line.name in _ALIEN.split():
            self._on_alien(line)
        else:
            raise RecordingFailed(f"{line.name} is not understood")

    # Where things are

    def _is_ours(self, path: str | None) -> bool:
        return path is not None and any(path == each or path.startswith(each + "/") for each in self._folders)

    def _path(self, name: str, folder: str | None = None) -> str:
        """The whole path of a name that is relative to a folder's descriptor (None: only whole paths are expected)."""
        found = os.fsdecode(_unhex(name))
        if not found.startswith("/"):
            base = _descriptor(folder).path if folder is not None else None
            if base is None:
                # Only our own paths are of interest, and they are whole or relative to an open folder.
                return found
            found = f"{base}/{found}"
        return os.path.normpath(found)

    def _add(self, call: Call) -> None:
        if call.kind in ("say", "end", "sync_all") or self._is_ours(call.path) or self._is_ours(call.other):
            self._calls.append(call)

    def _file(self, line: _Line, number: int, path: str | None) -> _OpenFile:
        found = self._tables[line.thread].get(number)
        if found is None:
            if self._is_ours(path):
                raise RecordingFailed(f"descriptor {number} of {path} is unknown")
            found = _OpenFile(appends=False)
        return found

    # Descriptors and processes

    def _on_read(self, line: _Line) -> None:
        self._file(line, int(line.arguments[0], 0), None).position += line.number

    def _on_pread64(self, line: _Line) -> None:
        pass

    def _on_lseek(self, line: _Line) -> None:
        which = _descriptor(line.arguments[0])
        self._file(line, which.number, which.path).position = line.number

    def _on_close(self, line: _Line) -> None:
        self._forget(line.thread, line.arguments[0])

    def _forget(self, thread: int, descriptor: str) -> None:
        self._tables[thread].pop(_descriptor(descriptor).number, None)

    def _on_close_range(self, line: _Line) -> None:
        first, last = int(line.arguments[0], 0), int(line.arguments[1], 0)
        table = self._tables[line.thread]
        for number in [number for number in table if first <= number <= last]:
            del table[number]

    def _on_dup(self, line: _Line) -> None:
        if line.name == "fcntl" and "F_DUPFD" not in line.arguments[1]:
            return
        table = self._tables[line.thread]
        new = _descriptor(line.result.split()[0]).number
        old = table.get(_descriptor(line.arguments[0]).number)
        if old is None:
            table.pop(new, None)
        else:
            table[new] = old

    def _on_clone(self, line: _Line) -> None:
        births = self._births.get(line.number)
        if births and births[0].maker == line.thread:
            self._begin(line.number)

    def _on_execve(self, line: _Line) -> None:
        self._tables[line.thread] = {}

    # Names

    def _on_open(self, line: _Line) -> None:
        arguments = line.arguments
        if line.name == "openat":
            path, flags, rest = self._path(arguments[1], arguments[0]), arguments[2], arguments[3:]
        elif line.name == "creat":
            path, flags, rest = self._path(arguments[0]), "O_WRONLY|O_CREAT|O_TRUNC", arguments[1:]
        else:
            path, flags, rest = self._path(arguments[0]), arguments[1], arguments[2:]
        found = set(flags.split("|"))
        self._tables[line.thread][line.number] = _OpenFile(appends="O_APPEND" in found)
        if not found & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"}:
            return
        # A file without a name (O_TMPFILE) is gone with its process.
        self._add(
            Call(
                "open",
                path,
                mode=_octal(rest[0]) if rest else 0,
                creates="O_CREAT" in found,
                must_be_new="O_EXCL" in found,
                truncates="O_TRUNC" in found,
                may_write=bool(found & {"O_WRONLY", "O_RDWR"}),
                deleted="O_TMPFILE" in found,
                begun=line.begun,
            )
        )

    def _two_paths(self, line: _Line) -> tuple[str, str]:
        arguments = line.arguments
        if line.name.endswith(("at", "at2")):
            return self._path(arguments[1], arguments[0]), self._path(arguments[3], arguments[2])
        return self._path(arguments[0]), self._path(arguments[1])

    def _one_path(self, line: _Line) -> tuple[str, list[str]]:
        """The path, and the arguments after it."""
        arguments = line.arguments
        if line.name.endswith("at"):
            return self._path(arguments[1], arguments[0]), arguments[2:]
        return self._path(arguments[0]), arguments[1:]

    def _on_rename(self, line: _Line) -> None:
        if line.name == "renameat2" and line.arguments[4] not in ("0", "RENAME_NOREPLACE"):
            raise RecordingFailed(f"a rename with {line.arguments[4]}")
        old, new = self._two_paths(line)
        self._add(Call("rename", old, new, begun=line.begun))

    def _on_link(self, line: _Line) -> None:
        old, new = self._two_paths(line)
        self._add(Call("link", old, new, begun=line.begun))

    def _on_symlink(self, line: _Line) -> None:
        leads_to = os.fsdecode(_unhex(line.arguments[0]))
        name = line.arguments[1:]
        path = self._path(name[1], name[0]) if line.name == "symlinkat" else self._path(name[0])
        self._add(Call("symlink", path, leads_to, begun=line.begun))

    def _on_unlink(self, line: _Line) -> None:
        path, rest = self._one_path(line)
        kind = "rmdir" if line.name == "rmdir" or "AT_REMOVEDIR" in rest else "unlink"
        self._add(Call(kind, path, begun=line.begun))

    def _on_mkdir(self, line: _Line) -> None:
        path, rest = self._one_path(line)
        self._add(Call("mkdir", path, mode=_octal(rest[0]), begun=line.begun))

    # Content

    def _to_open_file(self, line: _Line, call: Call, which: _Descriptor, length: int) -> None:
        """Adds a call that writes where an open file stands, which then stands `length` bytes further."""
        file = self._file(line, which.number, which.path)
        offset = -1 if file.appends else file.position
        file.position += length
        self._add(call._replace(offset=offset))

    def _on_write(self, line: _Line) -> None:
        which = _descriptor(line.arguments[0])
        data = _unhex(line.arguments[1]) if line.name == "write" else _bytes_of_vector(line.arguments[1])
        data = data[: line.number]
        if which.number in (1, 2) and not self._is_ours(which.path):
            self._add(Call("say", str(which.number), data=data, begun=line.begun))
        elif self._is_ours(which.path):
            call = Call("write", which.path or "", data=data, deleted=which.deleted, begun=line.begun)
            self._to_open_file(line, call, which, len(data))

    def _on_pwrite(self, line: _Line) -> None:
        which = _descriptor(line.arguments[0])
        vector = line.name != "pwrite64"
        if self._is_ours(which.path):
            data = _bytes_of_vector(line.arguments[1]) if vector else _unhex(line.arguments[1])
            data, offset = data[: line.number], int(line.arguments[3], 0)
            self._add(
                Call("write", which.path or "", data=data, offset=offset, deleted=which.deleted, begun=line.begun)
            )

    def _offset(self, line: _Line, text: str, which: _Descriptor) -> int:
        """Where a copy begins: the given offset, or where the open file stands, which is moved on."""
        if text != "NULL":
            return int(re.findall(r"\d+", text)[0])
        file = self._file(line, which.number, which.path)
        file.position += line.number
        return file.position - line.number

    def _on_copy(self, line: _Line) -> None:
        arguments = line.arguments
        if line.name == "sendfile":
            target, source = _descriptor(arguments[0]), _descriptor(arguments[1])
            from_offset, offset = self._offset(line, arguments[2], source), self._offset(line, "NULL", target)
        else:
            source, target = _descriptor(arguments[0]), _descriptor(arguments[2])
            from_offset = self._offset(line, arguments[1], source)
            offset = self._offset(line, arguments[3], target)
        self._copied(line, source, target, Call("copy", "", offset=offset, from_offset=from_offset, size=line.number))

    def _copied(self, line: _Line, source: _Descriptor, target: _Descriptor, call: Call) -> None:
        if self._is_ours(target.path):
            if source.deleted or not self._is_ours(source.path):
                raise RecordingFailed(f"a copy of {source.path}, which is not known")
            path, other = target.path or "", source.path or ""
            self._add(call._replace(path=path, other=other, deleted=target.deleted, begun=line.begun))

    def _on_ioctl(self, line: _Line) -> None:
        if not line.arguments[1].startswith("FICLONE") and "0x9, 0x4" not in line.arguments[1]:
            return
        if line.arguments[1].startswith("FICLONERANGE"):
            raise RecordingFailed(line.arguments[1])
        source, target = _descriptor(line.arguments[2]), _descriptor(line.arguments[0])
        self._copied(line, source, target, Call("copy", "", size=-1))

    def _on_truncate(self, line: _Line) -> None:
        if line.name == "ftruncate":
            which = _descriptor(line.arguments[0])
        else:
            which = _Descriptor(-1, self._path(line.arguments[0]), deleted=False)
        size = int(line.arguments[1], 0)
        self._add(Call("truncate", which.path or "", size=size, deleted=which.deleted, begun=line.begun))

    # Mode, owner, times

    def _target(self, line: _Line) -> tuple[str, bool, list[str]]:
        """The path that a call of this group is about, whether it is gone, and the arguments after it."""
        if line.name in ("fchmod", "fchown") or (line.name == "utimensat" and line.arguments[1] == "NULL"):
            which = _descriptor(line.arguments[0])
            rest = line.arguments[2:] if line.name == "utimensat" else line.arguments[1:]
            return which.path or "", which.deleted, rest
        path, rest = self._one_path(line)
        return path, False, rest

    def _on_chmod(self, line: _Line) -> None:
        path, deleted, rest = self._target(line)
        self._add(Call("chmod", path, mode=_octal(rest[0]), deleted=deleted, begun=line.begun))

    def _on_chown(self, line: _Line) -> None:
        path, deleted, _ = self._target(line)
        self._add(Call("chown", path, deleted=deleted, begun=line.begun))

    def _on_utime(self, line: _Line) -> None:
        path, deleted, rest = self._target(line)
        stamps = re.findall(r"\{tv_sec=(\d+), tv_nsec=(\d+)\}", rest[0])
        if "UTIME" in rest[0] or (rest[0] != "NULL" and len(stamps) != 2):
            raise RecordingFailed(f"times are not understood: {rest[0]}")
        time = int(stamps[1][0]) * 10**9 + int(stamps[1][1]) if stamps else None
        self._add(Call("utime", path, time=time, deleted=deleted, begun=line.begun))

    # To the disk

    def _on_sync(self, line: _Line) -> None:
        which = _descriptor(line.arguments[0]) if line.arguments else _Descriptor(-1, None, deleted=False)
        if line.name in ("sync", "syncfs"):
            self._add(Call("sync_all", which.path or "", begun=line.begun))
        else:
            self._add(Call("sync", which.path or "", deleted=which.deleted, begun=line.begun))

    def _on_alien(self, line: _Line) -> None:
        if line.name == "mmap" and not ("PROT_WRITE" in line.arguments[2] and "MAP_SHARED" in line.arguments[3]):
            return
        paths = re.findall(r"<((?:\\x[0-9a-f]{2})*)>", " ".join(line.arguments))
        if any(self._is_ours(os.fsdecode(bytes.fromhex(path.replace("\\x", "")))) for path in paths):
            raise RecordingFailed(f"{line.name} is not understood: {line.arguments}")


_HANDLERS = {
    **dict.fromkeys(("openat", "creat"), "open"),
    **dict.fromkeys(("readv",), "read"),
    **dict.fromkeys(("dup2", "dup3", "fcntl"), "dup"),
    **dict.fromkeys(("clone3", "fork", "vfork"), "clone"),
    **dict.fromkeys(("renameat", "renameat2"), "rename"),
    "linkat": "link",
    "symlinkat": "symlink",
    **dict.fromkeys(("unlinkat", "rmdir"), "unlink"),
    "mkdirat": "mkdir",
    "writev": "write",
    **dict.fromkeys(("pwrite64", "pwritev", "pwritev2"), "pwrite"),
    **dict.fromkeys(("copy_file_range", "sendfile"), "copy"),
    "ftruncate": "truncate",
    **dict.fromkeys(("fchmod", "fchmodat"), "chmod"),
    **dict.fromkeys(("fchown", "lchown", "fchownat"), "chown"),
    **dict.fromkeys(("utimensat", "utime", "utimes", "futimesat"), "utime"),
    **dict.fromkeys(("fsync", "fdatasync", "syncfs"), "sync"),
}
