"""Thousands of kinds of damage, by chance: never a wrong restore, never a false `good`, never a traceback.

Each test is a number of cases; a failure prints the case's number, the damage and what came of it. One case again:
`Case(make_good(kind, folder), other_folder, number).run()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.damage import KINDS, Broken, Case, Good, make_good

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.tmpdir import TempPathFactory

pytestmark = pytest.mark.filterwarnings("ignore")

CASES_IN_ALL = 10_000
CASES_BY_DEFAULT = 300
AT_ONCE = 250
"""Cases of one test of the long run: short enough for several processes to share the work."""

_EVERY = range(CASES_BY_DEFAULT, CASES_BY_DEFAULT + CASES_IN_ALL, AT_ONCE)


@pytest.fixture(scope="session")
def made(tmp_path_factory: TempPathFactory) -> dict[str, Good]:
    """The good sites that were made so far."""
    return {}


def run_cases(numbers: range, made: dict[str, Good], folder: Path, factory: TempPathFactory) -> None:
    for number in numbers:
        kind = KINDS[number % len(KINDS)]
        if kind not in made:
            made[kind] = make_good(kind, factory.mktemp("good") / "site")
        case = Case(made[kind], folder / "case", number)
        try:
            case.run()
        except Broken as error:
            raise Broken("\n  ".join((f"case {number}, {kind}: {error}", *case.told))) from error


@pytest.mark.parametrize("start", range(0, CASES_BY_DEFAULT, 50))
def test_damage(start: int, made: dict[str, Good], tmp_path: Path, tmp_path_factory: TempPathFactory) -> None:
    run_cases(range(start, start + 50), made, tmp_path, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("start", _EVERY)
def test_much_damage(start: int, made: dict[str, Good], tmp_path: Path, tmp_path_factory: TempPathFactory) -> None:
    run_cases(range(start, start + AT_ONCE), made, tmp_path, tmp_path_factory)
