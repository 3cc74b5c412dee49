"""Two databases with one blob storage: each backup has its own blobs only, and no restore takes the other's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, blob_files
from zodbvault.commands.restore_plan import plan_restore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUTS: dict[str, dict[str, str]] = {
    "pool": {},
    "directories": {"blob_layout": "directories"},
    "archives": {"archive_blob": "true"},
    "incremental archives": {"archive_blob": "true", "incremental_blobs": "true"},
}


@pytest.fixture(params=LAYOUTS)
def sites(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    options = {**LAYOUTS[request.param], "shared_blob_storage": "true"}
    one = Site(tmp_path / "one", options=options)
    other = Site(tmp_path / "other", options={**options, "blob_storage": str(one.blob_storage)}, seed=2)
    assert other.blob_storage is not None
    shutil.rmtree(other.blob_storage)
    other.blob_storage = one.blob_storage
    for site in (one, other):
        # FileStorage empties the folder when it makes a database.
        assert site.db
    for site in (one, other):
        site.begin_with_a_blob()
        site.commit_blobs(3)
    yield one, other
    one.close()
    other.close()


def backed_up_blobs(site: Site) -> set[tuple[int, int]]:
    """The blobs in the pool, or in the newest directory or archives, as a restore into nothing brings them."""
    elsewhere = site.standby(site.folder / "elsewhere")
    elsewhere.options = {**site.options}
    elsewhere.options.pop("blob_storage", None)
    elsewhere.restore()
    found = set(elsewhere.blobs)
    elsewhere.close()
    shutil.rmtree(elsewhere.folder)
    return found


def test_each_backup_has_its_own_blobs(sites: tuple[Site, Site]) -> None:
    for step in range(3):
        for site in sites:
            site.commit_blobs(1)
            site.backup(full=step == 2)
            assert backed_up_blobs(site) == site.state().referenced & set(site.blobs)
    pool = sites[0].blob_location / "blobs"
    if pool.exists():
        assert set(blob_files(pool)) == sites[0].state().referenced


def test_a_restore_of_one_takes_no_blob_of_the_other(sites: tuple[Site, Site]) -> None:
    one, other = sites
    stamp, state = one.backed_up()
    one.commit_blobs(2)
    one.backup()
    other.commit_blobs(2)
    everything = one.blobs
    one.close()
    one.restore(stamp)
    assert one.data == state.data
    assert one.blobs == everything
    other.read_everything()
    one.read_everything()


def test_a_plan_says_that_nothing_is_removed(sites: tuple[Site, Site]) -> None:
    one, other = sites
    stamp, _ = one.backed_up()
    one.commit_blobs(2)
    other.commit_blobs(2)
    plan = plan_restore(one.settings, source="location", when=stamp, checksum=False)
    assert plan.blobs is not None
    assert (plan.blobs.add, plan.blobs.remove, plan.blobs.is_certain) == (0, 0, True)
    one.options["shared_blob_storage"] = "false"
    plan = plan_restore(one.settings, source="location", when=stamp, checksum=False)
    assert plan.blobs is not None
    assert plan.blobs.remove > 0


def test_a_new_layout_looks_at_all_data(sites: tuple[Site, Site], caplog: pytest.LogCaptureFixture) -> None:
    """No walk can tell what belongs to the newest backup, so it is not completed: a full is made."""
    one, _ = sites
    one.backup()
    one.options.pop("archive_blob", None)
    one.options.pop("incremental_blobs", None)
    one.options["blob_layout"] = "pool" if one.settings.blob_layout == "directories" else "directories"
    caplog.set_level("INFO", "zodbvault")
    stamp, state = one.backed_up()
    assert f"{stamp}.fsz" in one.names()
    assert "shared" in caplog.text
    assert backed_up_blobs(one) == state.referenced
