"""A generated site with the backups of both sides, and what is done to them while they are measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import FOLDER, OURS, ROOT, THEIRS, make_buildout
from benchmarks.generate import PLANS, Plan, blob_path
from benchmarks.measure import CommandFailed, Run, Runs, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SPARE_MEMORY = 2 << 30
"""Left to the programs that are measured, and to everything else on the machine."""

FULL, INCREMENTAL, NOTHING = "full", "incremental", "nothing"


class WrongOutcome(Exception):
    """A command did something else than what was to be measured."""


@dataclass(frozen=True)
class Side:
    """One of the two programs: a buildout with its scripts, and its backups of one site.

    stand_by: a second buildout that restores the same backups to a place of its own, so that the site stays.
    """

    name: str
    folder: Path
    stand_by: Path

    @property
    def location(self) -> Path:
        return self.folder / "var" / "backups"

    @property
    def blob_location(self) -> Path:
        return self.folder / "var" / "blobstoragebackups"

    @property
    def restored(self) -> Path:
        """The restored Data.fs."""
        return self.stand_by / "var" / "filestorage" / "Data.fs"

    @property
    def restored_blobs(self) -> Path:
        return self.stand_by / "var" / "blobstorage"

    def script(self, name: str, *flags: str) -> list[str]:
        folder = self.stand_by if name == "restore" else self.folder
        return [str(folder / "bin" / name), "--quiet", *flags]

    def data_files(self) -> list[Path]:
        """The data files of fulls and incrementals, oldest first."""
        return sorted(path for path in self.location.glob("*fsz"))

    def clear(self) -> None:
        """Forget all backups."""
        for folder in (self.location, self.blob_location):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def clear_stand_by(self) -> None:
        """Forget what was restored."""
        for folder in (self.restored.parent, self.restored_blobs):
            shutil.rmtree(folder, ignore_errors=True)


class Site:
    """One generated site, called after its plan, with both sides' buildouts beside it.

    on_disk: where the work lies on the disk, each command is followed by a sync that counts.
    """

    def __init__(self, name: str, folder: Path, scale: float, *, on_disk: bool) -> None:
        self.name = name
        self.plan: Plan = PLANS[name].scaled(scale)
        self.folder = folder
        self.on_disk = on_disk
        self.data_fs = folder / "filestorage" / "Data.fs"
        self.blob_storage = folder / "blobstorage" if self.plan.blobs else None
        self.sides = {name: Side(name, folder / name, folder / f"{name}-stand-by") for name in (OURS, THEIRS)}
        self._finished: dict[str, float] = {}

    def make(self, scale: float) -> None:
        """Generate the data and make the buildouts. The index is as a server leaves it that has stopped."""
        _python("-m", "benchmarks.generate", str(self.folder), "--plan", self.name, "--scale", repr(scale))
        self.live("index")
        for side in self.sides.values():
            make_buildout(side.name, side.folder, self._options(self.data_fs, self.blob_storage))
            options = self._options(side.restored, side.restored_blobs if self.blob_storage else None)
            places = {"location": str(side.location), "blobbackuplocation": str(side.blob_location)}
            make_buildout(side.name, side.stand_by, {**options, **places})

    @staticmethod
    def _options(data_fs: Path, blob_storage: Path | None) -> dict[str, str]:
        blobs = {"blob_storage": str(blob_storage)} if blob_storage else {"backup_blobs": "false"}
        return {"datafs": str(data_fs), **blobs}

    def live(self, *what: str) -> None:
        """Let something happen to the site (see benchmarks.live), in a process of its own."""
        command, *values = what
        _python("-m", "benchmarks.live", str(self.folder), command, *values)

    def drop_index(self) -> None:
        """The site's index is lost."""
        self.data_fs.with_name("Data.fs.index").unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command: Sequence[str]) -> Run:
        """Measure one command."""
        return run(command, sync=self.folder if self.on_disk else None)

    def backup(self, side: Side, expected: str, *flags: str) -> Run:
        """Measure bin/backup, and see that it made what was to be measured."""
        # Backups are named after the second; nobody is to wait for the next one within the measured time.
        while int(time.time()) <= int(self._finished.get(side.name, 0)):
            time.sleep(0.02)
        before = set(side.data_files())
        found = self.run(side.script("backup", *flags))
        self._finished[side.name] = time.time()
        new = [path.suffix for path in side.data_files() if path not in before]
        wanted = {FULL: [".fsz"], INCREMENTAL: [".deltafsz"], NOTHING: []}[expected]
        if new != wanted:
            raise WrongOutcome(f"{side.name} on {self.name}: a backup of kind {expected} was expected, it made {new}")
        return found

    def ensure_backup(self, side: Side) -> None:
        """See that there is a full backup to build on."""
        if not side.data_files():
            self.backup(side, FULL)

    def check_restored(self, side: Side) -> None:
        """See that what was restored is the site."""
        different = subprocess.run(["cmp", "-s", str(self.data_fs), str(side.restored)], check=False).returncode
        if different:
            raise WrongOutcome(f"{side.name} on {self.name}: the restored Data.fs is not the site's")

    def blobs_of(self, folder: Path, count: int) -> list[Path]:
        """Some of the generated blobs in a blobstorage, evenly spread."""
        first = self.plan.objects + 1
        oids = range(first, first + self.plan.blobs, max(self.plan.blobs // count, 1))
        return [next((folder / blob_path(oid, 1)).parent.glob("*.blob")) for oid in oids[:count]]

    def make_blobs_differ(self, side: Side, count: int) -> list[Path]:
        """In the restored blobstorage half of `count` blobs are missing then, and half are strange; return them all."""
        strange = [side.restored_blobs / blob_path((1 << 40) + 256 * number, 1 << 57) for number in range(count // 2)]
        for path in strange:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"strange" * 1000)
        missing = self.blobs_of(side.restored_blobs, count - count // 2)
        for path in missing:
            path.unlink()
            path.parent.rmdir()
        return missing + strange


@dataclass
class Lab:
    """Where is measured, how large, and how often.

    memory: a folder in memory. disk: one on the disk. repeats: of slow work; quick work is measured more often.
    """

    scale: float
    repeats: int
    memory: Path
    disk: Path
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)

    def site(self, name: str, where: str) -> Site:
        """The site with that plan, generated when it is first asked for. where: memory or disk."""
        if (name, where) not in self.sites:
            self.drop_sites()
            base = self.memory if where == "memory" else self.disk
            site = Site(name, base / f"{name}-{os.getpid()}", self.scale, on_disk=where == "disk")
            print(f"Generating {name} ({where}) ...", file=sys.stderr, flush=True)
            self.sites[name, where] = site
            site.make(self.scale)
        return self.sites[name, where]

    def holds(self, name: str, where: str) -> bool:
        """Whether that site is there already."""
        return (name, where) in self.sites

    def drop_sites(self) -> None:
        """Remove what was generated: only one site fits at a time."""
        for site in self.sites.values():
            site.remove()
        self.sites.clear()

    def fits_in_memory(self, name: str, *, sides: int) -> bool:
        """Whether a site has room there, with the backups of one or both sides and what they restore."""
        plan = PLANS[name].scaled(self.scale)
        # Folders and files take some memory of their own, and content whole pages.
        blobs = plan.blobs * (3_000 + max(plan.blob_bytes // max(plan.blobs, 1), 4096))
        needed = (1 + 2.7 * sides) * plan.size + (1 + 2.2 * sides) * blobs
        folder = os.statvfs(self.memory)
        return needed < min(folder.f_bavail * folder.f_frsize, _available_memory() - SPARE_MEMORY)


@dataclass
class Limit:
    """Another command that is measured in the same rounds. before: what has to be done first. per_round: runs of it."""

    command: Sequence[str]
    before: Callable[[], object] = lambda: None
    per_round: int = 1


def alternate(
    site: Site,
    measure: Callable[[Side], Run],
    *,
    rounds: int,
    before_round: Callable[[], object] = lambda: None,
    sides: Sequence[str] = (OURS, THEIRS),
    limits: Mapping[str, Limit] | None = None,
) -> dict[str, Runs]:
    """Measure the same work by both sides in turn; who is first changes from round to round.

    limits: by name; they are measured between the sides, so that a busy moment of the machine meets all alike.
    """
    limits = limits or {}
    found = {name: Runs() for name in (*sides, *limits)}
    for number in range(rounds):
        before_round()
        first, *others = sides if number % 2 == 0 else sides[::-1]
        found[first].runs.append(measure(site.sides[first]))
        for name, limit in limits.items():
            for _ in range(limit.per_round):
                limit.before()
                found[name].runs.append(site.run(limit.command))
        for name in others:
            found[name].runs.append(measure(site.sides[name]))
    return found


def _available_memory() -> int:
    """Bytes that processes and files in memory can still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def python_of(side: str) -> str:
    """The Python that runs the scripts of a side."""
    return str(FOLDER / side / "bin" / "python")


def newest_full(side: Side) -> Path:
    return [path for path in side.data_files() if path.suffix == ".fsz"][-1]


def describe(site: Site) -> dict[str, int]:
    """How large a site is, for the results."""
    about = json.loads((site.folder / "site.json").read_text())
    return {
        "data_fs": site.data_fs.stat().st_size,
        "objects": about["objects"],
        "transactions": site.plan.transactions,
        "blobs": about["blobs"],
        "blob_bytes": site.plan.blob_bytes,
    }


def _python(*arguments: str) -> None:
    """Work on a site in another process: what it needs of memory must not be this one's, the floor of what is seen."""
    # That environment has ZODB, since zodbvault depends on it.
    command = [python_of(OURS), *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise CommandFailed(f"{' '.join(arguments)}\n{finished.stdout}{finished.stderr}")
