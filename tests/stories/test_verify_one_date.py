"""verify: dates whose blobs are in several places."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.damage import packed_manifest, unpacked_manifest
from tests.layouts import LAYOUTS
from tests.site import Site, blob_files
from zodbvault.commands.choosing import NothingThere
from zodbvault.commands.places import ALL, BACKUPS, SNAPSHOTS
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path


def backups(site: Site, number: int) -> list[str]:
    """The timestamps of some backups, each with new blobs."""
    stamps = []
    for _ in range(number):
        site.commit_pages(2)
        site.commit_blobs(2)
        stamps.append(site.backed_up()[0])
    return stamps


@pytest.mark.parametrize("how", ["quick", "default", "deep"])
@pytest.mark.parametrize("of_one_date", [False, True])
def test_what_another_program_lacks_is_not_good_by_a_manifest_that_was_exchanged(
    tmp_path: Path, of_one_date: bool, how: str
) -> None:
    site = Site(tmp_path / "site", options={"blob_layout": "directories"})
    first, second = backups(site, 2)
    for stamp in (first, second):
        (site.blob_location / f"{stamp}.directoryblobs.gz").unlink()
        (site.location / f"{stamp}.json").unlink()
    site.options["blob_layout"] = "pool"
    assert site.backup().timestamp == second
    shutil.rmtree(site.blob_location / f"blobstorage.{second}")
    directory = site.blob_location / f"blobstorage.{first}" / "blobstorage"
    max(blob_files(directory).items())[1].unlink()
    depth = {how: True} if how != "default" else {}
    assert site.verify(first, **depth).good
    manifest = site.blob_location / f"{second}.blobs.gz"
    manifest.write_bytes(packed_manifest(unpacked_manifest(manifest)[:1]))
    assert not site.verify(first if of_one_date else None, **depth).found[0].chains[0].verdicts[first]
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    with pytest.raises(ZodbvaultError):
        site.restore(first)


@pytest.mark.parametrize("only_blobs", ["false", "true"])
def test_repositories_that_have_nothing_for_the_date_are_left_out_where_another_has_some(
    tmp_path: Path, only_blobs: str
) -> None:
    site = Site(tmp_path / "site", options={"only_blobs": only_blobs})
    site.commit_blobs(2)
    first = site.backup().timestamp
    assert first is not None
    site.commit_blobs(2)
    site.tick()
    snapshot = site.snapshot().timestamp
    assert snapshot is not None
    assert snapshot > first
    report = site.verify(first, which=ALL)
    assert report.good
    assert [place.name for place in report.found] == [BACKUPS]
    assert [place.name for place in site.verify(snapshot, which=ALL).found] == [BACKUPS, SNAPSHOTS]
    with pytest.raises(NothingThere, match=re.escape(str(report.found[0].places.location))):
        site.verify("2076-01-01", which=ALL)
    site.close()


def test_damage_that_the_date_does_not_need_is_not_told(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    (first,) = backups(site, 1)
    site.options["blob_layout"] = "directories"
    (second,) = backups(site, 1)
    site.close()
    manifest = site.blob_location / f"{first}.blobs.gz"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert site.verify().found[0].chains[0].verdicts == {first: False, second: True}
    report = site.verify(second)
    assert report.good
    assert report.lines == ("1 backup checked (names, sizes and checksums): 1 restore.",)
    assert "good" in report.table.rows[0]


def test_a_blob_that_is_in_a_later_archive_only_is_missing_before(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options={"only_blobs": "true", **LAYOUTS["incremental archives"]})
    stamps = []
    for _ in range(3):
        site.commit_blobs(2)
        stamps.append(site.backup().timestamp)
    site.close()
    one, other = (next(site.blob_location.glob(f"blobstorage.{stamp}.*tar")) for stamp in (stamps[0], stamps[2]))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    good = {date: each for chain in site.verify().found[0].chains for date, each in chain.verdicts.items()}
    assert [good[stamp or ""] for stamp in stamps] == [False, False, True]
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    with pytest.raises(ZodbvaultError):
        site.restore(stamps[1])
    site.restore(stamps[2])
