"""What has to be so after a command was disturbed, and after the next run: each broken promise is an AssertionError."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from tests.faults.disturbing import FULL, LASTING
from tests.faults.scenarios import LOCATION, SNAPSHOT, WHICH, ZIP, Reported, leftovers, require_restores
from tests.site import Site, tree
from zodbvault.commands.prune import prune
from zodbvault.repository.store import read_dat

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.disturbing import Outcome, Point
    from tests.faults.scenarios import Start
    from tests.site import State

Tree = dict[str, tuple[int, int, int]]

_SOURCES = {
    "backup": LOCATION,
    "snapshotbackup": SNAPSHOT,
    "zipbackup": ZIP,
    "restore": LOCATION,
    "snapshotrestore": SNAPSHOT,
    "ziprestore": ZIP,
}
_FOLDERS = {LOCATION: "backups", SNAPSHOT: "snapshotbackups", ZIP: "zipbackups"}
_TELL_IN_A_TABLE = ("backup-verify", "backup-drill")
"""What these find stands in their output, with the names of a repository's files without their folder."""


def live_tree(start: Start) -> Tree:
    """The live files, to see that nobody touched them."""
    return tree(*(folder for folder in start.live_folders if folder.exists()))


def require_good_end(start: Start, outcome: Outcome, point: Point, live: Tree) -> None:
    """How a disturbed command has to end, whatever it leaves. live: the live files before."""
    require_clear_end(start, outcome, point)
    if start.wanted is None:
        assert live_tree(start) == live, "live files were touched"


def require_aftermath(start: Start, outcome: Outcome, point: Point, scratch: Path, *, changes: bool) -> None:
    """All that must hold once a command was disturbed, with the next run.

    scratch: a folder for what is restored. changes: the site goes on before the next run.
    """
    site = start.site
    is_restore = start.wanted is not None
    if is_restore:
        _require_whole_database(start, outcome, scratch)
    require_restores(site, (*start.reported, *_still_named(start), *_visible(start)), scratch)
    if outcome.exit_code == 0 and (start.scenario.script, point.act) != ("backup-verify", LASTING):
        # A verify that cannot keep its result cannot take away what it has of it either; the next backup does.
        # A restore that could not read a state takes another one of the date, which may have more blobs, and warns.
        _require_done(start, scratch, is_exact="nother state" not in outcome.stderr)
    if is_restore:
        _run_restore(start)
        _require_done(start, scratch)
    else:
        if changes and start.scenario.script not in ("backup-verify", "backup-prune"):
            site.commit_pages()
            site.commit_blobs()
            site.close()
        live = live_tree(start)
        stamp, state = _run_again(start)
        assert live_tree(start) == live, "live files were touched by the next run"
        _require_done(start, scratch, stamp, state)
    for source in {each.source for each in start.reported} | {_SOURCES.get(start.scenario.script, LOCATION)}:
        assert site.verify(deep=True, which=WHICH[source]).good, f"verify of {source}"
    site.close()


def require_clear_end(start: Start, outcome: Outcome, point: Point, failed: int = 1) -> None:
    """Killed, or well, or with one line that says what is wrong with which file. failed: the exit code of an error."""
    assert "Traceback" not in outcome.stderr + outcome.stdout, outcome.stderr
    assert "this is a bug" not in outcome.stderr, outcome.stderr
    if outcome.was_killed or outcome.exit_code == 0:
        return
    assert outcome.exit_code == failed, f"exit {outcome.exit_code}: {outcome.stderr}"
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR: ")]
    strange = [line for line in outcome.stderr.splitlines() if not line.startswith(("ERROR: ", "WARNING: ", "INFO: "))]
    assert not strange, f"lines without a level: {strange}"
    if start.scenario.script in _TELL_IN_A_TABLE and not errors:
        errors = [outcome.stdout]
    assert len(errors) == 1, f"{len(errors)} error lines: {outcome.stderr}"
    assert outcome.hit is not None, f"failed by itself: {outcome.stderr}"
    path = outcome.hit.path.removesuffix(" (deleted)")
    if point.act in (LASTING, FULL):
        # What failed first may be of no account, and the next thing is.
        path = str(start.site.var)
    names = _names_of(path, start)
    if outcome.hit.name.startswith("rename"):
        # The other name is the one with its folder.
        names.append(os.path.basename(path))
    assert any(name in errors[0] for name in names), f"{path} is not named: {errors[0]}"


def _names_of(path: str, start: Start) -> list[str]:
    """What an error line may call a file: by its name, the one that it was to get, or as the blob that it is."""
    names = [
        path,
        path.removesuffix("/."),
        path.removesuffix(".part"),
        path.removesuffix(".part").removesuffix(".pruned"),
    ]
    if ".pruned.part" in path:
        # A directory that goes is told by the name that it had.
        names.append(path.partition(".pruned.part")[0])
    if path.endswith("/site/blobstorage/.layout"):
        # ZODB reads it in a rehearsal, and its errors do not name it: the copy is named.
        names.append(path.removesuffix("/blobstorage/.layout"))
    copy = re.search(r"/zodbvault-[0-9a-f]{16}([0-9a-f]{16})\.part$", path)
    if copy is not None:
        names.append(f"0x{copy[1]}.blob")
    if start.scenario.script in _TELL_IN_A_TABLE:
        names.append(os.path.basename(path))
    return names


def _require_whole_database(start: Start, outcome: Outcome, scratch: Path) -> None:
    """The live database is the old one or the new one, whole, with its blobs; ZODB opens it."""
    site, wanted = start.site, start.wanted
    assert wanted is not None
    if start.live is None and not site.datafs.exists():
        return
    data = site.datafs.read_bytes()
    states = [state for state in (start.live, wanted) if state is not None and state.data == data]
    assert states, "the database is neither the old one nor the new one"
    blobs = site.blobs
    # Of a site that had nothing the blobs come after the database.
    if start.live is not None:
        # One that was damaged before is good already, before the swap too.
        lost = [key for key, old in states[0].needed.items() if blobs.get(key) not in (old, wanted.blobs.get(key, old))]
        assert not lost, f"the database lacks {len(lost)} blobs"
    other = Site(scratch / "opened")
    assert other.blob_storage is not None
    shutil.rmtree(other.var)
    shutil.copytree(site.datafs.parent, other.datafs.parent)
    assert site.blob_storage is not None
    if site.blob_storage.exists():
        shutil.copytree(site.blob_storage, other.blob_storage)
    if states[0].needed.keys() <= blobs.keys():
        other.read_everything()
    else:
        assert other.db.storage.lastTransaction() == states[0].last_tid
    other.close()
    shutil.rmtree(scratch)


def _visible(start: Start) -> tuple[Reported, ...]:
    """A backup that has its line although the command did not come to report it: it restores like any other."""
    if start.scenario.script not in ("backup", "snapshotbackup", "zipbackup"):
        return ()
    source = _SOURCES[start.scenario.script]
    newest = newest_named(start.site.var / _FOLDERS[source])
    known = {each.timestamp for each in (*start.reported, *start.may_go) if each.source == source}
    if newest is None or newest in known or start.live is None:
        return ()
    if start.unfinished is not None and newest == start.unfinished.timestamp:
        return (start.unfinished,)
    return (Reported(source, newest, start.live),)


def _still_named(start: Start) -> tuple[Reported, ...]:
    """The backups that may be pruned, and are not yet: what a `.dat` names is whole."""
    return tuple(each for each in start.may_go if each.timestamp in _named(start.site.var / _FOLDERS[each.source]))


def newest_named(folder: Path) -> str | None:
    """The timestamp of the newest backup that a `.dat` names."""
    return max(_named(folder), default=None)


def _named(folder: Path) -> set[str]:
    """The timestamps of the backups that a `.dat` names."""
    return {line.timestamp for path in folder.glob("*.dat") for line in read_dat(path)}


def _run_restore(start: Start) -> None:
    start.site.restore(start.date, at=start.moment, source=_SOURCES[start.scenario.script])


def _run_again(start: Start) -> tuple[str | None, State]:
    """The same command once more, as cron would; the timestamp of the newest backup there is, and the site's state."""
    site, script = start.site, start.scenario.script
    site.tick(3600)
    if script == "backup":
        site.backup()
    elif script == "snapshotbackup":
        # One more stays than usually: the disturbed one may be there already, and push out one that was reported.
        options, site.options = site.options, {**site.options, "keep": "3"}
        site.snapshot()
        site.options = options
    elif script == "zipbackup":
        site.zipbackup()
    elif script == "backup-verify":
        assert site.verify(deep=True).good
        # It takes no lock, so what a killed one left goes with the next backup.
        site.backup()
    else:
        prune(site.settings, which="backups", dry_run=False, clock=site.clock)
    stamp = newest_named(site.var / _FOLDERS[_SOURCES[script]]) if script in _SOURCES else None
    return stamp, site.state()


def _require_done(
    start: Start, scratch: Path, stamp: str | None = None, state: State | None = None, *, is_exact: bool = True
) -> None:
    """What holds after a success. stamp, state: the backup that was made, where it is not the disturbed command's.

    is_exact: a restored site has the blobs of its state and no others.
    """
    site = start.site
    strange = leftovers(site)
    if start.unfinished is not None:
        # What could not be read was put aside; nobody was told of it.
        strange = [name for name in strange if not name.endswith(".orphan") or start.unfinished.timestamp not in name]
    assert not strange, f"left behind: {strange}"
    if start.wanted is not None:
        if is_exact:
            site.assert_is(start.wanted)
        else:
            assert site.datafs.read_bytes() == start.wanted.data
            assert start.wanted.needed.items() <= site.blobs.items()
        return
    made = (Reported(_SOURCES[start.scenario.script], stamp, state),) if stamp and state else _visible(start)
    if start.scenario.script in ("backup", "snapshotbackup", "zipbackup") and start.scenario.name != "nothing changed":
        assert made or start.scenario.name == "another layout", "no backup was made"
    require_restores(site, (*start.reported, *made), scratch)
