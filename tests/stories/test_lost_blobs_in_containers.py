"""A blob that the site loses between two backups of a chain: each layout keeps it, or says that it is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, State, blob_files

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORIES = {"blob_layout": "directories"}
NUMBERED = {"blob_timestamps": "false"}
SERIES = {"archive_blob": "true", "incremental_blobs": "true"}
ARCHIVES = {"archive_blob": "true"}


def begun(folder: Path, options: dict[str, str]) -> tuple[Site, State]:
    site = Site(folder / "site", options=options)
    site.begin_with_a_blob()
    site.commit_blobs(5)
    return site, site.backed_up()[1]


def lose_a_blob(site: Site) -> tuple[int, int]:
    """Somebody removes a file of the blobstorage."""
    assert site.blob_storage is not None
    key, path = next(iter(blob_files(site.blob_storage).items()))
    path.unlink()
    return key


@pytest.mark.parametrize("options", [DIRECTORIES, NUMBERED, SERIES], ids=["directories", "numbered", "series"])
def test_what_the_backup_before_has_stays_in_the_state(options: dict[str, str], tmp_path: Path) -> None:
    site, before = begun(tmp_path, options)
    lost = lose_a_blob(site)
    site.commit_blobs(1)
    for _ in range(2):
        stamp, _ = site.backed_up()
        assert site.names().count(f"{stamp}.deltafsz") == 1
        site.commit_pages()
    site.restore(stamp)
    assert site.blobs[lost] == before.blobs[lost]
    site.close()


def test_what_the_pool_has_is_linked_into_the_first_directory(tmp_path: Path) -> None:
    site, before = begun(tmp_path, {})
    lost = lose_a_blob(site)
    site.options = dict(DIRECTORIES)
    site.commit_blobs(1)
    stamp, _ = site.backed_up()
    site.restore(stamp)
    assert site.blobs[lost] == before.blobs[lost]
    site.close()


def test_what_no_archive_has_is_recorded_as_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site, _ = begun(tmp_path, ARCHIVES)
    oid, tid = lose_a_blob(site)
    site.commit_blobs(1)
    stamp, _ = site.backed_up()
    assert "The site has lost" in caplog.text
    (missing,) = json.loads((site.location / f"{stamp}.json").read_text())["blobs"]["missing"]
    assert missing.endswith(f"{oid:02x}/0x{tid:016x}.blob")
    site.close()


@pytest.mark.parametrize("options", [{}, DIRECTORIES, NUMBERED, SERIES, ARCHIVES])
def test_what_is_lost_is_said_each_time_until_it_comes_back(
    tmp_path: Path, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path / "site", options=options)
    site.begin_with_a_blob()
    site.commit_blobs(2)
    assert site.blob_storage is not None
    lost = max(blob_files(site.blob_storage))
    path = blob_files(site.blob_storage)[lost]
    content = path.read_bytes()
    path.unlink()
    site.backup()
    for _ in range(3):
        site.commit_pages()
        caplog.clear()
        stamp = site.backup().timestamp
        assert "The site has lost 1 blob that Data.fs refers to" in caplog.text
        assert '"missing": []' not in (site.location / f"{stamp}.json").read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    caplog.clear()
    site.backup(full=True)
    assert "missing" not in caplog.text
    site.close()
