"""The data files' part of a verification: against their records and lines, and, unpacked, against what a Data.fs is.

Knows nothing of blobs but that the data refer to them.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_left
from threading import Lock
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import OID_SIZE
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.commands.verify_result import Finding, from_then_on
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.checking import BACK_POINTER_SIZE, RestoredBytes, back_pointer, those_of_blobs
from zodbvault.filestorage.format import NO_TID
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import BackgroundHash, sha256_of
from zodbvault.io.progress import step
from zodbvault.io.workers import Workers, thread_count
from zodbvault.repository.checks import DEEP, QUICK
from zodbvault.repository.store import size_of, tells_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from zodbvault.filestorage.checking import Boundary, CheckedRange
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.dat import Line
    from zodbvault.repository.records import Record
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


def verify_files(repository: Repository, chains: Sequence[Chain], how: str) -> dict[str, list[Finding]]:
    """What is wrong with the data files of some chains, by the chains' timestamps: each file for itself.

    how: QUICK for names and sizes; DEFAULT reads each file; DEEP leaves the reading to `follow_transactions`. Several
    files are read at a time.
    """
    work = [(chain, line) for chain in chains for line in chain.lines]
    findings: dict[str, list[Finding]] = {chain.timestamp: [] for chain in chains}
    total = sum(size_of(repository.location / line.file.name) or 0 for _, line in work)
    reads = how not in (QUICK, DEEP)
    with contextlib.ExitStack() as stack:
        on_progress = stack.enter_context(step("data files", total)) if reads else None
        counter = _Counter(on_progress)
        workers = stack.enter_context(Workers(thread_count() if reads else 1, "verify"))
        jobs = [workers.submit(_look(repository, line, counter, reads=reads)) for _, line in work]
        for (chain, line), job in zip(work, jobs, strict=True):
            what = job.wait()
            if what is not None:
                findings[chain.timestamp].append(Finding(from_then_on(stamps_of(chain), line.timestamp), what))
    return findings


def stamps_of(chain: Chain) -> list[str]:
    """The timestamps of a chain's backups, oldest first; of one whose `.dat` is damaged that of its full."""
    return [line.timestamp for line in chain.lines] or [chain.timestamp]


class _Counter:
    """Adds up what several threads have read."""

    def __init__(self, on_progress: Callable[[int], None] | None) -> None:
        self._on_progress = on_progress
        self._lock = Lock()
        self._done = 0

    def of_one(self) -> Callable[[int], None] | None:
        """Takes the bytes of one file that were read so far."""
        on_progress = self._on_progress
        if on_progress is None:
            return None
        before = 0

        def at(done: int) -> None:
            nonlocal before
            with self._lock:
                self._done += done - before
                before = done
                on_progress(self._done)

        return at


def _look(repository: Repository, line: Line, counter: _Counter, *, reads: bool) -> Callable[[], str | None]:
    def look() -> str | None:
        try:
            return _wrong_with_file(repository, line, counter, reads=reads)
        except ZodbvaultError as error:
            return str(error)

    return look


def _wrong_with_file(repository: Repository, line: Line, counter: _Counter, *, reads: bool) -> str | None:
    """Whether one data file is there, whole, and what its record and its `.dat` line say. Raises ZodbvaultError."""
    path = repository.location / line.file.name
    size = size_of(path)
    if size is None:
        return f"{line.file.name} is missing"
    record = repository.record(line.timestamp)
    if record is None:
        if not size and line.file.is_compressed:
            return f"{line.file.name} is empty"
        if not line.file.is_compressed and size != line.size:
            return f"{line.file.name} has {size} bytes, written were {line.size}"
        if reads:
            for _ in _blocks_with_md5(path, line, counter.of_one()):
                pass
        return None
    if not tells_of(record, line):
        return "its record and its line in the .dat file do not agree"
    if size != record.stored_size:
        return f"{line.file.name} has {size} bytes, written were {record.stored_size}"
    if reads and sha256_of(path, counter.of_one())[1] != record.sha256:
        return f"{line.file.name} is not what was written (another sha256)"
    return None


def _blocks_with_md5(
    path: Path, line: Line, on_progress: Callable[[int], None] | None = None
) -> Generator[bytes, None, None]:
    """The uncompressed bytes of a data file; at their end raises ZodbvaultError where their md5 is not the line's."""
    done = 0
    with BackgroundHash("md5") as digest:
        for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
            digest.update(block)
            yield block
            done += len(block)
        found = digest.hexdigest()
    if on_progress is not None:
        on_progress(size_of(path) or done)
    if found != line.md5:
        raise ZodbvaultError(f"holds md5 {found}, written was {line.md5}", path=path)


class References:
    """The blobs that the data of a chain refer to, and which of its backups came with each. A context manager.

    last_tids: the greatest tid of each backup. is_complete: the chain was read to its end. is_exact: no tid goes back,
    so a blob's tid tells which backup has it. is_encrypted: some records cannot be looked into. scratch: a folder for
    temporary files.
    """

    def __init__(self, scratch: Path) -> None:
        self.keys = SortedKeys(scratch)
        self.last_tids: list[bytes] = []
        self.is_complete = False
        self.is_exact = True
        self.is_encrypted = False

    def up_to(self, number: int) -> Generator[bytes, None, None]:
        """The keys of those that the state of the `number`th backup (from 0) refers to, in ascending order."""
        last = self.last_tids[number]
        is_newest = number + 1 == len(self.last_tids)
        return (key for key in self.keys if is_newest or key[OID_SIZE:] <= last)

    def number_of(self, key: bytes) -> int:
        """The number of the first backup that refers to a blob."""
        return min(bisect_left(self.last_tids, key[OID_SIZE:]), len(self.last_tids) - 1)

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self.keys.close()


def follow_transactions(repository: Repository, chain: Chain, references: References, scratch: Path) -> list[Finding]:
    """Unpack a chain as a restore would and compare what comes out with `.dat`, records and itself.

    references: gets the blobs that the data refer to.
    """
    with SortedRecords(BACK_POINTER_SIZE, scratch) as back_pointers:
        checker = RestoredBytes(
            chain.newest.end,
            None,
            lambda oid, tid: references.keys.add(oid + tid),
            on_back_pointer=lambda *record: back_pointers.add(back_pointer(*record)),
        )
        line = chain.lines[0]
        findings: list[Finding] = []
        last_tid = NO_TID
        try:
            for line in chain.lines:
                _feed(repository, line, checker)
                boundary = checker.boundary()
                if boundary is None:
                    # What comes after it makes the bytes whole again.
                    findings.append(Finding((line.timestamp,), f"{line.file.name} ends in the middle of a transaction"))
                else:
                    _compare_with_record(repository, line, boundary)
                    last_tid = boundary.last_tid
                references.last_tids.append(last_tid)
            checked = checker.finish()
        except ZodbvaultError as error:
            return [*findings, Finding(from_then_on(stamps_of(chain), line.timestamp), str(error))]
        for key in list(those_of_blobs(back_pointers, references.keys)):
            references.keys.add(key)
    _note(chain, checked, references)
    return findings


def _feed(repository: Repository, line: Line, checker: RestoredBytes) -> None:
    """Unpack one data file into the checker. Raises ZodbvaultError where it is not what was written.

    The stored bytes are hashed meanwhile, so they come from the disk once.
    """
    path = repository.location / line.file.name
    record = repository.record_of(line)
    with Workers(1, "sha256") as workers:
        stored = workers.submit(lambda: sha256_of(path)[1]) if record is not None else None
        with contextlib.closing(_blocks_with_md5(path, line)) as blocks:
            for block in blocks:
                checker.feed(block)
        if stored is not None and record is not None and stored.wait() != record.sha256:
            raise ZodbvaultError("is not what was written (another sha256)", path=path)


def _compare_with_record(repository: Repository, line: Line, boundary: Boundary) -> None:
    """See that a backup ends with the transaction that its record names. Raises DamagedDataFs."""
    path = repository.location / line.file.name
    record: Record | None = repository.record_of(line)
    tail = None if boundary.tail_tid is None else boundary.tail_tid.hex()
    if record is not None and (record.tail_tid, record.tail_header) != (tail, boundary.tail_header):
        raise DamagedDataFs("its last transaction is not the one that its record names", path=path)


def _note(chain: Chain, checked: CheckedRange, references: References) -> None:
    """What the walk tells of the whole of the data."""
    references.is_complete = True
    references.is_encrypted = checked.encrypted
    references.is_exact = not checked.went_back
    for offset in checked.went_back:
        logger.warning(
            "The chain of %s: the tid goes back at offset %d, which ZODB tolerates.", chain.timestamp, offset
        )


def lacking(
    referenced: Iterable[bytes], state: Iterable[bytes], lost: frozenset[bytes]
) -> Generator[bytes, None, None]:
    """The keys of `referenced` that are neither in `state` nor in `lost`; both in ascending order."""
    keys = iter(state)
    in_state = next(keys, None)
    for key in referenced:
        while in_state is not None and in_state < key:
            in_state = next(keys, None)
        if in_state != key and key not in lost:
            yield key
