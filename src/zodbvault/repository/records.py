"""The record of one backup, `TS.json`: everything about it that is known without reading its data.

A record is optional for readers: repositories of repozo have none. It is written before the data file and the `.dat`
line that it describes, so that a run which was killed one step before its end can be finished.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from zodbvault.errors import ZodbvaultError

FORMAT_VERSION = 1
# Bytes. A record lists the blobs that a site has lost, and nothing else in it grows.
MAXIMUM_SIZE = 64 * 1024 * 1024

# The kinds of backups; the last one is a state of blobs alone, without a Data.fs.
FULL = "full"
INCREMENTAL = "incremental"
BLOBS = "blobs"

# The layouts of the blobs of backups.
POOL = "pool"
DIRECTORIES = "directories"
ARCHIVES = "archives"


class DamagedRecord(ZodbvaultError):
    """A record that cannot be read, or does not hold what a record holds."""


class NewerFormat(ZodbvaultError):
    """A record that a later version of zodbvault wrote: it is not guessed at."""


class BlobRecord(NamedTuple):
    """The blob state of one backup.

    layout: the layout of the backup (`pool`, `directories`, `archives`). manifest: its name, in the blob location.
    sha256 and stored_size: of that file, hexadecimal and bytes. complete: whether it names every blob or only the
    change. source_layout: `bushy` or `lawn`. added, added_size: number and bytes of the blobs that were copied for
    this backup. total, total_size: number and bytes of all blobs of the state.
    missing: blobs that the database refers to and that the site has lost, as paths in bushy layout.
    archives_size: bytes of the archive, and of those that it stands on, where the layout is `archives`; else None.
    """

    layout: str
    manifest: str
    sha256: str
    stored_size: int
    complete: bool
    source_layout: str
    added: int
    added_size: int
    total: int
    total_size: int
    missing: tuple[str, ...] = ()
    archives_size: int | None = None


class Record(NamedTuple):
    """One backup. Times are ISO 8601 in UTC, tids 16 hexadecimal digits, offsets and sizes bytes, sums hexadecimal.

    kind: FULL, INCREMENTAL, or BLOBS, which has no data file: what tells of one is 0, empty or None then.
    start, end: the bytes of Data.fs in this backup. first_tid: of its first transaction. last_tid: the greatest tid of
    the whole state, 0 to end. tail_tid, tail_header: tid and offset of the transaction that ends at `end`, by which the
    next backup recognises the file (no tid in an empty database). magic: the first four bytes of Data.fs.
    data_name, md5: of the data file, md5 over the uncompressed bytes; stored_size, sha256: of the file as it is stored.
    chain_id: a random name, the same for all backups of a chain. chain_backups, chain_stored_size, chain_manifest_size:
    number of the chain's backups up to this one and the sums of their stored sizes, so that one look at the folder
    shows whether all of them are there.
    transactions: their number in this backup, None where they were not counted (a backup that repozo made).
    encrypted: records were met whose content cannot be looked into.
    """

    timestamp: str
    kind: str
    start: int
    end: int
    first_tid: str | None
    last_tid: str | None
    tail_tid: str | None
    tail_header: int
    magic: str
    transactions: int | None
    data_name: str | None
    md5: str | None
    stored_size: int
    sha256: str | None
    source_path: str
    source_device: int
    source_inode: int
    started: str
    finished: str
    engine: str
    chain_id: str
    chain_backups: int
    chain_stored_size: int
    chain_manifest_size: int
    encrypted: bool = False
    blobs: BlobRecord | None = None
    format: int = FORMAT_VERSION


# The Python types of a field, by its annotation; JSON's lists are made tuples before they are compared.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "tuple[str, ...]": (tuple,),
    "BlobRecord | None": (BlobRecord, type(None)),
}

# How many hexadecimal digits a text has.
_DIGITS = {"first_tid": 16, "last_tid": 16, "tail_tid": 16, "md5": 32, "sha256": 64}
_HEX_DIGITS = frozenset("0123456789abcdef")

# Fields that records of the same format may lack, since versions before did not write them.
_ADDED_LATER = frozenset({"archives_size"})


def format_record(record: Record) -> bytes:
    """The content of the record's file: JSON, the format version first, keys that explain themselves."""
    blobs = None if record.blobs is None else record.blobs._asdict()
    content = {"format": record.format, **record._asdict(), "blobs": blobs}
    return json.dumps(content, indent=1).encode() + b"\n"


def parse_record(content: bytes, name: str) -> Record:
    """Read a record. Raises DamagedRecord for what is none, NewerFormat for one of a later version."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedRecord("is not a record: it cannot be read as JSON", path=name) from error
    if not isinstance(values, dict) or not isinstance(values.get("format"), int) or values["format"] < 1:
        raise DamagedRecord("is not a record: it has no format version", path=name)
    if values["format"] > FORMAT_VERSION:
        raise NewerFormat(
            f"has format {values['format']}, and this version of zodbvault knows up to {FORMAT_VERSION}",
            path=name,
            hint="Use the version of zodbvault that wrote it, or a later one.",
        )
    blobs = values.get("blobs")
    if isinstance(blobs, dict):
        values["blobs"] = BlobRecord(**_checked(BlobRecord, blobs, name))
    return Record(**_checked(Record, values, name))


def _checked(cls: type[Record] | type[BlobRecord], values: dict[str, Any], name: str) -> dict[str, Any]:
    """The values for the fields of `cls`, each of its type; a key that this version does not know is left out."""
    checked: dict[str, Any] = {}
    for field, annotation in cls.__annotations__.items():
        if field in _ADDED_LATER and field not in values:
            continue
        if field not in values:
            raise DamagedRecord(f"is not a record: it has no {field!r}", path=name)
        value = values[field]
        if isinstance(value, list) and all(isinstance(item, str) and is_text(item) for item in value):
            value = tuple(value)
        # What a NamedTuple keeps of an annotation that was not evaluated.
        wanted: str = annotation.__forward_arg__
        if not isinstance(value, _TYPES[wanted]) or not _can_be(field, value, wanted):
            raise DamagedRecord(f"is not a record: its {field!r} is {str(value)[:80]!r}", path=name)
        checked[field] = value
    return checked


def _can_be(field: str, value: object, annotation: str) -> bool:
    """Whether a number can be a size or an offset, and a text a name, or the digits that it should be.

    To Python, JSON's true and false are numbers too.
    """
    if isinstance(value, bool):
        return annotation == "bool"
    if isinstance(value, int):
        return 0 <= value < 1 << 64
    if isinstance(value, str) and field in _DIGITS:
        return len(value) == _DIGITS[field] and _HEX_DIGITS.issuperset(value)
    return not isinstance(value, str) or is_text(value)


def is_text(value: str) -> bool:
    """Whether a text from JSON can be the name of a file, and be shown: JSON has halves of characters too.

    Those by which Python stands for the bytes of names that are not UTF-8 are none of these (PEP 383).
    """
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in value
