"""How cost grows: costs per byte, transaction and blob, fitted to what was measured, and what they say of larger sites.

The sites of FITTED are measured and give the costs; those of CHECKED are measured too, but only to see how far what the
costs say of them is from the truth.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

FITTED = ("K", "S", "L", "M", "B")
CHECKED = ("S10", "B10")
DRIVERS = ("start", "GB of Data.fs", "million transactions", "100,000 blobs", "GB of blobs")

START, DATA, TRANSACTIONS, BLOBS, BLOB_BYTES = range(len(DRIVERS))
MATTERS = {
    "full": (START, DATA, TRANSACTIONS, BLOBS, BLOB_BYTES),
    "nothing changed": (START,),
    "incremental, 10 objects": (START,),
    "incremental, 1 blob": (START,),
    "full again": (START, DATA, TRANSACTIONS, BLOBS),
    "verify": (START, DATA, BLOBS, BLOB_BYTES),
    "restore into nothing": (START, DATA, TRANSACTIONS, BLOBS, BLOB_BYTES),
    "restore over the same": (START, DATA, TRANSACTIONS, BLOBS),
}
"""What can matter to a command at all; differences that come from anything else are chance. For the commands whose cost
does not grow, that is seen in their measured times, which are shown beside it."""

LARGE_SITE = {"data_fs": 10**12, "transactions": 200_000_000, "blobs": 50_000_000, "blob_bytes": 10**12}
"""A site of 1 TB Data.fs with 50,000,000 blobs of 20 kB; transactions of 5 kB."""

Costs = tuple[float, ...]
"""Seconds for each of DRIVERS."""


@dataclass(frozen=True)
class Site:
    """What drives the cost of a command on a site, in the units of DRIVERS."""

    name: str
    drivers: tuple[float, ...]

    def expected(self, costs: Costs) -> float:
        """Seconds."""
        return sum(driver * cost for driver, cost in zip(self.drivers, costs, strict=True))


def site_of(name: str, about: dict[str, int]) -> Site:
    """A site as the results describe it."""
    drivers = (
        1.0,
        about["data_fs"] / 1e9,
        about["transactions"] / 1e6,
        about["blobs"] / 1e5,
        about["blob_bytes"] / 1e9,
    )
    return Site(name, drivers)


def fit(measured: list[tuple[Site, float]], matters: Sequence[int] = range(len(DRIVERS))) -> Costs:
    """Costs, none below zero, whose relative errors squared are least. measured: sites with seconds."""
    rows = [[driver / seconds for driver in site.drivers] for site, seconds in measured]
    best, costs = float("inf"), [0.0] * len(DRIVERS)
    # Few enough to try every choice of drivers that cost anything.
    for count in range(1, min(len(matters), len(rows)) + 1):
        for chosen in itertools.combinations(matters, count):
            found = _least_squares([[row[driver] for driver in chosen] for row in rows])
            if found is None or min(found) < 0:
                continue
            candidate = [0.0] * len(DRIVERS)
            for driver, cost in zip(chosen, found, strict=True):
                candidate[driver] = cost
            error = sum((1 - sum(map(operator.mul, row, candidate))) ** 2 for row in rows)
            # One driver more has to explain something.
            if error < best - 1e-9:
                best, costs = error, candidate
    return tuple(costs)


def _least_squares(rows: list[list[float]]) -> list[float] | None:
    """The factors that bring each row's sum closest to 1; None where they are not unique."""
    columns = list(zip(*rows, strict=True))
    matrix = [[sum(map(operator.mul, one, other)) for other in columns] + [sum(one)] for one in columns]
    size = len(matrix)
    for place in range(size):
        pivot = max(range(place, size), key=lambda line: abs(matrix[line][place]))
        if abs(matrix[pivot][place]) < 1e-12:
            return None
        matrix[place], matrix[pivot] = matrix[pivot], matrix[place]
        for line in range(size):
            if line != place:
                factor = matrix[line][place] / matrix[place][place]
                matrix[line] = [
                    value - factor * other for value, other in zip(matrix[line], matrix[place], strict=True)
                ]
    return [line[size] / line[place] for place, line in enumerate(matrix)]


def growth_figures(rows: list[dict[str, Any]]) -> list[str]:
    """The measured part of the page 'How cost grows'; says so where nothing was measured."""
    lines: list[str] = []
    found = {row["data"]: row for row in rows if row["row"].startswith("growth-")}
    if not set(FITTED) <= set(found):
        return ["*The sites that this needs have not been measured yet.*"]
    sites = {name: site_of(name, row["site"]) for name, row in found.items()}
    commands = list(dict.fromkeys(command for row in found.values() for command in row["runs"]))
    heads = ["command", *(f"{name}" for name in (*FITTED, *CHECKED) if name in found)]
    body = []
    for command in commands:
        times = [found[name]["runs"].get(command, {}).get("seconds") for name in heads[1:]]
        body.append([command, *("" if time is None else _seconds(time) for time in times)])
    memory = [max(run["peak_memory"] for run in found[name]["runs"].values()) for name in heads[1:]]
    body.append(["peak memory", *(f"{peak / 1e6:.0f} MB" for peak in memory)])
    lines += _table("Measured", heads, body)
    lines += [
        "",
        *_table(
            "The sites",
            ["site", *DRIVERS[1:], "measured"],
            [
                [name, *(f"{driver:,.3g}" for driver in sites[name].drivers[1:]), f"in {_place(found[name]['where'])}"]
                for name in heads[1:]
            ],
        ),
    ]
    costs_body, checked_body = [], []
    large = site_of("large", LARGE_SITE)
    for command in commands:
        measured = [
            (sites[name], found[name]["runs"][command]["seconds"]) for name in FITTED if command in found[name]["runs"]
        ]
        costs = fit(measured, MATTERS[command])
        costs_body.append([command, *map(_seconds, costs)])
        cells = [command]
        for name in CHECKED:
            if name in found and command in found[name]["runs"]:
                cells += [_seconds(sites[name].expected(costs)), _seconds(found[name]["runs"][command]["seconds"])]
            else:
                cells += ["", ""]
        checked_body.append([*cells, _seconds(large.expected(costs))])
    lines += ["", *_table("Cost of each, from those measurements", ["command", *DRIVERS], costs_body)]
    heads = ["command"]
    for name in CHECKED:
        heads += [f"{name}, computed", f"{name}, measured"]
    title = "Computed with these costs: two sites that were measured too, and one of 1 TB with 50,000,000 blobs"
    lines += ["", *_table(title, [*heads, "1 TB, computed"], checked_body)]
    return lines


def _place(where: str) -> str:
    return "memory" if where == "memory" else "files on the disk"


def _seconds(value: float) -> str:
    if value < 0.0005:
        return "0"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _table(title: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f".. list-table:: {title}", "   :header-rows: 1", ""]
    for row in (heads, *rows):
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}".rstrip())
    return lines
