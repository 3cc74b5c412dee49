"""Backups as files in git: what it does not keep of them stands in `site.json` beside them, and is given back here.

That are the times of what is numbered, hard links, and symlinks. Modes and owners are not kept, nor folders that are
empty: nothing that is read back depends on them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("backups", "blobstoragebackups", "zipbackups", "blobstoragezips")
"""The folders of backups in a site's var folder, as far as they are there."""

_SITE = "site.json"
_NUMBERED = re.compile(r"[^/]+/blobstorage\.\d+(\.tar(\.gz)?)?")


@dataclass
class KeptSite:
    """The site that a golden repository is of.

    options: as in buildout.cfg. source: what restores them, `location` or `zip`. modified: seconds since 1970 of what
    is numbered. links: the names of each file that has more than one. symlinks: name and where it leads to.
    """

    options: dict[str, str]
    source: str = "location"
    modified: dict[str, int] = field(default_factory=dict)
    links: list[list[str]] = field(default_factory=list)
    symlinks: dict[str, str] = field(default_factory=dict)


def write_kept(var: Path, target: Path, kept: KeptSite | None) -> None:
    """Copy the backups in `var` to `target`, with what belongs to `kept`; the first golden ones had no such thing."""
    for name in FOLDERS:
        if (var / name).exists():
            shutil.copytree(var / name, target / name, symlinks=True, ignore=_unneeded)
    if kept is None:
        return
    names: dict[int, list[str]] = {}
    for path in sorted(target.rglob("*")):
        name = str(path.relative_to(target))
        status = (var / name).lstat()
        if path.is_symlink():
            kept.symlinks[name] = os.readlink(path)
            path.unlink()
        elif path.is_file():
            names.setdefault(status.st_ino, []).append(name)
        if _NUMBERED.fullmatch(name):
            kept.modified[name] = int(status.st_mtime)
    kept.links = [each for each in names.values() if len(each) > 1]
    (target / _SITE).write_text(json.dumps(asdict(kept), indent=1) + "\n")


def _unneeded(folder: str, names: list[str]) -> set[str]:
    del folder
    return {name for name in names if name == "tmp" or name.endswith(".lock")}


def bring_back(golden: Path, var: Path) -> KeptSite:
    """Lay the backups of a golden repository out in `var`; the site that they are of."""
    for name in FOLDERS:
        if (golden / name).exists():
            shutil.copytree(golden / name, var / name)
    path = golden / _SITE
    if not path.exists():
        is_of_blobs_alone = not (golden / "backups").exists()
        return KeptSite({"only_blobs": "true", "keep_blob_days": "0"} if is_of_blobs_alone else {})
    kept = KeptSite(**json.loads(path.read_text()))
    for first, *others in kept.links:
        for other in others:
            (var / other).unlink()
            os.link(var / first, var / other)
    for name, target in kept.symlinks.items():
        (var / name).symlink_to(target)
    for name, modified in kept.modified.items():
        os.utime(var / name, (modified, modified))
    return kept
