"""Damage that the search of test_damage.py found to go wrong once, each as small as it gets."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.damage import packed_manifest, unpacked_manifest
from tests.layouts import LAYOUTS
from tests.site import Site, State, blob_files
from zodbvault.commands.prune import prune
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")


def made(folder: Path, layout: str = "pool", **options: str) -> tuple[Site, dict[str, State]]:
    """A site with a full and two incremental backups, each with new blobs."""
    site = Site(folder / "site", options={**LAYOUTS[layout], **options})
    site.begin_with_a_blob()
    states = {}
    for _ in range(3):
        site.commit_pages(2)
        site.commit_blobs(2)
        states |= dict([site.backed_up()])
    site.close()
    return site, states


def manifest_of(site: Site, stamp: str) -> Path:
    return next(path for path in site.blob_location.glob(f"{stamp}.*") if path.name.endswith("blobs.gz"))


def lose_blobs(site: Site) -> None:
    """The database is there, its blobs are gone."""
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)


MANIFESTS = ["pool", "directories", "archives", "incremental archives"]


@pytest.mark.parametrize("layout", MANIFESTS)
@pytest.mark.parametrize("with_record", [True, False])
def test_a_manifest_that_lost_lines_and_closes_well_is_not_believed(
    tmp_path: Path, layout: str, with_record: bool
) -> None:
    site, states = made(tmp_path, layout)
    newest = max(states)
    manifest = manifest_of(site, newest)
    manifest.write_bytes(packed_manifest(unpacked_manifest(manifest)[:1]))
    if not with_record:
        (site.location / f"{newest}.json").unlink()
    before = site.datafs.read_bytes()
    assert not site.verify(newest).good
    lose_blobs(site)
    with pytest.raises(ZodbvaultError):
        site.restore(newest)
    assert site.datafs.read_bytes() == before


@pytest.mark.parametrize("layout", ["directories", "archives"])
def test_where_one_state_is_not_believed_a_later_one_of_the_chain_serves(tmp_path: Path, layout: str) -> None:
    site, states = made(tmp_path, layout)
    first = min(states)
    manifest = manifest_of(site, first)
    manifest.write_bytes(packed_manifest(unpacked_manifest(manifest)[:1]))
    lose_blobs(site)
    site.restore(first)
    site.assert_is(states[first])


@pytest.mark.parametrize("layout", ["copies", "archives"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_blob_is_taken_from_a_later_state(tmp_path: Path, layout: str, lost: bool) -> None:
    site, states = made(tmp_path, layout)
    first = min(states)
    content = states[first].needed[min(states[first].needed)]
    place = site.blob_location / f"blobstorage.{first}{'' if layout == 'copies' else '.tar'}"
    files = [place] if place.is_file() else list(place.rglob("*.blob"))
    changed = 0
    for path in files:
        data = path.read_bytes()
        if content in data:
            path.unlink()
            path.write_bytes(data.replace(content, bytes(len(content))))
            changed += 1
    assert changed == 1
    lose_blobs(site)
    if lost:
        shutil.rmtree(site.datafs.parent)
    assert site.verify(first).good is False
    site.restore(first)
    site.assert_is(states[first])


@pytest.mark.parametrize("content", [b"{}", b"", b"null", b"[" * 100_000, b"\xff"])
def test_a_newest_record_that_cannot_be_read_is_not_built_on(tmp_path: Path, content: bytes) -> None:
    site, states = made(tmp_path)
    (site.location / f"{max(states)}.json").write_bytes(content)
    site.commit_pages()
    stamp, state = site.backed_up()
    assert f"{stamp}.fsz" in site.names()
    site.restore(stamp)
    site.assert_is(state)


def test_a_record_of_another_backup_is_not_built_on(tmp_path: Path) -> None:
    site, states = made(tmp_path)
    shutil.copyfile(site.location / f"{min(states)}.json", site.location / f"{max(states)}.json")
    site.commit_pages()
    stamp, _ = site.backed_up()
    assert f"{stamp}.fsz" in site.names()


@pytest.mark.parametrize("content", [b"", b"\n", b"lawn", b"\xff" * 32, b"x" * 100_000, b"0" * 33])
@pytest.mark.parametrize("where", ["location", "blob_location"])
def test_a_damaged_id_counts_as_a_missing_one(tmp_path: Path, content: bytes, where: str) -> None:
    site, _ = made(tmp_path)
    mark = getattr(site, where) / ".zodbvault.id"
    good = mark.read_bytes()
    mark.write_bytes(content)
    site.commit_pages()
    stamp, state = site.backed_up()
    assert f"{stamp}.deltafsz" in site.names()
    assert mark.read_bytes() == good
    site.restore(stamp)
    site.assert_is(state)


@pytest.mark.parametrize("layout", MANIFESTS)
@pytest.mark.parametrize("with_record", [True, False])
def test_a_manifest_with_another_checksum_that_closes_well_does_not_stop_the_next_full(
    tmp_path: Path, layout: str, with_record: bool
) -> None:
    site, states = made(tmp_path, layout)
    for stamp in states:
        if not with_record:
            (site.location / f"{stamp}.json").unlink()
        manifest = manifest_of(site, stamp)
        lines = unpacked_manifest(manifest)
        wrong = hashlib.sha256(b"another content").hexdigest().encode() + b"\n"
        changed = [b"\t".join((*line.split(b"\t")[:-1], wrong)) if line.startswith(b"+") else line for line in lines]
        manifest.write_bytes(packed_manifest(changed))
    site.commit_blobs(2)
    site.close()
    site.backup(full=True)
    stamp = max(site.timestamps())
    state = site.state()
    assert f"{stamp}.fsz" in site.names()
    assert site.verify(stamp).good
    lose_blobs(site)
    site.restore(stamp)
    site.assert_is(state)


@pytest.mark.parametrize("layout", ["pool", "numbered directories", "archives"])
def test_nothing_is_built_on_a_backup_whose_manifest_has_another_size_than_was_written(
    tmp_path: Path, layout: str
) -> None:
    """The sizes of all manifests of the chain add up all the same."""
    site, states = made(tmp_path, layout)
    site.commit_blobs(9)
    newest = manifest_of(site, site.backed_up()[0])
    other = manifest_of(site, max(states))
    contents = newest.read_bytes(), other.read_bytes()
    newest.write_bytes(contents[1])
    other.write_bytes(contents[0])
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    assert f"{stamp}.fsz" in site.names()
    lose_blobs(site)
    site.restore(stamp)
    site.assert_is(state)


def test_no_blob_goes_from_the_pool_while_a_manifest_is_not_believed(tmp_path: Path) -> None:
    site, states = made(tmp_path)
    site.pack()
    site.backup(full=True)
    site.commit_pages()
    full, _ = site.backed_up(full=True)
    site.close()
    manifest = manifest_of(site, full)
    manifest.write_bytes(packed_manifest(unpacked_manifest(manifest)[:1]))
    before = set(blob_files(site.blob_location / "blobs"))
    site.options["keep"] = "1"
    prune(site.settings, which="backups", dry_run=False, clock=site.clock)
    assert min(states) not in site.timestamps()
    assert set(blob_files(site.blob_location / "blobs")) == before


@pytest.mark.parametrize("layout", ["copies", "numbered copies", "archives"])
def test_blobs_whose_checksums_are_gone_are_not_taken_as_they_are(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    site, states = made(tmp_path, layout)
    newest = max(states)
    manifest_of(site, newest).unlink()
    assert not site.verify(newest).good
    lose_blobs(site)
    with pytest.raises(ZodbvaultError):
        site.restore(newest)
    assert "nobody knows whether its blobs are as they were written" in caplog.text
    # As the warning says.
    (site.location / f"{newest}.json").unlink()
    site.restore(newest)
    site.assert_is(states[newest])


@pytest.mark.parametrize("layout", MANIFESTS)
def test_a_refusal_because_of_missing_blobs_names_the_manifest_that_cannot_be_read(tmp_path: Path, layout: str) -> None:
    """Another state of the chain is tried, and has too few blobs; that is not what somebody can mend."""
    site, states = made(tmp_path, layout)
    newest = max(states)
    manifest = manifest_of(site, newest)
    manifest.write_bytes(b"")
    lose_blobs(site)
    with pytest.raises(ZodbvaultError) as error:
        site.restore(newest)
    assert str(error.value).startswith(str(manifest)), error.value
    assert "Nothing was changed" in str(error.value)


def test_a_copy_of_a_full_under_the_timestamp_of_another_backup_is_not_taken_for_it(tmp_path: Path) -> None:
    site, states = made(tmp_path)
    first, second, _ = sorted(states)
    shutil.copyfile(site.location / f"{first}.fsz", site.location / f"{second}.fsz")
    site.restore(second)
    site.assert_is(states[second])


def test_a_newer_record_that_this_version_does_not_know_stops_no_restore_of_an_older_date(tmp_path: Path) -> None:
    site, states = made(tmp_path)
    path = site.location / f"{max(states)}.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    site.restore(min(states))
    site.assert_is(states[min(states)])


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_manifest_whose_name_in_the_record_no_file_can_have(tmp_path: Path, name: str) -> None:
    site, states = made(tmp_path, "numbered compressed archives")
    path = site.location / f"{max(states)}.json"
    values = json.loads(path.read_text())
    values["blobs"]["manifest"] = name
    path.write_text(json.dumps(values))
    (site.location / ".zodbvault.id").write_bytes(b"")
    site.list()
    site.verify()
    site.restore(max(states))
    site.assert_is(states[max(states)])


@pytest.mark.parametrize("field", ["last_tid", "tail_tid", "first_tid", "md5", "sha256"])
@pytest.mark.parametrize("value", ["", "x", "0x00", "F" * 16, "\u0663" * 16])
def test_a_record_with_digits_that_are_none_counts_as_none(tmp_path: Path, field: str, value: str) -> None:
    site, states = made(tmp_path)
    path = site.location / f"{max(states)}.json"
    values = json.loads(path.read_text())
    values[field] = value
    path.write_text(json.dumps(values))
    site.list()
    site.verify()
    site.restore(max(states))
    site.assert_is(states[max(states)])
    site.commit_pages()
    stamp, _ = site.backed_up()
    assert f"{stamp}.fsz" in site.names()


def test_where_two_states_of_a_chain_are_damaged_the_newest_serves(tmp_path: Path) -> None:
    site, states = made(tmp_path, "copies")
    first, second, _ = sorted(states)
    shutil.rmtree(site.blob_location / f"blobstorage.{first}" / "blobstorage" / "0x00")
    (site.blob_location / f"blobstorage.{second}" / "blobstorage" / ".layout").write_bytes(b"\xff")
    lose_blobs(site)
    site.restore(first)
    site.assert_is(states[first])
