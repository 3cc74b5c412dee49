"""A zip backup: a full backup in two files, for carrying a site elsewhere; only the newest is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.commands.backup import run_backup
from zodbvault.commands.places import zip_places
from zodbvault.repository.records import ARCHIVES

if TYPE_CHECKING:
    from zodbvault.commands.summary import BackupReport
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings


def zipbackup(settings: Settings, *, clock: Clock) -> BackupReport:
    """Back up one site into its zip location, always as a full, with an archive of all blobs."""
    settings = zip_settings(settings)
    return run_backup(settings, zip_places(settings), "zipbackup", full_wanted=True, clock=clock)


def zip_settings(settings: Settings) -> Settings:
    """What holds for a zip backup, whatever holds for the others of the site. Its places are the only ones."""
    return settings._replace(
        location=settings.ziplocation,
        blobbackuplocation=settings.blobziplocation,
        blob_layout=ARCHIVES,
        blob_timestamps=False,
        incremental_blobs=False,
        keep=1,
        keep_daily=0,
        keep_weekly=0,
        keep_monthly=0,
    )
