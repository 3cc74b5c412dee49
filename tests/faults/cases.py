"""All commands that are killed and fail at each of their calls: one table of those of several rooms.

A room has the commands that the same things are promised of, and the functions that look whether they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.faults import aftermath, blobs_alone, copies, pages, scenarios
from tests.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.faults.disturbing import Outcome, Point
    from tests.faults.scenarios import Scenario, Start


class Room(NamedTuple):
    """untouched: what has to stay as it is. require_good_end: how a command ends, given what was to stay.

    require_aftermath: all the rest, with the next run; what it is given stands in aftermath.py. has_layouts: whether
    the layout of blobs matters.
    """

    scenarios: Mapping[str, Scenario]
    untouched: Callable[[Start], Any]
    require_good_end: Callable[[Start, Outcome, Point, Any], None]
    require_aftermath: Callable[..., None]
    has_layouts: bool = True


_MOMENT = scenarios.RESTORE_TO_A_MOMENT

OF_DATA_AND_BLOBS = Room(
    {**scenarios.SCENARIOS, _MOMENT.name: _MOMENT},
    aftermath.live_tree,
    aftermath.require_good_end,
    aftermath.require_aftermath,
)
ROOMS = (
    OF_DATA_AND_BLOBS,
    Room(blobs_alone.SCENARIOS, blobs_alone.untouched, blobs_alone.require_good_end, blobs_alone.require_aftermath),
    Room(copies.SCENARIOS, copies.untouched, copies.require_good_end, copies.require_aftermath),
    Room(pages.SCENARIOS, pages.untouched, pages.require_good_end, pages.require_aftermath, has_layouts=False),
)

EVERY_SCENARIO = {name: scenario for room in ROOMS for name, scenario in room.scenarios.items()}


class Case(NamedTuple):
    """A scenario in a layout. room: where its promises stand."""

    scenario: Scenario
    layout: str
    room: Room

    @property
    def name(self) -> str:
        """For a test."""
        return f"{self.layout}, {self.scenario.name}"

    def start(self, folder: Path) -> Start:
        """Make the site."""
        return self.scenario.start(folder, self.layout)


def every_case() -> Iterator[Case]:
    """Each case, those of the pool first. A zip backup is the same in each layout."""
    for layout in LAYOUTS:
        for room in ROOMS:
            for scenario in room.scenarios.values():
                if layout == "pool" or (room.has_layouts and not scenario.script.startswith("zip")):
                    yield Case(scenario, layout, room)


def cases_of_a_usual_run() -> Iterator[Case]:
    """Those of which a sample is tried always: the main commands in each layout, all others in the pool."""
    return (each for each in every_case() if each.layout == "pool" or each.scenario.name in scenarios.SCENARIOS)
