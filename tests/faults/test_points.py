"""Every command, killed or failing at every one of its calls: nothing is lost, nothing is left, and it says why.

A usual run tries a sample, by a seed; `make faults` all points of the pool and one in so many of the other layouts. It
goes on where the last one stopped, and FAULTS_SHARD=2/5 does one part of five.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import results
from tests.faults.aftermath import live_tree, require_aftermath, require_good_end
from tests.faults.disturbing import (
    LASTING,
    close_points,
    disturbed,
    error_points,
    kill_points,
    read_points,
)
from tests.faults.results import GOOD, Result
from tests.faults.rewinding import Rewinder, likeness
from tests.faults.scenarios import SCENARIOS, every_case
from zodbvault.io.clock import PretendClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.disturbing import Call, Point
    from tests.faults.scenarios import Start

KINDS: dict[str, Callable[[tuple[Call, ...]], list[Point]]] = {
    "kill": kill_points,
    "error": error_points,
    "read": read_points,
    "close": close_points,
}
# Reads are many, and change nothing. Steps that no number of errors at one call divides, so that each gets its turn.
OF_THE_POOL = {"kill": 1, "error": 1, "read": 3, "close": 1}
OF_OTHER_LAYOUTS = {"kill": 5, "error": 17, "read": 23, "close": 5}
SAMPLED = {"kill": 20, "error": 80, "read": 90, "close": 120}
"""One point in so many; SAMPLED: of those that `make faults` tries."""

CASES = [pytest.param(*case, id=", ".join(reversed(case))) for case in every_case()]


@pytest.mark.parametrize(("scenario", "layout"), CASES)
@pytest.mark.parametrize(
    ("kinds", "sampled"),
    [
        pytest.param(tuple(KINDS), True, id="sample"),
        pytest.param(("kill",), False, id="killed", marks=pytest.mark.slow),
        pytest.param(("error", "read", "close"), False, id="with errors", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost(workshop: Path, scenario: str, layout: str, kinds: tuple[str, ...], *, sampled: bool) -> None:
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        trial = Trial(SCENARIOS[scenario].start(Path(folder) / "site", layout), workshop, Path(folder))
        points = [point for kind in kinds for point in chosen(trial, kind, scenario, layout, sampled=sampled)]
        if not sampled:
            tried = results.done(scenario, layout)
            points = [point for point in points if str(point) not in tried and is_in_shard(scenario, layout, point)]
        broken = []
        for point in points:
            result = trial.of(point, scenario, layout)
            if not sampled:
                results.keep(result)
            if result.result != GOOD:
                broken.append(result)
    assert not broken, "\n".join(f"{each.point}, {each.call} {each.path}: {each.result}" for each in broken[:20])


def chosen(trial: Trial, kind: str, scenario: str, layout: str, *, sampled: bool) -> list[Point]:
    """The points of one kind that are tried. The same each time: the seed is the case."""
    step = (OF_THE_POOL if layout == "pool" else OF_OTHER_LAYOUTS)[kind] * (SAMPLED[kind] if sampled else 1)
    # Of the sample a case may get none; all cases together get their share.
    begin = random.Random(f"{kind} {scenario} {layout}").randrange(step)
    return KINDS[kind](trial.calls)[begin::step]


def is_in_shard(scenario: str, layout: str, point: Point) -> bool:
    """Whether a point belongs to the part that FAULTS_SHARD asks for."""
    part, of = (int(number) for number in os.environ.get("FAULTS_SHARD", "1/1").split("/"))
    return zlib.crc32(f"{scenario} {layout} {point}".encode()) % of == part - 1


class Trial:
    """One case: a start, which is brought back before each try. workshop: has the interposer."""

    def __init__(self, start: Start, workshop: Path, folder: Path) -> None:
        self.start = start
        self.scratch = folder / "scratch"
        self.library = workshop / "interposer.so"
        self.log = folder / "calls"
        self.command = start.command
        self.environment = start.environment
        self.rewinder = Rewinder(start.site.folder)
        self._now = start.site.clock.now()
        self._random = start.site.random.getstate()
        undisturbed = disturbed(self.command, self.environment, library=self.library, root=start.site.var, log=self.log)
        assert undisturbed.exit_code == 0, undisturbed.stderr
        # What was looked at already: many points leave the same files.
        self._seen: set[tuple[object, ...]] = set()
        self.calls = undisturbed.calls

    def of(self, point: Point, scenario: str, layout: str) -> Result:
        """Try one point."""
        began = time.monotonic()
        site = self.start.site
        self.rewinder.back()
        site.clock = PretendClock(self._now)
        site.random.setstate(self._random)
        live = live_tree(self.start)
        outcome = disturbed(
            self.command, self.environment, library=self.library, root=site.var, log=self.log, point=point
        )
        changes = point.number % 2 == 1
        is_known = False
        try:
            require_good_end(self.start, outcome, point, live)
            left = (likeness(site.folder), changes, outcome.exit_code == 0, point.act == LASTING)
            is_known = left in self._seen
            if not is_known:
                require_aftermath(self.start, outcome, point, self.scratch, changes=changes)
                self._seen.add(left)
            result = GOOD
        except Exception as error:
            site.close()
            result = f"{type(error).__name__}: {error}"
        hit = outcome.hit
        call, path = ("", "not reached") if hit is None else (hit.name, os.path.relpath(hit.path, site.var))
        took = round(time.monotonic() - began, 3)
        return Result(scenario, layout, str(point), call, path, outcome.exit_code, result, took, is_known)
