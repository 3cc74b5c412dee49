"""Any part of what a stored file holds, uncompressed, in constant memory.

A file of ours is sought in, member by member. Another gzip file cannot be: it is unpacked once, into an unnamed
temporary file. Knows nothing of what the bytes are, and compares no checksum but those of gzip.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import Closing
from zodbvault.io.gzip_members import MemberTable, read_blocks
from zodbvault.io.stored import DamagedFile, open_stored

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

IN_MEMORY = 8
"""Members that are kept: megabytes."""


class StoredBytes(Closing):
    """The uncompressed bytes of the file at `path`. A context manager.

    size: how many there are. compressed: gzip, ours or anyone's. scratch: a folder for a temporary file.
    Raises DamagedFile where the file is not whole, here or in read().
    """

    def __init__(self, path: Path, size: int, *, compressed: bool, scratch: Path) -> None:
        self._path = path
        self._kept: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._table: MemberTable | None = None
        self._file: IO[bytes] = open_stored(path)
        try:
            if compressed:
                self._table = MemberTable(self._file.fileno(), path)
                if not self._table.is_ours:
                    self._table = None
                    self._unpack(size, scratch)
            found = self._table.size if self._table is not None else os.fstat(self._file.fileno()).st_size
            if found != size:
                raise DamagedFile(f"holds {found:,} bytes instead of {size:,}", path=path)
        except OSError as error:
            self.close()
            raise DamagedFile(f"cannot be read: {reason_of(error)}", path=path) from error
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer only at the end."""
        try:
            if self._table is None:
                return os.pread(self._file.fileno(), length, offset)
            end = min(offset + length, self._table.size)
            parts: list[bytes] = []
            while offset < end:
                start, data = self._member(self._table, self._table.number_of(offset))
                part = data[offset - start : end - start]
                parts.append(part)
                offset += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise DamagedFile(f"cannot be read: {reason_of(error)}", path=self._path) from error

    def _member(self, table: MemberTable, number: int) -> tuple[int, bytes]:
        member = self._kept.get(number)
        if member is None:
            member = self._kept[number] = table.inflate(number)
            if len(self._kept) > IN_MEMORY:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(number)
        return member

    def _unpack(self, size: int, scratch: Path) -> None:
        """Put a temporary file with the uncompressed bytes in the place of the stored one."""
        from tempfile import TemporaryFile

        self._file.close()
        try:
            self._file = TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - lives until close()
            for block in read_blocks(self._path, size, compressed=True):
                view = memoryview(block)
                while view:
                    view = view[self._file.write(view) :]
        except OSError as error:
            what = f"{self._path.name} cannot be unpacked to a temporary file: {reason_of(error)}"
            raise ZodbvaultError(what, path=scratch) from error

    def close(self) -> None:
        """Let go of all of it."""
        self._kept.clear()
        self._file.close()
