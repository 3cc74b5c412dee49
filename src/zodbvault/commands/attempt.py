"""One attempt to make a backup: copied, with its blobs, published line by line.

Imported only when there is something to back up.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.commands.decision import Kind, Verdict
from zodbvault.commands.index_file import copied_index
from zodbvault.commands.run import BackupRun, hex_of, new_timestamp, warn_of_state
from zodbvault.commands.summary import BackupReport, iso_time, plural, printable, speed_text
from zodbvault.filestorage.copying import CopiedRange, copy_range
from zodbvault.io.durable import PartFile
from zodbvault.io.gzip_members import MemberWriter
from zodbvault.io.progress import step
from zodbvault.io.sizes import size_text
from zodbvault.io.space import require_space
from zodbvault.repository.dat import Line
from zodbvault.repository.names import INDEX_SUFFIX, data_file
from zodbvault.repository.publish import publish_backup
from zodbvault.repository.records import FULL, INCREMENTAL, Record
from zodbvault.repository.store import data_size, manifests_size
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from zodbvault.commands.backup_blobs import BlobResult
    from zodbvault.filestorage.source import DataFs
    from zodbvault.filestorage.tail import Tail
    from zodbvault.repository.chains import Chain

logger = logging.getLogger("zodbvault")


def attempt(run: BackupRun, source: DataFs, verdict: Verdict, tail: Tail | None) -> BackupReport | None:
    """Make one backup; None when a pack replaced Data.fs so that blobs may be missing from it."""
    is_full = verdict.kind is Kind.FULL
    chain = None if is_full else run.chain
    _require_space(run, source, verdict)
    stamp = new_timestamp(run.repository, run.clock)
    name = stamp + (".fsz" if is_full else ".deltafsz")
    with run.blobs.met_blobs() as met, PartFile(run.location / name, run.ownership) as data:
        with MemberWriter(data.file) as writer, step("Data.fs", source.size() - verdict.start) as on_progress:
            copied = copy_range(
                source,
                verdict.start,
                None if is_full or tail is None else tail.tid,
                None if is_full else _greatest_tid(run, tail),
                writer,
                # Nobody asks for blobs where none are backed up; an incremental's records are checked all the same.
                (lambda oid, tid: met.add(oid + tid)) if run.blobs.enabled or not is_full else None,
                every_record=not is_full,
                clock=run.clock,
                on_progress=on_progress,
            )
        if chain is not None and copied.end == copied.start:
            # What seemed to be a transaction was not committed after all.
            return BackupReport(f"No changes since {chain.newest.timestamp}, nothing to do.", None)
        data.finish()
        if met or copied.encrypted:
            run.blobs.refuse_if_not_mounted(run.newest_record())
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
                    publish_blobs=blobs.publish,
                    index=index,
                    data=data,
                    ownership=run.ownership,
                )
            blobs.settle()
    for offset in copied.went_back:
        logger.warning("The tid goes back at offset %d of Data.fs; it was backed up as it is.", offset)
    _warn_if_older(run, record)
    warn_of_state(run, record)
    return _report(run, record)


def _warn_if_older(run: BackupRun, record: Record) -> None:
    """Warn when Data.fs ends before the newest backup did: a full of the wrong database makes `keep` drop the right."""
    before = run.newest_record()
    if before is not None and before.last_tid is not None and (record.last_tid or "") < before.last_tid:
        logger.warning(
            "Data.fs ends with an earlier transaction than at the backup of %s: it was restored, cut short or is "
            "another database. Older backups are removed as keep says.",
            before.timestamp,
        )


def _require_space(run: BackupRun, source: DataFs, verdict: Verdict) -> None:
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


def _greatest_tid(run: BackupRun, tail: Tail | None) -> bytes | None:
    """The greatest tid of what is backed up already; the last one's where a record does not tell."""
    record = run.newest_record()
    if record is not None and record.last_tid is not None:
        return bytes.fromhex(record.last_tid)
    return None if tail is None else tail.tid


def _record(
    run: BackupRun, source: DataFs, copied: CopiedRange, stamp: str, name: str, chain: Chain | None, blobs: BlobResult
) -> Record:
    """Everything that is known of the backup that was just copied."""
    before = None if chain is None else run.repository.record_of(chain.newest)
    lines = () if chain is None else chain.lines
    if before is not None:
        stored, manifests = before.chain_stored_size, before.chain_manifest_size
    else:
        stored, manifests = data_size(run.repository, lines), manifests_size(run.repository, lines)
    return Record(
        timestamp=stamp,
        kind=INCREMENTAL if chain is not None else FULL,
        start=copied.start,
        end=copied.end,
        first_tid=hex_of(copied.first_tid),
        last_tid=hex_of(copied.last_tid),
        tail_tid=hex_of(copied.tail_tid),
        tail_header=copied.tail_header,
        magic=source.magic.decode("ascii"),
        transactions=copied.transactions,
        data_name=name,
        md5=copied.stored.md5,
        stored_size=copied.stored.stored_size,
        sha256=copied.stored.stored_sha256,
        source_path=printable(source.path),
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


def _line(record: Record) -> Line:
    """The `.dat` line of a backup that has just been recorded."""
    assert record.data_name is not None
    file = data_file(record.data_name)
    assert file is not None
    return Line(file, record.start, record.end, record.md5)


def _index(
    run: BackupRun, source: DataFs, copied: CopiedRange, stamp: str, *, wanted: bool
) -> contextlib.AbstractContextManager[PartFile | None]:
    """A copy of the live index for a full: it saves the restored site the reading of all of Data.fs when it starts."""
    if not wanted:
        return contextlib.nullcontext()
    live, kept = Path(f"{source.path}{INDEX_SUFFIX}"), run.location / (stamp + INDEX_SUFFIX)
    return copied_index(live, kept, run.ownership, source.read, copied.end)


def _ratio_text(stored: int, size: int) -> str:
    """` (31 %)`; nothing of what is so small that the frame is most of it."""
    return f" ({100 * stored / size:.0f} %)" if size >= 1000 else ""


def _report(run: BackupRun, record: Record) -> BackupReport:
    """The one line that says what was done."""
    seconds = max(run.clock.now() - run.started, 0.0)
    size = record.end - record.start
    parts = [
        (
            f"{record.kind.capitalize()} backup {record.timestamp}: "
            f"{size_text(size)} of Data.fs in {size_text(record.stored_size)}{_ratio_text(record.stored_size, size)}"
        ),
        plural(record.transactions or 0, "transaction"),
    ]
    if record.blobs is not None:
        parts.append(f"{plural(record.blobs.added, 'new blob')} ({size_text(record.blobs.added_size)})")
    parts.append(f"{seconds:.1f} s{speed_text(size, seconds)}")
    return BackupReport(", ".join(parts) + ".", record.timestamp)
