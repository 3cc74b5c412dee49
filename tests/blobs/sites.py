"""Blob folders and manifests for the tests of this folder: small, real files."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import path_for
from zodbvault.blobs.manifest import Entry, ManifestSummary, ManifestWriter
from zodbvault.blobs.source import BlobWalk
from zodbvault.io.durable import PartFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from zodbvault.blobs.layouts import Layout

TID = 0x03E8000000000000
Blobs = dict[bytes, bytes]


def key(oid: int, tid: int = 1) -> bytes:
    return oid.to_bytes(8, "big") + (TID + tid).to_bytes(8, "big")


def tid(number: int) -> bytes:
    return key(0, number)[8:]


def entry(k: bytes, content: bytes) -> Entry:
    return Entry(k, len(content), hashlib.sha256(content).hexdigest())


def gone(k: bytes) -> Entry:
    return Entry(k, 0, "", removed=True)


def entries(blobs: Blobs) -> list[Entry]:
    return [entry(k, blobs[k]) for k in sorted(blobs)]


def put(folder: Path, layout: Layout, blobs: Blobs) -> Path:
    """Blobs as ZODB writes them: readable only. What stands there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    if not (folder / ".layout").exists():
        (folder / ".layout").write_text(layout)
    for k, content in blobs.items():
        file = folder / path_for(layout, k)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        file.chmod(0o444)
    return folder


def blobs_in(folder: Path, layout: Layout) -> Blobs:
    """Every blob that stands there, with its content."""
    walk = BlobWalk(str(folder), layout, folder)
    return {k: (folder / path_for(layout, k)).read_bytes() for k, _ in walk.blobs()}


def write_manifest(path: Path, found: Iterable[Entry], layout: Layout = "bushy") -> ManifestSummary:
    with PartFile(path) as part:
        with ManifestWriter(part, layout, complete=".delta" not in path.name) as writer:
            for one in found:
                writer.add(one)
            summary = writer.finish()
        part.publish()
    return summary


def refuse_to_look_at(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has an error where it keeps the inode of this file."""
    original = os.lstat

    def lstat(path: str | Path) -> os.stat_result:
        if os.fspath(path) == refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO), refused)
        return original(path)

    monkeypatch.setattr(os, "lstat", lstat)


def files_below(folder: Path) -> set[str]:
    """Paths of all files and links, below the folder."""
    return {os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names}
