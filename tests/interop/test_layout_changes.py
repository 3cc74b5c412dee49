"""A layout that changes between backups, in every direction: each older date still restores, whoever made it."""

from __future__ import annotations

import random
import shutil
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import DRAWN, GRID
from tests.interop.history import live_through
from tests.interop.upstream import START, Upstream, differences_from
from tests.layouts import LAYOUTS
from tests.site import Site, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = [
    "pool",
    "directories",
    "numbered directories",
    "copies",
    "archives",
    "numbered archives",
    "incremental archives",
]


def every_pair(kinds: list[str]) -> list[str]:
    """A walk in which each kind follows each kind, itself too, just once (a sequence of de Bruijn)."""
    walk = []
    for number, kind in enumerate(kinds):
        walk.append(kind)
        for other in kinds[number + 1 :]:
            walk += [kind, other]
    return [*walk, walk[0]]


def wrong_dates(site: Site, states: dict[str, State]) -> dict[str, list[str]]:
    """The dates that do not come back, and in which way."""
    wrong = {}
    for stamp, state in states.items():
        site.restore(stamp)
        if found := differences_from(site, state):
            wrong[stamp] = found
    return wrong


def test_the_walk_takes_every_direction() -> None:
    walk = every_pair(KINDS)
    assert set(pairwise(walk)) == {(a, b) for a in KINDS for b in KINDS}


@pytest.mark.parametrize("blobs", ["bushy", pytest.param("lawn", marks=pytest.mark.interop_full)])
def test_every_date_restores_after_each_change_of_layout(blobs: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", layout=blobs, start=START)
    site.begin_with_a_blob()
    walk = every_pair(KINDS)
    states = {}
    for day in live_through(site, 31, len(walk), packs=9):
        site.options = dict(LAYOUTS[walk[day]])
        states.update([site.backed_up()])
    assert site.verify(deep=True).good
    assert not wrong_dates(site, states)
    site.close()


@pytest.mark.interop_full
@pytest.mark.usefixtures("upstream")
@pytest.mark.parametrize("seed", range(41, 46))
def test_every_date_restores_whoever_made_it_in_whichever_layout(
    seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two recipes and a layout drawn for each day: an administrator who cannot make up his mind."""
    drawn = random.Random(seed)
    site = Site(tmp_path / "site", layout=drawn.choice(["bushy", "lawn"]), seed=seed, start=START)
    site.begin_with_a_blob()
    states = {}
    for _ in live_through(site, seed, 10, packs=2):
        layout = drawn.choice(list(LAYOUTS))
        is_ours = drawn.random() < 0.5
        print("ours" if is_ours else "theirs", layout)
        site.options = dict(LAYOUTS[layout])
        states.update([site.backed_up() if is_ours else Upstream(site).backup(layout_changed=True)])
    wrong = wrong_dates(site, states)
    record_property(GRID, (DRAWN, "any", "by ours", len(states) - len(wrong), len(states)))
    assert not wrong
    site.close()


def test_one_date_in_three_containers_restores_from_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    site = Site(tmp_path / "site", start=START)
    site.begin_with_a_blob()
    site.commit_blobs(5)
    stamp, state = site.backed_up()
    for layout in ("directories", "archives"):
        # Nothing was committed: the backup that is there gets its blobs in the new layout too.
        site.options = dict(LAYOUTS[layout])
        site.backup()
    assert site.timestamps() == [stamp]
    containers = [site.blob_location / name for name in ("blobs", f"blobstorage.{stamp}", f"blobstorage.{stamp}.tar")]
    assert all(path.exists() for path in containers)
    site.commit_blobs(3)
    site.backed_up()
    for gone in (*combinations(containers, 1), *combinations(containers, 2)):
        for path in gone:
            path.rename(path.with_name(path.name + ".away"))
        assert site.blob_storage is not None
        shutil.rmtree(site.blob_storage)
        site.blob_storage.mkdir()
        caplog.clear()
        site.restore(stamp)
        assert differences_from(site, state) == []
        for path in gone:
            path.with_name(path.name + ".away").rename(path)
        left = [path for path in containers if path not in gone]
        if len(left) == 1:
            assert ("the pool" if left[0].name == "blobs" else left[0].name) in caplog.text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_blob_storage_with_a_space_in_its_path(layout: str, tmp_path: Path) -> None:
    places = {
        "location": f"{tmp_path}/our site/back ups",
        "blobbackuplocation": f"{tmp_path}/our site/blob back ups",
    }
    site = Site(tmp_path / "our site", options={**LAYOUTS[layout], **places}, start=START)
    site.blob_storage = site.var / "blob storage"
    site.blob_storage.mkdir()
    site.begin_with_a_blob()
    states = {}
    for _ in live_through(site, 51, 4):
        states.update([site.backed_up()])
    assert site.verify(deep=True).good
    assert not wrong_dates(site, states)
    assert site.read_everything() > 5
    site.close()
