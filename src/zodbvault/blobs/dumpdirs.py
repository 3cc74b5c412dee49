"""The folders of a blobstorage and what is in each of them, as GNU tar's dumpdirs tell it; made from a list of blobs.

A dumpdir is one text: for each name in the folder a letter and the name, ended by a zero byte, and one more zero byte
at the end. `D`: a folder; `Y`: a file that is in this archive; `N`: one that an earlier archive has (GNU tar manual,
"Dumpdir"). Constant memory: everything is sorted in spilled lists. Looks at no disk.
"""

from __future__ import annotations

from itertools import groupby
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import LAYOUT_MARKER, OID_SIZE, path_for
from zodbvault.blobs.spill import SortedRecords
from zodbvault.io.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import IO

    from zodbvault.blobs.layouts import Layout

# The first bytes of an oid that lead to a folder (zeros behind them), how many of these there are, a name in it, the
# letter: folders sort as they are walked, each before what is in it. GNU tar looks names up by halving, so the names of
# a dumpdir have to be in the order of their bytes; the longest is that of a blob, `0x`, 16 digits and `.blob`.
_DEPTH, _NAME = OID_SIZE, OID_SIZE + 1
_LETTER = _NAME + 23
_RECORD_SIZE = _LETTER + 1

_IN_MEMORY = 1 << 20


class Folder(NamedTuple):
    """One folder. path: below the blobstorage, empty for itself. dumpdir: its text; size: of that, in bytes."""

    path: str
    dumpdir: IO[bytes]
    size: int


class FolderList(Closing):
    """Takes the blobs of a state one by one and gives their folders. A context manager: close() forgets them."""

    def __init__(self, layout: Layout, scratch: Path) -> None:
        self._layout: Layout = layout
        self._records = SortedRecords(_RECORD_SIZE, scratch)
        self._before: list[str] = []

    def add(self, key: bytes, *, is_new: bool) -> None:
        """One more blob. is_new: whether its content is in the archive that is made."""
        oid = key[:OID_SIZE]
        *folders, name = path_for(self._layout, key).split("/")
        for depth, folder in enumerate(folders):
            # What the blob before had too is known already; in the order of the keys that is nearly all.
            if folder not in self._before[depth : depth + 1] or self._before[:depth] != folders[:depth]:
                self._add(oid[:depth], depth, folder, b"D")
        self._before = folders
        self._add(oid, OID_SIZE, name, b"Y" if is_new else b"N")

    def _add(self, prefix: bytes, depth: int, name: str, letter: bytes) -> None:
        """A name in the folder that the first bytes of an oid lead to."""
        folder = prefix.ljust(OID_SIZE, b"\0") + bytes((depth,))
        self._records.add(folder + name.encode().ljust(_LETTER - _NAME, b"\0") + letter)

    def folders(self, marker: bytes) -> Generator[Folder, None, None]:
        """Each folder, before the folders in it; the blobstorage itself is the first, also when it is empty.

        marker: the letter of the layout marker, empty where there is none.
        """
        first = marker + LAYOUT_MARKER.encode() + b"\0" if marker else b""
        groups = groupby(self._records, key=lambda record: record[:_NAME])
        root = bytes(_NAME)
        is_begun = False
        for folder, records in groups:
            if not is_begun and folder != root:
                yield from self._folder(root, first, iter(()))
            yield from self._folder(folder, b"" if is_begun else first, records)
            is_begun = True
        if not is_begun:
            yield from self._folder(root, first, iter(()))

    def close(self) -> None:
        """Forget the folders."""
        self._records.close()

    def _folder(self, folder: bytes, first: bytes, records: Iterator[bytes]) -> Generator[Folder, None, None]:
        oid, depth = folder[:OID_SIZE], folder[_DEPTH]
        with SpooledTemporaryFile(_IN_MEMORY) as dumpdir:
            dumpdir.write(first)
            for record in records:
                dumpdir.write(record[_LETTER:] + record[_NAME:_LETTER].rstrip(b"\0") + b"\0")
            dumpdir.write(b"\0")
            size = dumpdir.tell()
            dumpdir.seek(0)
            yield Folder(self._path(oid, depth), dumpdir, size)

    def _path(self, oid: bytes, depth: int) -> str:
        folders = path_for(self._layout, oid + bytes(OID_SIZE)).split("/")[:-1]
        return "/".join(folders[:depth])
