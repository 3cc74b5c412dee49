"""The folder that gets a copy of a site (`restore --to`): new or empty, away from site and backups, whole or gone.

What a restore writes elsewhere must outlive a failure; a copy is worth nothing until it is whole, so it goes with one.
What a kill leaves of it holds a file that says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.errors import DISK_FULL, ZodbvaultError, explained
from zodbvault.io.durable import make_folder, named, remove_as_far_as_possible, remove_durably, sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

FILESTORAGE_FOLDER = "filestorage"
BLOB_FOLDER = "blobstorage"
UNFINISHED = "unfinished"
"""Stands in the folder as long as the copy is not whole."""

_UNFINISHED_TEXT = b"This copy is not whole: the restore that makes it is at work, or was stopped.\n"


def require_apart(settings: Settings, folder: Path) -> None:
    """Raise ZodbvaultError where `folder` is among the blobs or the backups of the site."""
    resolved = _real(folder)
    taken = [*settings.folders(), *filter(None, (settings.blob_storage,))]
    for other in map(_real, taken):
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
    resolved = _real(folder)
    if not resolved.is_dir():
        raise ZodbvaultError("is not a folder", path=folder, hint="Nothing was done.")
    with explained("the folder cannot be read", path=folder, hint="Nothing was done."):
        names = os.listdir(resolved)
    if UNFINISHED in names:
        raise ZodbvaultError(
            "holds a copy that is not whole: the restore that makes it is at work, or was stopped",
            path=folder,
            hint="Nothing was done. If it was stopped, empty the folder, or name one that is new or empty.",
        )
    if names:
        raise ZodbvaultError(
            "is not empty", path=folder, hint="Nothing was done. Name a folder that is new or empty, or empty this one."
        )


def _real(folder: Path) -> Path:
    """What a folder is behind symlinks; where they lead in a circle it stays what it was, and is no folder."""
    return Path(os.path.realpath(folder))


@contextlib.contextmanager
def folder_for_copy(settings: Settings, folder: Path) -> Iterator[None]:
    """Make the folder, where it is missing, for the block to fill; where the block fails all of it goes again."""
    require_place_for_copy(settings, folder)
    is_new = not folder.exists()
    with explained("the folder cannot be made", path=folder, hint="Nothing was done."):
        make_folder(folder)
    mark = folder / UNFINISHED
    try:
        with explained("cannot be written", path=mark):
            _mark(mark)
        yield
        with explained("the copy cannot be finished", path=mark):
            remove_durably(mark)
    except BaseException:
        _remove_copy(folder, is_new=is_new)
        raise


def _mark(path: Path) -> None:
    """Say that what is written beside `path` is not whole, before anything is. Without a part: the name is enough."""
    with named(path), open(path, "xb", buffering=0) as file:
        # Where there is no room even for this, the restore says how much it needs.
        with _no_error_of_a_full_disk():
            file.write(_UNFINISHED_TEXT)
        sync_file(file.fileno())
    sync_folder(path.parent)


@contextlib.contextmanager
def _no_error_of_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise


def _remove_copy(folder: Path, *, is_new: bool) -> None:
    """Remove what was written, and last what says that it is not whole. What stays is warned about."""
    for name in (FILESTORAGE_FOLDER, BLOB_FOLDER):
        remove_as_far_as_possible(folder / name)
    with contextlib.suppress(OSError):
        if not _stands_in(folder, FILESTORAGE_FOLDER, BLOB_FOLDER):
            remove_durably(folder / UNFINISHED)
        if is_new:
            os.rmdir(folder)
    if _stands_in(folder, FILESTORAGE_FOLDER, BLOB_FOLDER, UNFINISHED):
        logger.warning("%s: what was written there cannot be removed again. It is no whole copy; empty it.", folder)
    else:
        logger.info("What was written to %s was removed again.", folder)


def _stands_in(folder: Path, *names: str) -> bool:
    return any(os.path.lexists(folder / name) for name in names)
