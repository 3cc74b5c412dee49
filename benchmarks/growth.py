"""How cost grows: costs per byte, transaction and blob, fitted to what was measured, and what they say of larger sites.

The sites of FITTED are measured and give the costs; those of CHECKED are measured too, but only to see how far what the
costs say of them is from the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FITTED = ("K", "S", "L", "M", "B")
CHECKED = ("S10", "B10")
DRIVERS = ("start", "GB of Data.fs", "million transactions", "100,000 blobs", "GB of blobs")

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


def fit(measured: list[tuple[Site, float]]) -> Costs:
    """Costs, none below zero, whose relative errors squared are least. measured: sites with seconds."""
    # Coordinate descent: each cost in turn is set to what is best while the others stay.
    scaled = [([driver / seconds for driver in site.drivers], seconds) for site, seconds in measured]
    costs = [0.0] * len(DRIVERS)
    for _ in range(20_000):
        moved = 0.0
        for which in range(len(DRIVERS)):
            weight = sum(drivers[which] ** 2 for drivers, _ in scaled)
            if not weight:
                continue
            left = sum(
                drivers[which]
                * (
                    1
                    - sum(
                        cost * driver
                        for number, (cost, driver) in enumerate(zip(costs, drivers, strict=True))
                        if number != which
                    )
                )
                for drivers, _ in scaled
            )
            best = max(left / weight, 0.0)
            moved = max(moved, abs(best - costs[which]))
            costs[which] = best
        if moved < 1e-9:
            break
    return tuple(costs)


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
                [name, *(f"{driver:,.2f}" for driver in sites[name].drivers[1:]), f"in {_place(found[name]['where'])}"]
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
        costs = fit(measured)
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
