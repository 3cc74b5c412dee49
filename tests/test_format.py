"""docs/format.rst is enough to write another reader from: this is one, with nothing of ours imported."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, State, blob_files

if TYPE_CHECKING:
    from pathlib import Path


class Reader:
    """Reads one repository and its blob location."""

    def __init__(self, location: Path, blobs: Path) -> None:
        self.location = location
        self.blobs = blobs
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

    def blob_state(self, when: str) -> dict[str, tuple[int, str]]:
        """Size and sha256 of each blob of a date, by its path in the pool."""
        manifests: list[Path] = []
        for name, *_ in self.chain(when):
            complete, delta = self.blobs / f"{name[:19]}.blobs.gz", self.blobs / f"{name[:19]}.deltablobs.gz"
            manifests = [complete] if complete.exists() else [*manifests, delta]
        state: dict[str, tuple[int, str]] = {}
        for manifest in manifests:
            *lines, last = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
            assert last.decode() == f"=\t{len(lines)}\t{hashlib.sha256(b''.join(lines)).hexdigest()}\n"
            sign, version, _ = lines[0].split(b"\t")
            assert (sign, version) == (b"#", b"1")
            entries = [line.decode().rstrip("\n").split("\t") for line in lines[1:]]
            assert [path for _, path, *_ in entries] == sorted({path for _, path, *_ in entries})
            for sign_, path, size, sha256 in entries:
                assert sign_ == "+"
                state[path] = (int(size), sha256)
        return state

    def pool(self, when: str) -> dict[tuple[int, int], bytes]:
        """The content of each blob of a date, by oid and tid."""
        found = {}
        for path, (size, sha256) in self.blob_state(when).items():
            content = (self.blobs / "blobs" / path).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, sha256)
            *oid, tid = path.replace("0x", "").removesuffix(".blob").split("/")
            found[int("".join(oid), 16), int(tid, 16)] = content
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
        assert reader.pool(stamp).items() >= state.needed.items()
    # The pool is a blobstorage, and holds no more than the states that are there.
    in_pool = set(blob_files(site.blob_location / "blobs"))
    assert in_pool == {key for stamp in kept for key in reader.pool(stamp)}
    assert (site.blob_location / "blobs" / ".layout").read_text() == "bushy"
