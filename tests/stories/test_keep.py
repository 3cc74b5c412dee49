"""Old backups go, by timestamp and in whole chains, and take with them only what nobody needs any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.site import Site, State, blob_files, tree


def fulls(site: Site, number: int) -> dict[str, State]:
    """So many chains of a full and an incremental, with a pack between."""
    states: dict[str, State] = {}
    for _ in range(number):
        site.commit_blobs(3)
        site.pack()
        states.update([site.backed_up()])
        site.commit_blobs(3)
        states.update([site.backed_up()])
    return states


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_chains_stay(site: Site, keep: int) -> None:
    states = fulls(site, 4)
    site.options["keep"] = str(keep)
    assert site.backup().timestamp is None
    stamps = list(states)[-2 * keep :]
    assert site.timestamps() == stamps
    assert sorted({name[:19] for name in site.names() if not name.startswith(".")}) == stamps
    manifests = [path.name[:19] for path in site.blob_location.iterdir() if path.name.endswith(".gz")]
    assert sorted(manifests) == stamps
    assert site.verify(deep=True).good
    for stamp in stamps:
        site.restore(stamp)
        site.assert_is(states[stamp])


def test_blobs_stay_as_long_as_a_state_has_them(site: Site) -> None:
    states = fulls(site, 3)
    site.options["keep"] = "1"
    site.backup()
    needed = set().union(*(states[stamp].blobs for stamp in site.timestamps()))
    assert set(blob_files(site.blob_location / "blobs")) == needed


def test_keep_0_keeps_all(site: Site) -> None:
    states = fulls(site, 3)
    assert site.timestamps() == list(states)
    assert set(blob_files(site.blob_location / "blobs")) == set().union(*(state.blobs for state in states.values()))


def test_times_of_files_do_not_matter(site: Site) -> None:
    states = fulls(site, 3)
    for number, name in enumerate(sorted(site.names(), reverse=True)):
        os.utime(site.location / name, (1e9 + number, 1e9 + number))
    site.options["keep"] = "2"
    site.backup()
    assert site.timestamps() == list(states)[2:]


def test_a_chain_that_is_not_whole_does_not_count(site: Site) -> None:
    stamps = list(fulls(site, 3))
    (site.location / f"{stamps[4]}.fsz").unlink()
    site.options["keep"] = "2"
    site.commit_pages()
    site.backup()
    # The newest whole ones are the new full and the second chain; the broken one is no reason to lose them.
    assert stamps[2] in site.timestamps()
    assert stamps[0] not in site.timestamps()


def test_nothing_is_pruned_by_a_backup_that_failed(site: Site) -> None:
    stamps = list(fulls(site, 3))
    site.options["keep"] = "1"
    site.close()
    site.datafs.write_bytes(b"FS30" + bytes(100))
    files = tree(site.location, site.blob_location)
    with pytest.raises(Exception, match=r"Data\.fs"):
        site.backup()
    assert tree(site.location, site.blob_location) == files
    assert site.timestamps() == stamps


def test_with_an_unreadable_manifest_no_blob_goes(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stamps = list(fulls(site, 3))
    pool = set(blob_files(site.blob_location / "blobs"))
    manifest = site.blob_location / f"{stamps[2]}.blobs.gz"
    manifest.write_bytes(b"?" * manifest.stat().st_size)
    site.options["keep"] = "3"
    caplog.clear()
    site.backup(full=True)
    assert "WARNING" in caplog.text
    assert pool <= set(blob_files(site.blob_location / "blobs"))


def test_files_of_others_stay(site: Site) -> None:
    fulls(site, 3)
    others = [
        site.location / "README",
        site.location / "2026-01-01-00-00-00.txt",
        site.blob_location / "README",
        site.blob_location / "blobs" / "README",
        site.blob_location / "blobs" / "0x00" / "README",
    ]
    for path in others:
        path.write_text("not yours")
    (site.location / "folder").mkdir()
    site.options["keep"] = "1"
    site.backup()
    assert [path.read_text() for path in others] == ["not yours"] * len(others)
    assert (site.location / "folder").is_dir()
    assert len(site.timestamps()) == 2


def test_snapshots_are_kept_by_the_same_number_in_their_own_place(site: Site) -> None:
    site.options["keep"] = "2"
    site.backup()
    for _ in range(4):
        site.commit_blobs(1)
        site.snapshot()
    assert len(site.timestamps(Path(site.settings.snapshotlocation))) == 2
    assert len(site.timestamps()) == 1
