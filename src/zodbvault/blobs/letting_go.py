"""Removing directories and archives of blobs whose data are gone.

Which ones go is a plain decision on names and times. A directory loses its name in one instant, and only then what is
in it: nobody ever takes what is left of it for a backup.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from zodbvault.blobs.stored import (
    LATEST,
    ORPHAN_SUFFIX,
    PRUNED_SUFFIX,
    REPLACED_SUFFIX,
    Form,
    Stored,
    find_stored,
    is_part_of_stored,
    parse_stored_name,
    series_up_to,
)
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.durable import PART_SUFFIX, remove_durably, remove_tree, rename_durably

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

logger = logging.getLogger("zodbvault")


def older_than(
    stored: Sequence[Stored], base: str, timestamp: str, needed: Collection[tuple[str, bool]] = ()
) -> tuple[Stored, ...]:
    """What belongs to data from before `timestamp`, of the blobstorage whose name is `base`; the newest first.

    A series of archives goes as a whole: its deltas are of no use without the full one, which is the last to go.
    needed: the states that our manifests tell of: a timestamp, and whether a directory holds it. Where one of them
    stands under no name and no time, numbered ones have lost their times (a copy without them): all of these stay.
    """
    found = {(one.timestamp, _is_directory(one)) for one in stored if one.base == base}
    without_times = {is_directory for stamp, is_directory in needed if (stamp, is_directory) not in found}
    own = sorted(
        (one for one in stored if one.base == base and (one.number is None or _is_directory(one) not in without_times)),
        key=lambda one: (one.timestamp, one.form.value),
    )
    fulls = [one.timestamp for one in own if one.form is Form.ARCHIVE and one.number is None]
    newest_of_series: dict[str, str] = {}
    for one in own:
        newest_of_series[_series_of(one, fulls)] = one.timestamp
    return tuple(one for one in reversed(own) if newest_of_series[_series_of(one, fulls)] < timestamp)


def _is_directory(one: Stored) -> bool:
    return one.form is Form.DIRECTORY


def _series_of(one: Stored, fulls: Sequence[str]) -> str:
    """What an archive is part of: the timestamp of the full one that it stands on; a path for what stands alone."""
    if _is_directory(one) or one.number is not None:
        return str(one.path)
    return max((full for full in fulls if full <= one.timestamp), default=one.timestamp)


def remove_older(location: Path, base: str, timestamp: str, needed: Collection[tuple[str, bool]]) -> None:
    """Remove the directories and archives of a blobstorage (its name: base) from before `timestamp`.

    Those that a sweep put aside then are among them. needed: as for older_than(). Raises ZodbvaultError.
    """
    for one in older_than(find_stored(location), base, timestamp, needed):
        remove_stored(one)
        logger.info("Removed %s, which is older than the oldest backup.", one.path)
    for path, form in _put_aside_before(location, base, timestamp):
        remove_stored(Stored(path, base, form, None, timestamp))


def remove_of_states(location: Path, states: Collection[tuple[str, bool]]) -> None:
    """Remove the directories and archives of states: a timestamp, and whether a directory holds it.

    Whatever the blobstorage was called then. Archives that others stand on stay with them. Raises ZodbvaultError.
    """
    if not states:
        return
    stored = find_stored(location)
    going = [one for one in stored if (one.timestamp, _is_directory(one)) in states]
    needed = {
        part.path
        for one in stored
        if one not in going and one.form is not Form.SNAPSHOT_FILE
        for part in series_up_to(stored, one)
    }
    for one in reversed(going):
        if one.path not in needed:
            remove_stored(one)
            logger.info("Removed %s, whose backup is gone.", one.path)


def _put_aside_before(location: Path, base: str, timestamp: str) -> list[tuple[Path, Form]]:
    """The directories and archives with a timestamp before `timestamp` that a sweep has renamed."""
    found = []
    for name in os.listdir(location):
        parsed = parse_stored_name(name.removesuffix(ORPHAN_SUFFIX)) if name.endswith(ORPHAN_SUFFIX) else None
        if parsed is not None and parsed[0] == base and "-" in parsed[1] and parsed[1] < timestamp:
            found.append((location / name, parsed[2]))
    return found


def remove_stored(one: Stored) -> None:
    """Remove a directory or an archive. Raises ZodbvaultError."""
    try:
        if _is_directory(one):
            going = one.path.with_name(one.path.name + PRUNED_SUFFIX + PART_SUFFIX)
            rename_durably(one.path, going)
            remove_tree(going)
        else:
            remove_durably(one.path)
        _forget_latest(one.path)
    except OSError as error:
        raise ZodbvaultError(f"cannot be removed: {reason_of(error)}", path=one.path) from error


def remove_leftovers(location: Path, base: str) -> None:
    """Remove what a killed run was making or removing for a blobstorage (its name: base). Raises ZodbvaultError."""
    try:
        with os.scandir(location) as entries:
            leftovers = [entry.name for entry in entries if is_part_of_stored(entry.name, base)]
        for name in leftovers:
            path = location / name
            whole = path.with_name(name.removesuffix(REPLACED_SUFFIX + PART_SUFFIX))
            if whole != path and not os.path.lexists(whole):
                # The one that was to take its place never did.
                rename_durably(path, whole)
            elif path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                remove_durably(path)
    except OSError as error:
        raise ZodbvaultError(f"left-over files cannot be removed: {reason_of(error)}", path=location) from error


def _forget_latest(path: Path) -> None:
    """Remove the symlink to the newest one where it leads to what was removed."""
    latest = path.with_name(LATEST)
    if latest.is_symlink() and os.readlink(latest) == path.name:
        remove_durably(latest)
