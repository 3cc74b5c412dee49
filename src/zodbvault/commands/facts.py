"""What is known of each repository of a site that a monitoring system asks about, and what is to be thought of it.

Gathers the facts from a survey, the database and the disk, and has them judged (watching.py). Takes no lock.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.commands.places import ALL, BACKUPS
from zodbvault.commands.summary import seconds_of_iso
from zodbvault.commands.survey import SeenBackup, Survey, survey_site
from zodbvault.commands.watching import Facts, Footprint, Judgement, State, Thresholds, growth_per_day, judge, worst
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.source import open_data_fs
from zodbvault.filestorage.tail import read_tail, tid_behind
from zodbvault.filestorage.tids import seconds_of_tid
from zodbvault.io.space import disk_space
from zodbvault.repository.checks import last_drilled, last_verified
from zodbvault.repository.records import BLOBS, FULL, POOL
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


@dataclass(frozen=True)
class Checked:
    """One repository, what is known of it, and what is to be thought of that."""

    survey: Survey
    facts: Facts
    judgements: tuple[Judgement, ...]

    @property
    def state(self) -> State:
        """The worst of its judgements."""
        return worst(judgement.state for judgement in self.judgements)


def look(settings: Settings, *, which: str, thresholds: Thresholds, clock: Clock) -> tuple[Checked, ...]:
    """The facts of each repository and what is to be thought of them; of ALL those that have backups."""
    found = []
    for survey in survey_site(settings, which):
        if which != ALL or survey.name == BACKUPS or survey.backups:
            facts = gather(settings, survey, clock)
            found.append(Checked(survey, facts, judge(facts, thresholds)))
    return tuple(found)


def gather(settings: Settings, survey: Survey, clock: Clock) -> Facts:
    """All that is known of one repository."""
    now = clock.now()
    free, total = min((disk_space(folder) for folder in survey.places.folders()), key=_share_that_is_free)
    facts = Facts(now, free=free, total=total)
    backups = survey.backups
    if not backups:
        return facts
    newest, newest_chain = backups[-1], survey.chains[-1]
    fulls = [backup for backup in backups if backup.kind == FULL or (backup.kind == BLOBS and backup.is_complete)]
    is_current, unsaved_since = _unsaved(settings, newest, clock)
    bad = [each.timestamp for each in backups if each.checks is not None and each.checks.verified_good is False]
    facts = facts._replace(
        newest=seconds_of(newest.timestamp),
        newest_full=seconds_of(fulls[-1].timestamp) if fulls else None,
        is_current=is_current,
        unsaved_since=unsaved_since,
        newest_problem=newest_chain.problem,
        older_problems=tuple(chain.problem for chain in survey.chains[:-1] if chain.problem is not None),
        lacks_blobs=newest_chain.lacks_blobs,
        lost_blobs=0 if newest.blobs is None else len(newest.blobs.missing),
        bad=tuple(bad),
        is_newest_bad=newest.timestamp in bad,
        next_full=_size_of_full(fulls[-1]) if fulls else None,
        growth=_growth(settings, survey, now),
        backups=len(backups),
        stored_size=sum(chain.stored_size for chain in survey.chains),
    )
    return _with_checks(facts, backups)


def _share_that_is_free(space: tuple[int, int]) -> float:
    free, total = space
    return free / total if total else 1.0


def _with_checks(facts: Facts, backups: Sequence[SeenBackup]) -> Facts:
    """The facts with when something was last verified and rehearsed."""
    checks = [backup.checks for backup in backups if backup.checks is not None]
    verified, drilled = last_verified(checks), last_drilled(checks)
    # What somebody else wrote there may be no time.
    with contextlib.suppress(ValueError):
        if verified is not None:
            facts = facts._replace(verified=seconds_of_iso(verified.moment), verified_good=verified.good)
        if drilled is not None:
            facts = facts._replace(
                drilled=seconds_of_iso(drilled.moment), drilled_good=drilled.good, drill_seconds=drilled.seconds
            )
    return facts


def _unsaved(settings: Settings, newest: SeenBackup, clock: Clock) -> tuple[bool | None, float | None]:
    """Whether the database has nothing that is in no backup, and else since when it has something.

    Both None where the database cannot be looked at; the second where it was packed since.
    """
    if newest.end is None:
        return None, None
    try:
        with open_data_fs(settings.datafs, clock) as source:
            tail = read_tail(source, newest.end, None)
            if tail is None:
                return False, None
            if not tail.has_more:
                return True, None
            following = tid_behind(source, newest.end)
            return False, None if following is None else seconds_of_tid(following)
    except ZodbvaultError as error:
        logger.debug("%s", error)
        return None, None


def _growth(settings: Settings, survey: Survey, now: float) -> float | None:
    """Bytes a day by which the backups grow."""
    footprints = [
        Footprint(
            seconds_of(backup.timestamp),
            backup.end or 0,
            0 if backup.blobs is None else backup.blobs.total_size,
            (backup.stored_size or 0) + (0 if backup.blobs is None else backup.blobs.added_size),
        )
        for backup in survey.backups
    ]
    fulls = [backup for backup in survey.backups if backup.kind == FULL and backup.end and backup.stored_size]
    ratio = (fulls[-1].stored_size or 0) / (fulls[-1].end or 1) if fulls else 0.0
    prunes = 0 < settings.keep <= len(survey.chains) and not settings.only_blobs
    chains, copies = len(survey.chains), _copies_of_blobs(survey.backups)
    return growth_per_day(footprints, now=now, chains=chains, copies=copies, ratio=ratio, prunes=prunes)


def _copies_of_blobs(backups: Sequence[SeenBackup]) -> float:
    """How often each blob is kept: once in a pool or in linked directories, again in each full archive or copy."""
    newest = backups[-1].blobs if backups else None
    if newest is None or newest.layout == POOL or not newest.total_size:
        return 1.0
    written = sum(backup.blobs.added_size for backup in backups if backup.blobs is not None)
    return max(1.0, written / newest.total_size)


def _size_of_full(full: SeenBackup) -> int | None:
    """Bytes that another full like this one takes, with the archive of its blobs where it has one."""
    if full.stored_size is None:
        return None
    return full.stored_size + ((full.blobs.archives_size or 0) if full.blobs is not None else 0)
