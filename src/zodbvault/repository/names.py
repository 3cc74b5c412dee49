"""The names of the files in a repository: what a name says, and what a file of a backup is called.

Knows names only, never a disk. The names of data files are repozo's (ZODB.scripts.repozo, `is_data_file`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.repository.records import ARCHIVES, DIRECTORIES

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCK_NAME = ".zodbvault.lock"
ID_NAME = ".zodbvault.id"

PART_SUFFIX = ".part"
ORPHAN_SUFFIX = ".orphan"
PRUNED_SUFFIX = ".dat.pruned"

RECORD_SUFFIX = ".json"
# Of a state of blobs alone that is being removed.
PRUNED_RECORD_SUFFIX = ".json.pruned"
CHECKS_SUFFIX = ".checks.json"
INDEX_SUFFIX = ".index"
DAT_SUFFIX = ".dat"
COMPLETE_MANIFEST_SUFFIX = ".blobs.gz"
DELTA_MANIFEST_SUFFIX = ".deltablobs.gz"
# Of states whose blobs are not in the pool; always complete.
DIRECTORY_MANIFEST_SUFFIX = ".directoryblobs.gz"
ARCHIVE_MANIFEST_SUFFIX = ".archiveblobs.gz"

DATA_SUFFIXES = (".fsz", ".fs", ".deltafsz", ".deltafs")
# What stands beside a data file and goes with it. In the order of removal: the record is last, because a sweep
# recognises by it that the others are ours.
COMPANION_SUFFIXES = (CHECKS_SUFFIX, INDEX_SUFFIX, RECORD_SUFFIX)
POOL_MANIFEST_SUFFIXES = (COMPLETE_MANIFEST_SUFFIX, DELTA_MANIFEST_SUFFIX)
CONTAINER_MANIFEST_SUFFIXES = (DIRECTORY_MANIFEST_SUFFIX, ARCHIVE_MANIFEST_SUFFIX)
# By layout.
CONTAINER_MANIFEST_SUFFIX = {DIRECTORIES: DIRECTORY_MANIFEST_SUFFIX, ARCHIVES: ARCHIVE_MANIFEST_SUFFIX}
MANIFEST_SUFFIXES = (*POOL_MANIFEST_SUFFIXES, *CONTAINER_MANIFEST_SUFFIXES)

_TIMESTAMP_LENGTH = len("2026-11-23-18-05-00")


class DataFile(NamedTuple):
    """A file of transactions: a full or an incremental backup, gzip or plain."""

    name: str
    timestamp: str
    is_full: bool
    is_compressed: bool


def split_name(name: str) -> tuple[str, str] | None:
    """The timestamp and the suffix of a repository file (`2026-11-23-18-05-00`, `.fsz`), or None for another file."""
    timestamp, suffix = name[:_TIMESTAMP_LENGTH], name[_TIMESTAMP_LENGTH:]
    # By hand: compiling a regular expression would cost each start of a script a millisecond.
    digits = timestamp.replace("-", "")
    is_timestamp = timestamp[4::3] == "-----" and len(digits) == 14 and digits.isascii() and digits.isdecimal()
    return (timestamp, suffix) if is_timestamp and suffix.startswith(".") else None


def data_file(name: str) -> DataFile | None:
    """What a data file's name says; None when `name` is not exactly that of a data file."""
    parts = split_name(name)
    if parts is None or parts[1] not in DATA_SUFFIXES:
        return None
    timestamp, suffix = parts
    return DataFile(name, timestamp, is_full=not suffix.startswith(".delta"), is_compressed=suffix.endswith("z"))


def is_our_part(name: str) -> bool:
    """Whether `name` is a file that was still being written: the name of a repository file with `.part` behind it."""
    if not name.endswith(PART_SUFFIX):
        return False
    whole = name[: -len(PART_SUFFIX)]
    if whole == ID_NAME:
        return True
    parts = split_name(whole)
    if parts is not None and parts[1].startswith(f"{CHECKS_SUFFIX}."):
        return True  # several processes may write one at a time, so something random stands before the end
    ours = (*DATA_SUFFIXES, *COMPANION_SUFFIXES, *MANIFEST_SUFFIXES, DAT_SUFFIX)
    return parts is not None and parts[1] in ours


def container_states(names: Iterable[str]) -> frozenset[tuple[str, bool]]:
    """The states in directories and archives that manifests among `names` tell of.

    Each is a timestamp, and whether a directory holds it.
    """
    parts = (split_name(name) for name in names if name.endswith(CONTAINER_MANIFEST_SUFFIXES))
    return frozenset(
        (part[0], part[1] == DIRECTORY_MANIFEST_SUFFIX)
        for part in parts
        if part is not None and part[1] in CONTAINER_MANIFEST_SUFFIXES
    )
