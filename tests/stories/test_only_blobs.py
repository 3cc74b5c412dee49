"""A site whose records live elsewhere: its blobs alone are backed up, and every file counts."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.damage import packed_manifest, unpacked_manifest
from tests.layouts import LAYOUTS
from tests.site import BlobKey, Site, blob_files, tree
from zodbvault.commands import written_manifests
from zodbvault.commands.drill import drill
from zodbvault.commands.prune import prune
from zodbvault.commands.restore_plan import plan_restore
from zodbvault.commands.verify_blobs import StateVerifier
from zodbvault.errors import ZodbvaultError
from zodbvault.io.hashing import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zodbvault.commands.verify_blobs import BlobDate
    from zodbvault.commands.verify_result import Finding


@pytest.fixture(params=LAYOUTS)
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path / "site", options={"only_blobs": "true", **LAYOUTS[request.param]})
    site.begin_with_a_blob()
    site.commit_blobs(4)
    yield site
    site.close()


def states_of(site: Site, number: int = 4) -> dict[str, dict[BlobKey, bytes]]:
    """The blobs at each of some backups: with new ones, and with ones that a pack took."""
    states: dict[str, dict[BlobKey, bytes]] = {}
    for step in range(number):
        site.commit_blobs(3)
        if step % 2:
            site.pack()
        report = site.backup()
        assert report.timestamp is not None
        states[report.timestamp] = site.blobs
    return states


def records(site: Site) -> list[str]:
    return [name[:19] for name in site.names(site.blob_location) if name.endswith(".json")]


def test_every_state_comes_back_with_exactly_its_blobs(site: Site) -> None:
    states = states_of(site)
    assert records(site) == list(states)
    assert not (site.var / "backups").exists()
    data = site.datafs.read_bytes()
    for stamp, blobs in [*reversed(states.items()), *states.items()]:
        site.restore(stamp)
        assert site.blobs == blobs
    site.close()
    # Data.fs is nobody's business here.
    assert site.datafs.read_bytes()[: len(data)] == data
    assert site.verify().good
    assert site.verify(deep=True).good
    assert all(stamp in "\n".join(site.list()) for stamp in states)


def test_into_an_empty_folder(site: Site) -> None:
    states = states_of(site)
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.restore()
    assert site.blobs == list(states.values())[-1]


def test_nothing_changed_is_no_backup(site: Site) -> None:
    states_of(site, 2)
    files = tree(site.blob_location)
    assert site.backup().timestamp is None
    assert tree(site.blob_location) == files


def test_files_that_are_seconds_old_wait_for_the_next_run(site: Site) -> None:
    site.backup()
    before = site.blobs
    site.commit_blobs(2)
    site.close()
    assert site.blob_storage is not None
    for path in set(blob_files(site.blob_storage).values()):
        if path.stat().st_mtime < site.clock.now() - 86400:
            new = site.clock.now() + 59
            key = next(key for key, each in blob_files(site.blob_storage).items() if each == path)
            if key not in before:
                os.utime(path, (new, new))
    assert site.backup().timestamp is None
    site.tick(600)
    assert site.backup().timestamp is not None
    blobs = site.blobs
    site.restore()
    assert site.blobs == blobs


@pytest.mark.parametrize("site", ["pool"], indirect=True)
def test_a_damaged_pool_is_refused(site: Site) -> None:
    states_of(site, 2)
    site.close()
    files = blob_files(site.blob_location / "blobs")
    key = max(files, key=lambda key: key[1])
    files[key].write_bytes(b"?" * files[key].stat().st_size)
    assert site.blob_storage is not None
    blob_files(site.blob_storage)[key].unlink()
    before = site.blobs
    with pytest.raises(ZodbvaultError, match=files[key].name):
        site.restore()
    assert {key: site.blobs.get(key) for key in before} == before
    assert not site.verify().good


def test_old_states_go_and_their_blobs_with_them(site: Site) -> None:
    site.options["keep_blob_days"] = "4"
    states: dict[str, dict[BlobKey, bytes]] = {}
    for _ in range(12):
        site.commit_blobs(3)
        site.pack()
        site.tick(86400)
        report = site.backup()
        assert report.timestamp is not None
        states[report.timestamp] = site.blobs
    left = records(site)
    assert 4 <= len(left) <= 8
    assert left == list(states)[-len(left) :]
    for stamp in left:
        site.restore(stamp)
        assert site.blobs == states[stamp]
    if site.settings.blob_layout == "pool":
        needed = set().union(*(states[stamp] for stamp in left))
        assert set(blob_files(site.blob_location / "blobs")) == needed
    else:
        kept = [name for name in os.listdir(site.blob_location) if name.startswith("blobstorage.")]
        assert len([name for name in kept if not name.endswith(".snar")]) == len(left)
        assert not (site.blob_location / "blobs").exists()


def test_a_snapshot_of_blobs_alone(site: Site) -> None:
    site.backup()
    site.commit_blobs(2)
    site.snapshot()
    blobs = site.blobs
    site.commit_blobs(3)
    site.pack()
    site.restore(source="snapshot")
    assert site.blobs == blobs
    assert len(records(site)) == 1


def test_a_blobstorage_that_is_not_mounted(site: Site) -> None:
    states = states_of(site, 2)
    site.close()
    assert site.blob_storage is not None
    os.rename(site.blob_storage, site.var / "away")
    site.blob_storage.mkdir()
    with pytest.raises(ZodbvaultError, match="mounted"):
        site.backup()
    assert records(site) == list(states)


def test_fulls_go_by_keep(site: Site) -> None:
    site.options["keep"] = "2"
    site.options["keep_blob_days"] = "0"
    states: dict[str, dict[BlobKey, bytes]] = {}
    for _ in range(3):
        for full in (True, False):
            site.commit_blobs(2)
            report = site.backup(full=full)
            assert report.timestamp is not None
            states[report.timestamp] = site.blobs
    left = records(site)
    assert left == list(states)[-len(left) :]
    assert 2 <= len(left) <= 4
    for stamp in left:
        site.restore(stamp)
        assert site.blobs == states[stamp]


def test_another_layout_at_any_time(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options={"only_blobs": "true"})
    site.begin_with_a_blob()
    states: dict[str, dict[BlobKey, bytes]] = {}
    for options in (*LAYOUTS.values(), *reversed(LAYOUTS.values())):
        site.options = {"only_blobs": "true", **options}
        for changed in (False, True):
            if changed:
                site.commit_blobs(1)
            report = site.backup()
            if report.timestamp is not None:
                states[report.timestamp] = site.blobs
        assert site.backup().timestamp is None
    for stamp, blobs in reversed(states.items()):
        site.restore(stamp)
        assert site.blobs == blobs
    assert site.verify(deep=True).good
    site.close()


def test_what_the_old_recipe_left_goes_by_its_age(site: Site) -> None:
    site.options["keep_blob_days"] = "4"
    assert site.blob_storage is not None
    location = site.blob_location
    old, young = "2076-11-10-18-05-00", "2076-11-22-18-05-00"
    for stamp in (old, young):
        shutil.copytree(site.blob_storage, location / f"blobstorage.{stamp}" / "blobstorage")
        (location / f"elsewhere.{stamp}").mkdir()
    site.backup()
    assert not (location / f"blobstorage.{old}").exists()
    assert (location / f"blobstorage.{young}").exists()
    assert (location / f"elsewhere.{old}").exists()


@pytest.mark.parametrize(
    "site", ["directories", "archives", "incremental archives", "numbered archives"], indirect=True
)
@pytest.mark.parametrize("left", ["all but the record", "half"])
def test_what_a_killed_run_left_is_no_state(site: Site, left: str) -> None:
    states = states_of(site, 2)
    site.commit_blobs(2)
    report = site.backup()
    assert report.timestamp is not None
    record = site.blob_location / f"{report.timestamp}.json"
    record.unlink()
    (newest,) = (
        path
        for path in site.blob_location.glob("blobstorage.*")
        if path.suffix != ".snar" and int(path.stat().st_mtime) == int(site.clock.now())
    )
    if left == "half":
        newest.rename(newest.with_name(newest.name + ".part"))
    site.commit_blobs(1)
    again = site.backup()
    assert again.timestamp is not None
    assert again.timestamp > report.timestamp
    states[again.timestamp] = site.blobs
    assert records(site) == list(states)
    assert report.timestamp not in "".join(os.listdir(site.blob_location))
    assert not [name for name in os.listdir(site.blob_location) if name.endswith(".part")]
    for stamp, blobs in reversed(states.items()):
        site.restore(stamp)
        assert site.blobs == blobs


@pytest.mark.parametrize("site", ["directories", "archives", "copies"], indirect=True)
def test_a_state_that_is_lost_is_said_and_no_older_one_is_taken(site: Site) -> None:
    states = states_of(site, 2)
    older, newest = states
    for path in site.blob_location.glob(f"blobstorage.{newest}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert site.blob_storage is not None
    shutil.copytree(site.blob_storage, site.blob_location / "blobstorage.2076-01-01-00-00-00" / "blobstorage")
    report = site.verify()
    assert not report.good
    assert "missing" in "\n".join(report.lines)
    live = site.blobs
    refused = refusal(site, None)
    what = "directory" if site.settings.blob_layout == "directories" else "archive, or one that it stands on,"
    assert re.search(rf"/{newest}\.\w+blobs\.gz: its {what} is missing\. Nothing was changed\.", refused)
    assert refused.endswith(f"the nearest states with whole manifests: {older}.")
    assert site.blobs == live
    assert any(f"A restore of {newest} is refused: " in line for line in site.list(newest))
    assert site.restore(older).timestamp == older
    assert site.blobs == states[older]


@pytest.mark.parametrize("site", ["pool", "directories", "archives"], indirect=True)
def test_a_state_that_is_damaged_is_not_replaced_by_an_older_one(site: Site) -> None:
    """Blobs that the older one lacks would be removed from the site, whose records live elsewhere and need them."""
    states = states_of(site, 2)
    older, newest = states
    (manifest,) = site.blob_location.glob(f"{newest}*blobs.gz")
    content = bytearray(manifest.read_bytes())
    content[len(content) // 2] ^= 1
    manifest.write_bytes(content)
    live = site.blobs
    for when in (None, newest):
        with pytest.raises(ZodbvaultError, match="Choose another date") as caught:
            site.restore(when)
        assert manifest.name in str(caught.value)
        assert site.blobs == live
    assert site.command("restore", "--dry-run").returncode == 1
    assert site.restore(older).timestamp == older
    assert site.blobs == states[older]


@pytest.mark.parametrize("site", ["pool", "directories", "archives", "incremental archives"], indirect=True)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", ["a bit", "lines", "gone"])
def test_a_damaged_state_is_not_built_on(
    site: Site, damage: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    states = states_of(site, 2)
    stamp = list(states)[number]
    (manifest,) = site.blob_location.glob(f"{stamp}*blobs.gz")
    content = bytearray(manifest.read_bytes())
    content[len(content) // 2] ^= 1
    lines = unpacked_manifest(manifest)
    if damage == "gone":
        manifest.unlink()
    else:
        manifest.write_bytes(content if damage == "a bit" else packed_manifest(lines[:2]))
    site.commit_blobs(2)
    report = site.backup()
    assert report.timestamp is not None
    blobs = site.blobs
    assert site.verify(report.timestamp).good
    assert site.backup().timestamp is None
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.restore(report.timestamp)
    assert site.blobs == blobs
    if number == 1:
        assert "stands on none before it" in caplog.text


def refusal(site: Site, when: str | None) -> str:
    """Why a date is not restored; the plan, and the script, say the same."""
    with pytest.raises(ZodbvaultError) as refused:
        site.restore(when)
    plan = plan_restore(site.settings, source="location", when=when, checksum=False)
    assert plan.problems == (str(refused.value),)
    dates = () if when is None else (when,)
    planned, done = (site.command("restore", option, *dates) for option in ("--dry-run", "-n"))
    assert (planned.returncode, done.returncode) == (1, 1)
    assert f"PROBLEM: {refused.value}" in planned.stdout
    assert f"ERROR: {refused.value}" in done.stderr
    return str(refused.value)


@pytest.mark.parametrize("site", ["pool"], indirect=True)
@pytest.mark.parametrize("damage", ["gone", "a bit", "lines"])
def test_what_stands_on_a_manifest_that_is_not_whole_is_refused_and_that_one_is_named(site: Site, damage: str) -> None:
    states = states_of(site, 4)
    first, second, third, fourth = states
    path = site.blob_location / f"{second}.deltablobs.gz"
    lines = unpacked_manifest(path)
    if damage == "gone":
        path.unlink()
    elif damage == "a bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(packed_manifest(lines[:2]))
    wrong = "is missing" if damage == "gone" else "has|is not what was written"
    live = site.blobs
    if damage != "a bit":  # that is not looked for
        (warning,) = (line for line in site.list() if path.name in line)
        assert warning.startswith(f"The chain of {first}: {path.name} ")
        finished = site.command("backup-check")
        assert finished.returncode == 2
        assert f"the newest backup may not restore: {path.name} " in finished.stdout
        # With a date, list says the same of that one.
        for when in (second, third, fourth):
            (taken,) = (line for line in site.list(when) if " is refused: " in line)
            assert taken.startswith(f"A restore of {when} is refused: {path.name} ")
    for when in (second, third, fourth, None):
        refused = refusal(site, when)
        assert re.match(rf"{path}: ({wrong})", refused)
        assert (f", and {when or fourth} stands on it" in refused) == (damage == "gone" and when != second)
        assert "Nothing was changed. Choose another date, or fetch it from another copy of the backups" in refused
        assert refused.endswith(f"the nearest states with whole manifests: {first}.")
        assert site.blobs == live
    # A full beside it: both neighbours are named.
    site.commit_blobs(2)
    full = site.backup(full=True).timestamp
    if damage == "gone":
        assert f"WARNING: The chain of {first}: {path.name} is missing." in site.command("backup-list").stderr
        assert site.command("backup-check").returncode == 1
    assert refusal(site, third).endswith(f"whole manifests: {first}, {full}.")
    # Nor does one help that is damaged, too.
    (site.blob_location / f"{first}.blobs.gz").unlink()
    assert refusal(site, third).endswith(f"whole manifests: {full}.")
    (site.blob_location / f"{full}.blobs.gz").write_bytes(b"")
    assert refusal(site, third).endswith("from another copy of the backups; no other state has a whole manifest.")


def manifests_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The manifests that are compared with their records from now on, in that order."""
    read: list[Path] = []

    def noted(path: Path) -> tuple[int, str]:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(written_manifests, "sha256_of", noted)
    return read


@pytest.mark.parametrize("site", ["pool"], indirect=True)
def test_a_damaged_manifest_that_many_states_stand_on_is_read_once_for_all_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_, newest = states_of(site, 6)
    path = site.blob_location / f"{first}.blobs.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    read = manifests_read(monkeypatch)
    with pytest.raises(ZodbvaultError, match="no other state has a whole manifest"):
        site.restore(newest)
    assert read == [path]


@pytest.mark.parametrize("site", ["pool"], indirect=True)
def test_a_verification_compares_each_manifest_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third, fourth = states_of(site, 4)
    manifests = [site.blob_location / f"{first}.blobs.gz"]
    manifests += [site.blob_location / f"{stamp}.deltablobs.gz" for stamp in (second, third, fourth)]
    read = manifests_read(monkeypatch)
    assert site.verify(quick=True).good
    assert read == manifests
    # What is wrong with one is said of each state that stands on it.
    content = bytearray(manifests[1].read_bytes())
    content[len(content) // 2] ^= 1
    manifests[1].write_bytes(content)
    read.clear()
    report = site.verify(quick=True)
    assert read == manifests[:2]
    chains = report.found[0].chains
    assert [chain.timestamp for chain in chains if not chain.findings] == [first]
    assert all(f"{manifests[1]}: is not what was written" in chain.findings[0].what for chain in chains[1:])


@pytest.mark.parametrize("site", ["pool", "directories", "archives"], indirect=True)
def test_a_state_of_which_only_the_record_is_left_is_refused_by_name(site: Site) -> None:
    (stamp,) = states_of(site, 1)
    (manifest,) = site.blob_location.glob(f"{stamp}*blobs.gz")
    manifest.unlink()
    assert refusal(site, None).startswith(f"{manifest}: is missing. Nothing was changed.")
    assert not site.verify(stamp).good
    (failure,) = drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock).failures
    assert failure.startswith(f"{manifest}: is missing. ")
    # Where that cannot be read either nobody knows the name of the manifest.
    record = site.blob_location / f"{stamp}.json"
    record.write_bytes(b"{")
    assert refusal(site, None).startswith(f"{record}: cannot be read, and no manifest of this state is there. Nothing")


@pytest.mark.parametrize("site", ["pool"], indirect=True)
@pytest.mark.parametrize("damage", ["gone", "garbled"])
def test_changes_are_not_taken_for_a_state_where_the_one_before_them_is_gone(site: Site, damage: str) -> None:
    first, second = states_of(site, 2)
    (site.blob_location / f"{first}.json").unlink()
    (site.blob_location / f"{first}.blobs.gz").unlink()
    if damage == "garbled":
        (site.blob_location / f"{second}.json").write_bytes(b"{")
    live = site.blobs
    # A state in another layout before it tells nothing.
    (site.blob_location / "2076-01-01-00-00-00.json").write_bytes(b"{}")
    (site.blob_location / "2076-01-01-00-00-00.directoryblobs.gz").write_bytes(b"")
    assert refusal(site, None).startswith(
        f"{site.blob_location}/{second}.deltablobs.gz: stands on a state that is not there. Nothing was changed."
    )
    assert site.blobs == live


@pytest.mark.parametrize("site", ["pool"], indirect=True)
def test_verify_says_good_of_no_state_whose_manifest_is_gone(site: Site) -> None:
    states = states_of(site, 3)
    first, second, third = states
    (site.blob_location / f"{second}.deltablobs.gz").unlink()
    verdicts = {date: good for chain in site.verify().found[0].chains for date, good in chain.verdicts.items()}
    assert verdicts == {first: True, second: False, third: False}
    assert not site.verify(second).good
    assert site.verify(first).good
    assert site.restore(first).timestamp == first
    assert site.blobs == states[first]


@pytest.mark.parametrize("site", ["pool"], indirect=True)
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["gone", "garbled"])
def test_what_stands_on_a_state_whose_record_is_gone_is_not_restored_without_it(
    site: Site, damage: str, number: int
) -> None:
    states = states_of(site, 3)
    record = site.blob_location / f"{list(states)[number]}.json"
    record.unlink()
    if damage == "garbled":
        record.write_bytes(b"{")
    good = {date: each for chain in site.verify().found[0].chains for date, each in chain.verdicts.items()}
    for stamp, blobs in states.items():
        live = site.blobs
        try:
            is_it = site.restore(stamp).timestamp == stamp
        except ZodbvaultError:
            is_it = False
            assert site.blobs == live
        assert site.blobs == blobs or not is_it
        assert is_it or not good.get(stamp)
    site.commit_blobs(2)
    report = site.backup()
    assert report.timestamp is not None
    blobs = site.blobs
    assert site.verify(report.timestamp).good
    assert site.restore(report.timestamp).timestamp == report.timestamp
    assert site.blobs == blobs


@pytest.mark.parametrize("site", ["pool", "directories", "archives"], indirect=True)
@pytest.mark.parametrize("number", [0, 1])
def test_what_is_left_of_a_state_without_a_manifest_goes_by_its_age_too(site: Site, number: int) -> None:
    site.options["keep_blob_days"] = "4"
    states = list(states_of(site, 2))
    (manifest,) = site.blob_location.glob(f"{states[number]}*blobs.gz")
    manifest.unlink()
    assert not site.verify().good
    site.tick(5 * 86400)
    site.commit_blobs(1)
    report = site.backup(full=True)
    assert set(records(site)) == {report.timestamp}
    assert site.verify().good


@pytest.mark.parametrize("site", ["pool", "directories", "archives"], indirect=True)
def test_an_empty_blob_storage_is_no_state_after_a_damaged_one_either(site: Site) -> None:
    (stamp,) = states_of(site, 1)
    (manifest,) = site.blob_location.glob(f"{stamp}*blobs.gz")
    manifest.write_bytes(manifest.read_bytes()[:-1])
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.blob_storage.mkdir()
    with pytest.raises(ZodbvaultError, match="is empty, but the newest backup has blobs"):
        site.backup()
    assert records(site) == [stamp]


@pytest.mark.parametrize("site", ["pool", "directories", "archives"], indirect=True)
def test_what_is_pruned_while_it_is_verified_is_not_called_damaged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    older = site.backup().timestamp
    site.tick(5 * 86400)
    site.commit_blobs(1)
    newest = site.backup(full=True).timestamp
    assert older is not None
    assert newest is not None
    site.options["keep_blob_days"] = "4"
    look = StateVerifier.look

    def pruned_behind_the_first(verifier: StateVerifier, dates: Sequence[BlobDate]) -> list[Finding]:
        found = look(verifier, dates)
        prune(site.settings, which="backups", dry_run=False, clock=site.clock)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(StateVerifier, "look", pruned_behind_the_first)
        report = site.verify()
    assert f"{older}.json" not in site.names(site.blob_location)
    assert report.good
    assert [chain.timestamp for chain in report.found[0].chains] == [newest]
    assert f"{older}.checks.json" not in site.names(site.blob_location)


@pytest.mark.parametrize("site", ["pool"], indirect=True)
def test_the_newer_state_of_another_program_is_added_and_is_called_neither_good_nor_gone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    assert site.blob_storage is not None
    (stamp,) = states_of(site, 1)
    theirs = "2077-01-01-00-00-00"
    shutil.copytree(site.blob_storage, site.blob_location / f"blobstorage.{theirs}" / "blobstorage")
    lost = min(blob_files(site.blob_storage).items())[1]
    lost.unlink()
    site.commit_blobs(2, names=40)
    live = site.blobs
    site.close()
    plan = plan_restore(site.settings, source="location", when=None, checksum=False)
    assert (plan.timestamp, plan.problems) == (theirs, ())
    assert plan.blobs is not None
    # Nobody knows whether it has all.
    assert (plan.blobs.add, plan.blobs.remove, plan.blobs.is_certain) == (1, 0, True)
    assert ", 1 blob added (" in (summary := site.restore().summary)
    assert summary.endswith(" kept (same name and size).")
    assert len(site.blobs) == len(live) + 1
    report = site.verify(theirs)
    assert not report.good
    assert f"another program wrote blobstorage.{theirs}, so nobody knows" in "\n".join(report.lines)
    assert "pruned meanwhile" not in caplog.text
    assert not (site.blob_location / f"{theirs}.checks.json").exists()
    assert site.verify().good
    assert site.verify(stamp).good


def test_a_clock_that_is_behind_what_another_program_left(site: Site) -> None:
    assert site.blob_storage is not None
    site.backup()
    folder = site.blob_location / "blobstorage.2077-01-01-00-00-00"
    shutil.copytree(site.blob_storage, folder / "blobstorage")
    site.commit_blobs(3)
    report = site.backup()
    assert report.timestamp is not None
    assert report.timestamp > "2077"
    blobs = site.blobs
    site.restore()
    assert site.blobs == blobs


@pytest.mark.parametrize("how", ["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_copied_waits_for_the_next_run(
    site: Site, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodbvault.blobs import archive_writer, copying

    assert site.blob_storage is not None
    changing = max(blob_files(site.blob_storage).values(), key=lambda path: path.stat().st_size)
    original = copying.blocks_of
    inode = changing.stat().st_ino

    def blocks_of(fd: int) -> Iterator[bytes]:
        if os.fstat(fd).st_ino == inode:
            changing.chmod(0o600)
            with changing.open("r+b") as file:
                if how == "grows":
                    file.seek(0, os.SEEK_END)
                    file.write(b"more")
                else:
                    file.truncate(5)
        yield from original(fd)

    with monkeypatch.context() as patch:
        patch.setattr(copying, "blocks_of", blocks_of)
        patch.setattr(archive_writer, "blocks_of", blocks_of)
        report = site.backup()
    assert report.timestamp is not None
    others = {key: content for key, content in site.blobs.items() if blob_files(site.blob_storage)[key] != changing}
    whole = site.blobs
    site.restore()
    assert site.blobs == others
    for key, content in whole.items():
        if key not in others:
            changing.parent.mkdir(parents=True, exist_ok=True)
            changing.write_bytes(content)
            os.utime(changing, (1_000_000_000, 1_000_000_000))
    assert site.backup().timestamp is not None
    site.restore()
    assert site.blobs == whole


def test_a_delta_never_stands_on_what_goes_before_it(tmp_path: Path) -> None:
    """Archives that build on each other, a numbered one between, and those again."""
    series, numbered = LAYOUTS["incremental archives"], LAYOUTS["numbered archives"]
    site = Site(tmp_path / "site", options={"only_blobs": "true"}, start="2076-01-01-00-00-00")
    site.begin_with_a_blob()
    states: dict[str, dict[BlobKey, bytes]] = {}
    for options, days in ((series, 1), (numbered, 1), (series, 1), (series, 3), (series, 3)):
        site.options = {"only_blobs": "true", "keep_blob_days": "4", **options}
        site.commit_blobs(1)
        site.tick(86400 * days)
        report = site.backup()
        assert report.timestamp is not None
        states[report.timestamp] = site.blobs
        for stamp in records(site):
            assert site.blob_storage is not None
            for path in blob_files(site.blob_storage).values():
                path.unlink()
            site.restore(stamp)
            assert site.blobs == states[stamp]
        site.restore(max(states))
    assert site.verify(deep=True).good
    site.close()
