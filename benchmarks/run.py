"""Measures zodbvault against collective.recipe.backup on the same data, alternating, and writes a table.

    python -m benchmarks.run [--size small|medium|full] [--rows full-S,one-blob] [--where memory,disk]

The full size takes an hour or so, and 12 GB of memory for files; small takes two minutes. Each row is added to the
results as soon as it is known, so rows can be measured one after another. Results of the full size are
benchmarks/results.json, from which the docs are written; others lie below build/benchmarks. Who works on one row
measures that alone, and leaves the docs as they are:

    python -m benchmarks.run --rows restore-B --where memory --output build/benchmarks/restore-B.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import FOLDER, OURS, ROOT, THEIRS, make_environment, versions
from benchmarks.lab import Lab, WrongOutcome, describe
from benchmarks.measure import CommandFailed
from benchmarks.report import RESULTS, table, write_docs
from benchmarks.rows import ROWS, Measured, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALES = {"small": 0.03, "medium": 0.25, "full": 1.0}
PLACES = ("memory", "disk")


def main() -> int:
    """Measure; 0 when every row could be measured, whatever it has shown."""
    options = _options()
    # Whoever ends this run gets the memory back that its files take.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    make_environment(OURS, options.project)
    make_environment(THEIRS)
    results = _results(options.output, options.size)
    repeats = options.repeats or (2 if options.size == "small" else 3)
    failed = False
    with _folder(options.memory_folder) as memory, _folder(options.disk_folder) as disk:
        lab = Lab(SCALES[options.size], repeats, memory, disk)
        for place in options.where:
            for row in options.rows:
                if _is_to_be_measured(lab, row, place, options.where):
                    failed |= not _measure(lab, row, place, results, options)
        lab.drop_sites()
    print(table(results))
    print(f"\nResults: {options.output}")
    if options.output == RESULTS:
        write_docs(options.output)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    names = {row.name: row for row in ROWS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SCALES, default="full", help="of the data (default: full)")
    parser.add_argument("--rows", help=f"only these, with commas between: {', '.join(names)}, or the start of names")
    parser.add_argument("--where", help="memory, disk, or both with a comma between (default: memory; full: both)")
    parser.add_argument("--repeats", type=int, help="runs of slow work; quick work is repeated more often")
    parser.add_argument("--memory-folder", type=Path, default=Path("/dev/shm"), help="on a file system in memory")
    parser.add_argument("--disk-folder", type=Path, default=FOLDER, help="on the disk (default: build/benchmarks)")
    parser.add_argument("--project", type=Path, default=ROOT, help="another checkout of zodbvault, to measure that")
    parser.add_argument("--output", type=Path, help="the results (JSON); the docs come from the usual ones only")
    options = parser.parse_args()
    if options.output is None:
        full = options.size == "full"
        options.output = RESULTS if full else FOLDER / f"results-{options.size}.json"
    options.where = (options.where or ("memory,disk" if options.size == "full" else "memory")).split(",")
    if not set(options.where) <= set(PLACES):
        parser.error("--where: memory, disk or memory,disk")
    if options.rows:
        wanted = options.rows.split(",")
        unknown = [start for start in wanted if not any(name.startswith(start) for name in names)]
        if unknown:
            parser.error(f"--rows: nothing is called {', '.join(unknown)}")
        options.rows = [row for row in ROWS if any(row.name.startswith(start) for start in wanted)]
    else:
        # The growth of cost says something about large sites only.
        options.rows = [row for row in ROWS if options.size == "full" or not _is_growth(row)]
    return options


def _is_to_be_measured(lab: Lab, row: Row, place: str, places: list[str]) -> bool:
    """Everything in all places that are asked for; growth once, in memory if it can be."""
    if place == "memory":
        fits = lab.fits_in_memory(row.data, sides=1 if _is_growth(row) else 2)
        if not fits and not lab.holds(row.data, place):
            print(f"{row.title}: {row.data} is too large for {lab.memory}; on the disk only.", file=sys.stderr)
            return False
        return True
    return not _is_growth(row) or places == ["disk"] or not lab.fits_in_memory(row.data, sides=1)


def _is_growth(row: Row) -> bool:
    return row.name.startswith("growth-")


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """A folder for the work that goes in the end."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="zodbvault-benchmarks-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(lab: Lab, row: Row, where: str, results: dict[str, Any], options: argparse.Namespace) -> bool:
    """Measure one row and add it to the results."""
    try:
        site = lab.site(row.data, where)
        print(f"Measuring {row.title} ({where}) ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        found = row.measure(lab, site)
    except (CommandFailed, WrongOutcome) as error:
        print(f"{row.name} could not be measured: {error}", file=sys.stderr)
        lab.drop_sites()
        return False
    entry = _entry(row, where, found)
    entry |= {"site": describe(site), "took": round(time.monotonic() - started), "commit": _commit(options.project)}
    rows = results["rows"]
    others = [other for other in rows if (other["row"], other["where"]) != (row.name, where)]
    order = {known.name: number for number, known in enumerate(ROWS)}
    rows[:] = sorted([*others, entry], key=lambda each: (PLACES.index(each["where"]), order.get(each["row"], 999)))
    results["machine"] = _machine()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table({**results, "rows": [entry]}, heading=False), file=sys.stderr, flush=True)
    return True


def _entry(row: Row, where: str, found: Measured) -> dict[str, Any]:
    runs = {side: each.plain() for side, each in found.runs.items()}
    ratio = runs[THEIRS]["seconds"] / runs[OURS]["seconds"] if THEIRS in runs else None
    return {
        "row": row.name,
        "title": row.title,
        "data": row.data,
        "where": where,
        "runs": runs,
        "ratio": ratio and round(ratio, 2),
        "target": row.target,
        "reached": None if ratio is None or row.target is None else ratio >= row.target,
        "checks": [check.plain() for check in found.checks],
        "figures": found.figures,
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _results(path: Path, size: str) -> dict[str, Any]:
    """What earlier runs have found, to which rows are added."""
    try:
        results: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {"size": size, "machine": {}, "rows": []}
    if results["size"] != size:
        raise SystemExit(f"{path} holds results of another size: {results['size']}")
    return results


def _machine() -> dict[str, Any]:
    """What was measured with, and on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    theirs, ours = versions(THEIRS), versions(OURS)
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "ours": {name: ours[name] for name in ("zodbvault", "isal") if name in ours},
        "theirs": {name: theirs[name] for name in ("collective.recipe.backup", "ZODB")},
    }


def _commit(project: Path) -> str:
    command = ["git", "-C", str(project), "describe", "--always", "--dirty"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return finished.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
