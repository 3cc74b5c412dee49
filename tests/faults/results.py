"""What became of each point, in a file that outlives a run: a line of JSON each, so that the next run goes on there.

`python -m tests.faults.results` says what the file holds; `make faults` ends with it. FAULTS_AGAIN=1 begins anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).resolve().parent.parent.parent / ".faults" / "points.jsonl"
GOOD = "good"


class Result(NamedTuple):
    """One point. call, path: what was disturbed there. exit_code: below 0 for a killed command. result: GOOD or not.

    is_known: it left what another point of the case had left, so that what comes of that was known.
    """

    scenario: str
    layout: str
    point: str
    call: str
    path: str
    exit_code: int
    result: str
    seconds: float
    is_known: bool = False


def keep(result: Result) -> None:
    """Add a line; several processes may do so at a time."""
    FILE.parent.mkdir(exist_ok=True)
    line = json.dumps(result._asdict()) + "\n"
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def kept() -> Iterator[Result]:
    """All results of earlier runs; what a killed one wrote in part does not count."""
    if not FILE.exists():
        return
    for line in FILE.read_text().splitlines():
        with suppress(ValueError, TypeError):
            yield Result(**json.loads(line))


def done(scenario: str, layout: str) -> set[str]:
    """The points of one case that were tried, and were good."""
    return {each.point for each in kept() if each[:2] == (scenario, layout) and each.result == GOOD}


def summary() -> list[str]:
    """How many points each scenario has, and what became of them. Of a point that was tried again the last counts."""
    last = {each[:3]: each for each in kept()}
    rows = Counter((each.scenario, _ending(each)) for each in last.values())
    scenarios = list(dict.fromkeys(each.scenario for each in last.values()))
    endings = ("killed", "succeeded", "said what is wrong", "NOT GOOD")
    lines = [f"{'scenario':36}{'points':>8}" + "".join(f"{ending:>20}" for ending in endings)]
    for scenario in (*scenarios, ""):
        numbers = [
            sum(n for (name, end), n in rows.items() if name == (scenario or name) and end == e) for e in endings
        ]
        lines.append(f"{scenario or 'all':36}{sum(numbers):8,}" + "".join(f"{number:20,}" for number in numbers))
    bad = [each for each in last.values() if each.result != GOOD]
    lines += [f"{each.layout}, {each.scenario}, {each.point} ({each.call} {each.path}): {each.result}" for each in bad]
    return [*lines, f"{sum(each.seconds for each in last.values()) / 60:,.0f} minutes of one core; {FILE}"]


def _ending(result: Result) -> str:
    if result.result != GOOD:
        return "NOT GOOD"
    return "killed" if result.exit_code < 0 else "succeeded" if result.exit_code == 0 else "said what is wrong"


def main(arguments: list[str]) -> int:
    if "begin" in arguments:
        if os.environ.get("FAULTS_AGAIN") == "1":
            FILE.unlink(missing_ok=True)
        return 0
    print("\n".join(summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
