"""The Data.fs that a chain holds, read at any place without restoring it; and how far each backup goes.

For those who look for single transactions: `restore --at` and `log`. Reads what is asked for and compares no md5.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import chains_known_by_listing, chains_to_restore, measured_chain
from zodbvault.filestorage.backward import transactions_backward
from zodbvault.filestorage.format import NO_TID
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.tids import nearest_tid_at
from zodbvault.io.clock import DAY
from zodbvault.io.closing import Closing
from zodbvault.io.stored_bytes import StoredBytes
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zodbvault.filestorage.backward import Transaction
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.dat import Line
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")

FILES_OPEN = 4
"""Of one chain, at a time."""


class ChainBytes(Closing):
    """The bytes that the lines of a chain hold together, by their offset in Data.fs. A context manager.

    scratch: a folder for temporary files. read() raises DamagedFile.
    """

    def __init__(self, location: Path, lines: tuple[Line, ...], scratch: Path) -> None:
        self._location = location
        self._lines = lines
        self._starts = [line.start for line in lines]
        self._scratch = scratch
        self._open: OrderedDict[int, StoredBytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes of Data.fs from `offset` on; fewer only where the chain ends."""
        found = b""
        while length > 0 and self._lines and offset < self._lines[-1].end:
            # Of lines without bytes the last one is found, and passed over.
            number = bisect_right(self._starts, offset) - 1
            part = self._file(number).read(offset - self._starts[number], length)
            found = found + part if found else part
            offset, length = offset + len(part), length - len(part)
        return found

    def transactions(self, line: Line) -> Iterator[Transaction]:
        """The transactions of one backup, the last one first. Raises DamagedDataFs, naming the file."""
        try:
            yield from transactions_backward(self.read, line.start, line.end)
        except DamagedDataFs as error:
            raise DamagedDataFs(error.what, path=self._location / line.file.name) from error

    def _file(self, number: int) -> StoredBytes:
        file = self._open.get(number)
        if file is None:
            line = self._lines[number]
            path = self._location / line.file.name
            file = StoredBytes(path, line.size, compressed=line.file.is_compressed, scratch=self._scratch)
            self._open[number] = file
            if len(self._open) > FILES_OPEN:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(number)
        return file

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()


class Reach(NamedTuple):
    """How far one backup goes. chain: all of its chain; number: of its line there. last_tid: the greatest in its state.

    last_tid is None for a backup without a record that is certainly older than what is looked for.
    """

    chain: Chain
    number: int
    last_tid: bytes | None

    @property
    def line(self) -> Line:
        """The backup's line."""
        return self.chain.lines[self.number]


def every_chain(repository: Repository) -> tuple[Chain, ...]:
    """The chains that can be read, oldest first; those without a `.dat` too. Warns of the others."""
    chains = chains_to_restore(repository)
    listed = chains_known_by_listing(repository, chains)
    for chain in chains:
        if chain.damage is not None:
            logger.warning("%s", chain.damage)
    found = [chain for chain in chains if chain.lines]
    found += (measured_chain(repository, each) for each in listed)
    return tuple(sorted(found, key=lambda chain: chain.timestamp))


def reaches(repository: Repository, chains: Iterable[Chain], wanted: bytes, scratch: Path) -> Iterator[Reach]:
    """How far each backup goes, the oldest backup first.

    Where no record tells it, its last transaction is looked at; not where the backup is a day older than the tid
    `wanted`, for that is more than clocks differ.
    """
    every = [(chain, number) for chain in chains for number in range(len(chain.lines))]
    for chain, number in sorted(every, key=lambda one: one[0].lines[one[1]].timestamp):
        yield Reach(chain, number, _last_tid(repository, chain, number, wanted, scratch))


def _last_tid(repository: Repository, chain: Chain, number: int, wanted: bytes, scratch: Path) -> bytes | None:
    line = chain.lines[number]
    record = repository.record_of(line)
    if record is not None:
        return NO_TID if record.last_tid is None else bytes.fromhex(record.last_tid)
    if nearest_tid_at(max(seconds_of(line.timestamp), 0) + DAY) < wanted:
        return None
    with ChainBytes(repository.location, chain.lines, scratch) as data:
        for transaction in data.transactions(line):
            return transaction.tid
    return NO_TID if number == 0 else _last_tid(repository, chain, number - 1, NO_TID, scratch)
