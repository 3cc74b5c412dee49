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

    require_aftermath: all the rest, with the next run; what it is given stands in aftermath.py. usual: of which of its
    scenarios a sample is tried always, in the pool. has_layouts: whether the layout of blobs matters.
    """

    scenarios: Mapping[str, Scenario]
    untouched: Callable[[Start], Any]
    require_good_end: Callable[[Start, Outcome, Point, Any], None]
    require_aftermath: Callable[..., None]
    usual: tuple[str, ...]
    has_layouts: bool = True


_MOMENT = scenarios.RESTORE_TO_A_MOMENT

ROOMS = (
    Room(
        {**scenarios.SCENARIOS, _MOMENT.name: _MOMENT},
        aftermath.live_tree,
        aftermath.require_good_end,
        aftermath.require_aftermath,
        usual=(_MOMENT.name,),
    ),
    Room(
        blobs_alone.SCENARIOS,
        blobs_alone.untouched,
        blobs_alone.require_good_end,
        blobs_alone.require_aftermath,
        usual=("blobs alone: incremental", "blobs alone: full that prunes", "blobs alone: restore over others"),
    ),
    Room(
        copies.SCENARIOS,
        copies.untouched,
        copies.require_good_end,
        copies.require_aftermath,
        usual=("copy", "drill"),
    ),
    Room(
        pages.SCENARIOS,
        pages.untouched,
        pages.require_good_end,
        pages.require_aftermath,
        usual=tuple(pages.SCENARIOS),
        has_layouts=False,
    ),
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

    @property
    def is_main(self) -> bool:
        """Whether it is one of the main commands, of which a usual run tries more, and in each layout."""
        return self.scenario.name in scenarios.SCENARIOS

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
    """Those of which a sample is tried always."""
    for case in every_case():
        if case.is_main or (case.layout == "pool" and case.scenario.name in case.room.usual):
            yield case
