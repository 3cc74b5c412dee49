"""The power is cut while a real command runs: its calls are recorded, and each state that the disk may have afterwards
is made in the site's place and looked at with the real commands.

What a disk may hold is `disk.py`'s to know; what must hold in the end is told by `scenarios.py` and here.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ZODB.blob import auto_layout_select
from ZODB.FileStorage import FileStorage

from tests.faults.disk import Cut, Disk, Tree, key_of, read_tree, write_tree
from tests.faults.recording import STRACE, Recording, parse_log
from tests.faults.scenarios import (
    LOCATION,
    SNAPSHOT,
    WHICH,
    ZIP,
    Reported,
    Scenario,
    beside,
    leftovers,
    require_restores,
)
from tests.site import PretendClock, State, generate_script, referenced_blobs
from zodbvault.commands.prune import prune
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.recording import Call
    from tests.faults.scenarios import Start, Story
    from tests.site import BlobKey, Site

LATER = 3600
"""Seconds from the cut to the next run."""
SOURCES = {
    "backup": LOCATION,
    "snapshotbackup": SNAPSHOT,
    "zipbackup": ZIP,
    "restore": LOCATION,
    "snapshotrestore": SNAPSHOT,
    "ziprestore": ZIP,
}


def _many_blobs(story: Story) -> None:
    story.backup()
    story.site.commit_blobs(70, size=60, names=10_000)


def _restore_of_many_blobs(story: Story) -> None:
    _many_blobs(story)
    story.restores(story.backup())
    story.site.close()
    assert story.site.blob_storage is not None
    for folder in (story.site.datafs.parent, story.site.blob_storage):
        shutil.rmtree(folder)
        folder.mkdir()


MORE_SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        # More files and folders than are synced one by one.
        Scenario("many blobs", "backup", _many_blobs),
        Scenario("restore of many blobs", "restore", _restore_of_many_blobs),
    )
}

_SAID = re.compile(rb"(?:backup|of) (\d{4}(?:-\d\d){5})")
_SUMMARY = re.compile(rb"^INFO: (Full|Incremental|Restored|Backup of blobs|No changes)", re.MULTILINE)


class Moment(NamedTuple):
    """One state of the disk after a cut. number: calls that were made. told: whether the result was said by then."""

    number: int
    told: bool
    tree: Tree


class Recorded(NamedTuple):
    """A command that ran, from its start. before: what was on the disk then. known: every backup that there was.

    clock: the site's time when the command had ended, in seconds since 1970.
    """

    start: Start
    before: Tree
    known: tuple[Reported, ...]
    clock: float
    recording: Recording

    @property
    def source(self) -> str:
        """Where the command writes or reads backups."""
        return SOURCES.get(self.start.scenario.script, LOCATION)

    @property
    def is_restore(self) -> bool:
        return self.start.wanted is not None


def record(start: Start, folder: Path, wrapper: tuple[str, ...] = ()) -> Recorded:
    """Run the command of a start. folder: for what has to be written meanwhile. wrapper: runs the script, if given."""
    site = start.site
    known = known_backups(site, folder)
    before, recording = record_script(site, start.scenario.script, start.arguments, folder, wrapper)
    return Recorded(start, before, known, site.clock.now(), recording)


def record_script(
    site: Site, name: str, arguments: tuple[str, ...], folder: Path, wrapper: tuple[str, ...] = ()
) -> tuple[Tree, Recording]:
    """Run a script of a site: what was on the disk before, and what was done to it. It has to end well."""
    generate_script(site, name)  # it is written once more, with the same content, when it runs
    before = read_tree(site.folder)
    log = folder / "strace"
    prefix = (*STRACE, "-o", str(log), *((sys.executable, *wrapper) if wrapper else ()))
    finished = site.command(name, *arguments, prefix=prefix)
    assert finished.returncode == 0, finished.stderr
    recording = Recording(parse_log(log.read_text("ascii"), [str(site.folder)]), finished)
    _require_same(before, recording, read_tree(site.folder))
    return before, recording


def _require_same(before: Tree, recording: Recording, now: Tree) -> None:
    """What the calls make of the tree before is what is really there: nothing was missed."""
    disk = Disk(before, _umask())
    for number, call in enumerate(recording.calls):
        disk.apply(number, call)
    assert key_of(disk.tree()) == key_of(now), "the recording is not all that happened"


def known_backups(site: Site, folder: Path) -> tuple[Reported, ...]:
    """All backups of a site, with what each restores to."""
    found = []
    places = {LOCATION: "location", SNAPSHOT: "snapshotlocation", ZIP: "ziplocation"}
    for source, option in places.items():
        place = getattr(site.settings, option)
        for stamp in site.timestamps(Path(place)) if place else ():
            with contextlib.suppress(ZodbvaultError):
                backup = restored(site, stamp, source, folder / "known")
                if backup is not None and backup.timestamp == stamp:
                    found.append(backup)
    return tuple(found)


def moments(recorded: Recorded, *, at_most: int | None = None, seed: int = 1) -> list[Moment]:
    """Each distinct state that a cut may leave of a command: see moments_of()."""
    return moments_of(recorded.before, recorded.recording.calls, at_most=at_most, seed=seed)


def moments_of(before: Tree, calls: Sequence[Call], *, at_most: int | None = None, seed: int = 1) -> list[Moment]:
    """Each distinct state that a cut may leave, in the order of the calls; `at_most` so many of them, by chance.

    What is in memory only grows from one sync to the next, so the states just before a sync have those of every call
    before it.
    """
    number_of_cuts = sum(1 for _ in _cuts(before, calls, seed))
    chosen = range(number_of_cuts)
    wanted = set(chosen if at_most is None else random.Random(seed).sample(chosen, min(at_most, number_of_cuts)))
    found: dict[tuple[bool, bytes], Moment] = {}
    for place, (number, told, disk, cut) in enumerate(_cuts(before, calls, seed)):
        if place in wanted:
            tree = disk.tree_after(cut)
            found.setdefault((told, key_of(tree)), Moment(number, told, tree))
    return list(found.values())


def _cuts(before: Tree, calls: Sequence[Call], seed: int) -> Iterator[tuple[int, bool, Disk, Cut]]:
    """All cuts: how many calls were made, whether the result was told, the disk at that time, what becomes of it."""
    disk, random_ = Disk(before, _umask()), random.Random(seed)
    told = False
    for number, call in enumerate(calls):
        if call.kind in ("sync", "sync_all", "end"):
            yield from ((number, told, disk, cut) for cut in disk.cuts(random_))
        disk.apply(number, call)
        if not told and _tells(call):
            told = True
            yield from ((number + 1, told, disk, cut) for cut in disk.cuts(random_))


def _tells(call: Call) -> bool:
    """Whether this call reports the result: the line of summary, or the end of the process."""
    return call.kind == "end" or (call.kind == "say" and _SUMMARY.search(call.data) is not None)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# What must hold


def require_what_is_promised(recorded: Recorded, moment: Moment, folder: Path) -> None:
    """Make the state of a moment in the site's place, look at it, and run the command again. folder: to write in."""
    site = recorded.start.site
    write_tree(moment.tree, site.folder)
    site.clock = PretendClock(recorded.clock + LATER)
    if recorded.is_restore:
        _require_whole_database(recorded, moment, folder)
        _restore_again(recorded)
        _require_tidy(site)
        require_restores(site, recorded.start.reported, folder / "restored")
    else:
        _require_backups(recorded, moment, folder)
        _run_again(recorded, folder)
    site.close()


def new_backup(recorded: Recorded) -> Reported | None:
    """The backup that the command reported; None where it made none."""
    said = [match[1].decode() for call in recorded.recording.calls for match in _SAID.finditer(call.data)]
    known = {each.timestamp for each in recorded.known if each.source == recorded.source}
    stamp = said[-1] if said else None
    if stamp is None or stamp in known or recorded.is_restore or recorded.start.live is None:
        return None
    return Reported(recorded.source, stamp, recorded.start.live)


def _require_backups(recorded: Recorded, moment: Moment, folder: Path) -> None:
    """Every reported backup restores; the newest one that counts is whole, told of or not.

    Those that a prune may let go are there as long as the new one is not.
    """
    start, new = recorded.start, new_backup(recorded)
    assert (
        new is not None
        or start.scenario.script not in ("backup", "snapshotbackup", "zipbackup")
        or (start.scenario.name in ("nothing changed", "another layout"))
    ), "the command made no backup"
    here = [each for each in (*recorded.known, *([new] if new else [])) if each.source == recorded.source]
    newest = restored(start.site, None, recorded.source, folder / "restored")
    # Whatever counts as a backup is whole, those that are about to be pruned too.
    assert newest is None or start.site.verify(which=WHICH[recorded.source]).good, "a backup that counts is damaged"
    promised = {_name(each) for each in start.reported}
    must = [each for each in start.reported if each.source == recorded.source]
    if newest is None:
        assert not must, "no backup restores"
        assert not (moment.told and new), "what was reported does not restore"
    else:
        _require_one_of(newest, here)
    has_new = new is not None and newest is not None and newest.timestamp == new.timestamp
    assert has_new or not moment.told or new is None, "the reported backup is not the newest"
    spared = () if has_new or new is None else tuple(each for each in recorded.known if _name(each) not in promised)
    unseen = tuple(each for each in start.reported if newest is None or each.timestamp != newest.timestamp)
    require_restores(start.site, (*unseen, *spared), folder / "restored")


def restored(site: Site, when: str | None, source: str, folder: Path) -> Reported | None:
    """What a restore brings back; None where there is no backup."""
    shutil.rmtree(folder, ignore_errors=True)
    other = beside(site, folder)
    if not any(name.endswith(".dat") for name in os.listdir(_place(site, source))):
        return None
    report = other.restore(when, source=source)
    data = other.datafs.read_bytes()
    return Reported(source, report.timestamp, State(data, other.blobs, referenced_blobs(data)))


def _place(site: Site, source: str) -> str:
    option = {LOCATION: "location", SNAPSHOT: "snapshotlocation", ZIP: "ziplocation"}[source]
    place = getattr(site.settings, option)
    os.makedirs(place, exist_ok=True)
    return str(place)


def _name(backup: Reported) -> tuple[str, str]:
    return backup.source, backup.timestamp


def _require_one_of(found: Reported, expected: list[Reported]) -> None:
    wanted = {each.timestamp: each.state for each in expected}
    assert found.timestamp in wanted, f"{found.timestamp} was restored, which nobody made"
    state = wanted[found.timestamp]
    assert found.state.data == state.data, f"{found.timestamp}: other bytes"
    blobs = found.state.blobs
    assert {key: blobs.get(key) for key in state.needed} == state.needed, f"{found.timestamp}: blobs are lost or differ"


def _run_again(recorded: Recorded, folder: Path) -> None:
    """The next run succeeds, without help, and leaves a good repository."""
    start, site = recorded.start, recorded.start.site
    script = start.scenario.script
    backups: tuple[Reported, ...] = ()
    if script in ("backup", "snapshotbackup", "zipbackup"):
        report = {"backup": site.backup, "snapshotbackup": site.snapshot, "zipbackup": site.zipbackup}[script]()
        assert start.live is not None
        newest = restored(site, None, recorded.source, folder / "restored")
        assert newest is not None
        _require_one_of(newest, [Reported(recorded.source, report.timestamp or newest.timestamp, start.live)])
        # What `keep` lets go the next run may let go too.
        stays = set(site.timestamps(Path(_place(site, recorded.source))))
        backups = tuple(each for each in start.reported if each.source == recorded.source and each.timestamp in stays)[
            -1:
        ]
        assert backups or not start.reported or script != "backup"
    elif script == "backup-verify":
        site.backup()  # A verify takes no lock, so it is a backup that sweeps.
    elif script == "backup-prune":
        prune(site.settings, which="backups", dry_run=False, clock=site.clock)
        backups = start.reported
    require_restores(site, backups, folder / "restored")
    assert site.verify(which=WHICH[recorded.source], deep=True).good
    _require_tidy(site)


def _require_tidy(site: Site) -> None:
    left = leftovers(site) + _unnamed(site)
    assert not left, f"left behind: {left}"


def _unnamed(site: Site) -> list[str]:
    """The data files that no .dat names: repozo would join them to a backup by their names."""
    found = []
    for place in filter(None, (site.settings.location, site.settings.snapshotlocation, site.settings.ziplocation)):
        names = site.names(Path(place))
        lines = "".join(Path(place, name).read_text("ascii") for name in names if name.endswith(".dat"))
        found += [name for name in names if name.endswith(("fsz", ".fs")) and f"{name} " not in lines]
    return found


# A restore


def _require_whole_database(recorded: Recorded, moment: Moment, folder: Path) -> None:
    """The live database is the old one or the new one, whole, with its blobs; the new one when that was told."""
    start, tree = recorded.start, moment.tree
    assert start.wanted is not None
    found = tree.get(str(start.site.datafs))
    data = found.content.data if found is not None and found.content is not None else None
    old = recorded.before.get(str(start.site.datafs))
    old_data = old.content.data if old is not None and old.content is not None else None
    assert data in (old_data, start.wanted.data), "the database is neither the old one nor the new one"
    blobs = _blobs_in(start.site, tree)
    if data == start.wanted.data:
        if moment.told or old_data is not None:
            _require_blobs(start.wanted, blobs, {})
    else:
        assert not moment.told, "the restore was reported, and the old database is there"
        if start.live is not None:
            _require_blobs(start.live, blobs, start.wanted.needed)
    if data is not None:
        _require_fitting_index(start.site, folder)
    # What a Zope would take the blobs for that is started now.
    assert auto_layout_select(str(start.site.blob_storage)) == start.site.layout, "ZODB sees another layout of blobs"


def _blobs_in(site: Site, tree: Tree) -> dict[BlobKey, bytes]:
    """The blobs of the live site in a tree that stands in its place."""
    assert site.blob_storage is not None
    top = f"{site.blob_storage}/"
    found = {}
    for path, entry in tree.items():
        if path.startswith(top) and path.endswith(".blob") and entry.content is not None:
            oid = os.path.relpath(os.path.dirname(path), top).replace("0x", "").replace("/", "")
            if not oid.startswith("tmp"):
                found[int(oid, 16), int(os.path.basename(path)[2:-5], 16)] = entry.content.data
    return found


def _require_blobs(state: State, found: dict[BlobKey, bytes], mended: dict[BlobKey, bytes]) -> None:
    """The blobs of a state are there. mended: what may stand there instead, where the site has damaged ones."""
    lost = [key for key, content in state.needed.items() if found.get(key) not in (content, mended.get(key, content))]
    assert not lost, f"live blobs are lost or differ: {[(key, len(found.get(key, b''))) for key in lost]}"


def _require_fitting_index(site: Site, folder: Path) -> None:
    """ZODB reads the database; with the index that stands there it finds the same records as without."""
    place = folder / "opened"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copyfile(site.datafs, place / "Data.fs")
    plain = _records_of(place / "Data.fs")
    index = site.datafs.with_name("Data.fs.index")
    if index.exists():
        shutil.copyfile(index, place / "Data.fs.index")
        assert _records_of(place / "Data.fs") == plain, "the index is another database's"


def _records_of(datafs: Path) -> dict[bytes, int]:
    with contextlib.closing(FileStorage(str(datafs), read_only=True)) as storage:
        return dict(storage._index.items())


def _restore_again(recorded: Recorded) -> None:
    start = recorded.start
    assert start.wanted is not None
    when = next((each for each in start.arguments if not each.startswith("-")), None)
    start.site.restore(when, source=recorded.source)
    assert start.site.blob_storage is not None
    start.site.assert_is(start.wanted)
    start.site.close()
