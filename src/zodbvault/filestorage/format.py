"""The layout of a FileStorage file: its fields, their sizes, the values that some of them may have.

Facts only: nothing here opens a file or judges one. They come from ZODB.FileStorage.format (fields and lengths),
ZODB._compat (FILESTORAGE_MAGIC) and ZODB.FileStorage.FileStorage (what read_index accepts). All numbers are big-endian.

A file is a magic of 4 bytes, then transactions without gaps, each of them:

    8  tid                  grows from one transaction to the next
    8  length               of the whole transaction less 8, that is without the closing length
    1  status               b" " finished, b"p" finished and packed since, b"u" undone (old files, its records do not
                            count), b"c" written by a vote that is not finished; only the last one may be
    2  length of user       in bytes, as the next two
    2  length of description
    2  length of extension
    .  user, description, extension
    .  data records
    8  closing length       the same as the length above

A data record:

    8  oid
    8  tid
    8  previous             offset of the object's record before this one, 0 for none
    8  transaction          offset of the transaction that this record is in
    2  version length       0 since versions are gone (ZODB 3.9)
    8  data length
  (16  two offsets          only where the version length is not 0)
  ( .  version              only where the version length is not 0)
    .  data                 or, where the data length is 0, 8 bytes: the offset of the record that has the data (an undo
                            refers back so), 0 when the object's creation was undone

The data are two pickles (ZODB.serialize): the object's class, then its state.
"""

from __future__ import annotations

import struct

MAGICS = (b"FS21", b"FS30")
"""Written by ZODB on Python 2 and on Python 3."""

MAGIC_LENGTH = 4
FIRST_TRANSACTION = MAGIC_LENGTH

NO_TID = bytes(8)
"""Comes before every tid."""

LAST_TID = b"\xff" * 8
"""Comes after every tid."""

TRANSACTION_HEADER = struct.Struct(">QQBHHH")
"""tid, length, status, lengths of user, description and extension."""

CLOSING_AND_HEADER = struct.Struct(">QQQBHHH")
"""The closing length of one transaction and the header of the next one."""

RECORD_HEADER = struct.Struct(">8s8sQQHQ")
"""oid, tid, previous, transaction, version length, data length."""

NUMBER = struct.Struct(">Q")

TRANSACTION_HEADER_LENGTH = 23
CLOSING_LENGTH = 8
RECORD_HEADER_LENGTH = 42
BACK_POINTER_LENGTH = 8
VERSION_OFFSETS_LENGTH = 16

assert TRANSACTION_HEADER.size == TRANSACTION_HEADER_LENGTH
assert CLOSING_AND_HEADER.size == CLOSING_LENGTH + TRANSACTION_HEADER_LENGTH
assert RECORD_HEADER.size == RECORD_HEADER_LENGTH
assert NUMBER.size == CLOSING_LENGTH == BACK_POINTER_LENGTH

FINISHED_STATUSES = b" pu"
"""A transaction with one of these was committed; iterating yields the numbers that the header holds."""

UNFINISHED_STATUS = ord("c")
UNDONE_STATUS = ord("u")
PACKED_STATUS = ord("p")
"""ZODB.FileStorage.fspack gives it to every transaction up to the moment that it packs to, and to no other."""


def tid_as_bytes(tid: int) -> bytes:
    """The 8 bytes that stand in the file for the number `tid`."""
    return NUMBER.pack(tid)


def tid_as_number(tid: bytes) -> int:
    """The number that the 8 bytes of `tid` are; numbers compare as the bytes do."""
    number: int = NUMBER.unpack(tid)[0]
    return number
