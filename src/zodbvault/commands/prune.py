"""What goes and what stays, by `keep` and its sisters, with the reasons; and letting it go.

The plan is a value, which a rehearsal only shows. Carried out, it does what each backup does at its end, with the
repository's lock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.commands.backup import prune_repository, retention_of, swept_repository
from zodbvault.commands.only_blobs import prune_states_alone
from zodbvault.commands.only_blobs_states import GroupVerdict, judge_states, recorded_states
from zodbvault.commands.places import ZIPS, chosen_places
from zodbvault.commands.summary import iso_time, plural, printable
from zodbvault.commands.tables import Column, Result, Table, shown
from zodbvault.commands.zipbackup import zip_settings
from zodbvault.errors import explained
from zodbvault.io.sizes import size_text
from zodbvault.repository.prune import judge_chains
from zodbvault.repository.store import data_size, list_files, read_repository, refuse_newer_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.commands.places import Places
    from zodbvault.io.clock import Clock
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

JSON_FORMAT = 1


@dataclass(frozen=True)
class Judged:
    """What becomes of one chain, or of a complete blob state with the changes on it.

    backups: their number. newest: timestamp of its newest one. stored_size: bytes of its data files. reasons: why it
    stays, or goes.
    """

    timestamp: str
    newest: str
    backups: int
    stored_size: int
    stays: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What becomes of one repository. name: in LOCATIONS. judged: oldest first."""

    name: str
    places: Places
    judged: tuple[Judged, ...]


def prune(settings: Settings, *, which: str, dry_run: bool, clock: Clock) -> Result:
    """Let go of what the options do not hold, in the repositories that `which` names (in LOCATIONS, or ALL).

    dry_run: only show what would go; takes no lock and writes nothing.
    """
    plans = []
    for name, places in chosen_places(settings, which):
        # Of zip backups only the newest stays, whatever holds for the others.
        own = zip_settings(settings) if name == ZIPS else settings
        if dry_run or not list_files(places.location):
            plans.append(Plan(name, places, plan(own, places, clock)))
        else:
            plans.append(Plan(name, places, carry_out(own, places, clock)))
    return Result(
        _table(plans), _lines(settings, plans, dry_run=dry_run), (), _data(settings, plans, clock, dry_run=dry_run)
    )


def plan(settings: Settings, places: Places, clock: Clock) -> tuple[Judged, ...]:
    """What becomes of each chain, or group of states, of a repository, oldest first.

    Raises NewerFormat where a later version wrote to it, as carrying it out does.
    """
    repository = read_repository(places.location, places.blobs)
    refuse_newer_format(repository)
    if settings.only_blobs:
        days = settings.keep_blob_days
        return _judged_groups(judge_states(recorded_states(repository), int(clock.now()), keep_blob_days=days, keep=0))
    return _plan_of(settings, repository)


def _plan_of(settings: Settings, repository: Repository) -> tuple[Judged, ...]:
    chains = {chain.timestamp: chain for chain in repository.chains}
    return tuple(
        _judged(repository, chains[verdict.timestamp], stays=verdict.stays, reasons=verdict.reasons)
        for verdict in judge_chains(repository, retention_of(settings), with_blobs=settings.backup_blobs)
    )


def _judged_groups(groups: Sequence[GroupVerdict]) -> tuple[Judged, ...]:
    return tuple(
        Judged(group.timestamps[0], group.timestamps[-1], len(group.timestamps), 0, group.stays, (group.reason,))
        for group in groups
    )


def _judged(repository: Repository, chain: Chain, *, stays: bool, reasons: tuple[str, ...]) -> Judged:
    newest = chain.newest.timestamp if chain.lines else chain.timestamp
    stored = data_size(repository, chain.lines)
    return Judged(chain.timestamp, newest, len(chain.lines), stored, stays, reasons)


def carry_out(settings: Settings, places: Places, clock: Clock) -> tuple[Judged, ...]:
    """Let go of what does not stay, after the same tidying up as before a backup; what became of each chain.

    Raises AlreadyRunning when another run holds the lock.
    """
    if settings.only_blobs:
        return _judged_groups(prune_states_alone(settings, places, clock=clock))
    with (
        explained("the old backups cannot be removed", hint="Run the same command again."),
        swept_repository(settings, places, clock) as (run, had_begun),
    ):
        judged = _plan_of(settings, run.repository)
        prune_repository(run, had_begun=had_begun)
    return judged


# For people.


def _table(plans: Sequence[Plan]) -> Table:
    columns = (
        Column("location", is_shown=len(plans) > 1),
        Column("chain (UTC)"),
        Column("to", spare=2),
        Column("backups", is_number=True, spare=1),
        Column("stored", is_number=True),
        Column(""),
        Column("because"),
    )
    rows = tuple(
        (
            one.name,
            each.timestamp,
            each.newest,
            f"{each.backups:,}",
            size_text(each.stored_size),
            "stays" if each.stays else "goes",
            "; ".join(each.reasons),
        )
        for one in plans
        for each in one.judged
    )
    return shown(Table(columns, rows))


def _lines(settings: Settings, plans: Sequence[Plan], *, dry_run: bool) -> tuple[str, ...]:
    lines = []
    for one in plans:
        place = f"{one.name}: " if len(plans) > 1 else ""
        if not one.judged:
            lines.append(f"{place}No backups in {one.places.location}.")
            continue
        gone = [each for each in one.judged if not each.stays]
        groups = f"{len(gone):,} {'group' if len(gone) == 1 else 'groups'} of states"
        what = groups if settings.only_blobs else plural(len(gone), "chain")
        size = "" if settings.only_blobs or not gone else f" with {size_text(sum(each.stored_size for each in gone))}"
        blobs = ", and the blobs that only these need" if gone and settings.backup_blobs else ""
        verb = "would go" if dry_run else "went"
        lines.append(f"{place}{what}{size} {verb}{blobs}; {len(one.judged) - len(gone):,} stay.")
    return tuple(lines)


# For programs.


def _data(settings: Settings, plans: Sequence[Plan], clock: Clock, *, dry_run: bool) -> dict[str, object]:
    """The plan as JSON can hold it; docs/json.rst tells of the keys."""
    return {
        "format": JSON_FORMAT,
        "command": "prune",
        "part": settings.part,
        "time": iso_time(clock.now()),
        "dry_run": dry_run,
        "keep": settings.keep,
        "keep_daily": settings.keep_daily,
        "keep_weekly": settings.keep_weekly,
        "keep_monthly": settings.keep_monthly,
        "keep_blob_days": settings.keep_blob_days if settings.only_blobs else None,
        "locations": [
            {
                "name": one.name,
                "location": printable(one.places.location),
                "chains": [
                    {
                        "timestamp": each.timestamp,
                        "newest": each.newest,
                        "backups": each.backups,
                        "stored_size": each.stored_size,
                        "stays": each.stays,
                        "reasons": list(each.reasons),
                    }
                    for each in one.judged
                ],
            }
            for one in plans
        ],
    }
