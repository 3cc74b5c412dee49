"""What became of a backup when it was looked at again, `TS.checks.json`: last verified, last rehearsed, and the result.

The file goes with its backup and is optional for readers. It is written without the repository's lock, so a run that
holds the lock may remove it, or the part that is being written, at any moment: a result that cannot be kept is no
error. Knows nothing of how a backup is verified.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from zodbvault.errors import reason_of
from zodbvault.io.durable import PART_SUFFIX, Ownership, PartFile, SyncBatch, sync_folder
from zodbvault.repository.names import CHECKS_SUFFIX
from zodbvault.repository.records import is_text
from zodbvault.repository.store import UnreadableFile, read_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

logger = logging.getLogger("zodbvault")

FORMAT_VERSION = 1
# Bytes.
MAXIMUM_SIZE = 65_536

QUICK = "quick"
DEFAULT = "default"
DEEP = "deep"
"""How thoroughly a backup was verified."""


class Checks(NamedTuple):
    """The last checks of the backup at `timestamp`. Times are ISO 8601 in UTC; None where it was never done.

    verified_good: None too where the data are good and nobody knows their blobs. verified_how: QUICK, DEFAULT or DEEP.
    drilled: when a restore of it was rehearsed. drill_seconds: how long the rehearsed restore took.
    The `pruned_` ones tell of the last checks of backups that are gone, where no later ones are known: that somebody
    looked, and rehearsed, is worth knowing for longer than a backup is kept.
    """

    timestamp: str
    verified: str | None = None
    verified_good: bool | None = None
    verified_how: str | None = None
    drilled: str | None = None
    drilled_good: bool | None = None
    drill_seconds: float | None = None
    pruned_verified: str | None = None
    pruned_verified_good: bool | None = None
    pruned_drilled: str | None = None
    pruned_drilled_good: bool | None = None
    pruned_drill_seconds: float | None = None


class LastCheck(NamedTuple):
    """When something was last done in a repository, whether it went well, and how long it took."""

    moment: str
    good: bool | None
    seconds: float | None = None


def last_verified(every: Iterable[Checks]) -> LastCheck | None:
    """The newest verification that these checks know of, of whichever backup."""
    found = [
        LastCheck(moment, good)
        for one in every
        for moment, good in ((one.verified, one.verified_good), (one.pruned_verified, one.pruned_verified_good))
        if moment is not None
    ]
    return max(found, key=lambda last: last.moment, default=None)


def last_drilled(every: Iterable[Checks]) -> LastCheck | None:
    """The newest rehearsal that these checks know of, of whichever backup."""
    found = [
        LastCheck(moment, good, seconds)
        for one in every
        for moment, good, seconds in (
            (one.drilled, one.drilled_good, one.drill_seconds),
            (one.pruned_drilled, one.pruned_drilled_good, one.pruned_drill_seconds),
        )
        if moment is not None
    ]
    return max(found, key=lambda last: last.moment, default=None)


def found_damaged(location: Path, names: frozenset[str], timestamps: Iterable[str]) -> str | None:
    """The first of these backups of which its last verification says that it does not restore; None where none is.

    names: of the files in the location.
    """
    for timestamp in timestamps:
        checks = _known(location, names, timestamp)
        if checks is not None and checks.verified_good is False:
            return timestamp
    return None


def carried_over(gone: Sequence[Checks], heir: Checks, others: Sequence[Checks]) -> Checks:
    """The checks of a backup that stays, with what is known from those that go and from no later look at any other."""
    stay = (heir, *others)
    verified, drilled = last_verified(gone), last_drilled(gone)
    if verified is not None and _is_newer(verified, last_verified(stay)):
        heir = heir._replace(pruned_verified=verified.moment, pruned_verified_good=verified.good)
    if drilled is not None and _is_newer(drilled, last_drilled(stay)):
        heir = heir._replace(
            pruned_drilled=drilled.moment, pruned_drilled_good=drilled.good, pruned_drill_seconds=drilled.seconds
        )
    return heir


def _is_newer(last: LastCheck, other: LastCheck | None) -> bool:
    return other is None or last.moment > other.moment


def carry_over(
    location: Path, names: frozenset[str], gone: Iterable[str], stay: Sequence[str], ownership: Ownership
) -> None:
    """Let the newest backup that stays keep what is known of the checks of those that go; before they go.

    names: of the files in the location. gone, stay: timestamps of backups, `stay` oldest first. A result that cannot be
    kept is no error.
    """
    known = [_known(location, names, stamp) for stamp in gone]
    leaving = [one for one in known if one is not None]
    if not stay or not leaving:
        return
    heir = _known(location, names, stay[-1]) or Checks(stay[-1])
    others = [one for stamp in stay[:-1] if (one := _known(location, names, stamp)) is not None]
    enriched = carried_over(leaving, heir, others)
    if enriched != heir:
        write_checks(location, enriched, ownership)


def _known(location: Path, names: frozenset[str], timestamp: str) -> Checks | None:
    return read_checks(location, timestamp) if timestamp + CHECKS_SUFFIX in names else None


_MOST_SECONDS = 1 << 63

_TYPES: dict[str, tuple[type, ...]] = {
    "verified": (str,),
    "verified_good": (bool,),
    "verified_how": (str,),
    "drilled": (str,),
    "drilled_good": (bool,),
    "drill_seconds": (int, float),
    "pruned_verified": (str,),
    "pruned_verified_good": (bool,),
    "pruned_drilled": (str,),
    "pruned_drilled_good": (bool,),
    "pruned_drill_seconds": (int, float),
}


def format_checks(checks: Checks) -> bytes:
    """The content of the file: JSON, the format version first."""
    return json.dumps({"format": FORMAT_VERSION, **checks._asdict()}, indent=1).encode() + b"\n"


def parse_checks(content: bytes, timestamp: str) -> Checks | None:
    """Read the content of the file of the backup at `timestamp`; None for what is not such a file, or a later format.

    A value of a wrong type is as good as none, and so is a number of seconds that is none.
    """
    try:
        values: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("format") != FORMAT_VERSION or values.get("timestamp") != timestamp:
        return None
    known = {name: values.get(name) for name in Checks._fields if name != "timestamp"}
    return Checks(timestamp, **{name: value if _fits(name, value) else None for name, value in known.items()})


def _fits(name: str, value: object) -> bool:
    wanted = _TYPES[name]
    if isinstance(value, str) and not is_text(value):
        return False
    # What Python reads as JSON may be infinite or no number at all, and is no JSON where it is written again.
    if isinstance(value, (int, float)) and not 0 <= value < _MOST_SECONDS:
        return False
    # To Python, JSON's true and false are numbers too.
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def read_checks(location: Path, timestamp: str) -> Checks | None:
    """What is known of the backup at `timestamp`; None when there is no such file, or it cannot be read."""
    path = location / (timestamp + CHECKS_SUFFIX)
    try:
        checks = parse_checks(read_small(path, MAXIMUM_SIZE), timestamp)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        logger.warning("%s What it says of earlier checks does not count.", error.sentence)
        return None
    if checks is None:
        logger.warning("%s: holds no checks that this version can read; they do not count.", path)
    return checks


def write_checks(location: Path, checks: Checks, ownership: Ownership) -> bool:
    """Keep the checks of one backup, durably; whether that was possible."""
    return write_all_checks(location, (checks,), ownership)


def write_all_checks(location: Path, every: Iterable[Checks], ownership: Ownership) -> bool:
    """Keep the checks of several backups, durably; whether that was possible. The folder is synced once."""
    try:
        # Leaving the stack removes the parts that did not get their names.
        with contextlib.ExitStack() as stack:
            batch = stack.enter_context(SyncBatch())
            parts = [_written(stack, batch, location, checks, ownership) for checks in every]
            batch.finish()
            for part in parts:
                os.replace(part.part, part.path)
        sync_folder(location)
    except OSError as error:
        # On a disk that is there for reading only, or swept by a backup meanwhile.
        logger.debug("%s: the checks cannot be kept: %s", location, reason_of(error))
        return False
    return True


def _written(
    stack: contextlib.ExitStack, batch: SyncBatch, location: Path, checks: Checks, ownership: Ownership
) -> PartFile:
    """A file without its name. Nobody holds a lock, so the part has a name that no other process uses."""
    path = location / (checks.timestamp + CHECKS_SUFFIX)
    unlike_others = path.with_name(f"{path.name}.{os.urandom(4).hex()}{PART_SUFFIX}")
    part = stack.enter_context(PartFile(path, ownership, part=unlike_others))
    part.file.write(format_checks(checks))
    batch.add_file(part.file.fileno())
    part.file.close()
    return part
