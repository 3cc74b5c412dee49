"""Directories and archives of blobs, as an administrator meets them: each date comes back, whatever is changed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests import layouts
from tests.site import Site, State, blob_files, committed_tids, copy_without_times, seconds, tree
from tests.stories.test_point_in_time import copied_at
from tests.stories.test_restore_to import assert_copy_is
from zodbvault.commands.drill import drill
from zodbvault.errors import ZodbvaultError
from zodbvault.io import space
from zodbvault.io.space import NotEnoughSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUTS = {name: options for name, options in layouts.LAYOUTS.items() if name != "pool"}
POOL: dict[str, str] = {}


@pytest.fixture(params=["bushy", "lawn"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", layout=request.param)
    site.begin_with_a_blob()
    site.commit_blobs(3)
    yield site
    site.close()


@pytest.fixture(params=LAYOUTS)
def laid_out(site: Site, request: pytest.FixtureRequest) -> Site:
    """A site with one of the layouts."""
    change_layout(site, LAYOUTS[request.param])
    return site


def change_layout(site: Site, options: dict[str, str]) -> None:
    for name in {name for each in LAYOUTS.values() for name in each}:
        site.options.pop(name, None)
    site.options.update(options)


@pytest.mark.parametrize(
    ("options", "what_follows"),
    [(POOL, "All blobs are copied."), (LAYOUTS["directories"], "Nothing of it is used for this backup.")],
)
def test_of_a_directory_that_holds_nothing_is_said_what_it_is_and_what_follows(
    site: Site, options: dict[str, str], what_follows: str, caplog: pytest.LogCaptureFixture
) -> None:
    change_layout(site, options)
    directory = site.blob_location / "blobstorage.2076-11-23-18-00-00"
    directory.mkdir(parents=True)
    site.backup()
    said = [record.getMessage() for record in caplog.records if "holds no copy" in record.getMessage()]
    assert said == [f"{directory}: holds no copy of a blob storage. {what_follows}"]


def test_a_snapshot_file_that_cannot_be_written_is_named(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    change_layout(site, LAYOUTS["incremental archives"])
    site.backup()
    (snapshot_file,) = site.blob_location.glob("*.snar")
    snapshot_file.unlink()
    snapshot_file.mkdir()
    site.commit_blobs(1)
    site.backup()
    assert f"{snapshot_file}: cannot be written: Is a directory; tar cannot go on with this series." in caplog.messages


def history(site: Site, steps: int = 4) -> dict[str, State]:
    """Backups of a site that grows, is undone, and shrinks by a pack."""
    states: dict[str, State] = {}
    for step in range(steps):
        site.commit_pages(2)
        site.commit_blobs(2)
        if step == 1:
            site.undo()
        if step == 2:
            site.delete()
            site.pack()
        states.update([site.backed_up()])
    return states


def require_each(site: Site, states: dict[str, State], *, into_nothing: bool = False) -> None:
    for stamp, state in sorted(states.items(), reverse=True):
        site.close()
        if into_nothing and site.blob_storage is not None:
            shutil.rmtree(site.blob_storage)
        site.restore(stamp)
        site.assert_is(state)
    site.restore(max(states))


def stored(site: Site) -> list[str]:
    """Directories, archives and what belongs to them."""
    return sorted(name for name in os.listdir(site.blob_location) if name.startswith("blobstorage."))


def test_each_date_comes_back_over_the_site_and_into_nothing(laid_out: Site) -> None:
    states = history(laid_out)
    assert len(states) == 4
    assert not (laid_out.blob_location / "blobs").exists()
    require_each(laid_out, states)
    require_each(laid_out, states, into_nothing=True)
    assert laid_out.verify().good
    assert laid_out.verify(deep=True).good


def test_nothing_new_changes_nothing(laid_out: Site) -> None:
    history(laid_out, 2)
    before = tree(laid_out.location, laid_out.blob_location), os.listdir(laid_out.blob_location)
    assert laid_out.backup().timestamp is None
    assert (tree(laid_out.location, laid_out.blob_location), os.listdir(laid_out.blob_location)) == before


def test_backups_without_their_times_restore_and_are_continued(laid_out: Site) -> None:
    """A copy on another disk: numbers and times do not tell any more what belongs to what."""
    states = history(laid_out, 3)
    laid_out.options["keep"] = "2"
    for option in ("location", "blobbackuplocation"):
        old = laid_out.settings._asdict()[option]
        shutil.copytree(old, laid_out.folder / option, symlinks=True, copy_function=copy_without_times)
        shutil.rmtree(old)
        laid_out.options[option] = str(laid_out.folder / option)
        for path in (laid_out.folder / option).iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    require_each(laid_out, states)
    laid_out.commit_blobs(2)
    laid_out.delete()
    laid_out.pack()
    states.update([laid_out.backed_up()])
    kept = {stamp: state for stamp, state in states.items() if stamp in laid_out.timestamps()}
    assert 2 <= len(kept) < 4
    require_each(laid_out, kept)


@pytest.mark.parametrize("before", ["pool", *LAYOUTS])
@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_another_layout_at_any_time(site: Site, before: str) -> None:
    """The newest backup gets its blobs in the new layout at once, and every older date still restores."""
    change_layout(site, LAYOUTS.get(before, POOL))
    states = history(site, 2)
    for options in (*LAYOUTS.values(), POOL):
        change_layout(site, options)
        newest = max(states)
        report = site.backup()
        record = site.location / f"{newest}.json"
        assert f'"layout": "{site.settings.blob_layout}"' in record.read_text()
        assert report.timestamp in (None, newest)
        assert site.backup().timestamp is None
        site.commit_blobs(1)
        states.update([site.backed_up()])
    require_each(site, states)
    require_each(site, states, into_nothing=True)
    assert site.verify(deep=True).good


@pytest.mark.parametrize("to_pool", [True, False])
@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_a_change_between_pool_and_directories_does_not_double_the_space(site: Site, to_pool: bool) -> None:
    directories = LAYOUTS["directories"]
    change_layout(site, directories if to_pool else POOL)
    site.backup()
    change_layout(site, POOL if to_pool else directories)
    site.commit_blobs(1)
    stamp, _ = site.backed_up()
    assert site.blob_storage is not None
    if to_pool:
        (directory,) = (name for name in stored(site))
        old, new = blob_files(site.blob_location / directory / "blobstorage"), blob_files(site.blob_location / "blobs")
    else:
        (directory,) = (name for name in stored(site) if stamp in name)
        old, new = blob_files(site.blob_location / "blobs"), blob_files(site.blob_location / directory / "blobstorage")
    assert len(old) >= 2
    shared = {key for key in old if key in new and os.path.samefile(old[key], new[key])}
    assert shared == set(old)
    if not to_pool:
        live = blob_files(site.blob_storage)
        assert {key: path.stat().st_mtime_ns for key, path in new.items()} == {
            key: live[key].stat().st_mtime_ns for key in new
        }
        # And back: what only the directory has is linked, not copied.
        change_layout(site, POOL)
        site.backup()
        assert all(path.stat().st_nlink == 2 for path in blob_files(site.blob_location / "blobs").values())


def test_a_site_that_changes_its_own_layout(laid_out: Site) -> None:
    """`migrateblobs` of ZODB: the blobs move, nothing is committed."""
    states = history(laid_out, 2)
    laid_out.close()
    assert laid_out.blob_storage is not None
    other = "lawn" if laid_out.layout == "bushy" else "bushy"
    old, new = laid_out.blob_storage, laid_out.var / "new"
    from zodbvault.blobs.layouts import path_for

    (new / "tmp").mkdir(parents=True)
    (new / ".layout").write_text(other)
    for (oid, tid), path in blob_files(old).items():
        target = new / path_for("lawn" if other == "lawn" else "bushy", oid.to_bytes(8, "big") + tid.to_bytes(8, "big"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    shutil.rmtree(old)
    new.rename(old)
    newest = max(states)
    assert laid_out.backup().timestamp == newest
    assert f'"source_layout": "{other}"' in (laid_out.location / f"{newest}.json").read_text()
    laid_out.commit_blobs(1)
    states.update([laid_out.backed_up()])
    require_each(laid_out, states)
    shutil.rmtree(old)
    laid_out.restore(max(states))
    assert (old / ".layout").read_text() == other
    laid_out.assert_is(states[max(states)])


def test_a_blob_that_the_site_has_lost(laid_out: Site, caplog: pytest.LogCaptureFixture) -> None:
    laid_out.backup()
    assert laid_out.blob_storage is not None
    lost = min(laid_out.state().needed)
    blob_files(laid_out.blob_storage)[lost].unlink()
    laid_out.commit_pages()
    caplog.clear()
    stamp, state = laid_out.backed_up(full=True)
    # A directory before has it, and lends it to those that follow.
    has_it = laid_out.settings.blob_layout == "directories"
    assert ("lost" in caplog.text) == (not has_it)
    laid_out.restore(stamp)
    assert (lost in laid_out.blobs) == has_it
    assert {key: laid_out.blobs.get(key) for key in state.needed} == state.needed
    assert laid_out.verify(deep=True).good


def test_an_empty_blobstorage_is_not_mounted(laid_out: Site) -> None:
    history(laid_out, 2)
    laid_out.close()
    assert laid_out.blob_storage is not None
    laid_out.blob_storage.rename(laid_out.var / "away")
    laid_out.blob_storage.mkdir()
    before = tree(laid_out.location, laid_out.blob_location)
    for full in (False, True):
        with pytest.raises(ZodbvaultError, match="mounted"):
            laid_out.backup(full=full)
        assert tree(laid_out.location, laid_out.blob_location) == before


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_too_little_space_writes_nothing(laid_out: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out.commit_blobs(1, size=500_000)
    monkeypatch.setattr(space, "free_bytes", lambda path: 0 if "blobstorage" in str(path) else 1 << 60)
    if laid_out.settings.rsync_hard_links_on_first_copy:
        # Links need none.
        laid_out.backup()
        return
    with pytest.raises(NotEnoughSpace):
        laid_out.backup()
    assert stored(laid_out) == []
    assert laid_out.timestamps() == []


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_old_ones_go_with_their_data(laid_out: Site) -> None:
    laid_out.options["keep"] = "2"
    states: dict[str, State] = {}
    for _ in range(4):
        laid_out.commit_blobs(1)
        states.update([laid_out.backed_up(full=True)])
        laid_out.commit_blobs(1)
        states.update([laid_out.backed_up()])
    kept = {stamp: state for stamp, state in states.items() if stamp in laid_out.timestamps()}
    assert sorted(kept) == sorted(states)[-4:]
    times = {seconds(stamp) for stamp in kept}
    for name in stored(laid_out):
        assert name.endswith(".snar") or int(os.stat(laid_out.blob_location / name).st_mtime) in times
    assert len([name for name in stored(laid_out) if not name.endswith(".snar")]) == 4
    require_each(laid_out, kept)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_a_snapshot_and_a_zip_backup(laid_out: Site) -> None:
    laid_out.options["enable_zipbackup"] = "true"
    snapshots = laid_out.settings.blobsnapshotlocation
    assert snapshots is not None
    stamp = laid_out.snapshot().timestamp
    state = laid_out.state()
    assert not [name for name in os.listdir(snapshots) if "delta" in name or name.endswith(".snar")]
    laid_out.commit_blobs(2)
    laid_out.restore(stamp, source="snapshot")
    laid_out.assert_is(state)


@pytest.mark.parametrize("damage", ["missing", "cut", "other content"])
@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_what_is_damaged_is_not_built_on_and_not_restored(laid_out: Site, damage: str) -> None:
    stamp, state = laid_out.backed_up()
    laid_out.close()
    (name,) = (name for name in stored(laid_out) if not name.endswith(".snar"))
    path = laid_out.blob_location / name
    for each in [*blob_files(path / "blobstorage").values()] if path.is_dir() else [path]:
        # Not the site's own file, where it is linked.
        content = each.read_bytes()
        each.unlink()
        if damage == "cut":
            each.write_bytes(content[: len(content) * 2 // 3])
        elif damage == "other content":
            each.write_bytes(bytes(byte ^ 1 for byte in content))
    assert laid_out.blob_storage is not None
    kept = laid_out.var / "kept"
    laid_out.blob_storage.rename(kept)
    laid_out.blob_storage.mkdir()
    before = laid_out.datafs.read_bytes()
    with pytest.raises(ZodbvaultError):
        laid_out.restore(stamp)
    assert laid_out.datafs.read_bytes() == before
    assert not laid_out.verify().good
    shutil.rmtree(laid_out.blob_storage)
    kept.rename(laid_out.blob_storage)
    laid_out.commit_blobs(1)
    # A flipped bit is seen by who reads it, which is not a backup that links to it.
    if damage == "other content" and path.is_dir() and laid_out.settings.use_rsync:
        return
    later, state = laid_out.backed_up(full=damage == "other content")
    shutil.rmtree(laid_out.blob_storage)
    laid_out.restore(later)
    laid_out.assert_is(state)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_there_and_back_again_with_nothing_committed(laid_out: Site) -> None:
    """Each time the newest backup is completed, and none of it makes the next one a full."""
    wanted = dict(laid_out.options)
    stamp, state = laid_out.backed_up()
    for options in (POOL, wanted, POOL, wanted):
        change_layout(laid_out, options)
        assert laid_out.backup().timestamp == stamp
        assert laid_out.backup().timestamp is None
    # What was there for the date is taken up again, not made once more.
    assert len([name for name in stored(laid_out) if not name.endswith(".snar")]) == 1
    laid_out.commit_blobs(1)
    later, after = laid_out.backed_up()
    assert f"{later}.deltafsz" in laid_out.names()
    require_each(laid_out, {stamp: state, later: after}, into_nothing=True)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_what_lost_blobs_meanwhile_is_not_taken_up_again(laid_out: Site) -> None:
    stamp, state = laid_out.backed_up()
    (name,) = (name for name in stored(laid_out) if not name.endswith(".snar"))
    path = laid_out.blob_location / name
    if path.is_dir():
        min(blob_files(path / "blobstorage").values()).unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2000])
    # As after a change of layout and back: the record does not tell of this layout.
    record = laid_out.location / f"{stamp}.json"
    record.write_text(record.read_text().replace(f'"layout": "{laid_out.settings.blob_layout}"', '"layout": "other"'))
    assert laid_out.backup().timestamp == stamp
    require_each(laid_out, {stamp: state}, into_nothing=True)
    assert laid_out.verify(deep=True).good


def test_each_transaction_comes_back_and_a_drill_is_good(laid_out: Site, tmp_path: Path) -> None:
    moments: dict[str, State] = {}
    for _ in range(3):
        for _ in range(2):
            laid_out.commit_blobs(2)
            moments[committed_tids(laid_out.data)[-1][0].hex()] = laid_out.state()
        laid_out.backup()
    for tid, state in moments.items():
        copied_at(laid_out, tmp_path / tid, tid)
        assert_copy_is(tmp_path / tid, state)
    assert drill(laid_out.settings, when=None, which="backups", sample=None, tmp=None, clock=laid_out.clock).good


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_backups_of_data_that_are_missing_take_no_blobs_with_them(
    laid_out: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The location was emptied, or an older copy of it was put back: the blobs may be all that is left."""
    states = history(laid_out, 4)
    before = stored(laid_out)
    kept = {path.name: path.read_bytes() for path in laid_out.location.iterdir()}
    for path in laid_out.location.iterdir():
        if not path.name.startswith("."):
            path.unlink()
    with pytest.raises(ZodbvaultError, match="no backups in the location"):
        laid_out.backup()
    assert stored(laid_out) == before
    newest = sorted(states)[-2:]
    for name, content in kept.items():
        if name[:19] not in newest and not name.startswith("."):
            if name.endswith(".dat"):
                content = b"".join(
                    line for line in content.splitlines(keepends=True) if line[:19].decode() not in newest
                )
            if content:
                (laid_out.location / name).write_bytes(content)
    caplog.clear()
    laid_out.commit_pages()
    stamp, state = laid_out.backed_up()
    gone = [name for name in before if name not in stored(laid_out)]
    # The newest one alone may be what a kill left.
    if laid_out.settings.blob_timestamps:
        assert [name for name in gone if newest[-1] not in name] == []
    laid_out.restore(stamp)
    laid_out.assert_is(state)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_a_file_system_with_coarse_times(laid_out: Site) -> None:
    """FAT keeps every other second: a number's time is one second off, and it is the newest backup's all the same."""
    laid_out.tick(61)
    stamp = laid_out.backup().timestamp
    assert stamp is not None
    for path in laid_out.blob_location.glob("blobstorage.*"):
        even = seconds(stamp) // 2 * 2
        os.utime(path, (even, even))
    before = stored(laid_out)
    assert laid_out.backup().timestamp is None
    assert stored(laid_out) == before


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_only_a_snapshot_file_of_tar_is_no_state(site: Site) -> None:
    change_layout(site, LAYOUTS["incremental archives"])
    stamp, state = site.backed_up()
    (site.blob_location / f"blobstorage.{stamp}.tar").unlink()
    assert site.backup().timestamp == stamp
    require_each(site, {stamp: state}, into_nothing=True)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_a_blobstorage_with_another_name(laid_out: Site) -> None:
    """The folder is called otherwise now: what has the old name restores, and goes when its backup goes."""
    laid_out.options["keep"] = "1"
    stamp, state = laid_out.backed_up()
    laid_out.close()
    assert laid_out.blob_storage is not None
    new = laid_out.var / "blobs of the site"
    laid_out.blob_storage.rename(new)
    laid_out.options["blob_storage"] = str(new)
    laid_out.blob_storage = new
    laid_out.commit_blobs(1)
    later, after = laid_out.backed_up()
    require_each(laid_out, {stamp: state, later: after})
    laid_out.commit_blobs(1)
    laid_out.backup(full=True)
    assert stored(laid_out) == []


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_what_is_put_aside_has_a_name_of_its_own_and_goes_in_its_time(laid_out: Site) -> None:
    laid_out.options["keep"] = "1"
    laid_out.backup()
    for _ in range(2):
        laid_out.commit_blobs(1)
        stamp = laid_out.backup().timestamp
        (dat,) = laid_out.location.glob("*.dat")
        dat.write_bytes(b"".join(dat.read_bytes().splitlines(keepends=True)[:-1]))
        os.truncate(laid_out.location / f"{stamp}.deltafsz", 30)
        laid_out.commit_pages()
        laid_out.backup()
    assert len([name for name in stored(laid_out) if name.endswith(".orphan")]) == 2
    laid_out.commit_blobs(1)
    stamp, state = laid_out.backed_up(full=True)
    assert not [name for name in os.listdir(laid_out.blob_location) if name.endswith(".orphan")]
    require_each(laid_out, {stamp: state}, into_nothing=True)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_without_records_a_series_is_looked_at_before_it_is_continued(site: Site) -> None:
    change_layout(site, LAYOUTS["incremental archives"])
    states = history(site, 2)
    site.commit_blobs(1)
    states.update([site.backed_up()])
    for path in site.location.glob("*.json"):
        path.unlink()
    (site.blob_location / f"blobstorage.{sorted(states)[1]}.delta.tar").unlink()
    site.commit_blobs(1)
    stamp, state = site.backed_up()
    require_each(site, {stamp: state}, into_nothing=True)


def test_numbers_of_another_program_that_lost_their_times(site: Site) -> None:
    """Two chains, copied without times: each date finds what has its blobs."""
    assert site.blob_storage is not None
    site.options["blob_timestamps"] = "false"
    states: dict[str, State] = {}
    for number in (2, 1, 0):
        site.commit_blobs(2)
        if number == 0:
            site.delete()
            site.pack()
        states.update([site.backed_up()])
        shutil.copytree(site.blob_storage, site.var / f"copy{number}")
    shutil.rmtree(site.blob_location)
    for number in range(3):
        shutil.move(site.var / f"copy{number}", site.blob_location / f"blobstorage.{number}" / "blobstorage")
    for path in site.location.glob("*.json"):
        path.unlink()
    for stamp, state in states.items():
        site.close()
        shutil.rmtree(site.blob_storage)
        site.restore(stamp)
        assert site.data == state.data
        # There may be more: nobody knows what was made for the date.
        assert site.blobs.items() >= state.needed.items()


def test_a_manifest_that_the_other_recipe_left_tells_nothing(site: Site) -> None:
    """Its prune took our data and our directory, and left the manifest."""
    assert site.blob_storage is not None
    site.options["blob_timestamps"] = "false"
    old = site.backup().timestamp
    site.commit_blobs(2)
    stamp, state = site.backed_up(full=True)
    for path in [*site.location.glob(f"{old}*"), site.location / f"{stamp}.json"]:
        path.unlink()
    (site.blob_location / f"{stamp}.directoryblobs.gz").unlink()
    shutil.rmtree(site.blob_location / "blobstorage.1")
    os.utime(site.blob_location / "blobstorage.0", (seconds(stamp) + 2, seconds(stamp) + 2))
    require_each(site, {stamp: state}, into_nothing=True)


@pytest.mark.parametrize("site", ["bushy"], indirect=True)
def test_what_goes_between_chains_that_stay_takes_its_blobs_with_it(laid_out: Site) -> None:
    laid_out.options |= {"keep": "1", "keep_daily": "3"}
    states: dict[str, State] = {}
    for hours in (0, 3, 3, 20, 3, 3):
        laid_out.tick(hours * 3600)
        laid_out.commit_blobs(1)
        states.update([laid_out.backed_up(full=True)])
    kept = {stamp: state for stamp, state in states.items() if stamp in laid_out.timestamps()}
    assert len(kept) == 3
    assert [stamp for stamp in states if stamp not in kept and min(kept) < stamp < max(kept)]
    assert len([name for name in stored(laid_out) if not name.endswith(".snar")]) == 3
    require_each(laid_out, kept, into_nothing=True)
