"""A real site for tests: a FileStorage with blobs in a folder, everything that happens to one, and our commands on it.

What is live is read by code of its own (a few lines, or ZODB), never by the code under test.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from calendar import timegm
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob, is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileIterator

from zodbvault.commands.backup import backup
from zodbvault.commands.list import list_backups
from zodbvault.commands.restore import restore
from zodbvault.commands.snapshot import snapshot
from zodbvault.commands.tables import aligned
from zodbvault.commands.verify import verify
from zodbvault.commands.zipbackup import zipbackup
from zodbvault.io.clock import PretendClock
from zodbvault.script_names import names_of_scripts
from zodbvault.settings import Settings, Surroundings, parse_settings, settings_to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zodbvault.commands.summary import BackupReport, RestoreReport
    from zodbvault.commands.verify import VerifyReport

START = "2076-11-23-18-05-00"
"""Later than any tid of these databases, which come from the real clock."""
SOURCE = Path(__file__).resolve().parent.parent / "src"

_TRANSACTION_HEADER = struct.Struct(">8sQcHHH")
_DATA_NAME = re.compile(r"(\d{4}(?:-\d\d){5})\.(?:delta)?fsz?")

BlobKey = tuple[int, int]
"""oid and tid of a blob."""


def timestamp(seconds: float) -> str:
    """A moment in seconds since 1970 as a timestamp."""
    return time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(seconds))


def seconds(stamp: str) -> int:
    """A timestamp as seconds since 1970."""
    return timegm(time.strptime(stamp, "%Y-%m-%d-%H-%M-%S"))


def committed_tids(data: bytes) -> list[tuple[bytes, int]]:
    """tid and end of every transaction of a Data.fs up to the first one that is not finished."""
    assert data[:4] in (b"FS21", b"FS30")
    found, position = [], 4
    while position + _TRANSACTION_HEADER.size <= len(data):
        tid, length, status, _, _, _ = _TRANSACTION_HEADER.unpack_from(data, position)
        if status == b"c" or position + length + 8 > len(data):
            break
        assert data[position + length : position + length + 8] == struct.pack(">Q", length)
        position += length + 8
        found.append((tid, position))
    return found


def committed_part(data: bytes) -> bytes:
    """The bytes of a Data.fs up to the end of its last committed transaction."""
    tids = committed_tids(data)
    return data[: tids[-1][1]] if tids else data[:4]


def copy_without_times(source: str, target: str) -> None:
    """Copies the bytes of a file, and nothing else of it."""
    shutil.copyfile(source, target, follow_symlinks=False)


def blob_files(folder: Path) -> dict[BlobKey, Path]:
    """Every blob of a blobstorage, bushy or lawn, by oid and tid."""
    found: dict[BlobKey, Path] = {}
    for where, folders, names in os.walk(folder):
        if where == str(folder) and "tmp" in folders:
            folders.remove("tmp")
        oid = os.path.relpath(where, folder).replace("0x", "").replace("/", "")
        for name in names:
            if name.endswith(".blob"):
                found[int(oid, 16), int(name[2:-5], 16)] = Path(where, name)
    return found


def referenced_blobs(data: bytes) -> frozenset[BlobKey]:
    """oid and tid of every blob record in the committed part of a Data.fs, as ZODB itself sees them."""
    found = set()
    # ZODB's iterator stumbles over a transaction that was cut short, so it gets the committed part in a file.
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.closing(FileIterator(file.name)) as transactions:
            for each in transactions:
                for record in each:
                    if record.data is not None and is_blob_record(record.data):
                        found.add((int.from_bytes(record.oid, "big"), int.from_bytes(record.tid, "big")))
    return frozenset(found)


@dataclass(frozen=True)
class State:
    """What a site is at one moment: the committed bytes, its blobs, and which of those the bytes refer to."""

    data: bytes
    blobs: dict[BlobKey, bytes] = field(repr=False)
    referenced: frozenset[BlobKey] = field(repr=False)

    @property
    def needed(self) -> dict[BlobKey, bytes]:
        """The blobs that the data refer to and the site has."""
        return {key: content for key, content in self.blobs.items() if key in self.referenced}

    @property
    def last_tid(self) -> bytes | None:
        """tid of the last transaction."""
        tids = committed_tids(self.data)
        return tids[-1][0] if tids else None


def tree(*folders: Path, ignore: tuple[str, ...] = (".zodbvault.lock",)) -> dict[str, tuple[int, int, int]]:
    """Every file below `folders`: size, time of change and inode, to see that nothing was touched."""
    found = {}
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                if name not in ignore:
                    path = os.path.join(where, name)
                    status = os.lstat(path)
                    found[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


class Site:
    """A site in a folder of its own.

    layout: of the blobstorage. options: as in buildout.cfg. The clock of the commands stands at `start` and goes one
    minute further before each backup, each restore and each script. wrap: puts another storage around the FileStorage.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: dict[str, Any] | None = None,
        blobs: bool = True,
        layout: str = "bushy",
        start: str = START,
        seed: int = 1,
        wrap: Callable[[Any], Any] | None = None,
    ) -> None:
        self.wrap = wrap
        self.folder = folder
        self.var = folder / "var"
        self.datafs = self.var / "filestorage" / "Data.fs"
        self.blob_storage: Path | None = self.var / "blobstorage" if blobs else None
        self.options: dict[str, Any] = dict(options or {})
        self.layout = layout
        self.clock = PretendClock(seconds(start))
        self.random = random.Random(seed)
        self.manager = transaction.TransactionManager(explicit=True)
        self._db: ZODB.DB | None = None
        self.datafs.parent.mkdir(parents=True, exist_ok=True)
        if self.blob_storage is not None and not self.blob_storage.exists():
            self.blob_storage.mkdir(parents=True)
            if layout != "bushy":
                # ZODB makes the layout anew with the database, so there has to be an (empty) one.
                FileStorage(str(self.datafs), blob_dir=str(self.blob_storage)).close()
                (self.blob_storage / ".layout").write_text(layout)

    # Settings and places

    def plain_options(self) -> dict[str, Any]:
        """The options of this site, as they would stand in buildout.cfg, with what buildout finds by itself."""
        found: dict[str, Any] = {
            "datafs": str(self.datafs),
            "location": str(self.var / "backups"),
            "snapshotlocation": str(self.var / "snapshotbackups"),
            "keep": "0",
        }
        if self.blob_storage is not None:
            found |= {
                "blob_storage": str(self.blob_storage),
                "blobbackuplocation": str(self.var / "blobstoragebackups"),
                "blobsnapshotlocation": str(self.var / "blobstoragesnapshots"),
            }
        else:
            found["backup_blobs"] = "false"
        return {**found, **self.options}

    @property
    def settings(self) -> Settings:
        """What the options mean."""
        return make_settings(self.plain_options(), self.folder)

    @property
    def location(self) -> Path:
        """The repository of bin/backup."""
        return Path(self.settings.location)

    @property
    def blob_location(self) -> Path:
        """The blob location of bin/backup."""
        blob_location = self.settings.blobbackuplocation
        assert blob_location is not None
        return Path(blob_location)

    def everything(self) -> tuple[Path, ...]:
        """All folders: site and backups."""
        return (self.folder,)

    # The database

    @property
    def db(self) -> ZODB.DB:
        """The open database; opened when it is not."""
        if self._db is None:
            storage = FileStorage(
                str(self.datafs),
                blob_dir=None if self.blob_storage is None else str(self.blob_storage),
                pack_keep_old=False,
            )
            self._db = ZODB.DB(storage if self.wrap is None else self.wrap(storage))
        return self._db

    @property
    def is_open(self) -> bool:
        """Whether the database is open."""
        return self._db is not None

    def close(self) -> None:
        """Stop the site."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextlib.contextmanager
    def changing(self, note: str = "") -> Iterator[Any]:
        """The root object in a transaction that is committed in the end."""
        transaction_ = self.manager.begin()
        connection = self.db.open(self.manager)
        try:
            yield connection.root()
            transaction_.note(note or "a change")
            self.manager.commit()
        except BaseException:
            self.manager.abort()
            raise
        finally:
            connection.close()

    def begin_with_a_blob(self) -> None:
        """One transaction with a blob that stays: it is neither deleted nor undone by what stands below."""
        with self.changing("initial blob") as root:
            root["logo"] = Blob(self.random.randbytes(100))

    def commit_pages(self, number: int = 1, size: int = 200) -> None:
        """One transaction that adds or changes `number` objects."""
        with self.changing() as root:
            for _ in range(number):
                page = root.setdefault(f"page{self.random.randrange(40)}", PersistentMapping())
                page["text"] = self.random.randbytes(self.random.randrange(1, size)).hex()

    def commit_blobs(self, number: int = 1, size: int = 3000, names: int = 12) -> None:
        """One transaction that adds or changes `number` blobs of `names` at most."""
        with self.changing() as root:
            for _ in range(number):
                blob = root.setdefault(f"blob{self.random.randrange(names)}", Blob())
                with blob.open("w") as file:
                    file.write(self.random.randbytes(self.random.randrange(size)))

    def delete(self) -> bool:
        """One transaction that removes an object or a blob; False when there is none."""
        with self.changing() as root:
            names = sorted(name for name in root if name != "logo")
            if names:
                del root[self.random.choice(names)]
        return bool(names)

    def undo(self, back: int = 0) -> bool:
        """Undo the transaction that is the `back`th from the newest; False when it cannot be undone."""
        from ZODB.POSException import POSError

        log = self.db.undoLog(0, back + 1)
        if len(log) <= back or "initial" in str(log[back]["description"]):
            return False
        self.manager.begin()
        try:
            self.db.undo(log[back]["id"], self.manager.get())
            self.manager.commit()
        except (POSError, KeyError):
            self.manager.abort()
            return False
        return True

    def pack(self, *, keep_old: bool = False, until: float | None = None) -> None:
        """Pack, as a site's weekly job does. until: seconds since 1970; now when None."""
        self.db.storage.pack_keep_old = keep_old
        self.db.pack(time.time() if until is None else until)

    def abort(self, *, with_blob: bool = True) -> None:
        """A transaction that was voted, written to Data.fs as unfinished, and then given up."""

        def refuse() -> None:
            raise _Refused

        with contextlib.suppress(_Refused):
            self.commit_while(refuse, with_blob=with_blob)

    def commit_while(self, act: Callable[[], None], *, with_blob: bool = True) -> None:
        """A transaction with a page and a blob; `act` is called between its vote and its end.

        Data.fs ends in a whole transaction with status `c` then, and the blob is in its place.
        """
        with self.changing() as root:
            root["voted"] = PersistentMapping({"text": self.random.randbytes(50).hex()})
            if with_blob:
                root["voted blob"] = Blob(self.random.randbytes(100))
            self.manager.get().join(_ActsLast(self.manager, act))

    def crash(self, how: str = "cut", keep: float = 0.5, *, with_blob: bool = True) -> None:
        """The machine stops while a transaction is written. how: "cut" (keep: the part that was written) or "voted"."""
        self.close()
        index = Path(f"{self.datafs}.index")
        index_before = index.read_bytes() if index.exists() else None
        before = len(self.data)
        with self.changing() as root:
            root["crashed"] = PersistentMapping({"text": self.random.randbytes(150).hex()})
            if with_blob:
                root["crashed blob"] = Blob(b"half done")
        self.close()
        data = self.datafs.read_bytes()
        tail = data[before:][:16] + b"c" + data[before:][17:]
        if how == "cut":
            tail = tail[: max(1, min(len(tail) - 1, int(len(tail) * keep)))]
        self.datafs.write_bytes(data[:before] + tail)
        index.unlink(missing_ok=True)
        if index_before is not None:
            index.write_bytes(index_before)

    # What is there

    @property
    def data(self) -> bytes:
        """The committed part of the live Data.fs."""
        return committed_part(self.datafs.read_bytes())

    @property
    def blobs(self) -> dict[BlobKey, bytes]:
        """The content of every blob of the live blobstorage."""
        if self.blob_storage is None:
            return {}
        return {key: path.read_bytes() for key, path in blob_files(self.blob_storage).items()}

    def state(self) -> State:
        """The site as it is now."""
        data = self.data
        return State(data, self.blobs, referenced_blobs(data))

    def timestamps(self, location: Path | None = None) -> list[str]:
        """The timestamps of the data files in the repository, oldest first."""
        return sorted(match[1] for match in map(_DATA_NAME.fullmatch, self.names(location)) if match)

    def names(self, location: Path | None = None) -> list[str]:
        """The names of all files in the repository."""
        folder = location or self.location
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    # Our commands, in this process

    def tick(self, seconds_: float = 60.0) -> None:
        """Time goes by."""
        self.clock.sleep(seconds_)

    def set_clock(self, stamp: str) -> None:
        """Set the clock of the commands, forward or backward."""
        self.clock = PretendClock(seconds(stamp))

    def backup(self, *, full: bool = False) -> BackupReport:
        """bin/backup."""
        self.tick()
        return backup(self.settings, full=full, clock=self.clock)

    def snapshot(self) -> BackupReport:
        """bin/snapshotbackup."""
        self.tick()
        return snapshot(self.settings, clock=self.clock)

    def zipbackup(self) -> BackupReport:
        """bin/zipbackup."""
        self.tick()
        return zipbackup(self.settings, clock=self.clock)

    def restore(
        self,
        when: str | None = None,
        *,
        source: str = "location",
        accept_missing_blobs: bool = False,
        checksum: bool = False,
        at: str | None = None,
    ) -> RestoreReport:
        """bin/restore: stops the site first, as an administrator would."""
        self.close()
        self.tick()
        return self.restore_while_open(
            when, source=source, accept_missing_blobs=accept_missing_blobs, checksum=checksum, at=at
        )

    def restore_while_open(
        self,
        when: str | None = None,
        *,
        source: str = "location",
        accept_missing_blobs: bool = False,
        checksum: bool = False,
        at: str | None = None,
        to: Path | None = None,
    ) -> RestoreReport:
        """bin/restore without stopping the site."""
        return restore(
            self.settings,
            source=source,
            when=when,
            ask=None,
            clock=self.clock,
            accept_missing_blobs=accept_missing_blobs,
            checksum=checksum,
            at=at,
            to=to,
        )

    def verify(
        self,
        when: str | None = None,
        *,
        deep: bool = False,
        quick: bool = False,
        which: str = "backups",
        opens: bool = False,
        tmp: Path | None = None,
    ) -> VerifyReport:
        """bin/backup-verify."""
        how = "deep" if deep else "quick" if quick else "default"
        return verify(self.settings, when=when, how=how, which=which, clock=self.clock, opens=opens, tmp=tmp)

    def list(self, when: str | None = None, *, which: str = "backups") -> tuple[str, ...]:
        """bin/backup-list: the table, what stands below it, and the warnings."""
        result = list_backups(self.settings, when=when, which=which, clock=self.clock)
        return (*aligned(result.table), *result.lines, *result.warnings)

    def backed_up(self, *, full: bool = False) -> tuple[str, State]:
        """A backup, its timestamp and the state that it has to bring back."""
        report = self.backup(full=full)
        assert report.timestamp is not None
        return report.timestamp, self.state()

    # Our commands as child processes

    def command(self, name: str, *arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """Run a real script (`backup`, `restore`, ... as buildout names them) at this site's time."""
        self.tick()
        script = generate_script(self, name)
        prefix = keywords.pop("prefix", ())
        # What a coverage run does in a process is not to be counted as that process' own work.
        inherited = without_coverage() if prefix else os.environ
        environment = {**inherited, "ZODBVAULT_TEST_NOW": timestamp(self.clock.now()), **keywords.pop("env", {})}
        finished = subprocess.run(
            [*prefix, str(script), *arguments],
            env=environment,
            cwd=keywords.pop("cwd", "/"),
            stdin=keywords.pop("stdin", subprocess.DEVNULL),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **keywords,
        )
        self.tick(3)
        return finished

    # Checks

    def assert_is(self, state: State) -> None:
        """The site is in `state`: the same bytes, the same blobs, and ZODB reads all of it."""
        self.close()
        assert self.datafs.read_bytes() == state.data
        found = self.blobs
        assert {key: found.get(key) for key in state.needed} == state.needed
        assert {key: state.blobs.get(key) for key in found} == found
        assert not [name for name in os.listdir(self.datafs.parent) if "restoring" in name or name.endswith(".part")]
        self.read_everything()

    def read_everything(self) -> int:
        """Open the site with ZODB and read every object and every blob of it; the number of objects."""
        read = 0
        self.manager.begin()
        connection = self.db.open(self.manager)
        try:
            for oid in list(self.db.storage._index):
                try:
                    found = connection.get(oid)
                except KeyError:  # the creation of the object was undone
                    continue
                found._p_activate()
                if isinstance(found, Blob):
                    with found.open() as file:
                        file.read()
                read += 1
        finally:
            self.manager.abort()
            connection.close()
        return read

    def standby(self, folder: Path, **keywords: Any) -> Site:
        """Another, empty site that has a copy of this one's repositories: the machine that takes over."""
        other = Site(folder, layout=self.layout, blobs=self.blob_storage is not None, **keywords)
        here, there = self.plain_options(), other.plain_options()
        for option in ("location", "snapshotlocation", "blobbackuplocation", "blobsnapshotlocation"):
            if option in here and Path(here[option]).exists():
                shutil.copytree(here[option], there[option], symlinks=True, copy_function=copy_without_times)
        other.clock = PretendClock(self.clock.now())
        return other


def without_coverage() -> dict[str, str]:
    """The environment for a process that is looked at closely: a coverage run does not reach into it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


class _Refused(Exception):
    """A data manager voted no."""


class _ActsLast:
    """A data manager that votes after the storage, and does something first."""

    def __init__(self, manager: Any, act: Callable[[], None]) -> None:
        self.transaction_manager = manager
        self.act = act

    def sortKey(self) -> str:  # noqa: N802 - transaction's name
        return "~~~~ last"

    def tpc_vote(self, _: Any) -> None:
        self.act()

    def _pass(self, _: Any) -> None:
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = _pass


def make_settings(options: dict[str, Any], base: Path) -> Settings:
    """Settings from options as they stand in buildout.cfg."""
    around = Surroundings(part="backup", section="[backup]", base=base, var=base / "var")
    return parse_settings(options, around, strict=True).settings


COMMANDS = {script: command for command, script in names_of_scripts("backup").items()}
"""The scripts of the part `backup`, and the command that each one runs."""

_SCRIPT = """\
#!{python}

import sys
sys.path[0:0] = [{source!r}]

import zodbvault.scripts

if __name__ == "__main__":
    sys.exit(zodbvault.scripts.run({command!r}, {plain!r}))
"""


def generate_script(site: Site, name: str) -> Path:
    """A script as buildout generates it, with the settings that the site has now."""
    script = site.folder / "bin" / name
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        _SCRIPT.format(
            python=sys.executable,
            source=str(SOURCE),
            command=COMMANDS[name],
            plain=settings_to_plain(site.settings),
        ),
        encoding="utf-8",
        errors="surrogateescape",
    )
    script.chmod(0o755)
    return script


def generate_program(folder: Path) -> Path:
    """The program `zodbvault` in a folder."""
    program = folder / "zodbvault"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[0:0] = [{str(SOURCE)!r}]\n"
        "from zodbvault.cli import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program
