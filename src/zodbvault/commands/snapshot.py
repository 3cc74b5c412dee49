"""A snapshot: a full backup into folders of its own, for the moment before an upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.commands.backup import run_backup
from zodbvault.commands.places import snapshot_places

if TYPE_CHECKING:
    from zodbvault.commands.summary import BackupReport
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings


def snapshot(settings: Settings, *, clock: Clock) -> BackupReport:
    """Back up one site into its snapshot location, always as a full, with all blobs."""
    settings = settings._replace(incremental_blobs=False)
    return run_backup(settings, snapshot_places(settings), "snapshot", full_wanted=True, clock=clock)
