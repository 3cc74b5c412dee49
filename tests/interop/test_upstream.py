"""A site moves over: backups of collective.recipe.backup restore, go on in the pool, and are not trusted blindly.

That each of the two recipes continues the other one in every layout is shown in test_grid.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.history import live_through
from tests.interop.upstream import START, Upstream, differences_from
from tests.layouts import IS_INCREMENTAL, LAYOUTS
from tests.site import Site, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("upstream")]

BY_DEFAULT = {"directories", "numbered archives", "compressed incremental archives"}
THEIR_LAYOUTS = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.interop_full)
    for name in LAYOUTS
    if name != "pool"
]


@pytest.fixture(params=THEIR_LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(layout: str, tmp_path: Path) -> Iterator[Site]:
    """A site that was never backed up; its options are those of the pool."""
    site = Site(tmp_path / "site", seed=61, start=START)
    site.begin_with_a_blob()
    yield site
    site.close()


def their_backups(site: Site, layout: str, days: int) -> dict[str, State]:
    theirs = Upstream(site, **LAYOUTS[layout])
    return dict(theirs.backup() for _ in live_through(site, 61, days))


def require_each_date(site: Site, states: dict[str, State]) -> None:
    wrong = {}
    for stamp, state in states.items():
        site.restore(stamp)
        if found := differences_from(site, state):
            wrong[stamp] = found
    assert not wrong


def test_every_date_of_theirs_restores_and_goes_on_to_when_the_pool_takes_over(site: Site, layout: str) -> None:
    states = their_backups(site, layout, 5)
    newest = max(states)
    require_each_date(site, states)
    site.restore(newest)
    for _ in range(2):
        site.commit_blobs(2)
        stamp, state = site.backed_up()
        assert f"{stamp}.deltafsz" in site.names()
        states[stamp] = state
    assert (site.blob_location / "blobs").is_dir()
    require_each_date(site, states)


def test_a_half_copy_is_never_taken_for_the_state(site: Site, layout: str) -> None:
    states = their_backups(site, layout, 4 if layout in IS_INCREMENTAL else 2)
    newest = max(states)
    site.restore(newest)
    for path in sorted(site.blob_location.glob("blobstorage.*")):
        if path.is_dir():
            for blob in list(path.rglob("*.blob"))[::2]:
                blob.unlink()
        elif path.suffix != ".snar":
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 3])
    for path in site.var.joinpath("blobstorage").rglob("*.blob"):
        path.unlink()
    before = site.datafs.read_bytes()
    with pytest.raises(Exception, match=r"neither in the backup|cut short|holds|lacks"):
        site.restore(newest)
    assert site.datafs.read_bytes() == before
