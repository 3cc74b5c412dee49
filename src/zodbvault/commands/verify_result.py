"""What a verification found, as plain data: which dates restore, and what is wrong; for people and for programs.

Decides nothing from a disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.commands.summary import plural, printable
from zodbvault.commands.tables import Column, Table, shown
from zodbvault.errors import ZodbvaultError, one_line
from zodbvault.io.sizes import size_text
from zodbvault.repository.checks import DEEP, DEFAULT, QUICK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zodbvault.commands.places import Places

VERIFY_FORMAT = 1

_CHECKED = {
    QUICK: "names and sizes",
    DEFAULT: "names, sizes and checksums",
    DEEP: "unpacked, each transaction followed",
}


class Finding(NamedTuple):
    """Something that is wrong. dates: timestamps of the backups that need it, oldest first: they do not restore.

    manifest: name of the one that is wrong, where that is it; of one manifest all findings say the same in other words.
    """

    dates: tuple[str, ...]
    what: str
    manifest: str = ""


def finding_of(error: ZodbvaultError, *dates: str) -> Finding:
    """What an error says is wrong with what these backups need."""
    path = error.path if isinstance(error, DamagedManifest) else None
    return Finding(dates, str(error), os.path.basename(path or ""))


@dataclass(frozen=True)
class VerifiedChain:
    """A chain, or a state of blobs alone. timestamp: of its full, or the state's own.

    dates: timestamps of the backups that were looked at, oldest first. requested: those of them that were asked for.
    without_blobs: those whose data may be good, but which nobody knows the blobs of. stored_size: bytes of its data
    files. blobs: number of blobs of the newest date, None where they were not looked at. is_newer: a later version
    wrote it, so that this one can say nothing of it but that.
    """

    timestamp: str
    dates: tuple[str, ...]
    requested: tuple[str, ...]
    findings: tuple[Finding, ...]
    without_blobs: frozenset[str] = frozenset()
    stored_size: int | None = None
    blobs: int | None = None
    is_newer: bool = False

    @property
    def verdicts(self) -> dict[str, bool | None]:
        """Of each date whether it restores; None where nobody knows its blobs, or this version nothing of it."""
        if self.is_newer:
            return dict.fromkeys(self.dates)
        bad = {date for finding in self.findings for date in finding.dates}
        return {date: False if date in bad else None if date in self.without_blobs else True for date in self.dates}

    @property
    def good(self) -> bool:
        """Whether each date that was asked for restores."""
        verdicts = self.verdicts
        return bool(self.requested) and all(verdicts[date] for date in self.requested)


@dataclass(frozen=True)
class VerifiedPlace:
    """One repository. name: in LOCATIONS. problems: why something could not be found out."""

    name: str
    places: Places
    chains: tuple[VerifiedChain, ...]
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether there are backups, and each date that was asked for restores."""
        return bool(self.chains) and not self.problems and all(chain.good for chain in self.chains)


@dataclass(frozen=True)
class VerifyReport:
    """The whole. how: QUICK, DEFAULT or DEEP. opened: whether ZODB read the newest dates too. moment: ISO 8601."""

    part: str
    moment: str
    how: str
    opened: bool
    found: tuple[VerifiedPlace, ...]

    @property
    def good(self) -> bool:
        """Whether every date that was asked for restores."""
        return all(place.good for place in self.found)

    @property
    def table(self) -> Table:
        """A row for each chain."""
        several = len(self.found) > 1
        columns = (
            Column("location", is_shown=several),
            Column("backups from (UTC)"),
            Column("to", spare=3),
            Column("backups", is_number=True),
            Column("stored", is_number=True, spare=2),
            Column("blobs", is_number=True, spare=1),
            Column("result"),
            Column("restore"),
        )
        rows = tuple((place.name, *_cells(chain)) for place in self.found for chain in place.chains)
        return shown(Table(columns, rows))

    @property
    def lines(self) -> tuple[str, ...]:
        """What is to be said below the table: what is wrong, and what that means."""
        return tuple(line for place in self.found for line in self._lines_of(place))

    def _lines_of(self, place: VerifiedPlace) -> list[str]:
        before = f"{place.name}: " if len(self.found) > 1 else ""
        if not place.chains:
            return [f"{before}No backups in {place.places.location}."]
        lines = [line for chain in place.chains for line in _explained(chain)]
        lines += place.problems
        verdicts = [verdict for chain in place.chains for verdict in chain.verdicts.values()]
        restore = sum(verdict is True for verdict in verdicts)
        opened = ", the newest read by ZODB" if self.opened else ""
        rest = "" if restore == len(verdicts) else f", {len(verdicts) - restore:,} do not or may not"
        lines.append(
            f"{plural(len(verdicts), 'backup')} checked ({_CHECKED[self.how]}{opened}): {restore:,} restore{rest}."
        )
        return [before + line for line in lines]


def _cells(chain: VerifiedChain) -> tuple[str, ...]:
    """The cells of a row, those of all columns but the first."""
    verdicts = chain.verdicts
    restore = [date for date, verdict in verdicts.items() if verdict]
    result = "DAMAGED" if chain.findings else "NO BLOBS" if len(restore) < len(verdicts) else "good"
    if chain.is_newer:
        result = "UNKNOWN"
    return (
        chain.timestamp,
        max(verdicts),
        f"{len(chain.dates):,}",
        "-" if chain.stored_size is None else size_text(chain.stored_size),
        "-" if chain.blobs is None else f"{chain.blobs:,}",
        result,
        "all" if len(restore) == len(verdicts) else f"{len(restore):,} of {len(verdicts):,}" if restore else "none",
    )


def _explained(chain: VerifiedChain) -> list[str]:
    """Sentences on what is wrong with a chain; none where nothing is."""
    verdicts = chain.verdicts
    lines = [
        f"{chain.timestamp}: {finding.what.rstrip('.')}; affected: {_ranges(finding.dates, verdicts)}."
        for finding in chain.findings
    ]
    if chain.is_newer:
        return lines
    if chain.findings:
        left = [date for date, verdict in verdicts.items() if verdict]
        lines.append(f"{chain.timestamp}: dates that still restore: {_ranges(left, verdicts) if left else 'none'}.")
    unknown = [date for date, verdict in verdicts.items() if verdict is None]
    if unknown:
        lines.append(
            f"{chain.timestamp}: no known blobs: {_ranges(unknown, verdicts)}. The data are good, and restore where "
            "their blobs are there. Of blobs that another program backed up --deep tells whether the data have all."
        )
    return lines


def _ranges(dates: Iterable[str], every: Iterable[str]) -> str:
    """Dates for people: those that follow each other in `every` as `first to last`."""
    wanted = set(dates)
    groups: list[list[str]] = []
    is_open = False
    for date in every:
        if date in wanted and is_open:
            groups[-1].append(date)
        elif date in wanted:
            groups.append([date])
        is_open = date in wanted
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)


def data_of(report: VerifyReport) -> dict[str, object]:
    """The result as JSON can hold it; docs/json.rst tells of the keys."""
    return {
        "format": VERIFY_FORMAT,
        "command": "verify",
        "part": report.part,
        "time": report.moment,
        "how": report.how,
        "opened": report.opened,
        "good": report.good,
        "locations": [_data_of_place(place) for place in report.found],
    }


def _data_of_place(place: VerifiedPlace) -> dict[str, object]:
    blobs = place.places.blobs
    return {
        "name": place.name,
        "location": printable(place.places.location),
        "blob_location": None if blobs is None else printable(blobs),
        "good": place.good,
        "problems": [one_line(problem) for problem in place.problems],
        "chains": [_data_of_chain(chain) for chain in place.chains],
    }


def _data_of_chain(chain: VerifiedChain) -> dict[str, object]:
    return {
        "timestamp": chain.timestamp,
        "good": chain.good,
        "stored_size": chain.stored_size,
        "blobs": chain.blobs,
        "backups": [
            {"timestamp": date, "requested": date in chain.requested, "restores": verdict}
            for date, verdict in chain.verdicts.items()
        ],
        "findings": [{"what": one_line(each.what), "timestamps": list(each.dates)} for each in chain.findings],
    }


def from_then_on(dates: Sequence[str], timestamp: str) -> tuple[str, ...]:
    """The dates of a chain that need the backup at `timestamp`: its own and all later ones."""
    return tuple(date for date in dates if date >= timestamp)
