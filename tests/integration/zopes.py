"""Real sites in real buildouts: a Zope with a ZEO server, one without, and our part beside them.

Everything comes from the package index, and runs on 127.0.0.1 with free ports. Processes are stopped by their own
scripts, also when a test fails.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
BLOBPAGES = Path(__file__).resolve().parent / "blobpages"

PATIENCE = 180
"""Seconds that a server may take to answer for the first time."""

CRON_SECTION = "With buildout, by z3c.recipe.usercrontab"
"""Of the page on schedules."""

PID_FILES = {"instance": "instance/Z4.pid", "zeoserver": "zeoserver.pid"}
"""Where the recipes let each process write its number, below var; the first one stays when the process has ended."""

COMMON = """\
[buildout]
parts = {parts}
develop =
    {project}
    {blobpages}
eggs-directory = {eggs}
show-picked-versions = false

[versions]

[backup]
recipe = zodbvault
"""

# A user's crontab is none of the tests' business: another file takes its place.
OTHER_CRONTAB = """
[{part}]
readcrontab = cat ${{buildout:directory}}/crontab
writecrontab = tee ${{buildout:directory}}/crontab
"""

ZEOSERVER = """
[zeoserver]
recipe = plone.recipe.zeoserver
zeo-address = 127.0.0.1:{zeo_port}
eggs = blobpages
pack-days = 0
"""

INSTANCE = """
[instance]
recipe = plone.recipe.zope2instance
user = admin:admin
http-address = 127.0.0.1:{http_port}
zodb-temporary-storage = off
eggs =
    {eggs}
    blobpages
"""

ZEO_CLIENT = """\
zeo-client = on
zeo-address = 127.0.0.1:{zeo_port}
shared-blob = on
"""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def make_buildout_environment(folder: Path) -> Path:
    """An environment with the newest zc.buildout; its program `buildout`."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    packages = ["zc.buildout>=6", "zc.recipe.egg", "setuptools", "wheel"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "buildout"


@dataclass(frozen=True)
class ZopeSite:
    """A buildout with Zope in it. port: of HTTP. with_zeo: whether a ZEO server has the database.

    killed: what its own script did not stop. said: what was said by those that started something.
    """

    folder: Path
    port: int
    with_zeo: bool
    killed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def datafs(self) -> Path:
        """The database."""
        return self.folder / "var" / "filestorage" / "Data.fs"

    @property
    def location(self) -> Path:
        """Its backups, where our part keeps them without being told."""
        return self.folder / "var" / "backups"

    @property
    def blob_storage(self) -> Path:
        """Its blobs."""
        return self.folder / "var" / "blobstorage"

    def script(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a script of the buildout."""
        finished = subprocess.run(
            [self.folder / "bin" / name, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if check and finished.returncode:
            raise AssertionError(f"bin/{name} ended with {finished.returncode}:\n{finished.stdout}{finished.stderr}")
        return finished

    def url(self, path: str, **query: str) -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{self.port}/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def get(self, path: str, **query: str) -> str:
        """What Zope answers."""
        with urllib.request.urlopen(self.url(path, **query), timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    def write(self, name: str, text: str) -> None:
        """Write a page, over HTTP. A conflict with another request is tried again by Zope itself."""
        assert self.get("pages/write", id=name, text=text) == "written"

    def read_all(self) -> dict[str, str]:
        """Every page with its blob, over HTTP."""
        return {name: self.get(f"pages/{name}/read") for name in self.get("pages/ids").split()}

    def make_pages(self) -> None:
        """Put the folder of all pages into the database."""
        script = self.folder / "make_pages.py"
        script.write_text("from blobpages import make_pages\nmake_pages(app)\n")
        with self._zeo_running():
            self.script("instance", "run", str(script))

    @contextlib.contextmanager
    def _zeo_running(self) -> Iterator[None]:
        if not self.with_zeo:
            yield
            return
        try:
            self._start("zeoserver")
            yield
        finally:
            self._stop("zeoserver")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The site runs; stopped by its own scripts, whatever happens."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._zeo_running())
            stack.callback(self._stop, "instance")
            self._start("instance")
            self._wait()
            yield

    def _start(self, name: str) -> None:
        # It ends with 0 also where nothing runs then (the path of a socket may be too long, say) or not yet.
        finished = self.script(name, "start")
        self.said.append(finished.stdout + finished.stderr)

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("var/log/*"))
                raise AssertionError("\n".join(["Zope does not answer.", *self.said, logs]))
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            self.get("")
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _stop(self, name: str) -> None:
        pid = self._pid(name)
        self.script(name, "stop", check=False)
        end = time.monotonic() + 60
        while pid is not None and is_alive(pid):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(name)
            time.sleep(0.1)

    def pids(self) -> list[int]:
        """The processes of the site that run."""
        found = [self._pid(name) for name in PID_FILES]
        return [pid for pid in found if pid is not None and is_alive(pid)]

    def _pid(self, name: str) -> int | None:
        path = self.folder / "var" / PID_FILES[name]
        return int(path.read_text()) if path.exists() else None


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def cron_of_the_page() -> str:
    """What the page on schedules lets a reader put into buildout.cfg."""
    page = (PROJECT / "docs" / "schedule.rst").read_text(encoding="utf-8")
    section = page.partition(CRON_SECTION)[2]
    return textwrap.dedent(section.partition(".. code-block:: ini\n\n")[2].partition("\nSimpler:")[0])


def cron_parts() -> dict[str, dict[str, str]]:
    """The parts of that, with their options."""
    parser = configparser.RawConfigParser()
    parser.read_string(cron_of_the_page())
    return {name: dict(parser[name]) for name in parser.sections() if name != "buildout"}


def make_zope(buildout: Path, folder: Path, eggs: Path, *, with_zeo: bool, packages: str = "Zope[wsgi]") -> ZopeSite:
    """A buildout of a site, run; its database is still empty."""
    ports = {"zeo_port": free_port(), "http_port": free_port()}
    parts = "zeoserver instance backup" if with_zeo else "instance backup"
    configuration = COMMON.format(parts=parts, project=PROJECT, blobpages=BLOBPAGES, eggs=eggs)
    configuration += INSTANCE.format(eggs=packages, **ports)
    if with_zeo:
        configuration += ZEO_CLIENT.format(**ports) + ZEOSERVER.format(**ports)
    configuration += "".join(OTHER_CRONTAB.format(part=part) for part in cron_parts())
    folder.mkdir(parents=True)
    (folder / "crontab").write_text("# the administrator's own\n")
    (folder / "base.cfg").write_text(configuration)
    extended = cron_of_the_page().replace("[buildout]", "[buildout]\nextends = base.cfg")
    (folder / "buildout.cfg").write_text(extended)
    finished = subprocess.run([buildout], cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return ZopeSite(folder, ports["http_port"], with_zeo)
