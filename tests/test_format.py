"""docs/format.rst is enough to write another reader from: this is one, with nothing of ours imported."""

from __future__ import annotations

import calendar
import gzip
import hashlib
import json
import os
import re
import struct
import tarfile
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, State, blob_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAMP = r"\d{4}(?:-\d\d){5}"


class Reader:
    """Reads one repository and its blob location. base: the name of the site's blob storage."""

    def __init__(self, location: Path, blobs: Path, base: str = "blobstorage") -> None:
        self.location = location
        self.blobs = blobs
        self.base = base
        assert (location / ".zodbvault.id").read_text() == (blobs / ".zodbvault.id").read_text()

    def chain(self, when: str) -> list[tuple[str, int, int, str]]:
        """The lines of the `.dat` that are needed for a date: name, start, end, md5."""
        fulls = sorted(name[:-4] for name in os.listdir(self.location) if name.endswith(".dat"))
        full = [timestamp for timestamp in fulls if timestamp <= when][-1]
        lines = []
        for line in (self.location / f"{full}.dat").read_text().splitlines():
            path, start, end, md5 = line.rsplit(None, 3)
            if path.rpartition("/")[2][:19] <= when:
                lines.append((path.rpartition("/")[2], int(start), int(end), md5))
        return lines

    def data_fs(self, when: str) -> bytes:
        """The bytes of Data.fs at a date."""
        data = b""
        for name, start, end, md5 in self.chain(when):
            assert start == len(data)
            data += self.uncompressed(name)
            assert end == len(data)
            assert hashlib.md5(data[start:]).hexdigest() == md5
            self.check_record(name, start, end, md5)
        return data

    def uncompressed(self, name: str) -> bytes:
        """The content of a data file, found member by member by the lengths that they name."""
        stored = (self.location / name).read_bytes()
        data, position = b"", 0
        while position < len(stored):
            magic, time, rest, extra, which, size, length = struct.unpack_from("<4s4s2sH2sHI", stored, position)
            assert (magic, time, rest, extra, which, size) == (b"\x1f\x8b\x08\x04", bytes(4), b"\0\xff", 8, b"ZV", 4)
            member = zlib.decompressobj(-15)
            block = member.decompress(stored[position + 20 : position + length])
            assert member.eof
            assert member.unused_data == struct.pack("<II", zlib.crc32(block), len(block))
            assert len(block) <= 1_048_576
            data, position = data + block, position + length
        assert gzip.decompress(stored) == data
        return data

    def check_record(self, name: str, start: int, end: int, md5: str) -> None:
        """The record of a backup says what the files are."""
        record = self.record(name[:19])
        stored = (self.location / name).read_bytes()
        assert record["format"] == 1
        assert (record["data_name"], record["start"], record["end"], record["md5"]) == (name, start, end, md5)
        assert (record["stored_size"], record["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
        manifest = (self.blobs / record["blobs"]["manifest"]).read_bytes()
        assert (record["blobs"]["stored_size"], record["blobs"]["sha256"]) == (
            len(manifest),
            hashlib.sha256(manifest).hexdigest(),
        )
        assert record["blobs"]["total"] == len(self.blob_state(name[:19]))

    def record(self, timestamp: str) -> dict[str, Any]:
        """The record of a backup."""
        record: dict[str, Any] = json.loads((self.location / f"{timestamp}.json").read_text())
        return record

    def blob_state(self, timestamp: str) -> dict[str, tuple[int, str]]:
        """Size and sha256 of each blob of a backup, by its path in bushy layout."""
        return self.read_manifests(timestamp)[1]

    def read_manifests(self, timestamp: str) -> tuple[str, dict[str, tuple[int, str]]]:
        """The layout of the blobstorage of a backup, and its blobs."""
        layout = self.record(timestamp)["blobs"]["layout"]
        manifests: list[Path] = []
        if layout == "pool":
            for name, *_ in self.chain(timestamp):
                complete, delta = self.blobs / f"{name[:19]}.blobs.gz", self.blobs / f"{name[:19]}.deltablobs.gz"
                manifests = [complete] if complete.exists() else [*manifests, delta]
        else:
            manifests = [
                self.blobs / (timestamp + {"directories": ".directoryblobs.gz"}.get(layout, ".archiveblobs.gz"))
            ]
        state: dict[str, tuple[int, str]] = {}
        for manifest in manifests:
            *lines, last = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
            assert last.decode() == f"=\t{len(lines)}\t{hashlib.sha256(b''.join(lines)).hexdigest()}\n"
            sign, version, source_layout = lines[0].rstrip(b"\n").split(b"\t")
            assert (sign, version) == (b"#", b"1")
            entries = [line.decode().rstrip("\n").split("\t") for line in lines[1:]]
            assert [path for _, path, *_ in entries] == sorted({path for _, path, *_ in entries})
            for sign_, path, size, sha256 in entries:
                assert sign_ == "+"
                state[path] = (int(size), sha256)
        return source_layout.decode(), state

    def contents(self, timestamp: str) -> dict[tuple[int, int], bytes]:
        """The content of each blob of a backup, by oid and tid."""
        layout = self.record(timestamp)["blobs"]["layout"]
        source_layout, state = self.read_manifests(timestamp)
        if layout == "archives":
            held = self.in_archives(timestamp, source_layout)
        found = {}
        for path, (size, sha256) in state.items():
            if layout == "pool":
                content = (self.blobs / "blobs" / path).read_bytes()
            elif layout == "directories":
                content = (self.directory(timestamp) / self.base / in_layout(source_layout, path)).read_bytes()
            else:
                content = held[in_layout(source_layout, path)]
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, sha256)
            *oid, tid = path.replace("0x", "").removesuffix(".blob").split("/")
            found[int("".join(oid), 16), int(tid, 16)] = content
        return found

    def directory(self, timestamp: str) -> Path:
        """The directory of a backup: by its name, or by its modification time."""
        (found,) = self.dated(timestamp, rf"{self.base}\.({STAMP}|\d+)")
        assert found.is_dir()
        assert [path.name for path in found.iterdir()] == [self.base]
        return found

    def series(self, timestamp: str) -> list[Path]:
        """The archives that are needed for a backup, the oldest first."""
        (newest,) = self.dated(timestamp, rf"{self.base}\.({STAMP}|\d+)(\.delta)?\.tar(\.gz)?")
        found = [newest]
        for path in sorted(self.blobs.glob(f"{self.base}.????-*.tar*"), reverse=True):
            if ".delta." not in found[0].name:
                break
            if path.name < newest.name:
                found.insert(0, path)
        assert sum(path.stat().st_size for path in found) == self.record(timestamp)["blobs"]["archives_size"]
        return found

    def dated(self, timestamp: str, pattern: str) -> list[Path]:
        """What belongs to a timestamp among the names of a pattern, whose first group is a timestamp or a number."""
        named = [(path, match[1]) for path in self.blobs.iterdir() if (match := re.fullmatch(pattern, path.name))]
        for path, mark in named:
            assert mark.isdecimal() or path.stat().st_mtime == calendar.timegm(time.strptime(mark, "%Y-%m-%d-%H-%M-%S"))
        moment = calendar.timegm(time.strptime(timestamp, "%Y-%m-%d-%H-%M-%S"))
        return [
            path for path, mark in named if mark == timestamp or (mark.isdecimal() and path.stat().st_mtime == moment)
        ]

    def in_archives(self, timestamp: str, source_layout: str) -> dict[str, bytes]:
        """The content of the newest member of each path in a series; what the dumpdirs tell is compared with it."""
        found: dict[str, bytes] = {}
        series = self.series(timestamp)
        for archive in series:
            listed: dict[str, str] = {}
            here: list[str] = []
            folders, has_dumpdirs = [], False
            for name, kind, content in members(archive):
                if kind == tarfile.REGTYPE:
                    found[name] = content
                    here.append(name)
                    continue
                assert not here  # every folder comes before every file
                folders.append(name)
                has_dumpdirs = kind == b"D"
                if has_dumpdirs:
                    *entries, end = content.split(b"\0")[:-1]
                    assert not end
                    listed |= {name + entry[1:].decode(): entry[:1].decode() for entry in entries}
            assert folders == sorted(folders)
            assert folders[0] == ""
            is_delta = ".delta." in archive.name
            assert (".layout" in here) == (source_layout == "bushy" and not is_delta) or source_layout == "lawn"
            if has_dumpdirs:
                assert sorted(path for path, letter in listed.items() if letter == "Y") == sorted(here)
                assert {f"{path}/" for path, letter in listed.items() if letter == "D"} == set(folders) - {""}
                state = {in_layout(source_layout, path) for path in self.blob_state(timestamp)}
                if archive == series[-1]:
                    assert {path for path, letter in listed.items() if letter in "YN"} - {".layout"} == state
                assert is_delta or "N" not in listed.values()
            else:
                assert len(series) == 1
        return found


def in_layout(layout: str, path: str) -> str:
    """Where a blob stands in a blobstorage. path: that in bushy layout."""
    if layout == "bushy":
        return path
    oid, _, name = path.rpartition("/")
    short = re.sub("^(00)+", "", oid.replace("0x", "").replace("/", ""))
    return f"0x{short or '00'}/{name}"


def members(archive: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Name below the blobstorage, type and content of each member."""
    raw = archive.read_bytes()
    raw = gzip.decompress(raw) if archive.suffix == ".gz" else raw
    assert len(raw) % 10_240 == 0
    assert raw.endswith(bytes(1024))
    with tarfile.open(archive) as tar:
        for member in tar:
            assert member.type in (tarfile.DIRTYPE, tarfile.REGTYPE, b"D")
            assert member.uname == member.gname == ""
            # In a series tarfile takes the times for the first part of the name, and it cuts slashes off.
            name = re.sub(r"^(\d+/)?\./?", "", member.name)
            is_folder = member.type == tarfile.DIRTYPE
            content = tar.extractfile(member)
            yield f"{name}/" if is_folder and name else name, member.type, b"" if content is None else content.read()


def folders_in_snapshot_file(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Modification time in nanoseconds, device, inode and dumpdir of each folder that a snapshot file names."""
    content = path.read_bytes()
    first = b"GNU tar-1.34-2\n"
    assert content.startswith(first)
    seconds, nanoseconds, rest = content[len(first) :].split(b"\0", 2)
    assert abs(int(seconds) + int(nanoseconds) / 1e9 - time.time()) < 600
    found = {}
    while rest:
        zero, seconds, nanoseconds, device, inode, name, rest = rest.split(b"\0", 6)
        assert zero == b"0"
        dumpdir = b""
        while not rest.startswith(b"\0"):
            entry, _, rest = rest.partition(b"\0")
            dumpdir += entry + b"\0"
        assert rest.startswith(b"\0\0")
        dumpdir, rest = dumpdir + b"\0", rest[2:]
        found[name.decode()] = (int(seconds) * 10**9 + int(nanoseconds), int(device), int(inode), dumpdir)
    return found


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_another_reader_finds_every_state(tmp_path: Path, layout: str) -> None:
    site = Site(tmp_path / "site", layout=layout, options={"keep": "2"})
    states: dict[str, State] = {}
    for round_ in range(12):
        site.commit_pages(3)
        site.commit_blobs(2)
        if round_ == 3:
            site.commit_blobs(1, size=3_000_000)
            site.commit_pages(3, size=800_000)
        if round_ in (4, 8):
            site.pack()
        states.update([site.backed_up()])
    site.close()
    reader = Reader(site.location, site.blob_location)
    kept = {stamp: state for stamp, state in states.items() if (site.location / f"{stamp}.json").exists()}
    assert len(kept) == 8
    assert max(len(state.data) for state in kept.values()) > 2 * 1_048_576  # several members
    for stamp, state in kept.items():
        assert reader.data_fs(stamp) == state.data
        assert reader.contents(stamp).items() >= state.needed.items()
    # The pool is a blobstorage, and holds no more than the states that are there.
    in_pool = set(blob_files(site.blob_location / "blobs"))
    assert in_pool == {key for stamp in kept for key in reader.contents(stamp)}
    assert (site.blob_location / "blobs" / ".layout").read_text() == "bushy"


IN_CONTAINERS = {
    "directories": {"blob_layout": "directories"},
    "numbered directories": {"blob_timestamps": "false"},
    "copies": {"use_rsync": "false"},
    "first copy linked": {"rsync_hard_links_on_first_copy": "true"},
    "archives": {"archive_blob": "true"},
    "numbered, compressed archives": {"archive_blob": "true", "blob_timestamps": "false", "compress_blob": "true"},
    "incremental archives": {"archive_blob": "true", "incremental_blobs": "true"},
    "compressed incremental archives": {"archive_blob": "true", "incremental_blobs": "true", "compress_blob": "true"},
}


@pytest.mark.parametrize("options", IN_CONTAINERS.values(), ids=IN_CONTAINERS)
@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_another_reader_finds_every_state_in_directories_and_archives(
    tmp_path: Path, layout: str, options: dict[str, str]
) -> None:
    site = Site(tmp_path / "site", layout=layout, options={"keep": "2", **options})
    site.begin_with_a_blob()
    states: dict[str, State] = {}
    for round_ in range(9):
        site.commit_pages(2)
        site.commit_blobs(3)
        if round_ in (2, 6):
            site.delete()
            site.pack()
        # One state among them is in the pool.
        site.options = {"keep": "2", **({"blob_layout": "pool"} if round_ == 4 else options)}
        states.update([site.backed_up()])
    site.close()
    reader = Reader(site.location, site.blob_location)
    kept = {stamp: state for stamp, state in states.items() if (site.location / f"{stamp}.json").exists()}
    assert len(kept) == 7
    for stamp, state in kept.items():
        assert reader.data_fs(stamp) == state.data
        assert reader.contents(stamp).items() >= state.needed.items()
        is_pool = reader.record(stamp)["blobs"]["layout"] == "pool"
        assert is_pool == (stamp == sorted(states)[4])
    # What belonged to the states that are gone is gone too.
    stored = [name for name in os.listdir(site.blob_location) if name.startswith("blobstorage.")]
    assert len([name for name in stored if not name.endswith(".snar")]) == len(kept) - 1
    assert_latest_and_links(site, reader, sorted(kept), options)
    if "incremental_blobs" in options:
        assert_snapshot_file(site, reader, sorted(kept))


def assert_latest_and_links(site: Site, reader: Reader, stamps: list[str], options: dict[str, str]) -> None:
    """The symlink leads to the newest one, and blobs are linked where that is said."""
    latest = site.blob_location / "latest"
    if "incremental_blobs" in options or "blob_timestamps" in options:
        assert not os.path.lexists(latest)
    else:
        assert os.readlink(latest).startswith(f"blobstorage.{stamps[-1]}")
    if "archive_blob" in options:
        return
    one, two = (blob_files(reader.directory(stamp) / "blobstorage") for stamp in stamps[-2:])
    live = blob_files(site.blob_storage or site.folder)
    both = one.keys() & two.keys()
    assert both
    assert {one[key].samefile(two[key]) for key in both} == {"use_rsync" not in options}
    shares_with_site = any(path.samefile(live[key]) for key, path in two.items() if key in live)
    assert shares_with_site == ("rsync_hard_links_on_first_copy" in options)


def assert_snapshot_file(site: Site, reader: Reader, stamps: list[str]) -> None:
    """The snapshot file of the newest chain tells what the dumpdirs of its newest archive tell."""
    newest = reader.series(stamps[-1])[-1]
    assert ".delta." in newest.name
    full = reader.chain(stamps[-1])[0][0][:19]
    told = folders_in_snapshot_file(site.blob_location / f"blobstorage.{full}.snar")
    dumpdirs = {f"./{name}".rstrip("/"): content for name, kind, content in members(newest) if kind == b"D"}
    assert {name: dumpdir for name, (*_, dumpdir) in told.items()} == dumpdirs
    assert site.blob_storage is not None
    for name, (modified, device, inode, _) in told.items():
        status = os.stat(site.blob_storage / name)
        assert (status.st_mtime_ns, status.st_dev, status.st_ino) == (modified, device, inode)
