"""A restore that finds a blob damaged on its way, and takes another state of the chain."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.site import Site, blob_files
from zodbvault.blobs import target
from zodbvault.io.durable import SyncBatch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_names_that_were_given_before_are_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path / "site", options={"blob_layout": "directories"})
    site.commit_blobs(120, names=120)
    stamp, state = site.backed_up()
    site.commit_blobs(1)
    site.backup()
    site.close()
    last = max(blob_files(site.blob_location / f"blobstorage.{stamp}" / "blobstorage").items())[1]
    content = last.read_bytes()
    last.unlink()  # the later directory has another name of the same file
    last.write_bytes(bytes(byte ^ 1 for byte in content))
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    synced = set()
    real = SyncBatch.add_folder

    def add_folder(batch: SyncBatch, folder: str | int) -> None:
        synced.add(str(folder))
        real(batch, folder)

    monkeypatch.setattr(SyncBatch, "add_folder", add_folder)
    monkeypatch.setattr(target, "_PLACED_AT_ONCE", 1)
    site.restore(stamp)
    assert "taken from another state" in caplog.text
    site.assert_is(state)
    site.close()
    assert {os.path.dirname(path) for path in blob_files(site.blob_storage).values()} <= synced
