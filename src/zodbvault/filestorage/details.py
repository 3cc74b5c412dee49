"""What one transaction says of itself, and how many objects and blobs it changed, without its data being read.

Reads headers and the first bytes of each record; a transaction of gigabytes costs no more than the number of its
records. Knows the layout of a FileStorage; where the bytes come from is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.filestorage.blob_records import PREFIX_LENGTH, is_blob_pickle
from zodbvault.filestorage.format import (
    BACK_POINTER_LENGTH,
    CLOSING_LENGTH,
    NUMBER,
    RECORD_HEADER,
    RECORD_HEADER_LENGTH,
    TRANSACTION_HEADER_LENGTH,
    VERSION_OFFSETS_LENGTH,
)
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.filestorage.backward import Transaction

    Read = Callable[[int, int], bytes]


class Details(NamedTuple):
    """What a transaction is about. user, description: as text, what is no UTF-8 written out. objects: data records.

    blobs: those of them that are blobs'.
    """

    user: str
    description: str
    objects: int
    blobs: int


def details_of(read: Read, transaction: Transaction) -> Details:
    """Look into one transaction. read(offset, length) gives bytes of the Data.fs, of any place before its end.

    Raises DamagedDataFs where its records do not add up.
    """
    text_start = transaction.start + TRANSACTION_HEADER_LENGTH
    text = read(text_start, transaction.user + transaction.description)
    position = text_start + transaction.user + transaction.description + transaction.extension
    end = transaction.end - CLOSING_LENGTH
    objects = blobs = 0
    while position < end:
        oid, _, _, owner, version, length = RECORD_HEADER.unpack(_exactly(read, position, RECORD_HEADER_LENGTH))
        if owner != transaction.start:
            raise DamagedDataFs(f"the record at offset {position} is not of the transaction at {transaction.start}")
        blobs += _is_blobs(read, position, oid, version, length)
        objects += 1
        position = _data_start(position, version) + (length or BACK_POINTER_LENGTH)
    if position != end:
        raise DamagedDataFs(f"the transaction at offset {transaction.start} has a record that is longer than itself")
    user, description = text[: transaction.user], text[transaction.user :]
    return Details(_decoded(user), _decoded(description), objects, blobs)


def _is_blobs(read: Read, position: int, oid: bytes, version: int, length: int) -> bool:
    """Whether the data of a record are a blob's; those of one that refers back stand before it."""
    while not length:
        back = NUMBER.unpack(_exactly(read, _data_start(position, version), BACK_POINTER_LENGTH))[0]
        if not back:
            return False  # the object's creation was undone
        if back >= position:
            raise DamagedDataFs(f"the record at offset {position} refers to offset {back}, which is not before it")
        position = back
        found, _, _, _, version, length = RECORD_HEADER.unpack(_exactly(read, position, RECORD_HEADER_LENGTH))
        if found != oid:
            raise DamagedDataFs(f"the record at offset {position} has another oid than the one that refers to it")
    return is_blob_pickle(_exactly(read, _data_start(position, version), min(length, PREFIX_LENGTH)))


def _data_start(position: int, version: int) -> int:
    """Where the data of the record at `position` begin; only ZODB before 3.9 wrote versions."""
    return position + RECORD_HEADER_LENGTH + (VERSION_OFFSETS_LENGTH + version if version else 0)


def _exactly(read: Read, offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) < length:
        raise DamagedDataFs(f"ends at offset {offset + len(data)}, inside a record")
    return data


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
