"""A restore that finds a blob damaged on its way, and takes another state of the chain."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.site import Site, State, blob_files
from zodbvault.blobs import target
from zodbvault.io.durable import SyncBatch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def with_damage_in_its_last_blob(folder: Path, blobs: int) -> tuple[Site, str, State]:
    """A site that has lost its blobs, of which two backups are in directories; in the first one the last is damaged.

    With the timestamp and the state of the first. The second has that blob, whole.
    """
    site = Site(folder, options={"blob_layout": "directories"})
    site.commit_blobs(blobs, names=blobs)
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
    return site, stamp, state


def test_the_names_that_were_given_before_are_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, stamp, state = with_damage_in_its_last_blob(tmp_path / "site", 120)
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


def test_what_was_added_before_another_state_served_is_not_called_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_PLACED_AT_ONCE", 1)
    site, stamp, state = with_damage_in_its_last_blob(tmp_path / "site", 20)
    summary = site.restore(stamp).summary
    assert f", {len(state.blobs)} blobs added (" in summary
    assert summary.endswith(", 0 removed.")
    site.assert_is(state)
    site.close()
