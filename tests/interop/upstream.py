"""collective.recipe.backup on a test's site: its scripts as buildout makes them, its real children, a pretended clock.

Its names come from the clock of its Python processes, which a `sitecustomize` of ours sets. rsync and tar are not asked
to pretend: the times of what they make are real.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.environments import FOLDER, OURS, THEIRS, make_environment

from tests.site import Site, State, blob_files, seconds

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = """\
import os
import time

_now = float(os.environ["PRETENDED_NOW"])
_gmtime = time.gmtime
time.time = lambda: _now
time.gmtime = lambda seconds=None: _gmtime(_now if seconds is None else seconds)
"""

START = "2024-02-26-18-05-00"
"""When the days of these tests begin: before the times that rsync and tar give, which are real."""

LATER_BY = 2
"""A directory or archive of theirs is modified last so many seconds after its timestamp, as it would be."""

# The tids of these sites are of the real time.
_IN_THE_FUTURE = re.compile(r".* Database records \d+ seconds in the future\n")
_LAYOUT_CHANGED = re.compile(r"WARNING: (Sorting blob .* gives other|Not making incremental|Ignoring entry) .*\n")


def make_their_environment() -> None:
    """Install collective.recipe.backup where it is not installed yet; tests run in several processes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_environment(THEIRS)


def clean_environment() -> dict[str, str]:
    """The environment without what a Python around this one set."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}


def run_buildout(
    whose: str, folder: Path, options: dict[str, str], *, part: str = "backup", more: str = "", parts: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run buildout for one part of ours or theirs; offline, everything is installed. more: other sections."""
    recipe, program = {
        OURS: ("zodbvault", [sys.executable, "-c", "from zc.buildout.buildout import main; main()"]),
        THEIRS: ("collective.recipe.backup", [str(FOLDER / THEIRS / "bin/buildout")]),
    }[whose]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"[{part}]", f"recipe = {recipe}", *(f"{key} = {value}" for key, value in options.items()), ""]
    if whose == THEIRS:
        # It starts bin/repozo, which its users make with a part of its own.
        parts += " repozo"
        lines += ["[repozo]", "recipe = zc.recipe.egg", "eggs = ZODB", "scripts = repozo", ""]
    head = ["[buildout]", f"parts = {parts} {part}", "offline = true", "newest = false", ""]
    (folder / "buildout.cfg").write_text("\n".join([*head, *lines, more]))
    return subprocess.run(
        [*program, "-U", "-c", str(folder / "buildout.cfg")],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


class Upstream:
    """collective.recipe.backup in the buildout of a site, with the site's options. pretends: whose clock it has."""

    def __init__(self, site: Site, **options: str) -> None:
        self.site = site
        made = run_buildout(THEIRS, site.folder, {**site.plain_options(), **options})
        assert made.returncode == 0, made.stdout
        self._clock = site.folder / "clock"
        self._clock.mkdir(exist_ok=True)
        (self._clock / "sitecustomize.py").write_text(CLOCK)

    def run(self, script: str, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of its scripts at the site's time, the site being stopped; its output has both streams."""
        self.site.close()
        environment = clean_environment() | {
            "PYTHONPATH": str(self._clock),
            "PRETENDED_NOW": str(self.site.clock.now()),
        }
        return subprocess.run(
            [self.site.folder / "bin" / script, *arguments],
            env=environment,
            cwd=self.site.folder,
            input=answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def backup(self, *, layout_changed: bool = False) -> tuple[str, State]:
        """bin/backup; its timestamp, and the state that it has to bring back.

        layout_changed: it may warn of what stands beside its own, and of a series that begins within a chain.
        """
        self.site.tick()
        before = set(self.site.timestamps())
        finished = self.run("backup", "-q")
        # It ends with 0 after a failed rsync too, which says so.
        said = _IN_THE_FUTURE.sub("", finished.stdout)
        if layout_changed:
            said = _LAYOUT_CHANGED.sub("", said)
        assert (finished.returncode, said) == (0, ""), said
        (stamp,) = set(self.site.timestamps()) - before
        self.date_blobs(stamp)
        return stamp, self.site.state()

    def date_blobs(self, stamp: str) -> None:
        """Give the newest directory or archive the time of its making: of numbered ones that is all their date."""
        moment = seconds(stamp) + LATER_BY
        for mark in ("0", stamp):
            for suffix in ("", ".tar", ".tar.gz", ".delta.tar", ".delta.tar.gz"):
                path = self.site.blob_location / f"blobstorage.{mark}{suffix}"
                if path.exists():
                    os.utime(path, (moment, moment))

    def restore(self, when: str) -> str:
        """bin/restore of a date; what it said. An error fails the test."""
        finished = self.run("restore", "-n", when)
        assert finished.returncode == 0, finished.stdout
        return finished.stdout

    def restore_with_the_pool(self, when: str) -> None:
        """What an administrator does who has only bin/repozo and our pool: README, "what to do without zodbvault"."""
        site = self.site
        assert site.blob_storage is not None
        finished = self.run("repozo", "-R", "-r", str(site.location), "-o", str(site.datafs), "-D", when)
        assert finished.returncode == 0, finished.stdout
        shutil.rmtree(site.blob_storage)
        shutil.copytree(site.blob_location / "blobs", site.blob_storage)


def differences_from(site: Site, state: State, *, more_blobs: bool = False) -> list[str]:
    """In which ways the stopped site is not in `state`, compared byte by byte; nothing when it is.

    more_blobs: there may be blobs of other dates.
    """
    assert site.blob_storage is not None
    found = []
    if site.datafs.read_bytes() != state.data:
        found.append("Data.fs")
    blobs = site.blobs
    for key, content in state.needed.items():
        if blobs.get(key) != content:
            found.append(f"blob {key} {'is another' if key in blobs else 'is missing'}")
    if not more_blobs:
        found += [f"blob {key} is too many" for key in blobs if key not in state.blobs]
    if len(blobs) != len(blob_files(site.blob_storage)):
        found.append("a blob that has two files")
    return found
