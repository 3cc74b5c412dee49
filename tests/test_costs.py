"""What a backup may cost, counted: the system calls of a real process, followed with strace.

The cost of a backup is the size of the change. So nothing here measures time: what is counted is which files are
opened, which folders are listed and how many bytes are read of each.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from ZODB.blob import Blob

from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLS = "trace=open,openat,openat2,read,pread64,readv,preadv,preadv2,mmap,getdents64,sendfile,copy_file_range"
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+)(?:<(.*)>)?")
_FIRST_FILE = re.compile(r"^-?\w+<(.*?)>")


MANY = 600
"""Blobs, so that a manifest is larger than what is read of one to know its head."""
HEAD = 20_000


@dataclass
class Trace:
    """What a process read. reads: bytes of each file; calls: number of reads; listed: folders; opened: files."""

    reads: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    listed: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)

    def read_below(self, folder: Path) -> dict[str, int]:
        """The bytes that were read of files in a folder, by name."""
        prefix = f"{folder}/"
        return {path.removeprefix(prefix): size for path, size in self.reads.items() if path.startswith(prefix)}

    def listed_below(self, folder: Path) -> list[str]:
        """The folders that were listed, the folder itself and those in it."""
        return sorted(path for path in self.listed if path == str(folder) or path.startswith(f"{folder}/"))


def traced(site: Site, *command: str) -> Trace:
    """Run one of the site's scripts under strace; it has to succeed."""
    output = site.folder.parent / "trace"
    prefix = ("strace", "-f", "-y", "-s", "0", "-e", CALLS, "-o", str(output))
    # Python would write its compiled modules in the first run; that is not what is counted.
    site.command(*command[:1], "--help")
    finished = site.command(*command, prefix=prefix)
    assert finished.returncode == 0, finished.stderr
    trace = Trace()
    for line in whole_lines(output):
        _count(trace, line)
    assert trace.opened
    return trace


def whole_lines(output: Path) -> Iterator[str]:
    """The lines that strace wrote, one for each call: joined are the parts of one that another thread came between."""
    unfinished: dict[str, str] = {}
    for line in output.read_text(errors="replace").splitlines():
        thread = line.split(None, 1)[0]
        resumed = re.match(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$", line)
        if line.endswith("<unfinished ...>"):
            unfinished[thread] = line.removesuffix(" <unfinished ...>")
        elif resumed:
            yield unfinished.pop(resumed[1], "") + resumed[2]
        else:
            yield line


def _count(trace: Trace, line: str) -> None:
    match = _CALL.match(line)
    if match is None or match[3].startswith("-"):
        return
    name, arguments, result, path = match.groups()
    if name.startswith("open"):
        trace.opened.append(path or "")
        return
    file = _FIRST_FILE.match(arguments)
    where = file[1] if file else ""
    if name == "getdents64":
        trace.listed.add(where)
    elif name == "mmap":
        mapped = re.search(r", \d+<(/.*?)>", arguments)
        if mapped:
            trace.reads[mapped[1]] += 1
    else:
        trace.reads[where] += int(result, 0)
        trace.calls[where] += 1


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with a few megabytes, many blobs, and some backups."""
    assert shutil.which("strace"), "strace is not installed"
    site = Site(tmp_path / "site")
    for _ in range(4):
        site.commit_pages(40, 20_000)
    with site.changing() as root:
        for number in range(MANY):
            root[f"many{number}"] = Blob(b"%d" % number)
    site.backup()
    for _ in range(3):
        site.commit_pages(2)
        site.commit_blobs(2, 100)
        site.backup()
    yield site
    site.close()


def old_backups(site: Site) -> set[str]:
    """The data files and manifests of the backups so far."""
    names = site.names()
    return {name for name in names if name.endswith(("fsz", ".index"))} | {
        path.name for path in site.blob_location.iterdir() if path.name.endswith(".gz")
    }


def assert_blobs_are_not_walked(site: Site, trace: Trace) -> None:
    """Folders are listed down to the first blob (a blobstorage without one is not mounted), and no further."""
    assert site.blob_storage is not None
    listed = trace.listed_below(site.blob_storage)
    assert len(listed) <= 10
    assert all(below.startswith(f"{above}/") for above, below in itertools.pairwise(listed))
    below_the_pool = trace.listed_below(site.blob_location / "blobs")
    # The pool's own place for temporary files is looked at for left-overs.
    assert [path for path in below_the_pool if not path.endswith("/blobs/tmp")] == []


def assert_no_old_backup_is_read(site: Site, trace: Trace, old: set[str]) -> None:
    """No data file, no blob, and of no manifest more than its head."""
    read = {**trace.read_below(site.location), **trace.read_below(site.blob_location)}
    assert max(path.stat().st_size for path in site.blob_location.glob("*.blobs.gz")) > HEAD
    assert {
        name: size for name, size in read.items() if name in old and not (name.endswith(".gz") and size < HEAD)
    } == {}
    assert not [name for name in read if name.endswith(".blob")]


def records_opened(site: Site, trace: Trace) -> list[str]:
    """The timestamps of the records that were opened, as often as they were."""
    paths = [path for path in trace.opened if path.startswith(f"{site.location}/") and path.endswith(".json")]
    return [path.removeprefix(f"{site.location}/").removesuffix(".json") for path in paths]


def test_no_change_reads_the_tail_and_nothing_else(site: Site) -> None:
    old = old_backups(site)
    trace = traced(site, "backup")
    data = str(site.datafs)
    assert trace.calls[data] <= 2
    assert trace.reads[data] <= 64
    assert trace.opened.count(data) == 1
    assert_blobs_are_not_walked(site, trace)
    assert_no_old_backup_is_read(site, trace, old)
    assert f"{data}.index" not in trace.opened
    # The newest chain's .dat and its newest record are all that is read of the repository.
    assert all(name.endswith((".dat", ".json", ".id", ".lock")) for name in trace.read_below(site.location))
    assert records_opened(site, trace) == [site.timestamps()[-1]]


@pytest.mark.parametrize("pages", [1, 30])
def test_an_incremental_reads_only_what_is_new(site: Site, pages: int) -> None:
    old = old_backups(site)
    before = site.datafs.stat().st_size
    blobs = set(site.blobs)
    site.commit_pages(pages)
    site.commit_blobs(2, 5000)
    site.commit_pages(1)
    new = site.datafs.stat().st_size - before
    trace = traced(site, "backup")
    assert [name for name in site.names() if name not in old and name.endswith(".deltafsz")]
    data = str(site.datafs)
    # Once, and the few bytes of headers by which the file is recognised and the end is proved.
    assert new <= trace.reads[data] <= new + 256
    assert trace.opened.count(data) == 1
    assert_blobs_are_not_walked(site, trace)
    assert_no_old_backup_is_read(site, trace, old)
    assert f"{data}.index" not in trace.opened
    assert site.blob_storage is not None
    copied = sum(len(content) for key, content in site.blobs.items() if key not in blobs)
    read = {name: size for name, size in trace.read_below(site.blob_storage).items() if name.endswith(".blob")}
    assert sum(read.values()) == copied
    assert len([path for path in trace.opened if path.startswith(f"{site.blob_storage}/") and ".blob" in path]) == 2
    # The full's, which tells how well the data can be compressed; and the one before, twice, for that comes between.
    assert len(records_opened(site, trace)) <= 3


def test_the_cost_of_an_incremental_does_not_grow_with_the_chain(site: Site) -> None:
    def opened() -> int:
        site.commit_pages(1)
        trace = traced(site, "backup")
        return len([path for path in trace.opened if path.startswith(str(site.var))])

    few = opened()
    for _ in range(30):
        site.commit_pages(1)
        site.backup()
    assert opened() == few


def test_a_full_reads_the_database_once(site: Site) -> None:
    site.pack()
    size = site.datafs.stat().st_size
    trace = traced(site, "backup", "--full")
    data = str(site.datafs)
    # Once for the copy; records of transactions that cross two blocks may be looked at again.
    assert size <= trace.reads[data] <= size + 1024 + size // 50
    assert trace.opened.count(data) == 1


def test_the_first_backup_of_many_blobs_looks_at_the_folders_of_the_pool_once(site: Site, tmp_path: Path) -> None:
    """Not at all eight on the way to each blob; one that a blob's own look finds missing, and is made then, is new."""
    shutil.rmtree(site.blob_location)
    output = tmp_path / "looks"
    prefix = ("strace", "-f", "-s", "0", "-e", "trace=newfstatat,lstat", "-o", str(output))
    finished = site.command("backup", "--full", prefix=prefix)
    assert finished.returncode == 0, finished.stderr
    folder = re.compile(rf'"{site.blob_location}/blobs(/0x..)+", .*AT_SYMLINK_NOFOLLOW|lstat\("{site.blob_location}')
    looks = sum(1 for line in whole_lines(output) if folder.search(line))
    assert MANY < looks < 5 * MANY


def test_a_restore_reads_the_chain_once_and_touches_only_blobs_that_differ(site: Site) -> None:
    stamps = site.timestamps()
    site.close()
    assert site.blob_storage is not None
    trace = traced(site, "restore", "-n")
    read = trace.read_below(site.location)
    for stamp in stamps:
        for suffix in (".fsz", ".deltafsz"):
            path = site.location / (stamp + suffix)
            if path.exists():
                assert read[path.name] <= path.stat().st_size + 200_000
    assert not [name for name in trace.read_below(site.blob_storage) if name.endswith(".blob")]
    assert not [name for name in trace.read_below(site.blob_location / "blobs") if name.endswith(".blob")]


def test_the_process_that_finds_no_change_starts_no_other_and_no_thread(site: Site) -> None:
    output = site.folder.parent / "clones"
    prefix = ("strace", "-f", "-e", "trace=clone,clone3,fork,vfork,execve", "-o", str(output))
    finished = site.command("backup", prefix=prefix)
    assert finished.returncode == 0
    assert [line for line in output.read_text().splitlines() if re.search(r"\b(clone3?|v?fork)\(", line)] == []
    assert output.stat().st_size > 0
