"""The folders of a blobstorage and what is in each of them, as GNU tar's dumpdirs tell it; made from a list of blobs.

A dumpdir is one text: for each name in the folder a letter and the name, ended by a zero byte, and one more zero byte
at the end. `D`: a folder; `Y`: a file that is in this archive; `N`: one that an earlier archive has (GNU tar manual,
"Dumpdir"). Constant memory: everything is sorted in spilled lists. Looks at no disk.
"""

from __future__ import annotations

from itertools import groupby
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import BUSHY, LAYOUT_MARKER, OID_SIZE, path_for
from zodbvault.blobs.spill import SortedRecords

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import IO

    from zodbvault.blobs.layouts import Layout

# The first bytes of an oid that lead to a folder (zeros behind them), how many of these there are, the next byte or the
# tid, the letter: folders sort as they are walked, each before what is in it.
_DEPTH, _CHILD = OID_SIZE, OID_SIZE + 1
_LETTER = _CHILD + 8
_RECORD_SIZE = _LETTER + 1

_IN_MEMORY = 1 << 20


class Folder(NamedTuple):
    """One folder. path: below the blobstorage, empty for itself. dumpdir: its text; size: of that, in bytes."""

    path: str
    dumpdir: IO[bytes]
    size: int


class FolderList:
    """Takes the blobs of a state one by one and gives their folders. A context manager: close() forgets them."""

    def __init__(self, layout: Layout, scratch: Path) -> None:
        self._layout: Layout = layout
        self._records = SortedRecords(_RECORD_SIZE, scratch)
        self._before = b""

    def add(self, key: bytes, *, is_new: bool) -> None:
        """One more blob. is_new: whether its content is in the archive that is made."""
        oid, tid = key[:OID_SIZE], key[OID_SIZE:]
        if oid != self._before:
            self._add_folders(oid)
            self._before = oid
        self._records.add(oid + bytes((OID_SIZE,)) + tid + (b"Y" if is_new else b"N"))

    def _add_folders(self, oid: bytes) -> None:
        """The folders on the way to those of an oid, each in its parent."""
        if self._layout != BUSHY:
            self._records.add(bytes(OID_SIZE) + b"\0" + oid + b"D")
            return
        for depth in range(OID_SIZE):
            child = oid[depth : depth + 1] + bytes(7)
            self._records.add(oid[:depth] + bytes(OID_SIZE - depth) + bytes((depth,)) + child + b"D")

    def folders(self, marker: bytes) -> Generator[Folder, None, None]:
        """Each folder, before the folders in it; the blobstorage itself is the first, also when it is empty.

        marker: the letter of the layout marker, empty where there is none.
        """
        first = marker + LAYOUT_MARKER.encode() + b"\0" if marker else b""
        groups = groupby(self._records, key=lambda record: record[:_CHILD])
        root = bytes(_CHILD)
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

    def __enter__(self) -> FolderList:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _folder(self, folder: bytes, first: bytes, records: Iterator[bytes]) -> Generator[Folder, None, None]:
        oid, depth = folder[:OID_SIZE], folder[_DEPTH]
        with SpooledTemporaryFile(_IN_MEMORY) as dumpdir:
            dumpdir.write(first)
            for record in records:
                letter = record[_LETTER:]
                dumpdir.write(letter + self._name(oid, depth, record[_CHILD:_LETTER], letter).encode() + b"\0")
            dumpdir.write(b"\0")
            size = dumpdir.tell()
            dumpdir.seek(0)
            yield Folder(self._path(oid, depth), dumpdir, size)

    def _name(self, oid: bytes, depth: int, child: bytes, letter: bytes) -> str:
        if letter != b"D":
            return path_for(self._layout, oid + child).rpartition("/")[2]
        if self._layout == BUSHY:
            return f"0x{child[0]:02x}"
        return path_for(self._layout, child + bytes(OID_SIZE)).partition("/")[0]

    def _path(self, oid: bytes, depth: int) -> str:
        folders = path_for(self._layout, oid + bytes(OID_SIZE)).split("/")[:-1]
        return "/".join(folders[:depth])
