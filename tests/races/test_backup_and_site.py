"""Whatever a site does at whichever step of its backup: what is reported restores to a state that was.

All cells of the table steps x events x kinds of backup x layouts of blobs are run by `make faults`; `make test` takes
each event and each step in turn, by a seed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.races.happenings import BIG, EVENTS, History
from tests.races.steps import (
    ALL_KINDS,
    BACKUP_STEPS,
    COMPLETION,
    FIRST_FULL,
    FULL,
    NOTHING,
    PRUNING,
    Step,
    let_happen,
)
from tests.site import Site, committed_tids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POOL = {"blob_layout": "pool"}
DIRECTORIES = {"blob_layout": "directories"}
ARCHIVES = {"archive_blob": "true", "incremental_blobs": "true"}
LAYOUTS = {"pool": POOL, "directories": DIRECTORIES, "archives": ARCHIVES}


class Cell(NamedTuple):
    """One case: what happens at which step of what."""

    layout: str
    kind: str
    step: Step
    event: Callable[[Site, History], None]

    def __str__(self) -> str:
        return f"{self.layout}-{self.kind}-{self.step.name}-{self.event.__name__}"


def all_cells() -> list[Cell]:
    return [
        Cell(layout, kind, step, event)
        for layout in LAYOUTS
        for kind in sorted(ALL_KINDS)
        for step in BACKUP_STEPS
        if kind in step.kinds
        for event in EVENTS
    ]


def sample(cells: list[Cell], number: int, seed: int) -> list[Cell]:
    """Cells by a seed, so that each event, each step and each kind in each layout comes about equally often."""
    cells = sorted(cells, key=str)
    random.Random(seed).shuffle(cells)
    counts: dict[object, int] = {}
    chosen: list[Cell] = []
    for _ in range(number):
        keys = {cell: (cell.step.name, cell.event.__name__, (cell.layout, cell.kind)) for cell in cells}
        best = min(cells, key=lambda cell: sum(counts.get(key, 0) for key in keys[cell]))
        for key in keys[best]:
            counts[key] = counts.get(key, 0) + 1
        cells.remove(best)
        chosen.append(best)
    return chosen


CELLS = all_cells()
SAMPLE = sample(CELLS, 150, seed=5)


@contextlib.contextmanager
def made(folder: Path, layout: str, kind: str) -> Iterator[tuple[Site, dict[str, bytes]]]:
    """A site that a backup of this kind is due for, with the database of each backup that it has."""
    options = LAYOUTS[layout]
    before = options
    if kind == COMPLETION:
        before = DIRECTORIES if layout == "archives" else ARCHIVES
    site = Site(folder, options={**before, "keep": "1" if kind == PRUNING else "0"})
    reported: dict[str, bytes] = {}
    with contextlib.closing(site):
        site.begin_with_a_blob()
        site.commit_blobs(3)
        site.commit_pages(5)
        if kind in (FIRST_FULL, FULL, PRUNING):
            with site.changing() as root:
                root["big"] = site.random.randbytes(BIG)
        if kind != FIRST_FULL:
            for _ in range(2):
                stamp, state = site.backed_up(full=kind == PRUNING)
                reported[stamp] = state.data
                site.commit_blobs(3)
                site.delete()
        if kind in (NOTHING, COMPLETION):
            stamp, state = site.backed_up()
            reported[stamp] = state.data
        elif kind not in (FIRST_FULL, FULL, PRUNING):
            with site.changing() as root:
                root["big"] = site.random.randbytes(BIG)
            site.commit_blobs(5)
        site.options = {**options, "keep": site.options["keep"]}
        yield site, reported


def run(cell: Cell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it happen, then look at all that was reported, and at the next backup."""
    with made(folder, cell.layout, cell.kind) as (site, reported):
        history = History(site)
        history.note()
        since = max(tid for tid, _ in committed_tids(site.data))

        def act() -> None:
            history.note()
            cell.event(site, history)
            history.note()

        with monkeypatch.context() as patched:
            happening = let_happen(patched, cell.step, act)
            try:
                report = site.backup(full=cell.kind in (FULL, PRUNING))
            finally:
                history.end_pending()
        assert happening.times == 1, "the backup did not come by this step"
        history.note()
        site.commit_blobs(2)
        history.note()
        last, state = site.backed_up()
        assert site.verify(deep=True).good
        stamps = set(reported) | {stamp for stamp in (report.timestamp, last) if stamp is not None}
        if cell.kind != PRUNING:
            assert stamps <= set(site.timestamps())
        assert not [name for name in site.names() if name.endswith((".part", ".orphan"))]
        for stamp in sorted(stamps & set(site.timestamps()), reverse=True):
            site.restore(stamp)
            data = site.datafs.read_bytes()
            found = history.require_that_it_was(data, site.blobs, since if stamp not in reported else b"")
            if stamp in reported:
                assert data == reported[stamp]
            if stamp == last:
                assert found.data == state.data
                site.read_everything()


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
def test_what_happens_at_a_step(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(cell, tmp_path / "site", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_each_event_at_each_step(
    event: Callable[[Site, History], None], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell for cell in CELLS if (cell.layout, cell.event) == (layout, event)]
    for number, cell in enumerate(cells):
        print(cell)
        folder = tmp_path / str(number)
        run(cell, folder, monkeypatch)
        shutil.rmtree(folder)
