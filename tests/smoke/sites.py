"""Sites in real buildouts, and an application that writes to them.

Knows nothing of zodbvault but its files: the environment that these tests run in has zc.buildout and ZODB, and a
buildout brings zodbvault. Needs pytest and nothing else beside them.
"""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
APPLICATION = PROJECT / "tools" / "demo_site.py"

HAS_ISAL = importlib.util.find_spec("isal") is not None

VERSION = "90.1"
"""Of the copy of zodbvault that buildouts get: that of no other, so that none can be taken for it."""

PART = """
[backup]
recipe = zodbvault
datafs = var/filestorage/Data.fs
blob_storage = var/blobstorage
"""


def copy_project(folder: Path) -> Path:
    """A copy of what makes a package of the project.

    Where there is no isal it does not ask for isal either, as on a machine that no wheel of isal exists for.
    """
    shutil.copytree(PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(PROJECT / "man", folder / "man")
    for name in ("setup.py", "README.rst"):
        shutil.copy(PROJECT / name, folder)
    metadata = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    if not HAS_ISAL:
        metadata, number = re.subn(r'^    "isal.*\n', "", metadata, flags=re.MULTILINE)
        assert number == 1
    (folder / "pyproject.toml").write_text(metadata, encoding="utf-8")
    set_version(folder, VERSION)
    return folder


def set_version(project: Path, version: str) -> None:
    """Let a copy of the project be of another version."""
    module = project / "src" / "zodbvault" / "version.py"
    text, number = re.subn(r'^(VERSION\b.*= )".*"$', rf'\1"{version}"', module.read_text(), flags=re.MULTILINE)
    assert number == 1
    module.write_text(text)


def build_wheel(project: Path, wheels: Path) -> None:
    """Add the wheel of a copy of the project to a folder of wheels."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels]
    run([sys.executable, "-m", "pip", "wheel", *options, project], project)


def run(
    command: list[str | Path], folder: Path, *, expected: int = 0, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; it has to end with the exit code that is expected.

    pip fetches nothing: it knows no other index than it is told of, and builds with what is there.
    """
    strange = ("PYTHON", "COV", "BUILDOUT", "PIP_")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(strange) and not key.lower().endswith("_proxy")
    }
    # To pip this means no isolation: the variable has the value of what `--no-build-isolation` switches off.
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_BUILD_ISOLATION": "0"}
    finished = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        input=answer,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if finished.returncode != expected:
        said = f"{finished.stdout}{finished.stderr}"
        raise AssertionError(f"{command}: exit code {finished.returncode}, expected was {expected}\n{said}")
    return finished


@dataclass(frozen=True)
class State:
    """A site at one moment: its bytes, and what ZODB reads of them. blobs: by path, with the sha256 of each."""

    data: bytes = field(repr=False)
    blobs: dict[str, str]
    objects: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Index:
    """A package index on this machine that has nothing, and remembers what it was asked for."""

    url: str
    asked: list[str]


@contextmanager
def empty_index() -> Iterator[Index]:
    """An index that runs while this is open."""
    asked: list[str] = []

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Index(f"http://127.0.0.1:{server.server_port}/simple/", asked)
        server.shutdown()


@dataclass(frozen=True)
class Packages:
    """Where buildouts get zodbvault. project: its source. wheels: a folder with its wheel. index: has nothing."""

    project: Path
    wheels: Path
    eggs: Path
    index: Index


class Site:
    """A folder with a buildout, and a database below its var."""

    def __init__(self, folder: Path, packages: Packages) -> None:
        self.folder = folder
        self.packages = packages
        folder.mkdir(exist_ok=True)

    def configure(self, text: str = PART, *, head: str = "parts = backup", name: str = "buildout.cfg") -> Path:
        """Write a configuration. head: what the [buildout] section has beside the places of packages."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        places = [f"find-links = {self.packages.wheels}", f"index = {self.packages.index.url}"]
        for option, value in (("newest", "false"), ("eggs-directory", str(self.packages.eggs))):
            if not re.search(rf"^\s*{option}\s*=", head, flags=re.MULTILINE):
                places.append(f"{option} = {value}")
        lines = ["[buildout]", *places, textwrap.dedent(head).strip()]
        path.write_text("\n".join(lines) + "\n" + textwrap.dedent(text), encoding="utf-8")
        return path

    def buildout(self, *arguments: str, folder: Path | None = None, expected: int = 0) -> str:
        """Run buildout, from the site's folder if no other is given; what it said."""
        program = Path(sys.executable).with_name("buildout")
        finished = run([program, "-U", *arguments], folder or self.folder, expected=expected)
        return finished.stdout + finished.stderr

    def script(
        self, name: str, *arguments: str, expected: int = 0, answer: str = "", folder: Path = Path("/")
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that buildout made."""
        return run([self.folder / "bin" / name, *arguments], folder, expected=expected, answer=answer)

    def backup(self, *arguments: str) -> str:
        """Back up; the timestamp of the newest backup."""
        self.script("backup", *arguments)
        return self.timestamps()[-1]

    def timestamps(self) -> list[str]:
        """Those of all backups, as the list for programs has them."""
        (location,) = json.loads(self.script("backup-list", "--json").stdout)["locations"]
        return [backup["timestamp"] for chain in location["chains"] for backup in chain["backups"]]

    def write(self, seed: int) -> State:
        """Let the application commit; the state of the site after that."""
        run([sys.executable, APPLICATION, "write", str(seed)], self.folder)
        return self.state()

    def state(self) -> State:
        """The site as it is now."""
        storage = self.folder / "var" / "blobstorage"
        return State(
            (self.folder / "var" / "filestorage" / "Data.fs").read_bytes(),
            {
                str(path.relative_to(storage)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in storage.rglob("*.blob")
            },
            json.loads(run([sys.executable, APPLICATION, "read"], self.folder).stdout),
        )

    def destroy(self) -> None:
        """Lose everything but the backups."""
        shutil.rmtree(self.folder / "var" / "filestorage")
        shutil.rmtree(self.folder / "var" / "blobstorage")
