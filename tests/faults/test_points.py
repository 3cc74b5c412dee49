"""Every command, killed or failing at every one of its calls: nothing is lost, nothing is left, and it says why.

A usual run tries a sample, by a seed; `make faults` all points of the pool and one in so many of the other layouts; of
commands beside the main ones all kills, and one error in so many. It goes on where the last one stopped, and
FAULTS_SHARD=2/5 does one part of five.
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
from tests.faults.cases import cases_of_a_usual_run, every_case
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
from zodbvault.io.clock import PretendClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.cases import Case
    from tests.faults.disturbing import Call, Point

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
OF_OTHER_COMMANDS = 3
ERRORS_OF_OTHER_COMMANDS = 7
"""One point in so many; SAMPLED: of those that `make faults` tries. OF_OTHER_COMMANDS, ERRORS_OF_OTHER_COMMANDS: in a
usual run and in `make faults` beside that, for commands that share most of their code with the main ones."""


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases_of_a_usual_run()])
def test_a_sample_loses_nothing(workshop: Path, case: Case) -> None:
    require_good(tried(workshop, case, tuple(KINDS), sampled=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in every_case()])
@pytest.mark.parametrize(
    "kinds", [pytest.param(("kill",), id="killed"), pytest.param(("error", "read", "close"), id="with errors")]
)
def test_nothing_is_lost(workshop: Path, case: Case, kinds: tuple[str, ...]) -> None:
    require_good(tried(workshop, case, kinds, sampled=False))


def require_good(tried: Iterator[Result]) -> None:
    """No point was anything else than good."""
    broken = [each for each in tried if each.result != GOOD]
    assert not broken, "\n".join(f"{each.point}, {each.call} {each.path}: {each.result}" for each in broken[:20])


def tried(workshop: Path, case: Case, kinds: tuple[str, ...], *, sampled: bool) -> Iterator[Result]:
    """Try the points of a case: a sample of them, or all of this shard that were not good before, which are kept."""
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        trial = Trial(case, workshop, Path(folder))
        points = [point for kind in kinds for point in chosen(trial.calls, kind, case, sampled=sampled)]
        if not sampled:
            done = results.done(case.scenario.name, case.layout)
            points = [point for point in points if str(point) not in done and is_in_shard(case, point)]
        for point in points:
            result = trial.of(point)
            if not sampled:
                results.keep(result)
            yield result


def chosen(calls: tuple[Call, ...], kind: str, case: Case, *, sampled: bool) -> list[Point]:
    """The points of one kind that are tried. The same each time: the seed is the case."""
    step = (OF_THE_POOL if case.layout == "pool" else OF_OTHER_LAYOUTS)[kind]
    if sampled:
        step *= SAMPLED[kind] * (1 if case.is_main else OF_OTHER_COMMANDS)
    elif kind != "kill" and not case.is_main:
        step *= ERRORS_OF_OTHER_COMMANDS
    # Of the sample a case may get none; all cases together get their share.
    begin = random.Random(f"{kind} {case.scenario.name} {case.layout}").randrange(step)
    return KINDS[kind](calls)[begin::step]


def is_in_shard(case: Case, point: Point) -> bool:
    """Whether a point belongs to the part that FAULTS_SHARD asks for."""
    part, of = (int(number) for number in os.environ.get("FAULTS_SHARD", "1/1").split("/"))
    return zlib.crc32(f"{case.scenario.name} {case.layout} {point}".encode()) % of == part - 1


class Trial:
    """One case: a start, which is brought back before each try. workshop: has the interposer."""

    def __init__(self, case: Case, workshop: Path, folder: Path) -> None:
        self.case = case
        self.start = start = case.start(folder / "site")
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

    def of(self, point: Point) -> Result:
        """Try one point."""
        began = time.monotonic()
        site, room = self.start.site, self.case.room
        self.rewinder.back()
        site.clock = PretendClock(self._now)
        site.random.setstate(self._random)
        untouched = room.untouched(self.start)
        outcome = disturbed(
            self.command, self.environment, library=self.library, root=site.var, log=self.log, point=point
        )
        changes = point.number % 2 == 1
        is_known = False
        try:
            room.require_good_end(self.start, outcome, point, untouched)
            left = (likeness(site.folder), changes, outcome.exit_code == 0, point.act == LASTING)
            is_known = left in self._seen
            if not is_known:
                room.require_aftermath(self.start, outcome, point, self.scratch, changes=changes)
                self._seen.add(left)
            result = GOOD
        except Exception as error:
            site.close()
            result = f"{type(error).__name__}: {error}"
        hit = outcome.hit
        call, path = ("", "not reached") if hit is None else (hit.name, os.path.relpath(hit.path, site.var))
        took = round(time.monotonic() - began, 3)
        name, layout = self.case.scenario.name, self.case.layout
        return Result(name, layout, str(point), call, path, outcome.exit_code, result, took, is_known)
