"""What was measured, as text: the table, the pages of the docs, and the data of the picture.

python -m benchmarks.report [results.json]         writes the docs anew
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import PICTURE, ROOT, make_environment
from benchmarks.growth import growth_figures

RESULTS = ROOT / "benchmarks" / "results.json"
DOCS = ROOT / "docs"
PICTURE_FILE = DOCS / "speed.svg"
BEGIN = ".. Figures, written by benchmarks/report.py from benchmarks/results.json: do not edit.\n"
END = ".. End of figures.\n"
MEMORY_LIMIT = 100_000_000
FLAT = 10_000_000
"""Memory that differs by less than this between a small and a large site is flat, bytes."""

HEADINGS = ("where", "work", "ours", "theirs", "ratio", "target", "", "and")


def main() -> None:
    """Write the pages of the docs from the results."""
    write_docs(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)


def table(results: dict[str, Any], *, heading: bool = True) -> str:
    """All rows as lines of text."""
    cells: list[tuple[str, ...]] = [HEADINGS] if heading else []
    cells += [_cells(row) for row in results["rows"]]
    if heading:
        cells += _memory_cells(results["rows"])
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS) - 1)]
    lines = []
    for line in cells:
        parts = [
            text.rjust(width) if 2 <= column <= 5 else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=False))
        ]
        lines.append("  ".join([*parts, line[-1]]).rstrip())
    if heading and results["size"] != "full":
        lines.append(f"(Size {results['size']}: the targets are meant for the full size.)")
    return "\n".join(lines)


def write_docs(path: Path) -> None:
    """Write the parts of the docs that hold measured figures, and the picture; without results they say so."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    _replace(DOCS / "how-cost-grows.rst", growth_figures(results["rows"]))
    _replace(DOCS / "speed.rst", _speed_figures(results))
    if any("theirs" in row["runs"] for row in results["rows"]):
        python = make_environment(PICTURE) / "python"
        subprocess.run([python, ROOT / "benchmarks/picture.py", path, PICTURE_FILE], check=True)


def _replace(page: Path, figures: list[str]) -> None:
    """Put figures into a page, where the last ones are."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} does not say where its figures begin and end")
    page.write_text("\n".join([before + begin, *figures, "", end + after]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row. The best run of each side; ratio is theirs / ours."""
    runs = row["runs"]
    if row["row"].startswith("growth-"):
        peak = max(run["peak_memory"] for run in runs.values())
        times = ", ".join(f"{name} {seconds(run['seconds'])}" for name, run in runs.items())
        return row["where"], row["title"], "", "", "", "", "", f"{times}; peak memory {peak / 1e6:.0f} MB"
    ours, theirs = runs["ours"], runs.get("theirs")
    return (
        row["where"],
        row["title"],
        seconds(ours["seconds"]),
        seconds(theirs["seconds"]) if theirs else "",
        f"{row['ratio']:.1f}" if row["ratio"] else "",
        f"{row['target']:g}" if row["target"] else "",
        _verdict(row["reached"]),
        "; ".join([*map(_check, row["checks"]), f"{ours['peak_memory'] / 1e6:.0f} MB of memory"]),
    )


def _check(check: dict[str, Any]) -> str:
    value = f"{check['value']:.2f}" if check["value"] < 10 else f"{check['value']:.0f}"
    if check["limit"] is None:
        return f"{value} {check['text']}"
    return f"{value} {check['text']} (at most {check['limit']:g}: {_verdict(check['reached'])})"


def _verdict(reached: bool | None) -> str:
    return "" if reached is None else ("reached" if reached else "MISSED")


def _memory_cells(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows about memory: the largest of all, and how it grows with the site."""
    peaks: dict[str, int] = {}
    same: dict[str, int] = {}
    for row in rows:
        is_growth = row["row"].startswith("growth-")
        for side, run in row["runs"].items():
            if is_growth or side == "ours":
                peaks[row["data"]] = max(peaks.get(row["data"], 0), run["peak_memory"])
            if is_growth:
                same[row["data"]] = max(same.get(row["data"], 0), run["peak_memory"])
    if not peaks:
        return []
    highest = max(peaks, key=lambda data: peaks[data])
    cells = [_memory(f"peak memory, all rows (of {highest})", peaks[highest], MEMORY_LIMIT)]
    # Only the same commands on both can be compared.
    for small, large in (("S", "L"), ("S", "S10"), ("K", "B"), ("K", "B10")):
        if small in same and large in same:
            cells.append(_memory(f"more of it for {large} than for {small}", same[large] - same[small], FLAT))
    return cells


def _memory(title: str, found: int, limit: int) -> tuple[str, ...]:
    return "", title, f"{found / 1e6:.0f} MB", "", "", f"{limit / 1e6:.0f} MB", _verdict(found <= limit), ""


def seconds(value: float) -> str:
    """A time for people."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _speed_figures(results: dict[str, Any]) -> list[str]:
    """The table for the docs, in two parts, and the picture."""
    if not results["rows"]:
        return ["*Nothing has been measured yet:* ``make bench`` *does it.*"]
    machine = results["machine"]
    lines = [
        f"Measured on {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory,",
        f"{machine['system']}, Python {machine['python']}:",
        f"{_named(machine['ours'])} against {_named(machine['theirs'])}.",
        "",
        ".. image:: speed.svg",
        "   :alt: Times of zodbvault and of collective.recipe.backup as bars, on a logarithmic scale",
        "   :width: 100%",
    ]
    for where, title in (("memory", "In memory"), ("disk", "On the disk, with a sync after either side")):
        rows = [row for row in results["rows"] if row["where"] == where and not row["row"].startswith("growth-")]
        if rows:
            lines += ["", *_list_table(title, HEADINGS[1:], [_cells(row)[1:] for row in rows])]
    memory = _memory_cells(results["rows"])
    if memory:
        heads = ("memory", "ours", "limit", "")
        lines += ["", *_list_table("Peak memory", heads, [(c[1], c[2], c[5], c[6]) for c in memory])]
    return lines


def _named(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _list_table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f".. list-table:: {title}", "   :header-rows: 1", ""]
    for row in (heads, *rows):
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}".rstrip())
    return lines


if __name__ == "__main__":
    main()
