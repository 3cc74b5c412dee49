"""A blob state that is written and durable, and that nobody sees yet: what the layouts hand to a backup.

With what the backup's record says of it, in whichever layout. Plain data in, plain data out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import bushy_path
from zodbvault.repository.records import POOL, BlobRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.blobs.outcome import BlobOutcome


class NewState(NamedTuple):
    """The blobs of one backup. record: for the backup's own; outcome: what was done for it.

    publish(): gives the manifest, and what else stands under a temporary name, its name, durably, before the backup
    exists; settle(): what has to wait until it does.
    """

    record: BlobRecord
    outcome: BlobOutcome
    publish: Callable[[], None]
    settle: Callable[[], None]


def nothing_to_settle() -> None:
    """The settle() of a state that is whole when it is published."""


def blob_record(
    outcome: BlobOutcome,
    *,
    layout: str = POOL,
    before: BlobRecord | None = None,
    archives_size: int | None = None,
) -> BlobRecord:
    """The blobs' part of a record.

    before: that of the backup before, where the manifest tells the change only. archives_size: bytes of the archives
    that hold the state.
    """
    summary = outcome.summary
    return BlobRecord(
        layout=layout,
        manifest=summary.name,
        sha256=summary.sha256,
        stored_size=summary.stored_size,
        complete=summary.complete,
        source_layout=summary.layout,
        added=outcome.copied,
        added_size=outcome.copied_bytes,
        total=summary.total_blobs or 0,
        total_size=summary.bytes + (0 if before is None else before.total_size),
        missing=(*(() if before is None else before.missing), *(bushy_path(key) for key in outcome.missing)),
        archives_size=archives_size,
    )
