"""Whether the sites of one configuration get in each other's way: the parts of a buildout, the tables of a toml file.

A plain decision about Settings. Knows no face; where a path leads to is told by a function that it is given.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.site_settings import Settings


def conflict_of(
    one: Settings,
    other: Settings,
    names: tuple[str, str],
    real: Callable[[Path], Path] = lambda path: Path(os.path.realpath(path)),
) -> str | None:
    """Why two sites cannot stand beside each other, with what to do; None where they can.

    names: how the sites are called in messages. real: where a path leads to when symlinks are followed. Two that back
    up the same database, as a part that only makes full backups does beside another, are one site here.
    """
    if _is_one_site(one, other, real):
        return None
    both = " and ".join(names)
    theirs = {real(folder) for folder in other.folders()}
    shared = [folder for folder in one.folders() if real(folder) in theirs]
    if shared:
        return (
            f"{both} back up different sites into one folder, {shared[0]}, where each would remove the other's backups;"
            f" choose another folder for one of them"
        )
    if one.blob_storage is None or other.blob_storage is None or real(one.blob_storage) != real(other.blob_storage):
        return None
    if one.shared_blob_storage and other.shared_blob_storage:
        return None
    return (
        f"{both} back up different Data.fs with one blob_storage, {one.blob_storage}, so that a restore of one would"
        f" remove the blobs of the other; give each its own blob_storage, or, where the two databases do share it, set"
        f" shared_blob_storage = true in both"
    )


def _is_one_site(one: Settings, other: Settings, real: Callable[[Path], Path]) -> bool:
    blobs = {real(site.blob_storage) for site in (one, other) if site.blob_storage is not None}
    return real(one.datafs) == real(other.datafs) and len(blobs) < 2
