"""Make the pictures of the documentation anew, docs/pictures/*: what the scripts of a real site show on a terminal.

    make_pictures.py [FOLDER]    the site is made in FOLDER (a temporary one that goes, if none is given); it takes 2 GB

The site lives through two weeks, in which somebody changes it each day and it is backed up each night. The list and the
progress bar are what the commands write to a terminal, set as SVG by rich; the page of the report is photographed by a
headless Chromium.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from rich.console import Console
from rich.text import Text
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

from zodbvault.commands.backup import backup
from zodbvault.commands.drill import drill
from zodbvault.commands.verify import verify
from zodbvault.io.clock import SystemClock
from zodbvault.repository.checks import DEFAULT
from zodbvault.site_file import read_site_file

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
DAYS = 13
MEGABYTES = 500
"""Of Data.fs on the first day: a backup of it takes long enough for a bar."""
COLUMNS = 132
DAY = 86_400

CONFIGURATION = """\
[site.plone]
datafs = "var/filestorage/Data.fs"
blob_storage = "var/blobstorage"
location = "var/backups"
blobbackuplocation = "var/blobstoragebackups"
keep = 0
"""


def nights() -> Iterator[float]:
    """How long ago each night was, in seconds: three o'clock, UTC, the last one today or yesterday."""
    last = time.time() - 3 * 3600
    since = last % DAY
    for day in reversed(range(DAYS)):
        yield since + day * DAY


def live_through_two_weeks(folder: Path) -> None:
    """Make the site with its backups."""
    (folder / "zodbvault.toml").write_text(CONFIGURATION)
    (folder / "var" / "filestorage").mkdir(parents=True)
    settings = read_site_file(folder / "zodbvault.toml", None)
    chance = random.Random(7)
    real = time.time
    for number, ago in enumerate(nights()):
        with mock.patch("time.time", lambda ago=ago: real() - ago - 900):
            work(folder, chance, number)
        with mock.patch("time.time", lambda ago=ago: real() - ago):
            backup(settings, full=number % 6 == 0, clock=SystemClock())
            if number == DAYS - 2:
                verify(settings, when=None, how=DEFAULT, which="backups", clock=SystemClock())
                drill(settings, when=None, which="backups", sample=None, tmp=None, clock=SystemClock())


def work(folder: Path, chance: random.Random, number: int) -> None:
    """What is committed in a day: on the first one the whole site, then a little of it."""
    storage = FileStorage(str(folder / "var" / "filestorage" / "Data.fs"), blob_dir=str(folder / "var" / "blobstorage"))
    database = ZODB.DB(storage)
    root = database.open().root()
    transactions = MEGABYTES if number == 0 else chance.randrange(3, 40)
    for _ in range(transactions):
        page = root[f"page {chance.randrange(10**6)}"] = PersistentMapping()
        page["text"] = chance.randbytes(chance.randrange(900_000)).hex()
        if chance.random() < 0.3:
            file = root[f"file {chance.randrange(10**6)}"] = Blob()
            with file.open("w") as stream:
                stream.write(chance.randbytes(chance.randrange(2_000_000)))
        transaction.commit()
    database.close()


def on_a_terminal(folder: Path, *command: str) -> str:
    """All that a command writes to a terminal of COLUMNS columns."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), TZ="UTC")
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    written = b""
    while True:
        try:
            some = os.read(terminal, 65_536)
        except OSError:  # the terminal of a process that ended
            break
        if not some:
            break
        written += some
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{command} ended with {status}\n{written.decode()}")
    return written.decode()


def draw(name: str, lines: str) -> None:
    """Write what stood on a terminal as docs/pictures/NAME.svg, without the font that rich would fetch."""
    text = Text.from_ansi(lines.replace("\r\n", "\n").rstrip("\n"))
    width = max(len(line) for line in text.plain.splitlines())
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True)
        console.print(text, soft_wrap=True)
    picture = console.export_svg(title="", unique_id=name)
    picture = re.sub(r"\s*@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
    (PICTURES / f"{name}.svg").write_text(picture.replace("Fira Code, monospace", "monospace"), encoding="utf-8")


def screen_with_bar(written: str) -> str:
    """The screen in the moment at which a bar was in the middle of its way."""
    before, _, rest = written.partition("\x1b[?25l")
    frames = [frame for frame in re.split(r"\r?\x1b\[2K|\x1b\[1A|\r", rest) if "%" in frame or "MB/s" in frame]
    if not frames:
        raise SystemExit("no bar was shown: the machine is too fast for MEGABYTES")
    return before + frames[len(frames) // 2]


def photograph(page: Path, name: str) -> None:
    """Write a page as a browser shows it as docs/pictures/NAME.png."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", f"--user-data-dir={profile}", "--window-size=1000,1370",
                f"--screenshot={PICTURES / name}.png", f"file://{page}",
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def make_pictures(folder: Path) -> None:
    """All pictures, of a site in `folder`."""
    PICTURES.mkdir(exist_ok=True)
    live_through_two_weeks(folder)
    program = str(Path(sys.executable).with_name("zodbvault"))
    draw("list", f"$ zodbvault list\n{on_a_terminal(folder, program, 'list')}")
    subprocess.run([program, "report", "-q", "-o", "report.html"], cwd=folder, check=True)
    page = folder / "report.html"
    page.write_text(page.read_text(encoding="utf-8").replace(str(folder), "/srv/site"), encoding="utf-8")
    photograph(page, "report")
    written = on_a_terminal(folder, program, "backup", "--full")
    draw("progress", f"$ zodbvault backup --full\n{screen_with_bar(written)}".replace(f"{folder}/", ""))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make_pictures(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            make_pictures(Path(temporary).resolve())
