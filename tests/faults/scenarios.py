"""What the tests of faults do to a site: each scenario is a site, a command, and what must hold afterwards.

The command is a real child process that comes in by the ordinary entry. Knows nothing of how a command is disturbed:
a kill, an error and a loss of power use the same table.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from tests.layouts import LAYOUTS
from tests.site import Site, blob_files, generate_script, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.site import State

LOCATION, SNAPSHOT, ZIP = "location", "snapshot", "zip"
"""Where a backup stands, in the words of a restore."""

WHICH = {LOCATION: "backups", SNAPSHOT: "snapshots", ZIP: "zips"}
"""The same places in the words of verify."""


class Reported(NamedTuple):
    """A backup that was reported, and the state that it has to bring back. source: LOCATION, SNAPSHOT or ZIP."""

    source: str
    timestamp: str
    state: State


@dataclass(frozen=True)
class Start:
    """A site before the command.

    site: closed; `site.var` holds all that belongs to it, live and stored. arguments: of the script.
    reported: the backups that must restore, whatever happens to the command and to the run after it.
    may_go: those that the command or the next run may prune. unfinished: lacks only its line, and was never reported.
    live: the state of the site; None where it lost everything.
    wanted: what a restore is to bring; None for a command that never touches the site.
    """

    scenario: Scenario
    site: Site
    arguments: tuple[str, ...]
    reported: tuple[Reported, ...]
    live: State | None
    wanted: State | None
    may_go: tuple[Reported, ...]
    unfinished: Reported | None

    @property
    def moment(self) -> str | None:
        """What a restore is to bring, as `--at` takes it; None for a whole backup."""
        return self.arguments[self.arguments.index("--at") + 1] if "--at" in self.arguments else None

    @property
    def date(self) -> str | None:
        """The date that a restore is to bring; None for the newest, or where it is a moment."""
        if self.moment is not None:
            return None
        return next((argument for argument in self.arguments if not argument.startswith("-")), None)

    @property
    def command(self) -> list[str]:
        """The arguments of the child process, its program first."""
        return [str(generate_script(self.site, self.scenario.script)), *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the child process: it lives at the site's time."""
        return {**os.environ, "ZODBVAULT_TEST_NOW": timestamp(self.site.clock.now() + 60)}

    @property
    def live_folders(self) -> tuple[Path, ...]:
        """Where the live files are, which only a restore may touch."""
        assert self.site.blob_storage is not None
        return (self.site.datafs.parent, self.site.blob_storage)


class Story:
    """A site on its way to the start of a scenario, and the backups that were reported on the way."""

    def __init__(self, folder: Path, layout: str, more_options: Mapping[str, str]) -> None:
        self.layout = layout
        options = {"keep": "2", "enable_zipbackup": "true", **LAYOUTS[layout], **more_options}
        self.site = Site(folder, options=options)
        self.reported: list[Reported] = []
        self.gone: list[Reported] = []
        self.unfinished: Reported | None = None
        self.arguments: tuple[str, ...] = ()
        self.wanted: State | None = None
        self.site.begin_with_a_blob()
        self.site.commit_blobs(2)
        self.site.commit_pages(3)

    def backup(self, *, full: bool = False) -> Reported:
        """bin/backup."""
        return self._reported(LOCATION, self.site.backup(full=full).timestamp)

    def snapshot(self) -> Reported:
        """bin/snapshotbackup."""
        return self._reported(SNAPSHOT, self.site.snapshot().timestamp)

    def zip(self) -> Reported:
        """bin/zipbackup."""
        return self._reported(ZIP, self.site.zipbackup().timestamp)

    def change(self) -> None:
        """Transactions with pages, and with new and changed blobs."""
        self.site.commit_pages(2)
        self.site.commit_blobs(2)

    def history(self) -> None:
        """A full with an incremental on it, then changes."""
        self.backup()
        self.change()
        self.backup()
        self.change()

    def may_go(self, *those: Reported) -> None:
        """These backups may be pruned by the command, lawfully."""
        self.reported = [each for each in self.reported if each not in those]
        self.gone += those

    def restores(self, backup: Reported, *arguments: str) -> None:
        """The command restores this backup."""
        self.wanted = backup.state
        self.arguments = ("--no-prompt", *arguments)

    def _reported(self, source: str, stamp: str | None) -> Reported:
        assert stamp is not None
        self.reported.append(Reported(source, stamp, self.site.state()))
        return self.reported[-1]


class Scenario(NamedTuple):
    """One command at one point of a site's life. script: as buildout names it. options: of the site, beside the usual.

    tell: brings a site that has lived for some transactions to the point.
    """

    name: str
    script: str
    tell: Callable[[Story], None]
    options: Mapping[str, str] = MappingProxyType({})

    def start(self, folder: Path, layout: str = "pool") -> Start:
        """Make the site, in a folder that is there no more than its parent is. layout: in LAYOUTS."""
        story = Story(folder, layout, self.options)
        self.tell(story)
        site = story.site
        site.close()
        live = site.state() if site.datafs.exists() else None
        reported, may_go = tuple(story.reported), tuple(story.gone)
        return Start(self, site, story.arguments, reported, live, story.wanted, may_go, story.unfinished)


# The stories. What `keep` lets go is no loss; all else that was reported has to stay.


def _first_full(story: Story) -> None:
    # More than one gzip member, and more than one block of a blob.
    story.site.commit_pages(3, size=900_000)
    with story.site.changing() as root, root["logo"].open("w") as file:
        file.write(story.site.random.randbytes(1_300_000))


def _incremental(story: Story) -> None:
    story.history()


def _nothing_changed(story: Story) -> None:
    story.backup()
    story.change()
    story.backup()


def _full_that_prunes(story: Story) -> None:
    story.history()
    may_go = tuple(story.reported)
    story.backup(full=True)
    story.change()
    story.backup()
    story.change()
    story.arguments = ("--full",)
    story.may_go(*may_go)


def _full_after_a_pack(story: Story) -> None:
    story.history()
    story.site.delete()
    story.site.pack()


def _another_layout(story: Story) -> None:
    """Nothing was committed, but the option says another layout now: the newest backup gets its blobs there."""
    wanted = story.site.options
    other = LAYOUTS["archives" if story.layout == "pool" else "pool"]
    story.site.options = {**{key: value for key, value in wanted.items() if key not in LAYOUTS[story.layout]}, **other}
    story.backup()
    story.change()
    story.backup()
    story.site.options = wanted


def _after_a_kill(story: Story) -> None:
    """What killed runs left: parts, a backup that lacks only its line, a prune that was begun."""
    site = story.site
    story.backup()
    story.change()
    gone = tuple(story.reported)
    story.backup(full=True)
    dat = site.location / f"{gone[0].timestamp}.dat"
    os.rename(dat, dat.with_name(f"{dat.name}.pruned"))
    story.may_go(*gone)
    story.change()
    (lines,) = site.location.glob("*.dat")
    before = lines.read_bytes()
    story.backup()
    lines.write_bytes(before)
    story.unfinished = story.reported.pop()
    for name in ("2076-11-23-23-00-00.deltafsz.part", "2076-11-23-23-00-00.json.part", ".zodbvault.id.part"):
        (site.location / name).write_bytes(b"half")
    (site.blob_location / "2076-11-23-23-00-00.deltablobs.gz.part").write_bytes(b"half")
    story.change()


def _snapshot(story: Story) -> None:
    story.backup()
    story.snapshot()
    story.change()
    may_go = story.reported[-1]
    story.snapshot()
    story.change()
    story.may_go(may_go)


def _zip(story: Story) -> None:
    story.backup()
    story.zip()
    story.change()
    story.may_go(story.reported[-1])


def _restore_into_nothing(story: Story) -> None:
    story.history()
    story.site.close()
    for folder in (story.site.datafs.parent, story.site.blob_storage):
        assert folder is not None
        shutil.rmtree(folder)
    story.restores(story.reported[-1])


def _restore_over_other_blobs(story: Story) -> None:
    story.history()
    story.site.delete()
    story.site.pack()
    story.site.commit_blobs(3)
    # A damaged copy of a blob (not in the file that the backup may share): it is mended, and stands aside meanwhile.
    assert story.site.blob_storage is not None
    wanted = story.reported[-1]
    damaged = blob_files(story.site.blob_storage)[min(set(wanted.state.needed) & set(story.site.blobs))]
    damaged.unlink()
    damaged.write_bytes(b"?")
    story.restores(wanted)


def _restore_of_an_older_date(story: Story) -> None:
    story.history()
    story.backup(full=True)
    story.change()
    story.restores(story.reported[0], story.reported[0].timestamp)


def _restore_of_a_snapshot(story: Story) -> None:
    story.backup()
    story.change()
    story.restores(story.snapshot())
    story.change()


def _restore_of_a_zip(story: Story) -> None:
    story.backup()
    story.change()
    story.restores(story.zip())
    story.change()


def _restore_to_a_moment(story: Story) -> None:
    """Between two transactions of one backup, and in the middle of a chain."""
    story.backup()
    story.change()
    wanted = story.site.state()
    story.change()
    story.backup()
    story.change()
    story.backup()
    story.change()
    assert wanted.last_tid is not None
    story.wanted = wanted
    story.arguments = ("--no-prompt", "--at", wanted.last_tid.hex())


def _verify(story: Story) -> None:
    story.history()
    story.backup(full=True)
    story.arguments = ("--deep",)


def _prune(story: Story) -> None:
    story.history()
    story.backup(full=True)
    story.change()
    story.site.options["keep"] = "1"
    story.may_go(*story.reported[:2])


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("first full", "backup", _first_full),
        Scenario("incremental", "backup", _incremental),
        Scenario("nothing changed", "backup", _nothing_changed),
        Scenario("full that prunes", "backup", _full_that_prunes),
        Scenario("full after a pack", "backup", _full_after_a_pack),
        Scenario("another layout", "backup", _another_layout),
        Scenario("backup after a kill", "backup", _after_a_kill),
        Scenario("snapshot", "snapshotbackup", _snapshot),
        Scenario("zip backup", "zipbackup", _zip),
        Scenario("restore into nothing", "restore", _restore_into_nothing),
        Scenario("restore over other blobs", "restore", _restore_over_other_blobs),
        Scenario("restore of an older date", "restore", _restore_of_an_older_date),
        Scenario("restore of a snapshot", "snapshotrestore", _restore_of_a_snapshot),
        Scenario("restore of a zip", "ziprestore", _restore_of_a_zip),
        Scenario("verify", "backup-verify", _verify),
        Scenario("prune", "backup-prune", _prune),
    )
}

"""Those that the power goes for as well."""

RESTORE_TO_A_MOMENT = Scenario("restore to a moment", "restore", _restore_to_a_moment)
"""Makes the calls of a restore of an older date, with others before them."""


def every_case() -> Iterator[tuple[str, str]]:
    """Scenario and layout of each case, those of the pool first. A zip backup is the same in each layout."""
    for layout in LAYOUTS:
        for name, scenario in SCENARIOS.items():
            if layout == "pool" or not scenario.script.startswith("zip"):
                yield name, layout


# What must hold.

_FINAL = (
    re.compile(r"\d{4}(-\d\d){5}\.(fsz|deltafsz|dat|index|json|checks\.json)"),
    re.compile(r"\d{4}(-\d\d){5}\.(blobs|deltablobs|directoryblobs|archiveblobs)\.gz"),
    re.compile(r"\.zodbvault\.(id|lock)"),
)
_CONTAINER = re.compile(r"blobs|latest|latest\.tar(\.gz)?|blobstorage\.[-\d]+((\.delta)?\.tar(\.gz)?)?|.*\.snar")
_TEMPORARY = re.compile(r".*(\.part|\.pruned|\.orphan|\.replaced|\.restoring|\.going|\.tmp)")


def leftovers(site: Site) -> list[str]:
    """All below the site's folder that no finished run leaves: temporary names, and strange ones among the backups."""
    found = []
    for where, folders, names in os.walk(site.var):
        # Data.fs.tmp is ZODB's.
        names = [name for name in (*folders, *names) if _TEMPORARY.fullmatch(name) and name != "Data.fs.tmp"]
        found += [os.path.relpath(os.path.join(where, name), site.var) for name in names]
    for folder in ("backups", "snapshotbackups", "zipbackups"):
        found += [f"{folder}/{name}" for name in site.names(site.var / folder) if not _is_final(name)]
    for folder in ("blobstoragebackups", "blobstoragesnapshots", "blobstoragezips"):
        names = site.names(site.var / folder)
        found += [f"{folder}/{name}" for name in names if not _is_final(name) and not _CONTAINER.fullmatch(name)]
    return sorted(set(found))


def _is_final(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in _FINAL)


def each_restored(site: Site, backups: tuple[Reported, ...], folder: Path) -> Iterator[tuple[str, str, State, Site]]:
    """Restore each of these backups of `site` into `folder`, from nothing; what it is, and the site that came of it."""
    for source, stamp, state in backups:
        shutil.rmtree(folder, ignore_errors=True)
        other = beside(site, folder)
        report = other.restore(stamp, source=source)
        assert report.timestamp == stamp, f"{source} {stamp}: restored was {report.timestamp}"
        yield source, stamp, state, other
    shutil.rmtree(folder, ignore_errors=True)


def require_restores(site: Site, backups: tuple[Reported, ...], folder: Path) -> None:
    """Restore each of these backups of `site` into `folder`, from nothing, and compare every byte of data and blobs."""
    for source, stamp, state, other in each_restored(site, backups, folder):
        assert other.datafs.read_bytes() == state.data, f"{source} {stamp}: other bytes"
        found = other.blobs
        lost = {key for key, content in state.needed.items() if found.get(key) != content}
        assert not lost, f"{source} {stamp}: {len(lost)} blobs are lost or differ"
        strange = {key for key, content in found.items() if state.blobs.get(key) != content}
        assert not strange, f"{source} {stamp}: {len(strange)} blobs that the state never had"


def beside(site: Site, folder: Path) -> Site:
    """Another live place for the same backups: what is restored there leaves the site alone."""
    places = {key: value for key, value in _all_places(site).items() if value}
    other = Site(folder, options={**site.options, **places})
    assert other.blob_storage is not None
    shutil.rmtree(other.blob_storage)
    other.clock = site.clock
    return other


def _all_places(site: Site) -> dict[str, str]:
    settings = site.settings
    names = ("location", "blobbackuplocation", "snapshotlocation", "blobsnapshotlocation", "ziplocation")
    return {name: str(getattr(settings, name) or "") for name in (*names, "blobziplocation")}
