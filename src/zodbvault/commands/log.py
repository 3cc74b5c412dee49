"""The transactions in the backups, the newest first: to find the moment before the one that somebody regrets.

Each is listed once, from the oldest backup that has it; that is the one that `restore --at` takes. Walks the stored
files from their ends, so the newest ones come at once and the memory is the same for any number. Takes no lock.
"""

from __future__ import annotations

import json
import logging
from heapq import merge
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.chain_bytes import ChainBytes, every_chain, reaches
from zodbvault.commands.places import BACKUPS, chosen_places
from zodbvault.commands.point_in_time import parse_point
from zodbvault.errors import ZodbvaultError, one_line
from zodbvault.filestorage.details import details_of
from zodbvault.filestorage.format import (
    FIRST_TRANSACTION,
    LAST_TID,
    NO_TID,
    PACKED_STATUS,
    tid_as_bytes,
    tid_as_number,
)
from zodbvault.filestorage.tids import time_of_tid
from zodbvault.repository.store import list_files, read_repository, was_pruned
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zodbvault.commands.chain_bytes import Reach
    from zodbvault.commands.places import Places
    from zodbvault.filestorage.details import Details
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

LOG_FORMAT = 1
BETWEEN = ".."

_LOCATION, _LOCATION_WIDTH = "location", 9
_HEADINGS = ("time (UTC)", "tid", "objects", "bytes", "blobs", "--at, just before", "user", "description")
_WIDTHS = (27, 16, -7, -10, -5, 17, 16, 0)
_MOST_TEXT = 200


class Entry(NamedTuple):
    """One transaction. size: bytes. backup: timestamp of the backup that has it. location: name of its repository.

    before: what `--at` takes for the state just before it; None where no backup knows that state any more.
    """

    tid: bytes
    size: int
    details: Details
    backup: str
    before: bytes | None
    location: str = BACKUPS


def parse_range(text: str | None) -> tuple[bytes, bytes]:
    """The first and the last tid that `WHEN..WHEN` means, where each side may lack; None means all.

    Raises UnreadableDate, and ConfigurationError for what is no range.
    """
    if text is None:
        return NO_TID, LAST_TID
    first, between, last = text.partition(BETWEEN)
    if not between:
        hint = f"Write {text}.. for all since then, ..{text} for all until then, or two dates with .. between."
        raise ConfigurationError([f"{text!r} is no range of time"], hint=hint)
    found = (parse_point(first) if first.strip() else NO_TID, parse_point(last) if last.strip() else LAST_TID)
    if found[0] > found[1]:
        raise ConfigurationError([f"the range {text!r} ends before it begins"])
    return found


def log_transactions(settings: Settings, *, between: str | None, which: str) -> Iterator[Entry]:
    """The transactions in the backups of a site in a range of time, the newest first.

    between: `WHEN..WHEN`; None for all. which: in LOCATIONS, or ALL: then one that is in several repositories comes
    once for each. Raises ZodbvaultError, at the latest when it comes to what cannot be read.
    """
    if settings.only_blobs:
        raise ConfigurationError(["there are no transactions in the backups: this site's blobs alone are backed up"])
    first, last = parse_range(between)
    logs = [_log_of(name, places, first, last) for name, places in chosen_places(settings, which)]
    yield from logs[0] if len(logs) == 1 else merge(*logs, key=lambda entry: entry.tid, reverse=True)


def _log_of(name: str, places: Places, first: bytes, last: bytes) -> Iterator[Entry]:
    """The transactions in one repository."""
    while True:
        repository = read_repository(places.location, places.blobs)
        try:
            for entry in _newest_first(repository, first, last):
                yield entry._replace(location=name)
                last = min(last, _before(entry.tid))
        except ZodbvaultError:
            now = list_files(places.location)
            stamps = [chain.timestamp for chain in repository.chains]
            stamps += [chain.timestamp for chain in repository.listed]
            if not any(was_pruned(stamp, repository.names, now) for stamp in stamps):
                raise
            logger.info("A backup was pruned meanwhile; those that are there now are looked at.")
        else:
            return


def _newest_first(repository: Repository, first: bytes, last: bytes) -> Iterator[Entry]:
    """The transactions from tid `first` to `last`, the newest first. Raises ZodbvaultError."""
    # Not in the repository: it may be there for reading only.
    scratch = Path(gettempdir())
    found = list(reaches(repository, every_chain(repository), first, scratch))
    floors = _greatest_before(found)
    for reach, floor in zip(reversed(found), reversed(floors), strict=True):
        if reach.last_tid is not None and reach.last_tid >= first and floor < last:
            yield from _entries(repository, reach, max(floor, _before(first)), last, scratch)


def _greatest_before(found: list[Reach]) -> list[bytes]:
    """For each backup the greatest tid of those that are older: what is not greater is listed with these."""
    floors: list[bytes] = []
    greatest = NO_TID
    for reach in found:
        floors.append(greatest)
        greatest = max(greatest, reach.last_tid or NO_TID)
    return floors


def _entries(repository: Repository, reach: Reach, after: bytes, last: bytes, scratch: Path) -> Iterator[Entry]:
    """The transactions of one backup that are later than `after` and not later than `last`."""
    with ChainBytes(repository.location, reach.chain.lines[: reach.number + 1], scratch) as data:
        for one in data.transactions(reach.line):
            if one.tid <= after:
                return
            if one.tid > last:
                continue
            # The state before a transaction that a pack has rewritten may lack what was newer then.
            is_known = one.status != PACKED_STATUS and one.start > FIRST_TRANSACTION
            before = _before(one.tid) if is_known else None
            yield Entry(one.tid, one.end - one.start, details_of(data.read, one), reach.line.timestamp, before)


def _before(tid: bytes) -> bytes:
    """The tid before this one; NO_TID has none before it."""
    return tid_as_bytes(max(tid_as_number(tid) - 1, 0))


def log_as_text(entries: Iterable[Entry], *, with_location: bool = False) -> Iterator[str]:
    """Lines of a table, as the entries come. with_location: each row says in which repository it is."""
    is_empty = True
    for entry in entries:
        if is_empty:
            yield _located(_LOCATION, with_location) + _aligned(_HEADINGS)
            is_empty = False
        details = entry.details
        before = "-" if entry.before is None else entry.before.hex()
        numbers = (f"{details.objects:,}", f"{entry.size:,}", f"{details.blobs:,}")
        texts = (_one_line(details.user), _one_line(details.description))
        cells = (time_of_tid(entry.tid), entry.tid.hex(), *numbers, before, *texts)
        yield _located(entry.location, with_location) + _aligned(cells)
    if is_empty:
        yield "No transactions."


def log_as_json(entries: Iterable[Entry]) -> Iterator[str]:
    """The lines of one JSON object, as the entries come; the keys are those of docs/restore.rst."""
    yield f'{{"format": {LOG_FORMAT}, "transactions": ['
    waiting = None
    for entry in entries:
        if waiting is not None:
            yield f"{waiting},"
        waiting = json.dumps(
            {
                "time": time_of_tid(entry.tid),
                "tid": entry.tid.hex(),
                "user": entry.details.user,
                "description": entry.details.description,
                "objects": entry.details.objects,
                "bytes": entry.size,
                "blobs": entry.details.blobs,
                "location": entry.location,
                "backup": entry.backup,
                "at_before": None if entry.before is None else entry.before.hex(),
            }
        )
    if waiting is not None:
        yield waiting
    yield "]}"


def _located(location: str, with_location: bool) -> str:
    return f"{location.ljust(_LOCATION_WIDTH)}  " if with_location else ""


def _aligned(cells: tuple[str, ...]) -> str:
    """One row; columns of numbers stand right, the last one is as long as it is."""
    return "  ".join(
        cell.rjust(-width) if width < 0 else cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)
    ).rstrip()


def _one_line(text: str) -> str:
    """A text of anybody's as one line of printable characters, of bounded length."""
    return one_line(" ".join(text.split())[:_MOST_TEXT])
