"""Repositories made by hand, small and real: gzip files, `.dat`, records, manifests; and repozo's view of them."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ZODB.scripts import repozo

from zodbvault.io.durable import Ownership
from zodbvault.repository.dat import Line, format_dat
from zodbvault.repository.names import data_file
from zodbvault.repository.records import FULL, INCREMENTAL, BlobRecord, Record, format_record
from zodbvault.repository.store import Repository, read_repository
from zodbvault.repository.sweep import Swept, sweep

if TYPE_CHECKING:
    from pathlib import Path

OWNERSHIP = Ownership(0o640, None, None)
MD5 = "0123456789abcdef0123456789abcdef"

RECORD = Record(
    timestamp="2026-11-23-18-05-00",
    kind=FULL,
    start=0,
    end=100,
    first_tid="0" * 16,
    last_tid="1" * 16,
    tail_tid="1" * 16,
    tail_header=4,
    magic="FS21",
    transactions=3,
    data_name="2026-11-23-18-05-00.fsz",
    md5=MD5,
    stored_size=50,
    sha256="0" * 64,
    source_path="/srv/site/Data.fs",
    source_device=1,
    source_inode=2,
    started="2026-11-23T18:05:00Z",
    finished="2026-11-23T18:05:01Z",
    engine="1.0",
    chain_id="c",
    chain_backups=1,
    chain_stored_size=50,
    chain_manifest_size=0,
)

BLOBS = BlobRecord(
    layout="pool",
    manifest="2026-11-23-18-05-00.blobs.gz",
    sha256="0" * 64,
    stored_size=10,
    complete=True,
    source_layout="bushy",
    added=1,
    added_size=2,
    total=3,
    total_size=4,
)


def line(name: str, start: int, end: int, md5: str | None = MD5) -> Line:
    """A line for a data file of this name."""
    file = data_file(name)
    assert file is not None
    return Line(file, start, end, md5)


def stamp(number: int) -> str:
    """The timestamp of the backup number so-and-so."""
    return f"2026-11-{1 + number // 60:02}-18-{number % 60:02}-00"


@dataclass
class Made:
    """A location and a blob location. states: what `repozo -R` has to give for each timestamp that has a line."""

    folder: Path
    with_records: bool = True
    with_blobs: bool = True
    compressed: bool = True
    states: dict[str, bytes] = field(default_factory=dict)
    chains: dict[str, list[Line]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.location.mkdir(parents=True)
        self.blob_location.mkdir()

    @property
    def location(self) -> Path:
        return self.folder / "location"

    @property
    def blob_location(self) -> Path:
        return self.folder / "blobs"

    def full(self, timestamp: str, *, upto: str = "dat") -> Record:
        """A full backup, written up to and with "manifest", "record", "data" or "dat"."""
        return self._backup(timestamp, None, upto)

    def incremental(self, timestamp: str, *, upto: str = "dat", on: str | None = None) -> Record:
        """An incremental on the chain `on`, the newest one by default."""
        return self._backup(timestamp, on or max(self.chains), upto)

    def chain(self, *timestamps: str) -> None:
        """A full and its incrementals."""
        self.full(timestamps[0])
        for timestamp in timestamps[1:]:
            self.incremental(timestamp)

    def _backup(self, timestamp: str, chain: str | None, upto: str) -> Record:
        lines = [] if chain is None else self.chains[chain]
        data = f"<{timestamp}>".encode() * 7
        start = lines[-1].end if lines else 0
        name = timestamp + ("." if chain is None else ".delta") + ("fsz" if self.compressed else "fs")
        stored = gzip.compress(data, mtime=0) if self.compressed else data
        manifest = timestamp + (".blobs.gz" if chain is None else ".deltablobs.gz")
        listing = f"manifest of {timestamp}".encode()
        earlier = [self.location / each.file.name for each in lines]
        manifests = [*self.blob_location.glob("*blobs.gz")] if chain is not None else []
        blobs = BLOBS._replace(
            manifest=manifest,
            sha256=hashlib.sha256(listing).hexdigest(),
            stored_size=len(listing),
            complete=chain is None,
        )
        record = RECORD._replace(
            timestamp=timestamp,
            kind=FULL if chain is None else INCREMENTAL,
            start=start,
            end=start + len(data),
            data_name=name,
            md5=hashlib.md5(data).hexdigest(),
            stored_size=len(stored),
            sha256=hashlib.sha256(stored).hexdigest(),
            chain_backups=len(lines) + 1,
            chain_stored_size=sum(path.stat().st_size for path in earlier) + len(stored),
            chain_manifest_size=len(listing)
            + sum(path.stat().st_size for path in manifests if chain is not None and path.name >= chain)
            if self.with_blobs
            else 0,
            blobs=blobs if self.with_blobs else None,
        )
        steps = ("manifest", "record", "data", "dat")
        wanted = steps[: steps.index(upto) + 1]
        if self.with_blobs:
            (self.blob_location / manifest).write_bytes(listing)
        if "record" in wanted and self.with_records:
            (self.location / f"{timestamp}.json").write_bytes(format_record(record))
            if chain is None:
                (self.location / f"{timestamp}.index").write_bytes(b"index")
        if "data" in wanted:
            (self.location / name).write_bytes(stored)
        if "dat" in wanted:
            self.add_line(record, chain)
        return record

    def add_line(self, record: Record, chain: str | None) -> None:
        """Name a data file in the `.dat` of its chain."""
        assert record.data_name is not None
        new = line(record.data_name, record.start, record.end, record.md5)
        lines = self.chains.setdefault(chain or record.timestamp, [])
        before = self.states[lines[-1].timestamp] if lines else b""
        lines.append(new)
        self.states[record.timestamp] = before + f"<{record.timestamp}>".encode() * 7
        (self.location / f"{lines[0].timestamp}.dat").write_bytes(format_dat(lines))

    def read(self) -> Repository:
        return read_repository(self.location, self.blob_location if self.with_blobs else None)

    def sweep(self, *, blobs_are_there: bool = True) -> Swept:
        return sweep(self.read(), lambda record: blobs_are_there, OWNERSHIP)

    def names(self) -> set[str]:
        """All files of both folders."""
        return {*os.listdir(self.location), *os.listdir(self.blob_location)}

    def by_repozo(self, when: str | None) -> bytes | None:
        """What `repozo -R` writes for a date; None when it finds nothing."""
        output = self.folder / "recovered"
        output.unlink(missing_ok=True)
        arguments = ["-R", "-r", str(self.location), "-o", str(output)]
        try:
            repozo.main([*arguments, "-D", when] if when else arguments)
        except (repozo.NoFiles, SystemExit):
            return None
        return output.read_bytes()

    def assert_repozo_restores(self, timestamps: list[str] | None = None) -> None:
        """`repozo -R` gives the right bytes for every date (or for these), and `repozo -V` finds nothing."""
        for timestamp in sorted(self.states) if timestamps is None else timestamps:
            assert self.by_repozo(timestamp) == self.states[timestamp], timestamp
            options = {"repository": str(self.location), "date": timestamp, "quick": False, "verbose": False}
            repozo.do_verify(SimpleNamespace(**options))
