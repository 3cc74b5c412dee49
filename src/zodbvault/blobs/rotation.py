"""The names of directories and archives as they change: numbers that grow by one, and the link to the newest.

Each rename is durable before the next, from the greatest number down: at no instant do two states want one name. Knows
names; no blob and no manifest.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from zodbvault.blobs.stored import LATEST, Form, find_stored, stored_name
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.durable import PART_SUFFIX, make_symlink, rename_durably, sync_folder

if TYPE_CHECKING:
    from pathlib import Path


def rotate(location: Path, base: str, form: Form) -> None:
    """Give each numbered directory or archive (form) of a blobstorage the next number: 0 is free then.

    Raises ZodbvaultError.
    """
    numbered = [one for one in find_stored(location) if one.base == base and one.form is form]
    for one in sorted(numbered, key=lambda one: one.number or 0, reverse=True):
        if one.number is None:
            continue
        name = stored_name(base, one.number + 1, form, compressed=one.path.name.endswith(".gz"))
        try:
            if os.path.lexists(location / name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(location / name))
            rename_durably(one.path, location / name)
        except OSError as error:
            raise ZodbvaultError(f"cannot be renamed to {name}: {reason_of(error)}", path=one.path) from error


def newest_link_target(location: Path, base: str, timestamp: str, form: Form) -> str | None:
    """The directory or archive (form) of a timestamp that the link is to lead to: not a numbered one; None: nothing."""
    wanted = (base, timestamp, None, form)
    found = find_stored(location)
    return next((one.path.name for one in found if (one.base, one.timestamp, one.number, one.form) == wanted), None)


def point_latest(location: Path, name: str | None) -> None:
    """Let the link to the newest directory or archive lead to `name`; take it away for None.

    Anything of that name that is no link stays; where the file system knows no links there is none. Raises
    ZodbvaultError.
    """
    latest = location / LATEST
    try:
        if os.path.lexists(latest) and not latest.is_symlink():
            return
        if name is None:
            if latest.is_symlink():
                latest.unlink()
                sync_folder(location)
        elif not latest.is_symlink() or os.readlink(latest) != name:
            part = location / (LATEST + PART_SUFFIX)
            with suppress(FileNotFoundError):
                part.unlink()
            if make_symlink(part, name):
                rename_durably(part, latest)
    except OSError as error:
        what = f"the link to the newest backup cannot be made: {reason_of(error)}"
        raise ZodbvaultError(what, path=latest) from error
