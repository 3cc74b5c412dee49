"""Whether a repository holds the backups of another database than the one that somebody backs up to it, or restores.

Two configurations may name one location and not see each other. What tells is the record of the newest backup: another
path, at which another file still stands. A site that was moved leaves no file there, and one that is named otherwise
is the same file.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from zodbvault.commands.summary import printable

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.repository.records import Record


logger = logging.getLogger("zodbvault")


def other_database(record: Record | None, datafs: Path) -> str | None:
    """The Data.fs that a backup was made of, where that and `datafs` are there and are two files; else None."""
    if record is None or record.source_path == printable(datafs):
        return None
    try:
        is_the_same = os.path.samefile(record.source_path, datafs)
    except (OSError, ValueError):
        return None
    return None if is_the_same else record.source_path


def warn_of_another(record: Record | None, datafs: Path, location: Path) -> None:
    """Warn where the newest backup of `location` is of another database than `datafs`.

    To be asked only where `datafs` does not continue that backup. A site that was copied with its backups looks the
    same, so it is no error.
    """
    other = other_database(record, datafs)
    if other is not None:
        logger.warning(
            "%s: the newest backup there is of another database, %s. Where both back up into this folder, each removes "
            "the other's backups as keep says: choose another location for one of the two.",
            location,
            other,
        )
