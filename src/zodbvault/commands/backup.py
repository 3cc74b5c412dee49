"""One backup of a site, from the first look to the last rename.

This file decides and names the order; what it calls does the work. It prints nothing: it logs, and returns a report.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.commands.blob_state import BlobBackup, BlobResult
from zodbvault.commands.decision import FullPolicy, Kind, Newest, Proof, Verdict, decide
from zodbvault.commands.index_file import copied_index
from zodbvault.commands.places import (
    Places,
    locked,
    make_folders,
    repository_ownership,
    source_ownership,
    usual_places,
)
from zodbvault.commands.summary import BackupReport, iso_time, plural, size_text, speed_text
from zodbvault.commands.users_command import run_users_command
from zodbvault.errors import ZodbvaultError, explained
from zodbvault.filestorage.copying import CopiedRange, copy_range
from zodbvault.filestorage.source import DataFs, open_data_fs
from zodbvault.filestorage.tail import Tail, read_tail
from zodbvault.io.durable import Ownership, PartFile
from zodbvault.io.gzip_members import BLOCK_SIZE, MemberWriter
from zodbvault.io.hashing import new_hash, sha256_of
from zodbvault.io.space import require_space
from zodbvault.repository.chains import Chain, newest_timestamp
from zodbvault.repository.dat import Line
from zodbvault.repository.identity import ensure_identity
from zodbvault.repository.names import INDEX_SUFFIX, data_file
from zodbvault.repository.prune import prune_chains
from zodbvault.repository.publish import publish_backup, publish_record
from zodbvault.repository.records import FULL, INCREMENTAL, Record
from zodbvault.repository.store import Repository, chain_problem, manifest_sizes, read_repository, size_of
from zodbvault.repository.sweep import sweep
from zodbvault.repository.timestamps import next_timestamp, seconds_of
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

# How often a backup starts over as a full because a pack replaced Data.fs under it.
MAXIMUM_FRESH_STARTS = 3
LONG_CHAIN = 5000
# Seconds that the clock of the database server may be ahead of ours.
TOLERATED_CLOCK_SKEW = 300


def backup(settings: Settings, *, full: bool, clock: Clock) -> BackupReport:
    """Back up one site into its location: `bin/backup`.

    full: make a full backup whatever the option says. Raises ZodbvaultError when no complete backup was made.
    """
    return run_backup(settings, usual_places(settings), "backup", full_wanted=full or settings.full, clock=clock)


def run_backup(settings: Settings, places: Places, command: str, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """The user's commands around the backup of one site into `places`."""
    environment = {"ZODBVAULT_RUN_COMMAND": command, "ZODBVAULT_RUN_LOCATION": str(places.location)}
    run_users_command("pre_command", settings.pre_command, environment)
    if settings.only_blobs:
        from zodbvault.commands.only_blobs import back_up_blobs_alone

        report = back_up_blobs_alone(settings, places, full_wanted=full_wanted, clock=clock)
    else:
        report = back_up(settings, places, full_wanted=full_wanted, clock=clock)
    environment["ZODBVAULT_RUN_TIMESTAMP"] = report.timestamp or ""
    run_users_command("post_command", settings.post_command, environment)
    return report


def back_up(settings: Settings, places: Places, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """Back up Data.fs and its blobs into one repository, and prune it."""
    started = clock.now()
    make_folders(places)
    ownership = repository_ownership(source_ownership(settings.datafs), places.location)
    with (
        explained("the backup cannot be written", hint="Earlier backups are untouched."),
        locked((places,), started),
        BlobBackup.opened(settings, places, ownership) as blobs,
    ):
        repository = read_repository(places.location, places.blobs)
        ensure_identity(repository, ownership)
        swept = sweep(repository, blobs.are_there, ownership)
        blobs.sweep()
        run = _Run(settings, swept.repository, blobs, ownership, clock, started)
        blobs.refuse_if_not_mounted(_newest_record(swept.repository))
        report = _attempts(run, full_wanted=full_wanted)
        _prune(run, had_begun=bool(swept.pruned))
    return report


@dataclass(frozen=True)
class _Run:
    """What every step of one backup needs to know. started: seconds since 1970."""

    settings: Settings
    repository: Repository
    blobs: BlobBackup
    ownership: Ownership
    clock: Clock
    started: float

    @property
    def location(self) -> Path:
        return self.repository.location

    @property
    def chain(self) -> Chain | None:
        """The newest chain: the one that an incremental continues."""
        return self.repository.chains[-1] if self.repository.chains else None


def _attempts(run: _Run, *, full_wanted: bool) -> BackupReport:
    """Back up; start over as a full when a pack replaced Data.fs in the middle and may have taken blobs with it."""
    for _ in range(1 + MAXIMUM_FRESH_STARTS):
        with open_data_fs(run.settings.datafs, run.clock) as source:
            verdict, tail = _judge(run, source, full_wanted=full_wanted)
            if verdict.kind is Kind.NOTHING:
                report = _complete_newest(run, source, verdict, tail)
            else:
                _announce(run, verdict)
                report = _attempt(run, source, verdict, tail)
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


def _announce(run: _Run, verdict: Verdict) -> None:
    """Say what is going to be made, and why."""
    level = logging.WARNING if verdict.is_warning else logging.INFO
    what, why = f"{verdict.kind.value} backup", verdict.reason
    paths = (run.settings.datafs, run.location)
    logger.log(level, "Please wait while backing up database file: %s to %s (%s: %s)", *paths, what, why)


def _judge(run: _Run, source: DataFs, *, full_wanted: bool) -> tuple[Verdict, Tail | None]:
    """Look at the newest backup and at the same place of Data.fs, and decide; prove it where that is needed."""
    chain = run.chain
    problem = _problem_of(run, chain)
    newest: Newest | None = None
    tail: Tail | None = None
    if chain is not None and problem is None:
        record = run.repository.record_of(chain.newest)
        age = int(run.started) - seconds_of(chain.timestamp)
        newest = Newest(chain.newest, record, len(chain.lines), age)
        tail = read_tail(source, chain.newest.end, None if record is None else record.tail_header)
    policy = FullPolicy(run.settings.full_after_days, run.settings.full_after_incrementals)
    verdict = decide(
        newest,
        problem,
        tail,
        magic=source.magic.decode("ascii"),
        inode=source.inode,
        full_wanted=full_wanted,
        policy=policy,
    )
    if chain is not None and not _is_proved(source, chain, verdict.proof):
        reason = f"Data.fs is not the file that was backed up at {chain.newest.timestamp}"
        verdict = Verdict(Kind.FULL, 0, reason)
    return verdict, tail


def _problem_of(run: _Run, chain: Chain | None) -> str | None:
    """Why nothing may be built on the newest chain, or None."""
    if chain is None:
        return None
    foreign = [listed.timestamp for listed in run.repository.listed if listed.timestamp > chain.timestamp]
    if foreign:
        return f"a full backup without a .dat file, {foreign[-1]}, is newer than the newest chain"
    problem = chain_problem(run.repository, chain, with_blobs=run.blobs.enabled)
    return None if problem is None else f"the chain of {chain.timestamp} cannot be continued: {problem}"


def _is_proved(source: DataFs, chain: Chain, proof: Proof) -> bool:
    """Whether the bytes of Data.fs have the md5s that the chain's lines say (all of them, or the last one's)."""
    if proof is Proof.NONE:
        return True
    lines = chain.lines if proof is Proof.WHOLE_CHAIN else chain.lines[-1:]
    return all(_md5(source, line.start, line.end) == line.md5 for line in lines)


def _md5(source: DataFs, start: int, end: int) -> str:
    """The md5 of a range of Data.fs, hexadecimal."""
    digest = new_hash("md5")
    with memoryview(bytearray(BLOCK_SIZE)) as buffer:
        while start < end:
            got = source.read_into(buffer[: end - start], start)
            if not got:
                break
            digest.update(buffer[:got])
            start += got
    return digest.hexdigest()


def _attempt(run: _Run, source: DataFs, verdict: Verdict, tail: Tail | None) -> BackupReport | None:
    """Make one backup; None when a pack replaced Data.fs so that blobs may be missing from it."""
    is_full = verdict.kind is Kind.FULL
    chain = None if is_full else run.chain
    _require_space(run, source, verdict)
    stamp = _new_timestamp(run)
    name = stamp + (".fsz" if is_full else ".deltafsz")
    with run.blobs.met_blobs() as met, PartFile(run.location / name, run.ownership) as data:
        with MemberWriter(data.file) as writer:
            copied = copy_range(
                source,
                verdict.start,
                None if is_full or tail is None else tail.tid,
                None if is_full else _greatest_tid(run, tail),
                writer,
                lambda oid, tid: met.add(oid + tid),
                every_record=not is_full,
                clock=run.clock,
            )
        data.finish()
        with run.blobs.back_up(stamp, run.repository, chain, copied, met) as blobs:
            if blobs.depends_on_source and source.was_replaced():
                return None
            blobs.judge_missing()
            record = _record(run, source, copied, stamp, name, chain, blobs)
            with _index(run, source, copied, stamp, wanted=is_full) as index:
                publish_backup(
                    run.location,
                    record,
                    _line(record),
                    chain,
                    manifest=blobs.manifest,
                    index=index,
                    data=data,
                    ownership=run.ownership,
                )
    for offset in copied.went_back:
        logger.warning("The tid goes back at offset %d of Data.fs; it was backed up as it is.", offset)
    _warn_after(run, record)
    return _report(run, record)


def _newest_record(repository: Repository) -> Record | None:
    """The record of the newest backup, where there is one."""
    newest = repository.chains[-1] if repository.chains else None
    return repository.record_of(newest.newest) if newest is not None and newest.lines else None


def _greatest_tid(run: _Run, tail: Tail | None) -> bytes | None:
    """The greatest tid of what is backed up already; the last one's where a record does not tell."""
    record = None if run.chain is None else run.repository.record_of(run.chain.newest)
    if record is not None and record.last_tid is not None:
        return bytes.fromhex(record.last_tid)
    return None if tail is None else tail.tid


def _new_timestamp(run: _Run) -> str:
    """The timestamp of this backup: now, or as soon as timestamps may grow again."""
    following = next_timestamp(newest_timestamp(run.repository.names | run.repository.blob_names), run.clock.now())
    if following.clock_is_behind:
        logger.warning(
            "The clock stands %d seconds before the newest backup; this one is named %s.",
            following.clock_is_behind,
            following.timestamp,
        )
    if following.wait:
        run.clock.sleep(following.wait)
    return following.timestamp


def _record(
    run: _Run, source: DataFs, copied: CopiedRange, stamp: str, name: str, chain: Chain | None, blobs: BlobResult
) -> Record:
    """Everything that is known of the backup that was just copied."""
    before = None if chain is None else run.repository.record_of(chain.newest)
    lines = () if chain is None else chain.lines
    if before is not None:
        stored, manifests = before.chain_stored_size, before.chain_manifest_size
    else:
        stored = sum(size_of(run.location / line.file.name) or 0 for line in lines)
        manifests = sum(manifest_sizes(run.repository, [line.timestamp for line in lines]))
    return Record(
        timestamp=stamp,
        kind=INCREMENTAL if chain is not None else FULL,
        start=copied.start,
        end=copied.end,
        first_tid=_hex(copied.first_tid),
        last_tid=_hex(copied.last_tid),
        tail_tid=_hex(copied.tail_tid),
        tail_header=copied.tail_header,
        magic=source.magic.decode("ascii"),
        transactions=copied.transactions,
        data_name=name,
        md5=copied.stored.md5,
        stored_size=copied.stored.stored_size,
        sha256=copied.stored.stored_sha256,
        source_path=_printable(source.path),
        source_device=source.device,
        source_inode=source.inode,
        started=iso_time(run.started),
        finished=iso_time(run.clock.now()),
        engine=VERSION,
        chain_id=before.chain_id if before is not None else os.urandom(16).hex(),
        chain_backups=len(lines) + 1,
        chain_stored_size=stored + copied.stored.stored_size,
        chain_manifest_size=manifests + (blobs.record.stored_size if blobs.record is not None else 0),
        encrypted=copied.encrypted or (before is not None and before.encrypted),
        blobs=blobs.record,
    )


def _hex(tid: bytes | None) -> str | None:
    return None if tid is None else tid.hex()


def _printable(path: Path) -> str:
    """A path as JSON can hold it: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _line(record: Record) -> Line:
    """The `.dat` line of a backup that has just been recorded."""
    assert record.data_name is not None
    file = data_file(record.data_name)
    assert file is not None
    return Line(file, record.start, record.end, record.md5)


def _index(
    run: _Run, source: DataFs, copied: CopiedRange, stamp: str, *, wanted: bool
) -> contextlib.AbstractContextManager[PartFile | None]:
    """A copy of the live index for a full: it saves the restored site the reading of all of Data.fs when it starts."""
    if not wanted:
        return contextlib.nullcontext()
    live, kept = Path(f"{source.path}{INDEX_SUFFIX}"), run.location / (stamp + INDEX_SUFFIX)
    return copied_index(live, kept, run.ownership, source.read, copied.end)


def _complete_newest(run: _Run, source: DataFs, verdict: Verdict, tail: Tail | None) -> BackupReport | None:
    """Nothing was committed. The newest backup gets what it may lack: its blob state, a record that knows the inode.

    None when a pack replaced Data.fs meanwhile, so that blobs may be missing from it.
    """
    chain = run.chain
    assert chain is not None
    line = chain.newest
    record = run.repository.record_of(line)
    lacks_blobs = run.blobs.enabled and not run.blobs.has_state(run.repository, chain)
    if record is not None:
        _warn_after(run, record)
    if record is not None and verdict.proof is Proof.NONE and not lacks_blobs:
        return BackupReport(f"No changes since {line.timestamp}, nothing to do.", None)
    if record is None:
        record = _record_of_foreign_line(run, source, chain, tail)
    record = replace(record, source_device=source.device, source_inode=source.inode)
    if not lacks_blobs:
        publish_record(run.location, record, run.ownership)
        return BackupReport(f"No changes since {line.timestamp}, nothing to do.", None)
    last_tid = None if record.last_tid is None else bytes.fromhex(record.last_tid)
    with run.blobs.catch_up(line.timestamp, run.repository, chain, last_tid) as blobs:
        if source.was_replaced():
            return None
        blobs.judge_missing()
        assert blobs.record is not None
        assert blobs.manifest is not None
        size = record.chain_manifest_size + blobs.record.stored_size
        blobs.manifest.publish()
        publish_record(run.location, replace(record, blobs=blobs.record, chain_manifest_size=size), run.ownership)
    return BackupReport(
        f"No changes in Data.fs since {line.timestamp}; the blobs of that backup are complete now "
        f"({plural(blobs.record.total, 'blob')}).",
        line.timestamp,
    )


def _record_of_foreign_line(run: _Run, source: DataFs, chain: Chain, tail: Tail | None) -> Record:
    """A record for the newest line where repozo wrote it, or the record was lost."""
    line = chain.newest
    stored_size, sha256 = sha256_of(run.location / line.file.name)
    tid = None if tail is None else _hex(tail.tid)
    moment = iso_time(run.clock.now())
    return Record(
        timestamp=line.timestamp,
        kind=FULL if line.file.is_full else INCREMENTAL,
        start=line.start,
        end=line.end,
        first_tid=None,
        last_tid=tid,
        tail_tid=tid,
        tail_header=0 if tail is None else tail.header,
        magic=source.magic.decode("ascii"),
        transactions=None,
        data_name=line.file.name,
        md5=line.md5,
        stored_size=stored_size,
        sha256=sha256,
        source_path=_printable(source.path),
        source_device=source.device,
        source_inode=source.inode,
        started=moment,
        finished=moment,
        engine=VERSION,
        chain_id=os.urandom(16).hex(),
        chain_backups=len(chain.lines),
        chain_stored_size=sum(size_of(run.location / each.file.name) or 0 for each in chain.lines),
        chain_manifest_size=sum(manifest_sizes(run.repository, [each.timestamp for each in chain.lines])),
    )


def _require_space(run: _Run, source: DataFs, verdict: Verdict) -> None:
    """Refuse to begin what cannot end: compare what the data will need with what is free.

    As much as the newest full needed for each byte; half of the bytes where there is none to compare with.
    """
    size = source.size() - verdict.start
    ratio = 0.5
    if run.chain is not None and run.chain.lines:
        record = run.repository.record_of(run.chain.lines[0])
        if record is not None and record.end:
            ratio = record.stored_size / record.end
    require_space(run.location, int(size * ratio), "for the data of this backup")


def _wait_for_pack(run: _Run) -> None:
    """Wait while a pack is writing: as long as `Data.fs.pack` grows, looked at every few seconds."""
    pack = Path(f"{run.settings.datafs}.pack")
    size = size_of(pack)
    while size is not None:
        run.clock.sleep(5)
        grown = size_of(pack)
        if grown == size:
            return
        size = grown


def _prune(run: _Run, *, had_begun: bool) -> None:
    """Let go of what `keep` does not hold, and of the blobs that nothing names any more."""
    repository = read_repository(run.location, run.repository.blob_location)
    gone = prune_chains(repository, run.settings.keep, with_blobs=run.blobs.enabled)
    if gone or had_begun:
        run.blobs.prune()


def _warn_after(run: _Run, record: Record) -> None:
    """Say what an administrator has to know about a backup that is good."""
    if record.blobs is not None and record.blobs.missing:
        logger.warning(
            "%d blobs that Data.fs refers to are missing in %s, such as %s: the site has lost them.",
            len(record.blobs.missing),
            run.settings.blob_storage,
            record.blobs.missing[0],
        )
    if record.chain_backups > LONG_CHAIN:
        logger.warning(
            "The chain has %d backups. A full one now and then (full_after_days, or --full) keeps restores fast.",
            record.chain_backups,
        )
    if record.last_tid is not None and record.last_tid > tid_at(run.clock.now() + TOLERATED_CLOCK_SKEW):
        logger.warning("The last transaction of Data.fs is later than the clock: tid %s.", record.last_tid)


def tid_at(moment: float) -> str:
    """The tid of a moment in seconds since 1970 (UTC), 16 hexadecimal digits.

    The first half counts minutes since 1900 in months of 31 days, the second half is a fraction of a minute
    (persistent.timestamp).
    """
    year, month, day, hour, minute, second = time.gmtime(moment)[:6]
    minutes = ((((year - 1900) * 12 + month - 1) * 31 + day - 1) * 24 + hour) * 60 + minute
    return f"{minutes:08x}{int((second + moment % 1) / 60 * 2**32):08x}"


def _report(run: _Run, record: Record) -> BackupReport:
    """The one line that says what was done."""
    seconds = max(run.clock.now() - run.started, 0.0)
    size = record.end - record.start
    parts = [
        (
            f"{record.kind.capitalize()} backup {record.timestamp}: "
            f"{size_text(size)} of Data.fs in {size_text(record.stored_size)}"
        ),
        plural(record.transactions or 0, "transaction"),
    ]
    if record.blobs is not None:
        parts.append(f"{plural(record.blobs.added, 'new blob')} ({size_text(record.blobs.added_size)})")
    parts.append(f"{seconds:.1f} s{speed_text(size, seconds)}")
    return BackupReport(", ".join(parts) + ".", record.timestamp)
