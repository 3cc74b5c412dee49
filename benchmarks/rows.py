"""The rows of the comparison: what is done, how it is measured, and what is to be reached."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.environments import OURS, ROOT, THEIRS
from benchmarks.lab import (
    FULL,
    INCREMENTAL,
    NOTHING,
    Lab,
    Limit,
    Side,
    Site,
    WrongOutcome,
    alternate,
    newest_full,
    python_of,
)
from benchmarks.measure import Run, Runs, footprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEW_BLOB = 20_000
"""Bytes of the one new blob."""
START_UP = "python -c pass"
QUICK = 3
"""Work of less than a second or so is measured this many times as often."""


@dataclass(frozen=True)
class Check:
    """A limit beside the ratio. value and limit in `unit`; without a limit it is only a figure."""

    text: str
    value: float
    limit: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.limit is None else self.value <= self.limit

    def plain(self) -> dict[str, Any]:
        value, limit = round(self.value, 4), self.limit
        return {"text": self.text, "value": value, "limit": limit, "unit": self.unit, "reached": self.reached}


@dataclass
class Measured:
    """What a row has found. runs: of each side, and of the commands that set a limit."""

    runs: dict[str, Runs]
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def best(self, side: str) -> float:
        return self.runs[side].best.seconds

    def limit(self, times: float, *commands: str) -> None:
        """Ours is to be within `times` the time of other commands, measured beside it."""
        seconds = sum(self.best(command) for command in commands)
        name = commands[0] if len(commands) == 1 else f"({' + '.join(commands)})"
        self.checks.append(Check(f"x {name}", self.best(OURS) / seconds, times, "x"))


@dataclass(frozen=True)
class Row:
    """name: for --rows. data: the site's plan. target: theirs / ours to reach, None where they have no such thing."""

    name: str
    title: str
    data: str
    target: float | None
    measure: Callable[[Lab, Site], Measured]


def full(lab: Lab, site: Site) -> Measured:
    def measure(side: Side) -> Run:
        side.clear()
        return site.backup(side, FULL)

    limits = {"md5sum": Limit(["md5sum", str(site.data_fs)])} if site.name == "L" else {}
    found = Measured(alternate(site, measure, rounds=lab.repeats, limits=limits))
    sizes = {name: newest_full(side).stat().st_size for name, side in site.sides.items()}
    found.figures |= {f"{name}, bytes of output": float(size) for name, size in sizes.items()}
    found.checks.append(Check("x their output", sizes[OURS] / sizes[THEIRS], 1.12 if site.name == "S" else None, "x"))
    if limits:
        found.limit(2.2, "md5sum")
    return found


def first_incremental(lab: Lab, site: Site) -> Measured:
    """Each time on the same full: what the last incremental left is taken away, and Data.fs cut to what it was."""
    for side in site.sides.values():
        side.clear()
    size = site.data_fs.stat().st_size
    for side in site.sides.values():
        site.ensure_backup(side)
    left = {side.name: _LocationAfterFull(side) for side in site.sides.values()}

    def change() -> None:
        with open(site.data_fs, "r+b") as file:
            file.truncate(size)
        site.live("change", "10")

    def measure(side: Side) -> Run:
        left[side.name].bring_back()
        return site.backup(side, INCREMENTAL)

    rounds = lab.repeats * QUICK
    found = Measured(alternate(site, measure, rounds=rounds, before_round=change, limits=_start_up()))
    found.limit(7, START_UP)
    read = found.runs[OURS].best.read
    found.checks.append(Check("MB read, of more than that in Data.fs", read / 1e6, max(size / 10e6, 5.0), "MB"))
    return found


class _LocationAfterFull:
    """A location with one full: what comes to it can be taken away again."""

    def __init__(self, side: Side) -> None:
        self._location = side.location
        self._names = {path.name for path in side.location.iterdir()}
        # What an incremental changes is small: the .dat, and records.
        small = (path for path in side.location.iterdir() if path.is_file() and path.stat().st_size < 100_000)
        self._contents = {path: path.read_bytes() for path in small}

    def bring_back(self) -> None:
        for path in self._location.iterdir():
            if path.name not in self._names:
                path.unlink()
        for path, content in self._contents.items():
            path.write_bytes(content)


def later_incremental(lab: Lab, site: Site) -> Measured:
    _two_backups(site)
    return _small_incrementals(site, lab.repeats * QUICK, lambda: site.live("change", "10"))


def incremental_without_index(lab: Lab, site: Site) -> Measured:
    _two_backups(site)

    def change() -> None:
        site.live("change", "10")
        site.drop_index()

    found = _small_incrementals(site, lab.repeats, change)
    site.live("index")
    return found


def _two_backups(site: Site) -> None:
    """See that there is a full and an incremental: the first one after a full costs them more."""
    for side in site.sides.values():
        site.ensure_backup(side)
    site.live("change", "10")
    for side in site.sides.values():
        site.backup(side, INCREMENTAL)


def _small_incrementals(site: Site, rounds: int, change: Callable[[], None]) -> Measured:
    measure = partial(site.backup, expected=INCREMENTAL)
    found = Measured(alternate(site, measure, rounds=rounds, before_round=change, limits=_start_up()))
    found.limit(7, START_UP)
    return found


def one_blob(lab: Lab, site: Site) -> Measured:
    _two_backups(site)
    found = _small_incrementals(site, lab.repeats, lambda: site.live("blob", str(NEW_BLOB)))
    # Once more, to look at what comes to the folders of backups.
    site.live("blob", str(NEW_BLOB))
    beside = {}
    for name, side in site.sides.items():
        before = footprint(side.location, side.blob_location)
        site.backup(side, INCREMENTAL)
        after = footprint(side.location, side.blob_location)
        beside[name] = after.size - before.size - NEW_BLOB
        found.figures[f"{name}, new folders"] = after.folders - before.folders
    found.figures["theirs, kB beside the blob"] = round(beside[THEIRS] / 1000, 1)
    found.checks.append(Check("kB beside the blob", beside[OURS] / 1000, 100, "kB"))
    return found


def nothing_changed(lab: Lab, site: Site) -> Measured:
    for side in site.sides.values():
        site.ensure_backup(side)
        # The first of them may have something to finish.
        site.backup(side, NOTHING)
    measure = partial(site.backup, expected=NOTHING)
    found = Measured(alternate(site, measure, rounds=lab.repeats * QUICK, limits=_start_up()))
    found.limit(5, START_UP)
    return found


def full_after_pack(lab: Lab, site: Site) -> Measured:
    for side in site.sides.values():
        site.ensure_backup(side)
    site.live("change", "10")

    def pack() -> None:
        site.live("change", "10")
        site.live("pack")

    before = footprint(site.sides[OURS].blob_location).files
    found = Measured(alternate(site, partial(site.backup, expected=FULL), rounds=lab.repeats, before_round=pack))
    # Nothing new in the pool but a manifest each time, of those that are kept.
    new = footprint(site.sides[OURS].blob_location).files - before
    found.checks.append(Check("new files among the blobs", max(new, 0), lab.repeats))
    return found


def restore_into_nothing(lab: Lab, site: Site) -> Measured:
    for side in site.sides.values():
        site.ensure_backup(side)
        _bring_up_to_date(site, side)

    def measure(side: Side) -> Run:
        side.clear_stand_by()
        return site.run(side.script("restore", "--no-prompt"))

    return _restores(lab, site, measure)


def restore_over_a_site(lab: Lab, site: Site) -> Measured:
    _restored_once(site)
    return _restores(lab, site, lambda side: site.run(side.script("restore", "--no-prompt")))


def _restores(lab: Lab, site: Site, measure: Callable[[Side], Run]) -> Measured:
    """Measured beside what a restore cannot do without: writing a Data.fs, and inflating the backup."""
    copy = site.folder / "copy-of-Data.fs"
    inflate = [python_of(OURS), str(ROOT / "benchmarks" / "inflate.py"), str(newest_full(site.sides[OURS]))]
    limits = {
        "cp": Limit(["cp", "--reflink=never", str(site.data_fs), str(copy)], lambda: copy.unlink(missing_ok=True)),
        "inflate": Limit(inflate),
    }
    found = Measured(alternate(site, measure, rounds=lab.repeats, limits=limits))
    copy.unlink()
    _check_restored(site)
    found.limit(1.5, "cp", "inflate")
    return found


def restore_where_blobs_differ(lab: Lab, site: Site) -> Measured:
    _restored_once(site)

    def measure(side: Side) -> Run:
        *changed, strange = site.make_blobs_differ(side, 100)
        found = site.run(side.script("restore", "--no-prompt"))
        if strange.exists() or not changed[0].exists():
            raise WrongOutcome(f"{side.name}: the blobs are not those of the backup")
        return found

    found = Measured(alternate(site, measure, rounds=lab.repeats))
    _check_restored(site)
    return found


def verify(lab: Lab, site: Site) -> Measured:
    """Nothing of theirs to compare with: sha256sum of the same files is the limit."""
    ours = site.sides[OURS]
    site.ensure_backup(ours)
    files = shlex.join(["find", str(ours.location), str(ours.blob_location), "-type", "f", "-print0"])
    found = Measured(
        alternate(
            site,
            lambda side: site.run(side.script("backup-verify")),
            rounds=lab.repeats,
            sides=[OURS],
            limits={"sha256sum": Limit(["sh", "-c", f"{files} | xargs -0 sha256sum"])},
        )
    )
    found.limit(1.2, "sha256sum")
    return found


def growth(lab: Lab, site: Site) -> Measured:
    """Every command of ours on one site, once or twice each: how cost and memory grow with a site."""
    ours = site.sides[OURS]
    ours.clear()
    ours.clear_stand_by()
    found: dict[str, Runs] = {}

    def measure(name: str, work: Callable[[], Run], rounds: int = 1) -> None:
        found[name] = Runs([work() for _ in range(rounds)])

    def after(*what: str) -> Run:
        site.live(*what)
        return site.backup(ours, INCREMENTAL)

    measure("full", lambda: site.backup(ours, FULL))
    measure("nothing changed", lambda: site.backup(ours, NOTHING), 3)
    measure("incremental, 10 objects", lambda: after("change", "10"), 3)
    if site.plan.blobs:
        measure("incremental, 1 blob", lambda: after("blob", str(NEW_BLOB)), 3)
    measure("full again", lambda: site.backup(ours, FULL, "--full"))
    measure("verify", lambda: site.run(ours.script("backup-verify")))
    measure("restore into nothing", lambda: site.run(ours.script("restore", "--no-prompt")))
    measure("restore over the same", lambda: site.run(ours.script("restore", "--no-prompt")))
    site.check_restored(ours)
    ours.clear_stand_by()
    return Measured(found)


def _bring_up_to_date(site: Site, side: Side) -> None:
    """See that the newest backup is the site as it is now."""
    while True:
        try:
            site.backup(side, NOTHING)
        except WrongOutcome:
            continue
        return


def _restored_once(site: Site) -> None:
    for side in site.sides.values():
        site.ensure_backup(side)
        _bring_up_to_date(site, side)
        site.run(side.script("restore", "--no-prompt"))


def _check_restored(site: Site) -> None:
    for side in site.sides.values():
        site.check_restored(side)


def _start_up() -> dict[str, Limit]:
    """Python that does nothing, measured as often as it takes to see what it needs."""
    return {START_UP: Limit([python_of(OURS), "-c", "pass"], per_round=5)}


ROWS: Sequence[Row] = (
    Row("full-S", "full of S", "S", 10, full),
    Row("no-change-S", "nothing changed, S", "S", 8, nothing_changed),
    Row("growth-S", "every command, S", "S", None, growth),
    Row("full-L", "full of L", "L", 12, full),
    Row("first-incremental", "first incremental after a full of L, with index", "L", 20, first_incremental),
    Row("later-incremental", "later incrementals on L, 10 objects", "L", 5, later_incremental),
    Row("no-index", "incremental, 10 objects on L, index missing", "L", 80, incremental_without_index),
    Row("verify-L", "verify, L", "L", None, verify),
    Row("restore-L", "restore of L into nothing", "L", 3, restore_into_nothing),
    Row("restore-over-L", "restore of L over a site", "L", 3, restore_over_a_site),
    Row("growth-L", "every command, L", "L", None, growth),
    Row("full-M", "full of M", "M", 10, full),
    Row("growth-M", "every command, M", "M", None, growth),
    Row("no-change-B", "nothing changed, B", "B", 8, nothing_changed),
    Row("one-blob", "incremental, 1 new blob of B", "B", 150, one_blob),
    Row("full-again-B", "full of B again, after a pack, pool filled", "B", 3, full_after_pack),
    Row("restore-B", "restore of B where 100 blobs differ", "B", 5, restore_where_blobs_differ),
    Row("verify-B", "verify, B", "B", None, verify),
    Row("growth-B", "every command, B", "B", None, growth),
    Row("growth-K", "every command, 1,000 blobs", "K", None, growth),
    Row("growth-S10", "every command, ten times S", "S10", None, growth),
    Row("growth-B10", "every command, ten times B", "B10", None, growth),
)
