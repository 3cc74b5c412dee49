"""Reading a restored database with ZODB itself, as the site would: each object, and each blob that one refers to.

The one module that opens a database as a storage; only a rehearsal does. Objects are read and unpickled without their
classes, which belong to the site and are not installed here. Knows nothing of backups.
"""

from __future__ import annotations

import errno
import logging
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from zodbvault.errors import DISK_FULL, ZodbvaultError, reason_of
from zodbvault.filestorage.blob_records import COMPRESSED_MARK, is_encrypted
from zodbvault.filestorage.format import MAGIC_LENGTH, MAGICS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_FAILURES = 20
"""Of more than these a person learns nothing new."""

ROOT_OID = bytes(8)

# What damaged data never lead to.
_OF_THE_DISK = frozenset({errno.EIO, errno.EACCES}) | DISK_FULL

# persistent has had both.
_MODULES_OF_ROOT = ("persistent.mapping", "PersistentMapping")


class Reading(NamedTuple):
    """What was read. objects: how many there are; read: of them. blobs: that these refer to, and were there.

    encrypted: of those that were read: their content cannot be looked into. failures: texts, the first few of
    `failed`.
    """

    objects: int
    read: int
    blobs: int
    encrypted: int
    failed: int
    failures: tuple[str, ...]


class _Reader:
    """Reads the objects of one open storage, and notes what is wrong."""

    def __init__(self, storage: Any, *, has_blobs: bool) -> None:
        from ZODB.blob import is_blob_record
        from ZODB.POSException import POSKeyError
        from ZODB.serialize import referencesf
        from ZODB.utils import load_current

        self._storage = storage
        self._has_blobs = has_blobs
        self._is_blob, self._unpickle, self._load, self._no_object = (
            is_blob_record,
            referencesf,
            load_current,
            POSKeyError,
        )
        self.read = self.blobs = self.encrypted = self.failed = 0
        self.failures: list[str] = []

    def look_at(self, oid: bytes) -> None:
        """Read one object, and look for its blob if it is one."""
        try:
            data, tid = self._load(self._storage, oid)
        except self._no_object:
            return  # its creation was undone
        except Exception as error:  # noqa: BLE001 - a damaged database may end in nearly every exception there is
            self._fail(f"object 0x{oid.hex()} cannot be read: {type(error).__name__}: {error}")
            return
        self.read += 1
        try:
            plain = _plain(data)
            if plain is None:
                self.encrypted += 1
                return
            self._unpickle(plain)
            is_blob = self._is_blob(plain)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"object 0x{oid.hex()} cannot be unpickled: {type(error).__name__}: {error}")
            return
        if is_blob and self._has_blobs:
            self._look_for_blob(oid, tid)

    def load_root(self) -> None:
        """Let ZODB load the root object, as a site does when it starts, but with no class of the site's."""
        import ZODB

        class WithoutClasses(ZODB.DB):  # type: ignore[misc]
            classFactory = staticmethod(_class_without_code)  # noqa: N815 - ZODB's name

        try:
            data, _ = self._load(self._storage, ROOT_OID)
            if data.startswith(COMPRESSED_MARK) or is_encrypted(data):
                return  # for a storage that is not installed here; it was looked at as an object
            # The storage is closed by whoever opened it.
            connection = WithoutClasses(self._storage).open()
            len(connection.root())
            connection.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"the root object cannot be loaded: {type(error).__name__}: {error}")

    def _look_for_blob(self, oid: bytes, tid: bytes) -> None:
        try:
            os.stat(self._storage.loadBlob(oid, tid))
        except (self._no_object, OSError):
            self._fail(f"the blob of object 0x{oid.hex()}, transaction {tid.hex()}, is missing")
        else:
            self.blobs += 1

    def _fail(self, what: str) -> None:
        self.failed += 1
        if self.failed <= MOST_FAILURES:
            self.failures.append(what)


def read_database(datafs: Path, blob_storage: Path | None, sample: int | None) -> Reading:
    """Open the database at `datafs`, for reading only, and read its root and every object, or `sample` of them.

    What cannot be read is a failure of the reading, no exception; also when the database cannot be opened at all.
    Raises ZodbvaultError where it is the disk that keeps it from being opened.
    """
    from ZODB.FileStorage import FileStorage

    # ZODB warns of what a pack leaves behind, to nobody's use here.
    logging.getLogger("ZODB").addHandler(logging.NullHandler())
    try:
        storage = FileStorage(str(datafs), read_only=True, blob_dir=None if blob_storage is None else str(blob_storage))
    except Exception as error:
        # Whatever keeps it from being opened is the finding.
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            # ZODB's errors do not name every file.
            raise ZodbvaultError(
                f"cannot be read: {reason_of(error)}", path=error.filename or datafs.parent.parent
            ) from error
        return Reading(0, 0, 0, 0, 1, (_why_not_opened(datafs, error),))
    try:
        reader = _Reader(storage, has_blobs=blob_storage is not None)
        objects = len(storage)
        for oid in _chosen(storage, objects, sample):
            reader.look_at(oid)
        if objects:
            reader.load_root()
        return Reading(objects, reader.read, reader.blobs, reader.encrypted, reader.failed, tuple(reader.failures))
    finally:
        # It was read: an error in closing it says nothing of it.
        with suppress(OSError):
            storage.close()


def _why_not_opened(datafs: Path, error: Exception) -> str:
    of_python_2, _ = MAGICS
    with datafs.open("rb") as file:
        if file.read(MAGIC_LENGTH) == of_python_2:
            return (
                f"it is a database of Python 2 (it begins with {of_python_2.decode()}), which no ZODB of Python 3 "
                "opens: rehearse this one by hand, with restore --to and the site's own Python"
            )
    return f"ZODB cannot open it: {type(error).__name__}: {error}"


def _chosen(storage: Any, objects: int, sample: int | None) -> Iterator[bytes]:
    """The oids to look at: all, or so many of them, anywhere in the database."""
    # A storage has no public way to go on behind an object whose creation was undone.
    oids = storage._index.keys()
    if sample is None or sample >= objects:
        yield from oids
        return
    numbers = iter(sorted(random.sample(range(objects), sample)))
    wanted = next(numbers, None)
    for number, oid in enumerate(oids):
        if number == wanted:
            yield oid
            wanted = next(numbers, None)


def _class_without_code(_connection: Any, module: str, name: str) -> type:
    """A class for a record that names one: the root's own, an empty one for all others.

    A backup may come from a place where others can write, and a record can name anything that can be imported.
    """
    from persistent.mapping import PersistentMapping
    from ZODB.broken import PersistentBroken

    if name == "PersistentMapping" and module in _MODULES_OF_ROOT:
        return PersistentMapping  # type: ignore[no-any-return]
    return type(name, (PersistentBroken,), {"__module__": module})


def _plain(data: bytes) -> bytes | None:
    """The pickles of a record, as the storages around FileStorage hide them; None where they are encrypted."""
    if is_encrypted(data):
        return None
    if data.startswith(COMPRESSED_MARK):
        import zlib

        return zlib.decompress(data[len(COMPRESSED_MARK) :])
    return data
