"""Two databases that keep their blobs in one blobstorage: a restore of one leaves the blobs of the other alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two sites in one blobstorage."""
    options = {"shared_blob_storage": "true"}
    one, two = Site(tmp_path / "one", options=options), Site(tmp_path / "two", options=options, seed=2)
    two.blob_storage = one.blob_storage
    # ZODB empties the blobstorage of a database that it makes.
    assert one.db
    assert two.db
    for site in (one, two):
        site.commit_pages(3)
        site.commit_blobs(4)
    yield one, two
    one.close()
    two.close()


def own_blobs(site: Site) -> dict[tuple[int, int], bytes]:
    """The blobs that the site's data refer to, as they are in the blobstorage."""
    return site.state().needed


def test_a_restore_removes_no_blob_of_the_other_database(pair: tuple[Site, Site]) -> None:
    one, two = pair
    one.backup()
    then = one.state()
    two.commit_blobs(5)
    one.commit_blobs(5)
    theirs = own_blobs(two)
    assert len(theirs) > 4
    two.close()
    one.restore()
    assert (one.data, own_blobs(one)) == (then.data, then.needed)
    assert own_blobs(two) == theirs
    assert one.read_everything() > 0
    assert two.read_everything() > 0


def test_a_restore_brings_back_what_is_gone_and_mends_what_is_damaged(pair: tuple[Site, Site]) -> None:
    one, two = pair
    one.backup()
    then = one.state()
    for site in pair:
        site.close()
    first, second = sorted(then.needed)[:2]
    paths = {key: path for key, path in blob_paths(one).items() if key in then.needed}
    paths[first].unlink()
    paths[second].chmod(0o600)
    paths[second].write_bytes(b"damaged, of another size" * 999)
    one.restore()
    assert own_blobs(one) == then.needed
    assert not [path for path in paths[second].parent.iterdir() if path.name.endswith(".replaced")]
    assert two.read_everything() > 0


def test_blobs_alone_are_restored_and_none_removed(pair: tuple[Site, Site]) -> None:
    one, two = pair
    one.options["only_blobs"] = "true"
    for site in pair:
        site.close()
    before = one.blobs
    one.backup()
    two.commit_blobs(5)
    two.close()
    after = one.blobs
    assert len(after) > len(before)
    one.restore()
    assert one.blobs == after


def blob_paths(site: Site) -> dict[tuple[int, int], Path]:
    """Where each blob of the blobstorage is."""
    from tests.site import blob_files

    assert site.blob_storage is not None
    return blob_files(site.blob_storage)
