"""Back up a real site, destroy it, restore it, damage a backup: with the scripts that buildout makes, as people do.

Says in a dozen lines what was done. Everything that is restored is compared, byte by byte and object by object; the
exit code is 0 only if all of it is equal.

    demo.py [--folder FOLDER]    the site is made in FOLDER and stays there; else in a temporary one that goes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
APPLICATION = PROJECT / "tools" / "demo_site.py"

CONFIGURATION = f"""\
# The buildout of zodbvault, in a folder of its own. To run it again: {{buildout}} -N
[buildout]
extends = {PROJECT}/buildout.cfg
develop = {PROJECT}
"""


# Buildout lets pip make the develop egg. pip is to fetch nothing, and to build without isolation, which it would fetch
# something for: the variable has the value of what `--no-build-isolation` switches off.
FETCH_NOTHING = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}


class DemoFailed(Exception):
    """Something was not as it has to be."""


@dataclass(frozen=True)
class State:
    """What a site is at one moment: the bytes of all its files, and what ZODB reads of it.

    files: of the blobstorage, by path. objects: a checksum of each object by its oid, as tools/demo_site.py reads them.
    """

    data_fs: bytes = field(repr=False)
    files: dict[str, bytes] = field(repr=False)
    objects: dict[str, str] = field(repr=False)

    @property
    def blobs(self) -> list[bytes]:
        """The content of every blob."""
        return [content for path, content in self.files.items() if path.endswith(".blob")]

    def __str__(self) -> str:
        size = (len(self.data_fs) + sum(map(len, self.blobs))) / 1e6
        return f"{len(self.objects):,} objects, {len(self.blobs)} blobs, {size:.1f} MB"


class Site:
    """A site in a folder of its own, with the scripts that buildout makes for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_fs = folder / "var" / "filestorage" / "Data.fs"
        self.blob_storage = folder / "var" / "blobstorage"
        self.backups = folder / "var" / "backups"

    def build(self) -> None:
        """Let buildout make the scripts. Nothing is fetched: all that they need is in the environment of the demo."""
        buildout = Path(sys.executable).with_name("buildout")
        (self.folder / "buildout.cfg").write_text(CONFIGURATION.format(buildout=buildout))
        self._run([str(buildout), "-U", "-N"])

    def write(self, seed: int) -> None:
        """Let an application commit objects and blobs."""
        self.script("zodb-python", str(APPLICATION), "write", str(seed))

    def state(self) -> State:
        """All bytes of the site, and every object as ZODB reads it."""
        data_fs = self.data_fs.read_bytes()
        files = {
            str(path.relative_to(self.blob_storage)): path.read_bytes()
            for path in self.blob_storage.rglob("*")
            if path.is_file() and path.relative_to(self.blob_storage).parts[0] != "tmp"
        }
        read = self.script("zodb-python", str(APPLICATION), "read")
        return State(data_fs, files, json.loads(read.stdout))

    def script(
        self, name: str, *arguments: str, answer: str = "", expected: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the site; it has to end with the exit code that is expected."""
        return self._run([str(self.folder / "bin" / name), *arguments], answer=answer, expected=expected)

    def newest_backup(self) -> str:
        """The timestamp of the newest backup, from the list as a program reads it."""
        (location,) = json.loads(self.script("backup-list", "--json").stdout)["locations"]
        timestamp: str = location["chains"][-1]["backups"][-1]["timestamp"]
        return timestamp

    def destroy(self) -> None:
        """Lose everything but the backups."""
        shutil.rmtree(self.data_fs.parent)
        shutil.rmtree(self.blob_storage)

    def looks(self) -> dict[str, tuple[int, int, int, str]]:
        """Size, time of change, inode and content of every file: to see that none was touched."""
        found = {}
        for path in (*self.data_fs.parent.rglob("*"), *self.blob_storage.rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                status = path.stat()
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_ino, content)
        return found

    def _run(self, command: list[str], *, answer: str = "", expected: int = 0) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **FETCH_NOTHING},
            input=answer,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if finished.returncode != expected:
            what = f"{' '.join(command)}: exit code {finished.returncode}, expected was {expected}"
            raise DemoFailed(f"{what}\n{finished.stdout}{finished.stderr}".rstrip())
        return finished


def say(what: str) -> None:
    """A line of the demo's story."""
    print(what, flush=True)


def demo(site: Site) -> None:
    """The story. Raises DemoFailed where it does not go on as it should."""
    site.build()
    say("buildout made bin/backup, bin/restore and their sisters from buildout.cfg.")
    site.write(seed=1)
    before = site.state()
    say(f"An application committed {before}.")
    say(f"bin/backup: {last_line(site.script('backup'))}")
    first = site.newest_backup()
    site.write(seed=2)
    after = site.state()
    say(f"It committed more: {after}.")
    say(f"bin/backup: {last_line(site.script('backup'))}")

    site.destroy()
    say("Destroyed Data.fs and the blobstorage.")
    site.script("restore", "-n", first)
    say(f"bin/restore -n {first}: {compare(site, before)}")
    site.script("restore", answer="yes\n")
    say(f"bin/restore, its question answered with yes: {compare(site, after)}")

    damaged = site.backups / f"{first}.fsz"
    flip_byte(damaged)
    site.script("backup-verify", expected=1)
    untouched = site.looks()
    refusal = last_line(site.script("restore", "-n", expected=1))
    if site.looks() != untouched:
        raise DemoFailed("a restore that was refused has touched the site")
    say(f"Flipped a byte of {damaged.name}: bin/backup-verify finds it, and bin/restore refuses. It said:")
    say(f"    {refusal.replace(f'{site.folder}/', '')}")
    say("    No file of the site was touched.")
    site.script("backup", "--full")
    site.script("restore", "-n")
    say(f"Mended with bin/backup --full; bin/restore -n: {compare(site, after)}")
    flip_byte(damaged)
    site.script("backup-verify", "--deep")
    say("Flipped the byte back: bin/backup-verify --deep finds all backups good.")


def compare(site: Site, expected: State) -> str:
    """Compare the site with a state of it, every byte and every object. Raises DemoFailed when anything differs."""
    found = site.state()
    if found.data_fs != expected.data_fs:
        raise DemoFailed("the bytes of Data.fs differ")
    if found.files != expected.files:
        differing = sorted(set(found.files.items()) ^ set(expected.files.items()))
        raise DemoFailed(f"the blobs differ, such as {differing[0][0]}")
    if found.objects != expected.objects:
        raise DemoFailed("the bytes are equal, but ZODB reads other objects")
    return f"{found}, all bytes equal."


def flip_byte(path: Path) -> None:
    """Change one bit in the middle of a file, as an old disk does; a second time changes it back."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def last_line(finished: subprocess.CompletedProcess[str]) -> str:
    """What a script said last."""
    return finished.stderr.splitlines()[-1].partition(": ")[2]


def main() -> int:
    """Make the site, play the story, return an exit code."""
    parser = argparse.ArgumentParser(description="Back up a real site, destroy it, restore it, compare everything.")
    parser.add_argument("--folder", type=Path, help="make the site here and leave it; a new or an empty folder")
    folder = parser.parse_args().folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
    started = time.monotonic()
    place = tempfile.TemporaryDirectory(prefix="zodbvault-demo-") if folder is None else nullcontext(folder)
    with place as where:
        try:
            demo(Site(Path(where).resolve()))
        except DemoFailed as error:
            say(f"FAILED: {error}")
            return 1
    say(f"The demo is good: everything that was restored is equal, byte for byte. {time.monotonic() - started:.0f} s.")
    if folder is not None:
        say(f"The site stays in {folder}: look at it with bin/backup-list, bin/zodb-python, bin/repozo.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
