"""Commands that make a copy of a site, `restore --to` and `drill`, and what must hold after they were disturbed.

The site and its backups are left alone, but for the result of a rehearsal. A folder with a copy is whole, or says that
it is not; a rehearsal's goes, at the latest with the next one.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.aftermath import require_clear_end
from tests.faults.blobs_alone import BLOBS_ALONE
from tests.faults.disturbing import CHANGE
from tests.faults.scenarios import Scenario, Story, leftovers
from tests.site import blob_files, tree
from zodbvault.commands.copy_folder import UNFINISHED
from zodbvault.commands.drill import PREFIX, drill
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.checks import read_checks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.aftermath import Tree
    from tests.faults.disturbing import Outcome, Point
    from tests.faults.scenarios import Start
    from tests.site import Site

COPY = "copy"
DRILL = "backup-drill"


def _copy(story: Story) -> None:
    """Of an older date, while the site has other blobs."""
    story.history()
    wanted = story.reported[-1]
    story.backup(full=True)
    story.wanted = wanted.state
    story.arguments = (wanted.timestamp, "--to", str(story.site.var / COPY))


def _drill(story: Story) -> None:
    story.history()


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("copy", "restore", _copy),
        Scenario("copy of blobs alone", "restore", _copy, BLOBS_ALONE),
        Scenario("drill", DRILL, _drill),
        Scenario("drill of blobs alone", DRILL, _drill, BLOBS_ALONE),
    )
}


def untouched(start: Start) -> Tree:
    """All files of the site and its backups but those of a copy, and the results of rehearsals."""
    var = start.site.var
    copies = (f"{var / COPY}/", f"{var}/filestorage/{PREFIX}", f"{var}/{PREFIX}")
    return {
        path: status for path, status in tree(var).items() if not path.startswith(copies) and ".checks.json" not in path
    }


def require_good_end(start: Start, outcome: Outcome, point: Point, before: Tree) -> None:
    """How a disturbed command has to end, whatever it leaves."""
    require_clear_end(start, outcome, point)
    assert untouched(start) == before, "files of the site or its backups were touched"


def require_aftermath(start: Start, outcome: Outcome, point: Point, scratch: Path, *, changes: bool) -> None:
    """All that must hold once a copy was disturbed, with the next one. Arguments as in aftermath.py."""
    if start.scenario.script == DRILL:
        _require_rehearsal(start, outcome, point)
    else:
        _require_copy(start, outcome)
    start.site.close()


# The copy that somebody asked for.


def _require_copy(start: Start, outcome: Outcome) -> None:
    folder = start.site.var / COPY
    if folder.exists() and os.listdir(folder) and not _is_whole(start, folder):
        assert (folder / UNFINISHED).exists(), "nothing says that the copy is not whole"
    if outcome.exit_code == 0:
        assert _is_whole(start, folder), "the copy is not whole"
        assert not _strange(folder), f"left in the copy: {_strange(folder)}"
    elif not outcome.was_killed:
        is_gone = not folder.exists() or not os.listdir(folder)
        assert is_gone or f"WARNING: {folder}: " in outcome.stderr, "a part of the copy was left, and nothing said"
        assert is_gone or "was removed again" not in outcome.stderr, "it is said to be gone, and is not"
    before = untouched(start)
    _copy_again(start, folder)
    assert untouched(start) == before, "files of the site or its backups were touched by the next run"
    assert _is_whole(start, folder), "the next copy is not whole"
    assert not _strange(folder), f"left in the copy: {_strange(folder)}"


def _copy_again(start: Start, folder: Path) -> None:
    """The same restore again; where it says that the folder has to be emptied, that is done."""
    stamp = start.arguments[0]
    if folder.exists() and os.listdir(folder):
        with pytest.raises(ZodbvaultError, match=re.escape(str(folder)) + ".*mpty"):
            start.site.restore_while_open(stamp, to=folder)
        shutil.rmtree(folder)
    start.site.restore_while_open(stamp, to=folder)


def _is_whole(start: Start, folder: Path) -> bool:
    """Whether a folder has the state that was wanted, and all of it."""
    state = start.wanted
    assert state is not None
    found = {key: path.read_bytes() for key, path in blob_files(folder / "blobstorage").items()}
    if start.site.settings.only_blobs:
        return found == state.blobs
    data = folder / "filestorage" / "Data.fs"
    if not data.is_file() or data.read_bytes() != state.data:
        return False
    return state.needed.items() <= found.items() and found.items() <= state.blobs.items()


def _strange(folder: Path) -> list[str]:
    """What has no place in a copy that is whole."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
    known = ("filestorage/Data.fs", "filestorage/Data.fs.index", "filestorage/Data.fs.lock", "blobstorage/.layout")
    return sorted(name for name in found if name not in known and not name.endswith(".blob"))


# The copy of a rehearsal.


def _require_rehearsal(start: Start, outcome: Outcome, point: Point) -> None:
    site = start.site
    left = _folders_of_rehearsals(site)
    if not outcome.was_killed:
        unsaid = [name for name in left if name not in outcome.stderr]
        assert not unsaid, f"left behind without a word: {unsaid}"
    newest = start.reported[-1].timestamp
    location = site.blob_location if site.settings.only_blobs else site.location
    if outcome.exit_code == 0:
        assert read_checks(location, newest) is not None or "the result is not kept" in outcome.stderr, "no result"
    elif point.series == CHANGE and not outcome.was_killed:
        assert read_checks(location, newest) is None, "the backup gets the blame for a place that cannot be written"
    before = untouched(start)
    site.tick(3600)
    report = drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock)
    assert report.good, report.failures
    assert report.timestamp == newest
    assert not _folders_of_rehearsals(site), "the next rehearsal leaves something behind"
    assert untouched(start) == before, "files of the site or its backups were touched by the next rehearsal"
    kept = read_checks(location, newest)
    assert kept is not None
    assert kept.drilled_good
    # A rehearsal takes no lock, so what a killed one left of its result goes with the next backup.
    site.backup()
    assert not leftovers(site), f"left behind: {leftovers(site)}"


def _folders_of_rehearsals(site: Site) -> list[str]:
    return sorted(path.name for path in site.var.rglob(f"{PREFIX}*"))
