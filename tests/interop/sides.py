"""Two sites that are alike, one backed up by our scripts, the other by theirs, as their buildouts made them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from benchmarks.environments import OURS, THEIRS

from tests.interop.upstream import CLOCK, START, clean_environment, run_buildout
from tests.site import Site, State, timestamp

if TYPE_CHECKING:
    from pathlib import Path


class Side:
    """One of the two: a buildout, and the site in it. whose: OURS or THEIRS. made: what buildout said."""

    def __init__(
        self, whose: str, folder: Path, options: dict[str, str], *, part: str = "backup", blobs: str = "blobstorage"
    ) -> None:
        self.whose = whose
        self.folder = folder
        self.part = part
        self._blobs = blobs
        places = {
            "datafs": str(folder / "var/filestorage/Data.fs"),
            "blob_storage": str(folder / "var" / blobs),
        }
        self.made = run_buildout(whose, folder, {**places, **options}, part=part)
        self._clock = folder / "clock"
        self._clock.mkdir(exist_ok=True)
        (self._clock / "sitecustomize.py").write_text(CLOCK)
        # Buildout has made folders; they come again with the first backup.
        self.begin()

    def begin(self) -> None:
        """A new site with some blobs, never backed up."""
        shutil.rmtree(self.folder / "var", ignore_errors=True)
        self.site = Site(self.folder, start=START)
        blob_storage = self.folder / "var" / self._blobs
        if blob_storage != self.site.blob_storage:
            (self.folder / "var/blobstorage").rename(blob_storage)
            self.site.blob_storage = blob_storage
        self.site.begin_with_a_blob()
        self.site.commit_blobs(5)
        self.site.close()

    @property
    def scripts(self) -> set[str]:
        """The names of the part's scripts."""
        return {path.name for path in (self.folder / "bin").iterdir()} - {"repozo"}

    def run(
        self, script: str, *arguments: str, answer: str | None = None, minutes: float = 1
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the part `backup` by its name there, some minutes later; output has both streams."""
        self.site.close()
        self.site.tick(60 * minutes)
        now = self.site.clock.now()
        environment = clean_environment()
        if self.whose == OURS:
            environment["ZODBVAULT_TEST_NOW"] = timestamp(now)
        else:
            environment |= {"PYTHONPATH": str(self._clock), "PRETENDED_NOW": str(now)}
        return subprocess.run(
            [self.folder / "bin" / self.script_name(script), *arguments],
            cwd=self.folder,
            env=environment,
            input=answer or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def script_name(self, script: str) -> str:
        """What a script of the part `backup` is called in this part."""
        if self.part == "backup":
            return script
        return self.part if script == "backup" else f"{self.part}-{script.replace('backup', '')}"

    def code(self, script: str, *arguments: str, answer: str | None = None) -> int:
        """The exit code of a script."""
        return self.run(script, *arguments, answer=answer).returncode

    def backup(self) -> tuple[str, State]:
        """A backup that ends with 0; its timestamp and state."""
        before = set(self.site.timestamps())
        finished = self.run("backup")
        assert finished.returncode == 0, finished.stdout
        (stamp,) = set(self.site.timestamps()) - before
        return stamp, self.site.state()

    @property
    def blob_location(self) -> Path:
        """The default folder for the backups of blobs."""
        return self.folder / "var/blobstoragebackups"


class Sides:
    """Ours and theirs, with the same options."""

    def __init__(
        self, folder: Path, options: dict[str, str], *, part: str = "backup", blobs: str = "blobstorage"
    ) -> None:
        filled = {
            whose: {key: value.replace("HERE", str(folder / whose)) for key, value in options.items()}
            for whose in (OURS, THEIRS)
        }
        self.ours = Side(OURS, folder / OURS, filled[OURS], part=part, blobs=blobs)
        self.theirs = Side(THEIRS, folder / THEIRS, filled[THEIRS], part=part, blobs=blobs)

    @property
    def both(self) -> tuple[Side, Side]:
        """Theirs, ours."""
        return self.theirs, self.ours

    def begin(self) -> None:
        """New sites for both."""
        for side in self.both:
            side.begin()

    def codes(self, script: str, *arguments: str, answer: str | None = None) -> tuple[int, int]:
        """Exit codes of a script: theirs, ours."""
        theirs, ours = self.both
        return theirs.code(script, *arguments, answer=answer), ours.code(script, *arguments, answer=answer)

    def backups(self, number: int = 1) -> None:
        """Some backups of each, with new blobs before each but the first."""
        for side in self.both:
            for turn in range(number):
                if turn:
                    side.site.commit_blobs(2)
                side.backup()
