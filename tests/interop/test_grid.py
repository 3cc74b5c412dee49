"""The grid: in each layout backups that we and collective.recipe.backup make by turns, every date restored by both.

The letters of an order say who made each backup, oldest first: O is ours, T is theirs. Orders of one letter are what
one of the two wrote alone, restored by the other one; in the others each continues what the other one began, twice.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import GRID
from tests.interop.history import live_through
from tests.interop.upstream import LATER_BY, START, Upstream, differences_from
from tests.layouts import HAS_LATEST, IS_INCREMENTAL, IS_NUMBERED, LAYOUTS
from tests.site import Site, State, blob_files, seconds, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("upstream")]

OURS, THEIRS = "O", "T"
BY_TURNS = "OTOTOT"

full = pytest.mark.interop_full

GRID_CELLS = [
    *(pytest.param(layout, BY_TURNS, "bushy", 1, id=f"{layout}-{BY_TURNS}") for layout in LAYOUTS),
    *(
        pytest.param(layout, makers, blobs, seed, id=f"{layout}-{makers}-{blobs}-{seed}", marks=full)
        for makers, blobs, seed in (
            ("OOOOOO", "bushy", 2),
            ("TTTTTT", "bushy", 3),
            ("TOTOTO", "bushy", 4),
            ("OOTTOT", "lawn", 5),
            ("TTOOTO", "lawn", 6),
        )
        for layout in LAYOUTS
    ),
]


@pytest.mark.parametrize(("layout", "makers", "blobs", "seed"), GRID_CELLS)
def test_both_restore_every_date_whoever_made_it(
    layout: str,
    makers: str,
    blobs: str,
    seed: int,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    site = Site(tmp_path / "site", options=LAYOUTS[layout], layout=blobs, seed=seed, start=START)
    site.begin_with_a_blob()
    theirs = Upstream(site)
    made: list[tuple[str, str, State]] = []
    for day in live_through(site, seed, len(makers)):
        stamp, state = site.backed_up() if makers[day] == OURS else theirs.backup()
        made.append((makers[day], stamp, state))
        if layout in HAS_LATEST:
            assert os.readlink(site.blob_location / "latest").startswith(f"blobstorage.{stamp}")
    assert_continued(site, layout, made)

    def by_ours(_: str, stamp: str, state: State) -> list[str]:
        site.restore(stamp)
        return differences_from(site, state)

    def by_theirs(maker: str, stamp: str, state: State) -> list[str]:
        if layout == "pool" and maker == OURS:
            theirs.restore_with_the_pool(stamp)
            return differences_from(site, state, more_blobs=True)
        # A numbered one of theirs is later than its timestamp: see "a date exactly at a numbered backup".
        is_later = layout in IS_NUMBERED and maker == THEIRS
        theirs.restore(timestamp(seconds(stamp) + LATER_BY) if is_later else stamp)
        return differences_from(site, state)

    wrong: dict[str, list[str]] = {}
    for name, restore in (("by ours", by_ours), ("by theirs", by_theirs)):
        good = 0
        for maker, stamp, state in made:
            if found := restore(maker, stamp, state):
                wrong[f"{name}: {stamp} by {maker}"] = found
            else:
                good += 1
        record_property(GRID, (layout, makers, name, good, len(made)))
    assert not wrong
    # What one date after the other was restored over is a site that works.
    assert site.read_everything() > 5
    site.close()


def assert_continued(site: Site, layout: str, made: list[tuple[str, str, State]]) -> None:
    """Nobody began anew without a reason: a full only after a pack, no blob stored twice where one needs not be."""
    fulls = [name for name in site.names() if name.endswith(".fsz") and "delta" not in name]
    assert len(fulls) == 2, fulls
    stamps = [stamp for _, stamp, _ in made]
    if layout in ("directories", "first copy linked"):
        folders = [site.blob_location / f"blobstorage.{stamp}" for stamp in stamps]
        for before, after in pairwise(folders):
            assert_linked(before, after)
    if layout in IS_INCREMENTAL:
        kinds = [f"{'' if f'{stamp}.fsz' in fulls else '.delta'}.tar" for stamp in stamps]
        names = [f"blobstorage.{stamp}{kind}" for stamp, kind in zip(stamps, kinds, strict=True)]
        suffix = ".gz" if "compressed" in layout else ""
        assert {name + suffix for name in names} == {
            path.name for path in site.blob_location.glob("blobstorage.*.tar*")
        }
        # One snapshot file for each series, which both of them go on with.
        assert sorted(path.name for path in site.blob_location.glob("*.snar")) == [
            f"blobstorage.{name.removesuffix('.fsz')}.snar" for name in fulls
        ]


def assert_linked(before: Path, after: Path) -> None:
    earlier, later = blob_files(before / "blobstorage"), blob_files(after / "blobstorage")
    both = earlier.keys() & later.keys()
    assert both
    assert [key for key in both if not earlier[key].samefile(later[key])] == []
