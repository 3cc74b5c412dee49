"""One backup of a site, from the first look to the last rename.

This file decides and names the order; what it calls does the work. It prints nothing: it logs, and returns a report.
What only a backup with changes needs (attempt.py, completion.py) is imported when there are some.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.commands.another_database import warn_of_another
from zodbvault.commands.backup_blobs import BlobBackup
from zodbvault.commands.decision import FullPolicy, Kind, Newest, Proof, Verdict, decide, is_continued
from zodbvault.commands.places import (
    Places,
    locked,
    make_folders,
    ownership_beside,
    usual_places,
)
from zodbvault.commands.run import BackupRun, warn_of_state
from zodbvault.commands.summary import BackupReport
from zodbvault.commands.users_command import run_users_command
from zodbvault.errors import ZodbvaultError, explained
from zodbvault.filestorage.source import DataFs, open_data_fs
from zodbvault.filestorage.tail import Tail, read_tail
from zodbvault.repository.identity import ensure_identity
from zodbvault.repository.names import CHECKS_SUFFIX, container_states
from zodbvault.repository.prune import Retention, prune_chains
from zodbvault.repository.store import chain_problem, read_repository, record_problem, refuse_newer_format, size_of
from zodbvault.repository.sweep import sweep
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zodbvault.io.clock import Clock
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

# How often a backup starts over as a full because a pack replaced Data.fs under it.
MAXIMUM_FRESH_STARTS = 3


def backup(settings: Settings, *, full: bool, clock: Clock) -> BackupReport:
    """Back up one site into its location: `bin/backup`.

    full: make a full backup whatever the option says. Raises ZodbvaultError when no complete backup was made.
    """
    return run_backup(settings, usual_places(settings), "backup", full_wanted=full or settings.full, clock=clock)


def run_backup(settings: Settings, places: Places, command: str, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """The user's commands around the backup of one site into `places`."""
    if settings.nice or settings.io_priority == "idle":
        from zodbvault.io.priority import yield_disk, yield_processor

        yield_processor(settings.nice)
        if settings.io_priority == "idle":
            yield_disk()
    environment = {"ZODBVAULT_RUN_COMMAND": command, "ZODBVAULT_RUN_LOCATION": str(places.location)}
    run_users_command("pre_command", settings.pre_command, environment)
    if settings.only_blobs:
        from zodbvault.commands.only_blobs import back_up_blobs_alone

        report = back_up_blobs_alone(settings, places, full_wanted=full_wanted, clock=clock)
    else:
        report = back_up(settings, places, full_wanted=full_wanted, clock=clock)
    environment["ZODBVAULT_RUN_TIMESTAMP"] = report.timestamp or ""
    run_users_command("post_command", settings.post_command, environment, outcome=f"All else is done: {report.summary}")
    return report


def back_up(settings: Settings, places: Places, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """Back up Data.fs and its blobs into one repository, and prune it."""
    make_folders(settings, places)
    with (
        explained("the backup cannot be written", hint="Earlier backups are untouched."),
        swept_repository(settings, places, clock) as (run, had_begun),
    ):
        report = _attempts(run, full_wanted=full_wanted)
        stamp = report.timestamp or (run.chain.newest.timestamp if run.chain is not None else None)
        if stamp is not None:
            run.blobs.settle(stamp)
        with explained("old backups cannot be removed", hint=f"All else is done: {report.summary}"):
            prune_repository(run, had_begun=had_begun)
    return report


@contextlib.contextmanager
def swept_repository(settings: Settings, places: Places, clock: Clock) -> Iterator[tuple[BackupRun, bool]]:
    """A repository under its lock, without what a killed run left; and whether a prune of it had been begun.

    Raises AlreadyRunning when another run holds the lock.
    """
    started = clock.now()
    ownership = ownership_beside(settings, places.location)
    with locked((places,), started), BlobBackup.opened(settings, places, ownership) as blobs:
        repository = read_repository(places.location, places.blobs)
        refuse_newer_format(repository)
        ensure_identity(repository, ownership)
        blobs.sweep(repository)
        swept = sweep(repository, blobs.are_there, ownership)
        blobs.put_orphans_aside(swept.repository)
        yield BackupRun(settings, swept.repository, blobs, ownership, clock, started), bool(swept.pruned)


def _attempts(run: BackupRun, *, full_wanted: bool) -> BackupReport:
    """Back up; start over as a full when a pack replaced Data.fs in the middle and may have taken blobs with it."""
    for _ in range(1 + MAXIMUM_FRESH_STARTS):
        with open_data_fs(run.settings.datafs, run.clock) as source:
            verdict, tail = _judge(run, source, full_wanted=full_wanted)
            if verdict.kind is not Kind.FULL:
                # The data still refer to the blobs of the newest backup; a full looks at what they refer to now.
                run.blobs.refuse_if_not_mounted(run.newest_record())
            if verdict.kind is Kind.NOTHING:
                report = _nothing_to_do(run, source, verdict, tail)
            else:
                from zodbvault.commands.attempt import attempt

                _announce(run, verdict)
                report = attempt(run, source, verdict, tail)
        if report is not None:
            return report
        logger.warning("A pack replaced Data.fs during the backup; starting over with a full backup.")
        full_wanted = True
        _wait_for_pack(run)
    raise ZodbvaultError(
        f"was replaced by a pack during each of {1 + MAXIMUM_FRESH_STARTS} attempts to back it up",
        path=run.settings.datafs,
        hint="No backup was made, the old ones are intact. Run the backup again when packing is over.",
    )


def _announce(run: BackupRun, verdict: Verdict) -> None:
    """Say what is going to be made, and why."""
    what, why = f"{verdict.kind.value} backup", verdict.reason
    if verdict.is_warning:
        logger.warning("A %s is made, because %s.", what, why.rstrip("."))
    paths = (run.settings.datafs, run.location)
    logger.info("Please wait while backing up database file: %s to %s (%s: %s)", *paths, what, why)


def _judge(run: BackupRun, source: DataFs, *, full_wanted: bool) -> tuple[Verdict, Tail | None]:
    """Look at the newest backup and at the same place of Data.fs, and decide; prove it where that is needed."""
    chain = run.chain
    problem = _problem_of(run, chain)
    newest: Newest | None = None
    tail: Tail | None = None
    if chain is not None and problem is None:
        record = run.repository.record_of(chain.newest)
        # Only then the calendar is needed.
        age = int(run.started) - seconds_of(chain.timestamp) if run.settings.full_after_days else 0
        newest = Newest(chain.newest, record, len(chain.lines), age)
        tail = read_tail(source, chain.newest.end, None if record is None else record.tail_header)
    policy = FullPolicy(run.settings.full_after_days, run.settings.full_after_incrementals)
    magic = source.magic.decode("ascii")
    verdict = decide(
        newest,
        problem,
        tail,
        magic=magic,
        inode=source.inode,
        full_wanted=full_wanted,
        policy=policy,
    )
    if chain is not None and not _is_proved(source, chain, verdict.proof):
        reason = f"Data.fs is not the file that was backed up at {chain.newest.timestamp}"
        verdict = Verdict(Kind.FULL, 0, reason)
    if verdict.kind is Kind.FULL and (newest is None or tail is None or not is_continued(newest.record, tail, magic)):
        warn_of_another(run.newest_record(), source.path, run.location)
    if chain is not None and verdict.kind is not Kind.FULL and run.blobs.needs_all_data(run.repository, chain):
        reason = "only all of Data.fs tells which blobs of a shared blob storage the newest backup lacks"
        verdict = Verdict(Kind.FULL, 0, reason)
    return verdict, tail


def _problem_of(run: BackupRun, chain: Chain | None) -> str | None:
    """Why nothing may be built on the newest chain, or None."""
    if chain is None:
        return None
    foreign = [listed.timestamp for listed in run.repository.listed if listed.timestamp > chain.timestamp]
    if foreign:
        return f"a full backup without a .dat file, {foreign[-1]}, is newer than the newest chain"
    problem = (
        chain_problem(run.repository, chain, with_blobs=run.blobs.enabled)
        or record_problem(run.repository, chain.newest)
        or _verified_problem(run.repository, chain.newest.timestamp)
    )
    return None if problem is None else f"the chain of {chain.timestamp} cannot be continued: {problem}"


def _verified_problem(repository: Repository, newest: str) -> str | None:
    """What the last verification found; what is damaged before the newest backup is its damage too."""
    if not repository.has(newest + CHECKS_SUFFIX):
        return None
    from zodbvault.repository.checks import found_damaged

    bad = found_damaged(repository.location, repository.names, (newest,))
    return None if bad is None else f"the last verification found {bad} damaged"


def _is_proved(source: DataFs, chain: Chain, proof: Proof) -> bool:
    """Whether the bytes of Data.fs have the md5s that the chain's lines say (all of them, or the last one's)."""
    if proof is Proof.NONE:
        return True
    lines = chain.lines if proof is Proof.WHOLE_CHAIN else chain.lines[-1:]
    return all(source.md5_of(line.start, line.end) == line.md5 for line in lines)


def _nothing_to_do(run: BackupRun, source: DataFs, verdict: Verdict, tail: Tail | None) -> BackupReport | None:
    """Nothing was committed since the newest backup: that one gets what it lacks, mostly nothing.

    None when a pack replaced Data.fs meanwhile, so that blobs may be missing from it.
    """
    assert run.chain is not None
    record = run.newest_record()
    if record is not None:
        warn_of_state(run, record)
    lacks_blobs = run.blobs.enabled and not run.blobs.has_state(run.repository, run.chain)
    if record is None or verdict.proof is not Proof.NONE or lacks_blobs:
        from zodbvault.commands.completion import complete_newest

        return complete_newest(run, source, tail, record, lacks_blobs=lacks_blobs)
    return BackupReport(f"No changes since {run.chain.newest.timestamp}, nothing to do.", None)


def _wait_for_pack(run: BackupRun) -> None:
    """Wait while a pack is writing: as long as `Data.fs.pack` grows, looked at every few seconds."""
    pack = Path(f"{run.settings.datafs}.pack")
    size = size_of(pack)
    while size is not None:
        run.clock.sleep(5)
        grown = size_of(pack)
        if grown == size:
            return
        size = grown


def prune_repository(run: BackupRun, *, had_begun: bool) -> None:
    """Let go of what `keep` and its sisters do not hold, and of the blobs that nothing names any more.

    had_begun: a prune that was killed was finished, so blobs may have no name already.
    """
    repository = read_repository(run.location, run.repository.blob_location)
    states = container_states(repository.blob_names)

    def keep_checks(leaving: tuple[Chain, ...], staying: tuple[Chain, ...]) -> None:
        from zodbvault.repository.checks import carry_over

        gone, stay = ([line.timestamp for chain in chains for line in chain.lines] for chains in (leaving, staying))
        carry_over(repository.location, repository.names, gone, stay, run.ownership)

    retention = retention_of(run.settings)
    gone = prune_chains(repository, retention, with_blobs=run.blobs.enabled, before=keep_checks)
    if gone or had_begun:
        fulls = {chain.timestamp for chain in repository.chains} | {chain.timestamp for chain in repository.listed}
        remaining = read_repository(run.location, run.repository.blob_location)
        run.blobs.prune(remaining, min(fulls - set(gone), default=""), states)


def retention_of(settings: Settings) -> Retention:
    """What the site's options say of how much stays."""
    return Retention(settings.keep, settings.keep_daily, settings.keep_weekly, settings.keep_monthly)
