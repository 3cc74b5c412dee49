"""The folder that gets a copy of a site (`restore --to`): new or empty, away from site and backups, whole or gone.

What a restore writes elsewhere must outlive a failure; a copy is worth nothing until it is whole, so it goes with one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, explained
from zodbvault.io.durable import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

FILESTORAGE_FOLDER = "filestorage"
BLOB_FOLDER = "blobstorage"


def require_apart(settings: Settings, folder: Path) -> None:
    """Raise ZodbvaultError where `folder` is among the blobs or the backups of the site."""
    resolved = folder.resolve()
    taken = [*settings.folders(), *filter(None, (settings.blob_storage,))]
    for other in (place.resolve() for place in taken):
        if resolved == other or other in resolved.parents:
            raise ZodbvaultError(
                f"is in a folder of the site or its backups, {other}",
                path=folder,
                hint="Nothing was done. A copy goes into a folder of its own.",
            )


def require_place_for_copy(settings: Settings, folder: Path) -> None:
    """Raise ZodbvaultError unless `folder` is empty or missing, and not among the blobs or the backups of the site."""
    require_apart(settings, folder)
    if not os.path.lexists(folder):
        return
    resolved = folder.resolve()
    if not resolved.is_dir():
        raise ZodbvaultError("is not a folder", path=folder, hint="Nothing was done.")
    with explained("the folder cannot be read", path=folder, hint="Nothing was done."):
        is_empty = not os.listdir(resolved)
    if not is_empty:
        raise ZodbvaultError(
            "is not empty", path=folder, hint="Nothing was done. Name a folder that is new or empty, or empty this one."
        )


@contextlib.contextmanager
def folder_for_copy(settings: Settings, folder: Path) -> Iterator[None]:
    """Make the folder, where it is missing, for the block to fill; where the block fails all of it goes again."""
    require_place_for_copy(settings, folder)
    is_new = not folder.exists()
    with explained("the folder cannot be made", path=folder, hint="Nothing was done."):
        make_folder(folder)
    try:
        yield
    except BaseException:
        for name in (FILESTORAGE_FOLDER, BLOB_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        logger.info("What was written to %s was removed again.", folder)
        raise
