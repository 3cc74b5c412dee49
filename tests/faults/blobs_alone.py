"""Sites whose blobs alone are backed up, on their way to a command that is disturbed, and what must hold afterwards.

Data.fs is nobody's business there: a state is a set of blobs, every one of them counts, and a restore brings exactly
those. A state exists when its record does. aftermath.py is the same for sites with their Data.fs.
"""

from __future__ import annotations

import os
import re
import shutil
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.faults.aftermath import live_tree, require_clear_end
from tests.faults.scenarios import LOCATION, SNAPSHOT, WHICH, Reported, Scenario, Story, each_restored, leftovers
from tests.site import blob_files, tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.aftermath import Tree
    from tests.faults.disturbing import Outcome, Point
    from tests.faults.scenarios import Start
    from tests.site import BlobKey, Site

BLOBS_ALONE = MappingProxyType({"only_blobs": "true", "enable_zipbackup": "false"})

_FOLDERS = {LOCATION: "blobstoragebackups", SNAPSHOT: "blobstoragesnapshots"}
_RECORD = re.compile(r"(\d{4}(?:-\d\d){5})\.json")


# The stories. A pack takes blobs that nothing refers to, so that states have fewer blobs than those before them.


def _live_on(story: Story) -> None:
    story.change()
    story.site.delete()
    story.site.pack()


def _history(story: Story) -> None:
    story.backup()
    _live_on(story)
    story.backup()
    _live_on(story)


def _first(story: Story) -> None:
    # More than one block of a blob.
    with story.site.changing() as root, root["logo"].open("w") as file:
        file.write(story.site.random.randbytes(1_300_000))


def _incremental(story: Story) -> None:
    _history(story)


def _nothing_changed(story: Story) -> None:
    story.backup()
    _live_on(story)
    story.backup()


def _full_that_prunes(story: Story) -> None:
    _history(story)
    may_go = tuple(story.reported)
    story.backup(full=True)
    _live_on(story)
    story.backup()
    _live_on(story)
    story.arguments = ("--full",)
    # A directory or an archive stands for itself, so that `keep` counts each of them.
    story.may_go(*(may_go if story.layout == "pool" else story.reported[:-1]))


def _snapshot(story: Story) -> None:
    story.backup()
    story.snapshot()
    _live_on(story)
    may_go = story.reported[-1]
    story.snapshot()
    _live_on(story)
    story.may_go(may_go)


def _restore_into_nothing(story: Story) -> None:
    _history(story)
    story.site.close()
    assert story.site.blob_storage is not None
    shutil.rmtree(story.site.blob_storage)
    story.restores(story.reported[-1])


def _restore_over_other_blobs(story: Story) -> None:
    _history(story)
    story.site.commit_blobs(3)
    # A damaged copy of a blob, not in the file that the backup may share.
    assert story.site.blob_storage is not None
    wanted = story.reported[-1]
    damaged = blob_files(story.site.blob_storage)[min(wanted.state.blobs.keys() & story.site.blobs.keys())]
    damaged.unlink()
    damaged.write_bytes(b"?")
    story.restores(wanted)


def _restore_of_an_older_date(story: Story) -> None:
    story.site.options["keep"] = "0"
    _history(story)
    story.backup(full=True)
    _live_on(story)
    story.restores(story.reported[0], story.reported[0].timestamp)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("blobs alone: first full", "backup", _first, BLOBS_ALONE),
        Scenario("blobs alone: incremental", "backup", _incremental, BLOBS_ALONE),
        Scenario("blobs alone: nothing changed", "backup", _nothing_changed, BLOBS_ALONE),
        Scenario("blobs alone: full that prunes", "backup", _full_that_prunes, BLOBS_ALONE),
        Scenario("blobs alone: snapshot", "snapshotbackup", _snapshot, BLOBS_ALONE),
        Scenario("blobs alone: restore into nothing", "restore", _restore_into_nothing, BLOBS_ALONE),
        Scenario("blobs alone: restore over others", "restore", _restore_over_other_blobs, BLOBS_ALONE),
        Scenario("blobs alone: restore of older date", "restore", _restore_of_an_older_date, BLOBS_ALONE),
    )
}


# What must hold.


def untouched(start: Start) -> Tree:
    """The live files that the command has to leave alone: for a restore, all but the blobs."""
    if start.wanted is None:
        return live_tree(start)
    return tree(start.site.datafs.parent)


def require_good_end(start: Start, outcome: Outcome, point: Point, before: Tree) -> None:
    """How a disturbed command has to end, whatever it leaves."""
    require_clear_end(start, outcome, point)
    assert untouched(start) == before, "live files were touched"


def require_aftermath(start: Start, outcome: Outcome, point: Point, scratch: Path, *, changes: bool) -> None:
    """All that must hold once a command was disturbed, with the next run. Arguments as in aftermath.py."""
    if start.wanted is not None:
        _require_restore(start, outcome, scratch)
    else:
        _require_backup(start, outcome, scratch, changes=changes)
    for source in {each.source for each in start.reported}:
        assert start.site.verify(deep=True, which=WHICH[source]).good, f"verify of {source}"
    start.site.close()


def _require_backup(start: Start, outcome: Outcome, scratch: Path, *, changes: bool) -> None:
    site, source = start.site, _source(start)
    known = {each.timestamp for each in (*start.reported, *start.may_go) if each.source == source}
    still_there = tuple(each for each in start.may_go if each.timestamp in _states(site, each.source))
    assert start.live is not None
    made = tuple(Reported(source, stamp, start.live) for stamp in _states(site, source) if stamp not in known)
    _require_states(site, (*start.reported, *still_there, *made), scratch)
    makes_one = start.scenario.name != "blobs alone: nothing changed"
    if outcome.exit_code == 0:
        assert not leftovers(site), f"left behind: {leftovers(site)}"
        assert made or not makes_one, "no backup was made"
    if changes:
        site.commit_pages()
        site.commit_blobs()
    site.close()
    live, state = live_tree(start), site.state()
    stamp = _run_again(start)
    assert live_tree(start) == live, "live files were touched by the next run"
    assert not leftovers(site), f"left behind: {leftovers(site)}"
    if stamp is not None:
        made = (*made, Reported(source, stamp, state))
    assert made or not (makes_one or changes), "no backup was made"
    newest = max((*start.reported, *made), key=lambda each: (each.source == source, each.timestamp))
    assert newest.state.blobs == state.blobs, "the newest backup is not the site's state"
    _require_states(site, (*start.reported, newest), scratch)


def _require_restore(start: Start, outcome: Outcome, scratch: Path) -> None:
    site, wanted = start.site, start.wanted
    assert wanted is not None
    assert start.live is not None
    _require_whole_blobs(site.blobs, start.live.blobs, wanted.blobs)
    _require_states(site, start.reported, scratch)
    if outcome.exit_code == 0:
        _require_restored(site, wanted.blobs)
    site.restore(start.date)
    _require_restored(site, wanted.blobs)


def _require_whole_blobs(found: dict[BlobKey, bytes], old: dict[BlobKey, bytes], wanted: dict[BlobKey, bytes]) -> None:
    """At every instant all that were there are there, or all that were to come; each is the old one or the new one."""
    strange = [key for key, content in found.items() if content not in (old.get(key), wanted.get(key))]
    assert not strange, f"{len(strange)} blobs are neither the old ones nor the new ones"
    assert old.keys() <= found.keys() or wanted.items() <= found.items(), "blobs went before the others had come"


def _require_restored(site: Site, blobs: dict[BlobKey, bytes]) -> None:
    assert site.blobs == blobs, "restored were other blobs"
    assert not leftovers(site), f"left behind: {leftovers(site)}"


def _require_states(site: Site, backups: tuple[Reported, ...], folder: Path) -> None:
    """Restore each of these states of `site` into `folder`, from nothing, and compare every byte of every blob."""
    for source, stamp, state, other in each_restored(site, backups, folder):
        assert other.blobs == state.blobs, f"{source} {stamp}: other blobs"
        assert not other.datafs.exists(), f"{source} {stamp}: a Data.fs was made"


def _states(site: Site, source: str) -> list[str]:
    """The timestamps of the states that have a record, oldest first."""
    folder = site.var / _FOLDERS[source]
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(match[1] for match in map(_RECORD.fullmatch, names) if match)


def _run_again(start: Start) -> str | None:
    """The same command once more, as cron would; the timestamp of the state that it made."""
    site = start.site
    site.tick(3600)
    if start.scenario.script == "backup":
        return site.backup().timestamp
    # One more stays than usually: the disturbed one may be there already, and push out one that was reported.
    options, site.options = site.options, {**site.options, "keep": "3"}
    stamp = site.snapshot().timestamp
    site.options = options
    return stamp


def _source(start: Start) -> str:
    return SNAPSHOT if start.scenario.script == "snapshotbackup" else LOCATION
