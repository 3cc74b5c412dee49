"""What the tests of this package play with: a real site, a writer and a clock that they control."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transaction
import ZODB
import ZODB.blob
import ZODB.FileStorage
from persistent.mapping import PersistentMapping
from ZODB.FileStorage.FileStorage import FileIterator

from zodbvault.io.clock import PretendClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Site:
    """A real ZODB with blobs."""

    def __init__(self, folder: Path, wrap: Callable[[Any], Any] | None = None) -> None:
        self.folder = folder
        self.path = folder / "Data.fs"
        self.blob_folder = folder / "blobstorage"
        self._wrap = wrap or (lambda storage: storage)
        self.open()

    def open(self) -> None:
        self.storage = ZODB.FileStorage.FileStorage(str(self.path), blob_dir=str(self.blob_folder))
        self.db = ZODB.DB(self._wrap(self.storage))
        self.connection = self.db.open(transaction_manager=transaction.TransactionManager())
        self.root = self.connection.root()

    def close(self) -> None:
        self.connection.transaction_manager.abort()
        self.connection.close()
        self.db.close()

    def commit(self, note: str = "") -> None:
        current = self.connection.transaction_manager.get()
        if note:
            current.note(note)
        current.commit()

    def commit_page(self, name: str = "page", text: str = "text") -> None:
        page = self.root.get(name)
        if page is None:
            page = self.root[name] = PersistentMapping()
        page["text"] = text
        self.commit(f"change {name}")

    def commit_blob(self, name: str = "blob", content: bytes = b"content") -> None:
        if name in self.root:
            with self.root[name].open("w") as file:
                file.write(content)
        else:
            self.root[name] = ZODB.blob.Blob(content)
        self.commit(f"upload {name}")

    def undo_last(self) -> None:
        self.db.undo(self.db.undoInfo()[0]["id"], self.connection.transaction_manager.get())
        self.commit("undo")
        self.connection.sync()

    def pack(self) -> None:
        self.db.pack()

    @property
    def bytes(self) -> bytes:
        return self.path.read_bytes()

    def ends(self) -> list[int]:
        """Where each committed transaction ends, as ZODB says."""
        with_ends = FileIterator(str(self.path))
        ends = [transaction_record._tend + 8 for transaction_record in with_ends]
        with_ends.close()
        return ends


def blobs_as_zodb_says(path: Path) -> set[tuple[bytes, bytes]]:
    found = set()
    iterator = FileIterator(str(path))
    for record in (record for one in iterator for record in one):
        if ZODB.blob.is_blob_record(record.data):
            found.add((record.oid, record.tid))
    iterator.close()
    return found


@dataclass
class Written:
    size: int
    md5: str


@dataclass
class KeptBytes:
    """Stands in for the writer of gzip members: keeps all that it gets, in blocks of any size."""

    block_size: int = 1 << 20
    data: bytearray = field(default_factory=bytearray)
    lengths: list[int] = field(default_factory=list)

    def buffer(self) -> bytearray:
        return bytearray(os.urandom(1) * self.block_size)

    def write(self, buffer: bytearray, length: int) -> None:
        assert 0 < length <= len(buffer)
        self.data += buffer[:length]
        self.lengths.append(length)

    def finish(self) -> Written:
        return Written(len(self.data), hashlib.md5(self.data).hexdigest())


class ActingClock(PretendClock):
    """Does something to the world whenever it is slept on."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        super().__init__(1_700_000_000.0)
        self.sleeps: list[float] = []
        self._actions = list(actions)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sleeps.append(seconds)
        if self._actions:
            self._actions.pop(0)()
