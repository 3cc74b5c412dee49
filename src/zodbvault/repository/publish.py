"""Making a backup visible: what is written first, and the `.dat` line that comes last.

Everything that belongs to a backup is durable before its line is, so a backup that has a line is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.io.durable import Ownership, PartFile, write_durably
from zodbvault.repository.dat import Line, format_dat
from zodbvault.repository.names import DAT_SUFFIX, RECORD_SUFFIX
from zodbvault.repository.records import Record, format_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zodbvault.repository.chains import Chain


def publish_record(location: Path, record: Record, ownership: Ownership) -> None:
    """Write the record of a backup, or write it anew."""
    write_durably(location / (record.timestamp + RECORD_SUFFIX), format_record(record), ownership)


def publish_backup(  # the order is the point, so all of it stands here
    location: Path,
    record: Record,
    line: Line,
    chain: Chain | None,
    *,
    publish_blobs: Callable[[], None],
    index: PartFile | None,
    data: PartFile,
    ownership: Ownership,
) -> None:
    """Make a finished backup visible, each file durable before the next appears.

    chain: the chain that the backup continues, None for a full. publish_blobs: gives the manifest of its blobs its
    name, and the directory or archive that they are in; all of that is durable already.
    """
    publish_blobs()
    publish_record(location, record, ownership)
    if index is not None:
        index.publish()
    data.publish()
    # Whatever the line names is on disk by now. Without it the backup does not exist.
    publish_line(location, line, chain, ownership)


def publish_line(location: Path, line: Line, chain: Chain | None, ownership: Ownership) -> None:
    """Write the `.dat` file of `chain` with `line` added; of a new chain when `chain` is None."""
    lines = (line,) if chain is None else (*chain.lines, line)
    write_durably(location / (lines[0].timestamp + DAT_SUFFIX), format_dat(lines), ownership)
