"""The power goes while a command runs: whatever the disk made of it, nothing that was reported is lost.

docs/power-loss.rst tells the rules. A usual run tries states by chance, the same each time; `make faults` tries each.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.faults.power import MORE_SCENARIOS, moments, record, require_what_is_promised
from tests.faults.scenarios import SCENARIOS, every_case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.power import Moment, Recorded

ALL = {**SCENARIOS, **MORE_SCENARIOS}
WHOLE = ("pool", "directories", "numbered directories", "archives", "incremental archives")
"""The layouts whose states are all tried in `make faults`; the others write in the same ways, and get a sample."""
SAMPLE, SMALL_SAMPLE = 150, 12
QUICK = ("incremental", "full that prunes")
"""Scenarios of layouts other than the pool that a usual run tries."""

CASES = [*every_case(), *((name, layout) for layout in ("pool", "directories") for name in MORE_SCENARIOS)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of runs say what they do."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def recorded_case(tmp_path: Path, name: str, layout: str, wrapper: tuple[str, ...] = ()) -> Recorded:
    (tmp_path / "work").mkdir()
    return record(ALL[name].start(tmp_path / "site", layout), tmp_path / "work", wrapper)


def require_all(recorded: Recorded, those: list[Moment], folder: Path) -> None:
    """In each of these states what is promised holds. An error says which state it was."""
    for moment in those:
        try:
            require_what_is_promised(recorded, moment, folder)
        except Exception as error:  # noqa: PERF203 - it says which state it was
            last = recorded.recording.calls[moment.number - 1]
            what = f"{last.kind} {last.path.rsplit('/', 1)[-1]}"
            message = f"after {moment.number} calls ({what}), told: {moment.told}: {type(error).__name__}: {error}"
            raise AssertionError(message) from error


@pytest.mark.parametrize(
    ("name", "layout"),
    [case for case in CASES if case[1] == "pool" or (case[0] in QUICK and case[1] != "pool")],
    ids=lambda value: value.replace(" ", "_"),
)
def test_a_cut_loses_nothing(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    some = moments(recorded, at_most=40 if layout == "pool" else SMALL_SAMPLE)
    require_all(recorded, some, tmp_path / "work")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_no_cut_loses_anything(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    found = moments(recorded, at_most=None if layout in WHOLE else SAMPLE)
    require_all(recorded, found, tmp_path / "work")
    print(f"{name}, {layout}: {len(recorded.recording.calls)} calls, {len(found)} states")


@pytest.mark.parametrize(("name", "layout"), [("incremental", "pool"), ("first full", "directories")])
def test_a_backup_touches_no_live_file(tmp_path: Path, name: str, layout: str) -> None:
    recorded = recorded_case(tmp_path, name, layout)
    live = [str(folder) + "/" for folder in recorded.start.live_folders]
    touched = [call for call in recorded.recording.calls if any(call.path.startswith(folder) for folder in live)]
    assert not touched
