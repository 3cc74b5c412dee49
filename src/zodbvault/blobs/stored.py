"""The directories and archives of blobs in a location, by their names: ours and collective.recipe.backup's alike.

`blobstorage.2026-11-23-18-05-00/`, `blobstorage.0/`, `blobstorage.2026-11-23-18-05-00.tar.gz`, `blobstorage.0.tar`,
`blobstorage.2026-11-23-18-05-00.delta.tar` and `blobstorage.2026-11-23-18-05-00.snar`: what stands before the first dot
is the base name of the blobstorage. Knows names and times, never a blob. Both recipes pass over the names that end
with `.part`, which is what something has while it is made or removed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.durable import PART_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

LATEST = "latest"
"""The symlink to the newest directory or archive with a timestamp."""

ORPHAN_SUFFIX = ".orphan"
"""Behind the name of what belonged to no backup and was put aside."""
PRUNED_SUFFIX = ".pruned"
"""Before PART_SUFFIX, in the name of a directory that is being removed."""
REPLACED_SUFFIX = ".replaced"
"""Before PART_SUFFIX, in the name of a directory whose place another one takes."""

_MARK = r"(?P<mark>\d{4}(?:-\d\d){5}|0|[1-9]\d{0,7})"
_NAME = re.compile(rf"(?P<base>.+)\.{_MARK}(?P<suffix>|(?:\.delta)?\.tar(?:\.gz)?|\.snar)\Z", re.DOTALL | re.ASCII)


class Form(Enum):
    """What a name stands for."""

    DIRECTORY = "directory"
    ARCHIVE = "archive"
    DELTA = "delta archive"
    SNAPSHOT_FILE = "snapshot file of GNU tar"


ARCHIVE_FORMS = (Form.ARCHIVE, Form.DELTA)
"""What holds blobs in a tar file."""


class Stored(NamedTuple):
    """One directory, archive or snapshot file. base: the name of the blobstorage.

    number: of a rotated one, 0 is the newest; None for one whose name holds its timestamp. timestamp: from the name,
    else from the modification time (UTC).
    """

    path: Path
    base: str
    form: Form
    number: int | None
    timestamp: str


def stored_name(base: str, mark: str | int, form: Form, *, compressed: bool = False) -> str:
    """The name of a directory or archive. mark: a timestamp, or the number of a rotated one."""
    suffixes = {Form.DIRECTORY: "", Form.ARCHIVE: ".tar", Form.DELTA: ".delta.tar", Form.SNAPSHOT_FILE: ".snar"}
    return f"{base}.{mark}{suffixes[form]}{'.gz' if compressed else ''}"


def parse_stored_name(name: str) -> tuple[str, str, Form] | None:
    """Base, mark (timestamp or number) and form that a name has; None for any other name."""
    match = _NAME.match(name)
    if match is None:
        return None
    suffix = match["suffix"]
    if not suffix:
        form = Form.DIRECTORY
    elif suffix == ".snar":
        form = Form.SNAPSHOT_FILE
    else:
        form = Form.DELTA if suffix.startswith(".delta") else Form.ARCHIVE
    if form in (Form.DELTA, Form.SNAPSHOT_FILE) and "-" not in match["mark"]:
        return None
    return match["base"], match["mark"], form


def find_stored(location: Path) -> tuple[Stored, ...]:
    """What a location holds, by time, oldest first. A folder that does not exist holds nothing. Raises ZodbvaultError.

    Only real folders count as directories and only real files as archives.
    """
    found = []
    try:
        with os.scandir(location) as entries:
            for entry in entries:
                parsed = parse_stored_name(entry.name)
                if parsed is None:
                    continue
                base, mark, form = parsed
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # a backup has renamed or removed it meanwhile
                if stat.S_ISDIR(status.st_mode) != (form is Form.DIRECTORY) or stat.S_ISLNK(status.st_mode):
                    continue
                number = None if "-" in mark else int(mark)
                timestamp = mark if number is None else timestamp_at(status.st_mtime)
                found.append(Stored(location / entry.name, base, form, number, timestamp))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ZodbvaultError(f"cannot be listed: {reason_of(error)}", path=location) from error
    # Of two numbered ones of one second the greater number is the older one.
    return tuple(sorted(found, key=lambda one: (one.timestamp, -(one.number or 0), one.form.value)))


def timestamp_at(moment: float) -> str:
    """A moment in seconds since 1970 as a timestamp (UTC)."""
    return time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(moment))


def series_up_to(stored: tuple[Stored, ...], newest: Stored) -> tuple[Stored, ...]:
    """The archives that are unpacked one after the other for the state of `newest`: the full one and its deltas."""
    if newest.form is not Form.DELTA:
        return (newest,)
    series: list[Stored] = []
    for one in stored:
        if one.base != newest.base or one.number is not None or one.timestamp > newest.timestamp:
            continue
        if one.form is Form.ARCHIVE:
            series = [one]
        elif one.form is Form.DELTA and series:
            series.append(one)
    return tuple(series)


def is_part_of_stored(name: str, base: str) -> bool:
    """Whether a name is that of a directory, archive or snapshot file which is being made or removed.

    base: name of the blobstorage; what belongs to another one is not ours to judge.
    """
    whole = name
    for suffix in (PART_SUFFIX, PRUNED_SUFFIX, REPLACED_SUFFIX, ORPHAN_SUFFIX):
        whole = whole.removesuffix(suffix)
    parsed = parse_stored_name(whole)
    return name.endswith(PART_SUFFIX) and (whole == LATEST or (parsed is not None and parsed[0] == base))
