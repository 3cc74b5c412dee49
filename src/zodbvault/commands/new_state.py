"""A blob state that is written and durable, and that nobody sees yet: what the layouts hand to a backup."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.blobs.outcome import BlobOutcome
    from zodbvault.io.durable import PartFile
    from zodbvault.repository.records import BlobRecord


class NewState(NamedTuple):
    """The blobs of one backup. record: for the backup's own; outcome: what was done for it.

    manifest: finished, not published. publish(): gives the manifest, and what else stands under a temporary name, its
    name, durably, before the backup exists; settle(): what has to wait until it does.
    """

    manifest: PartFile
    record: BlobRecord
    outcome: BlobOutcome
    publish: Callable[[], None]
    settle: Callable[[], None]


def nothing_to_settle() -> None:
    """The settle() of a state that is whole when it is published."""
