"""A backup of blobs, killed at any of its changes to the disk: in each layout nothing is lost and nothing is left."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.killing import killed_at
from tests.layouts import LAYOUTS
from tests.site import PretendClock, Site, State, blob_files, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATER = 3600
# Of the changes to the disk one in so many is tried in a usual run; all of them in `make faults`.
every_step = pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])


class Killed:
    """A site that a killed command left, and the one before it: each try begins from a copy."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.origin = site
        self.folder = folder
        self.states: dict[str, State] = {}

    def copy(self) -> Site:
        """The site as it was before the command."""
        self.origin.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.origin.folder, self.folder, symlinks=True)
        site = Site(self.folder, options=self.origin.options, layout=self.origin.layout)
        site.clock = PretendClock(self.origin.clock.now())
        return site


@pytest.fixture(params=LAYOUTS)
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killed]:
    site = Site(tmp_path / "site", options={**LAYOUTS[request.param], "keep": "2"})
    site.begin_with_a_blob()
    site.commit_blobs(2)
    killed = Killed(site, tmp_path / "killed")
    yield killed
    site.close()


def leftovers(site: Site) -> list[str]:
    found = []
    for folder in (site.location, site.blob_location):
        for where, folders, names in os.walk(folder):
            found += [os.path.join(where, name) for name in (*folders, *names) if name.endswith((".part", ".pruned"))]
    return found


def require_states(site: Site, states: dict[str, State]) -> None:
    for stamp, state in sorted(states.items(), reverse=True):
        for path in blob_files(site.blob_storage or site.folder).values():
            path.unlink()
        site.restore(stamp)
        assert site.datafs.read_bytes() == state.data, stamp
        found = site.blobs
        assert {key: found.get(key) for key in state.needed} == state.needed, stamp


def require_nothing_lost(killed: Killed, command: str, *, step: int, seed: int) -> int:
    """Kill a backup at one in `step` of its changes; how many were tried."""
    tried = 0
    number = random.Random(seed).randrange(step)
    while True:
        site = killed.copy()
        live = tree(site.datafs.parent, site.blob_storage or site.folder)
        if not killed_at(number, lambda site=site: site.backup(full=command == "full")):  # type: ignore[misc]
            print(f"{command}: killed at {tried} changes")
            return tried
        assert tree(site.datafs.parent, site.blob_storage or site.folder) == live
        # Cron, an hour later.
        site.clock = PretendClock(site.clock.now() + LATER)
        site.commit_pages()
        stamp, state = site.backed_up()
        assert not leftovers(site), number
        kept = {old: was for old, was in killed.states.items() if old in site.timestamps()}
        require_states(site, {**kept, stamp: state})
        assert len(kept) >= min(1, len(killed.states))
        assert site.verify(deep=True).good
        site.close()
        tried += 1
        number += step


@every_step
def test_a_first_full(killed: Killed, step: int) -> None:
    assert require_nothing_lost(killed, "backup", step=step, seed=1)


@every_step
def test_an_incremental(killed: Killed, step: int) -> None:
    site = killed.origin
    killed.states.update([site.backed_up()])
    site.commit_blobs(2)
    killed.states.update([site.backed_up()])
    site.commit_blobs(2)
    assert require_nothing_lost(killed, "backup", step=step, seed=2)


@every_step
def test_a_full_after_a_pack_that_prunes(killed: Killed, step: int) -> None:
    site = killed.origin
    for _ in range(2):
        killed.states.update([site.backed_up(full=True)])
        site.commit_blobs(2)
    site.delete()
    site.pack()
    assert require_nothing_lost(killed, "full", step=step, seed=3)


@every_step
def test_another_layout_with_nothing_committed(killed: Killed, step: int) -> None:
    site = killed.origin
    wanted, site.options = site.options, {"blob_layout": "archives" if "archive_blob" not in site.options else "pool"}
    killed.states.update([site.backed_up()])
    site.options = wanted
    assert require_nothing_lost(killed, "backup", step=step, seed=4)
