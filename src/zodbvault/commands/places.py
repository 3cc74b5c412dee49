"""Where a command works: the folders of a repository, who owns its files, and the locks that are held meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.summary import iso_time
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.durable import Ownership, current_umask, make_folder, ownership_of
from zodbvault.io.locks import LockFile
from zodbvault.repository.names import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from zodbvault.settings import Settings


class Places(NamedTuple):
    """The folders of one repository of a site. blobs: None for a site whose blobs are not backed up."""

    location: Path
    blobs: Path | None

    def folders(self) -> tuple[Path, ...]:
        """Each folder once, the one that is locked first in front."""
        return (self.location,) if self.blobs in (None, self.location) else (self.location, self.blobs)


def usual_places(settings: Settings) -> Places:
    """The folders of `bin/backup`."""
    return _places(settings, settings.location, settings.blobbackuplocation)


def snapshot_places(settings: Settings) -> Places:
    """The folders of `bin/snapshotbackup`."""
    return _places(settings, settings.snapshotlocation, settings.blobsnapshotlocation)


def zip_places(settings: Settings) -> Places:
    """The folders of `bin/zipbackup`."""
    return _places(settings, settings.ziplocation, settings.blobziplocation)


def alternative_places(settings: Settings) -> Places:
    """The folders of the other site that `bin/altrestore` restores from. Only for settings that name them."""
    assert settings.alternative_location is not None
    return _places(settings, settings.alternative_location, settings.alternative_blob_location)


def _places(settings: Settings, location: Path, blobs: Path | None) -> Places:
    """The folders of a repository; where blobs alone are backed up everything stands in theirs."""
    if not settings.only_blobs:
        return Places(location, blobs)
    assert blobs is not None
    return Places(blobs, blobs)


BACKUPS = "backups"
SNAPSHOTS = "snapshots"
ZIPS = "zips"
ALL = "all"

LOCATIONS: Mapping[str, Callable[[Settings], Places]] = {
    BACKUPS: usual_places,
    SNAPSHOTS: snapshot_places,
    ZIPS: zip_places,
}
"""The repositories that a site may have, by the names that people and programs are told of them by."""


def chosen_places(settings: Settings, which: str) -> tuple[tuple[str, Places], ...]:
    """The repositories of this site that a command is to look at, with their names. which: in LOCATIONS, or ALL.

    A site without zip backups has no place for them.
    """
    return tuple(
        (name, places_of(settings))
        for name, places_of in LOCATIONS.items()
        if which in (name, ALL) and (name != ZIPS or settings.enable_zipbackup)
    )


def places_of_site(settings: Settings) -> tuple[Places, ...]:
    """The folders of all repositories that the site's own backups go into."""
    return tuple(places for _, places in chosen_places(settings, ALL))


def make_folders(settings: Settings, places: Places) -> None:
    """Make the folders of a repository where they are missing, and see that files can be made in them."""
    for folder in places.folders():
        option = _option_of(settings, folder)
        try:
            make_folder(folder)
        except OSError as error:
            reason = "it is no folder" if isinstance(error, FileExistsError) else reason_of(error)
            hint = f"Nothing was backed up. Check the option {option}, and who may write there."
            raise ZodbvaultError(f"the folder cannot be made: {reason}", path=folder, hint=hint) from error
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            hint = (
                f"Nothing was backed up. Give the folder (option {option}) to the user who backs up; where its disk is "
                "mounted read-only, mount it for writing."
            )
            raise ZodbvaultError("is not writable", path=folder, hint=hint)


def _option_of(settings: Settings, folder: Path) -> str:
    """The name of the option that a folder of backups comes from."""
    # A zip backup is made with settings by which its places are the usual ones too.
    names = ("ziplocation", "blobziplocation", "snapshotlocation", "blobsnapshotlocation", "blobbackuplocation")
    return next((name for name in names if getattr(settings, name) == folder), "location")


def repository_ownership(source: Ownership, location: Path) -> Ownership:
    """Who may read the files of a backup: who may read the source, without those whom the umask leaves out.

    Made by root they belong to the location's owner and group; else to the source's group, where we may choose it and
    the location's set-group-id bit has not chosen another.
    """
    status = os.stat(location)
    source = source._replace(mode=source.mode & ~current_umask())
    if os.geteuid() == 0:
        return source._replace(uid=status.st_uid, gid=status.st_gid)
    return source._replace(uid=None, gid=None if status.st_mode & stat.S_ISGID else source.gid)


def source_ownership(path: Path) -> Ownership:
    """Mode and owner of a file or folder, by which new files go; only the owner's where it cannot be looked at."""
    try:
        return ownership_of(path)
    except OSError:
        return Ownership(0o600, None, None)


def live_place(settings: Settings) -> Path:
    """What is backed up: Data.fs, or the blob storage of a site whose blobs alone are."""
    return settings.blob_storage if settings.only_blobs and settings.blob_storage is not None else settings.datafs


def ownership_beside(settings: Settings, location: Path) -> Ownership:
    """Who may read what is written beside the backups in `location`, as repository_ownership() says."""
    return repository_ownership(source_ownership(live_place(settings)), location)


@contextlib.contextmanager
def locked(places: tuple[Places, ...], now: float, *, writable_only: bool = False) -> Iterator[None]:
    """Hold the locks of repositories, so that no other run writes there. Raises AlreadyRunning at once.

    now: seconds since 1970, told to who asks. writable_only: pass over folders that are missing or cannot be written.
    """
    folders = dict.fromkeys(folder for place in places for folder in place.folders())
    with contextlib.ExitStack() as locks:
        for folder in folders:
            if writable_only and not _can_be_locked(folder):
                continue
            locks.enter_context(LockFile(folder / LOCK_NAME, since=iso_time(now)))
        yield


def _can_be_locked(folder: Path) -> bool:
    """Whether the lock of a repository can be taken: the folder, and a lock file that is there, can be written."""
    lock = folder / LOCK_NAME
    return os.access(folder, os.W_OK) and (not os.path.lexists(lock) or os.access(lock, os.R_OK | os.W_OK))
