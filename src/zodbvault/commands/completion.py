"""Completing the newest backup where nothing was committed since: its blob state, a record that knows the inode.

Imported only when it lacks something.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from zodbvault.commands.run import BackupRun, hex_of
from zodbvault.commands.summary import BackupReport, iso_time, plural, printable
from zodbvault.io.hashing import sha256_of
from zodbvault.repository.publish import publish_record
from zodbvault.repository.records import FULL, INCREMENTAL, Record
from zodbvault.repository.store import data_size, manifests_size, size_of
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from zodbvault.filestorage.source import DataFs
    from zodbvault.filestorage.tail import Tail
    from zodbvault.repository.chains import Chain

logger = logging.getLogger("zodbvault")


def complete_newest(
    run: BackupRun, source: DataFs, tail: Tail | None, record: Record | None, *, lacks_blobs: bool
) -> BackupReport | None:
    """Write what the newest backup lacks; nothing was committed since.

    record: the one that it has. None when a pack replaced Data.fs meanwhile, so that blobs may be missing from it.
    """
    chain = run.chain
    assert chain is not None
    line = chain.newest
    if record is None:
        record = _record_of_foreign_line(run, source, chain, tail)
    record = record._replace(source_device=source.device, source_inode=source.inode)
    if not lacks_blobs:
        publish_record(run.location, record, run.ownership)
        return BackupReport(f"No changes since {line.timestamp}, nothing to do.", None)
    last_tid = None if record.last_tid is None else bytes.fromhex(record.last_tid)
    with run.blobs.catch_up(line.timestamp, run.repository, chain, last_tid) as blobs:
        if source.was_replaced():
            return None
        blobs.judge_missing()
        assert blobs.record is not None
        # One of that name may be there, from before the layout of the source or of the backups changed.
        replaced = size_of(run.repository.path(blobs.record.manifest)) or 0
        size = manifests_size(run.repository, chain.lines) - replaced + blobs.record.stored_size
        blobs.publish()
        publish_record(run.location, record._replace(blobs=blobs.record, chain_manifest_size=size), run.ownership)
        blobs.settle()
    return BackupReport(
        f"No changes in Data.fs since {line.timestamp}; the blobs of that backup are complete now "
        f"({plural(blobs.record.total, 'blob')}).",
        line.timestamp,
    )


def _record_of_foreign_line(run: BackupRun, source: DataFs, chain: Chain, tail: Tail | None) -> Record:
    """A record for the newest line where repozo wrote it, or the record was lost."""
    line = chain.newest
    stored_size, sha256 = sha256_of(run.location / line.file.name)
    tid = None if tail is None else hex_of(tail.tid)
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
        source_path=printable(source.path),
        source_device=source.device,
        source_inode=source.inode,
        started=moment,
        finished=moment,
        engine=VERSION,
        chain_id=os.urandom(16).hex(),
        chain_backups=len(chain.lines),
        chain_stored_size=data_size(run.repository, chain.lines),
        chain_manifest_size=manifests_size(run.repository, chain.lines),
    )
