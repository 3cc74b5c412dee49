"""A line for each backup: when, what, how large. From the `.dat` files and the records; no backup is read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from zodbvault.commands.choosing import choose, recorded_blob_states
from zodbvault.commands.places import usual_places
from zodbvault.commands.summary import size_text
from zodbvault.repository.store import Repository, read_repository, size_of
from zodbvault.repository.timestamps import parse_when

if TYPE_CHECKING:
    from zodbvault.repository.dat import Line
    from zodbvault.repository.records import BlobRecord
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

_MISSING = "MISSING"
_HEADINGS = ("backup (UTC)", "kind", "size", "stored", "new blobs", "blobs")


def list_backups(settings: Settings, *, when: str | None) -> tuple[str, ...]:
    """Lines of a table, oldest backup first; with `when` only what a restore for that date would take."""
    date = parse_when(when)
    places = usual_places(settings)
    repository = read_repository(places.location, places.blobs)
    if settings.only_blobs:
        rows = _rows_of_blobs_alone(repository, date)
    elif date is not None:
        rows = [
            _row(repository, line) for line in choose(repository, date, with_blobs=settings.backup_blobs).chain.lines
        ]
    else:
        rows = _rows(repository)
        if any(_MISSING in row for row in rows):
            # A backup may have pruned meanwhile.
            rows = _rows(read_repository(places.location, places.blobs))
    if not rows:
        return (f"No backups in {places.location}.",)
    return _aligned([_HEADINGS, *rows])


def _rows(repository: Repository) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for chain in repository.chains:
        if chain.damage is not None:
            logger.warning("%s", chain.damage)
        rows += [_row(repository, line) for line in chain.lines]
    for listed in repository.listed:
        logger.warning("The chain of %s has no .dat file.", listed.timestamp)
        for file in listed.files:
            kind = "full" if file.is_full else "incremental"
            stored = size_of(repository.location / file.name)
            rows.append((file.timestamp, kind, "?", _size(stored), "?", "?"))
    return sorted(rows)


def _row(repository: Repository, line: Line) -> tuple[str, ...]:
    record = repository.record_of(line)
    kind = "full" if line.file.is_full else "incremental"
    stored = size_of(repository.location / line.file.name)
    blobs = _blob_cells(None if record is None else record.blobs)
    return (line.timestamp, kind, size_text(line.size), _size(stored), *blobs)


def _rows_of_blobs_alone(repository: Repository, date: str | None) -> list[tuple[str, ...]]:
    stamps = [stamp for stamp in recorded_blob_states(repository.names) if date is None or stamp <= date]
    rows: list[tuple[str, ...]] = []
    for stamp in stamps if date is None else stamps[-1:]:
        record = repository.record(stamp)
        blobs = None if record is None else record.blobs
        kind = "blobs" if blobs is None else "blobs (full)" if blobs.complete else "blobs (change)"
        rows.append((stamp, kind, "-" if blobs is None else size_text(blobs.total_size), "-", *_blob_cells(blobs)))
    return rows


def _blob_cells(blobs: BlobRecord | None) -> tuple[str, str]:
    if blobs is None:
        return ("-", "-")
    missing = f" ({len(blobs.missing)} missing)" if blobs.missing else ""
    return (f"{blobs.added} ({size_text(blobs.added_size)})", f"{blobs.total}{missing}")


def _size(stored: int | None) -> str:
    return _MISSING if stored is None else size_text(stored)


def _aligned(rows: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The rows with columns of equal width, two spaces between."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return tuple("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
