"""A blob that the site loses between two backups of a chain: directories and archives keep it, or say that it is lost."""

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


@pytest.mark.parametrize("options", [ARCHIVES, DIRECTORIES], ids=["archives", "directories"])
def test_what_no_backup_in_the_layout_has_is_recorded_as_lost(
    options: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, _ = begun(tmp_path, {} if options is DIRECTORIES else options)
    site.options = dict(options)
    oid, tid = lose_a_blob(site)
    site.commit_blobs(1)
    stamp, _ = site.backed_up()
    assert "the site has lost them" in caplog.text
    (missing,) = json.loads((site.location / f"{stamp}.json").read_text())["blobs"]["missing"]
    assert missing.endswith(f"{oid:02x}/0x{tid:016x}.blob")
    site.close()
