"""A manifest of blobs that is gone or damaged: which state serves in its stead, and what everybody says of it."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.damage import packed_manifest, unpacked_manifest
from tests.site import Site, State, blob_files
from tests.stories.test_restore_only import only
from zodbvault.commands.drill import DrillReport, drill
from zodbvault.commands.restore_plan import Plan, plan_as_text, plan_restore
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def removed(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


both = pytest.mark.parametrize("harm", [removed, damaged])


def manifest(site: Site, stamp: str, suffix: str = ".blobs.gz") -> Path:
    path = site.blob_location / (stamp + suffix)
    assert path.exists()
    return path


def lose_blobs(site: Site, number: int | None = None) -> None:
    """The oldest of the live site's blobs, or all with the folder."""
    site.close()
    assert site.blob_storage is not None
    if number is None:
        shutil.rmtree(site.blob_storage)
        return
    files = blob_files(site.blob_storage)
    for key in sorted(files, key=lambda key: key[1])[:number]:
        files[key].unlink()


def planned(site: Site, when: str | None = None, **keywords: Any) -> Plan:
    site.close()
    return plan_restore(site.settings, source="location", when=when, checksum=False, **keywords)


def warned_of(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """The warnings that name something; they are forgotten then."""
    found = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING and name in one.getMessage()]
    caplog.clear()
    return found


def rehearsed(site: Site) -> DrillReport:
    site.close()
    return drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock)


def a_full_and_two_incrementals(site: Site) -> tuple[str, State]:
    site.commit_blobs(3)
    full, _ = site.backed_up()
    for _ in range(2):
        site.commit_blobs(2)
        site.backup()
    return full, site.state()


@both
def test_the_refusal_names_the_manifest_and_the_plan_says_the_same(
    site: Site, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    full, _ = a_full_and_two_incrementals(site)
    path = manifest(site, full)
    harm(path)
    lose_blobs(site, 2)
    for when in (None, full):
        with pytest.raises(ZodbvaultError, match="2 blobs that the data refer to") as refused:
            site.restore(when)
        assert str(refused.value).startswith(f"{path}: is {'missing' if harm is removed else 'not what was written'}; ")
        assert "Fetch this file from another copy of the backups" in str(refused.value)
        # The later states of the chain need the same file: nobody is told that one of them is taken.
        assert not [text for text in warned_of(caplog, path.name) if "Another state" in text]
        plan = planned(site, when)
        assert plan.problems == (str(refused.value),)
        assert "  blobs    see below" in plan_as_text(plan)
        assert warned_of(caplog, path.name) == []
    finished = site.command("restore", "--dry-run", "--json")
    assert (finished.returncode, site.command("restore", "-n").returncode) == (1, 1)
    (problem,) = json.loads(finished.stdout)["problems"]
    assert (path.name in problem, path.name in finished.stderr) == (True, False)


@both
def test_where_the_site_has_all_blobs_no_manifest_is_needed(
    site: Site, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    full, state = a_full_and_two_incrementals(site)
    path = manifest(site, full)
    harm(path)
    site.commit_pages(1)
    assert planned(site).problems == ()
    assert len(planned_warnings := warned_of(caplog, path.name)) == 1
    assert "All blobs that the data refer to have to be in" in planned_warnings[0]
    site.restore()
    assert warned_of(caplog, path.name) == planned_warnings
    site.assert_is(state)


@both
def test_an_earlier_full_serves_where_it_has_all_blobs(
    site: Site, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    a_full_and_two_incrementals(site)
    before = site.timestamps()[-1]
    site.commit_pages(2)
    newest, state = site.backed_up(full=True)
    path = manifest(site, newest)
    harm(path)
    lose_blobs(site)
    plan = planned(site)
    assert (plan.problems, plan.blobs and plan.blobs.add) == ((), len(state.blobs))
    (warning,) = warned_of(caplog, path.name)
    assert f"Another state is taken, which may lack blobs: {before}, from the pool." in warning
    assert rehearsed(site).good
    caplog.clear()
    site.restore()
    assert warned_of(caplog, path.name) == [warning]
    site.assert_is(state)
    # Data that refer to a newer blob are another matter.
    site.commit_blobs(1)
    newest, _ = site.backed_up(full=True)
    harm(manifest(site, newest))
    lose_blobs(site)
    with pytest.raises(ZodbvaultError, match=rf"{newest}\.blobs\.gz: is .*neither another state nor .* has 1 blob "):
        site.restore()
    assert not rehearsed(site).good


@both
def test_a_later_full_serves_where_it_still_has_all_blobs(
    site: Site, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    site.commit_blobs(3)
    first, state = site.backed_up()
    site.commit_blobs(4, names=40)
    second, _ = site.backed_up(full=True)
    site.commit_pages(1)
    site.backup()
    site.close()
    path = manifest(site, first)
    harm(path)
    lose_blobs(site)
    assert planned(site, first).problems == ()
    assert f"which may lack blobs: {second}, from the pool." in warned_of(caplog, path.name)[0]
    site.restore(first)
    site.assert_is(state)
    # After a pack it has not.
    site.restore()
    for _ in range(20):
        site.delete()
    site.pack()
    site.backup(full=True)
    harm(manifest(site, second))
    lose_blobs(site)
    with pytest.raises(ZodbvaultError, match=rf"{first}\.blobs\.gz: is .*neither another state nor "):
        site.restore(first)


@both
def test_blobs_alone_are_restored_from_another_state_as_the_plan_says(
    site: Site, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    a_full_and_two_incrementals(site)
    before, newest = site.timestamps()[-2:]
    path = manifest(site, newest, ".deltablobs.gz")
    harm(path)
    lose_blobs(site)
    plan = planned(site, only="blobs")
    assert plan.problems == ()
    warnings = warned_of(caplog, path.name)
    assert len(warnings) == 1
    assert site.command("restore", "--dry-run", "--only", "blobs").returncode == 0
    report = only(site, "blobs")
    assert warned_of(caplog, path.name) == warnings
    assert f"Restored the blobs of {newest}, but from the state of {before}, " in report.summary
    assert plan.blobs is not None
    assert plan.blobs.add == len(site.blobs) > 0
    # None that can be read: both refuse, and name the manifest.
    harm(manifest(site, site.timestamps()[0]))
    finished = [site.command("restore", *options, "--only", "blobs") for options in (("--dry-run",), ("-n",))]
    assert [one.returncode for one in finished] == [1, 1]
    assert finished[0].stdout.count(".blobs.gz: is ") == 1
    assert ".blobs.gz: is " in finished[1].stderr


def test_without_records_the_changes_tell_that_there_was_a_manifest(site: Site) -> None:
    full, _ = a_full_and_two_incrementals(site)
    path = manifest(site, full)
    path.unlink()
    for record in site.location.glob("*.json"):
        record.unlink()
    lose_blobs(site)
    with pytest.raises(ZodbvaultError) as refused:
        site.restore()
    assert str(refused.value).startswith(f"{path}: is missing")
    assert planned(site).problems == (str(refused.value),)


def test_where_nothing_tells_of_a_manifest_the_plan_reads_the_data_too(site: Site) -> None:
    site.commit_blobs(3)
    site.undo()
    stamp, state = site.backed_up()
    manifest(site, stamp).unlink()
    for record in site.location.glob("*.json"):
        record.unlink()
    assert planned(site).problems == ()
    site.restore()
    site.assert_is(state)
    lose_blobs(site)
    with pytest.raises(ZodbvaultError) as refused:
        site.restore()
    assert planned(site).problems == (str(refused.value),)
    # A file of the data that is damaged is the weightier problem.
    data = site.location / f"{stamp}.fsz"
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(ZodbvaultError) as refused:
        site.restore()
    assert planned(site).problems[0].split(":")[0] == str(data)
    assert str(refused.value).startswith(str(data))


def test_missing_blobs_are_accepted_where_the_manifest_is_gone(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    full, _ = a_full_and_two_incrementals(site)
    manifest(site, full).unlink()
    lose_blobs(site, 2)
    assert planned(site, accept_missing_blobs=True).problems == ()
    assert "2 blobs that the data refer to: neither in the backup nor in" in caplog.text
    site.restore(accept_missing_blobs=True)


def test_a_directory_that_is_gone_with_its_manifest_is_named_by_that(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options={"blob_layout": "directories"})
    site.commit_blobs(3)
    stamp, _ = site.backed_up()
    path = manifest(site, stamp, ".directoryblobs.gz")
    path.unlink()
    shutil.rmtree(site.blob_location / f"blobstorage.{stamp}")
    lose_blobs(site)
    with pytest.raises(ZodbvaultError) as refused:
        site.restore()
    assert str(refused.value).startswith(f"{path}: is missing")
    assert planned(site).problems == (str(refused.value),)


def test_a_later_state_has_to_wait_for_the_data_where_nobody_knows_where_they_end(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options={"blob_layout": "directories"})
    site.commit_blobs(3)
    stamp, state = site.backed_up()
    site.options["blob_layout"] = "pool"
    site.commit_blobs(2, names=40)
    site.backup()
    damaged(manifest(site, stamp, ".directoryblobs.gz"))
    (site.location / f"{stamp}.json").unlink()
    lose_blobs(site)
    plan = planned(site, stamp)
    assert plan.problems == ()
    assert plan.blobs is not None
    assert plan.blobs.add == len(state.blobs) > 0
    # Lost of the later one, too: the restore is refused, and the plan says so with the same words.
    for path in blob_files(site.blob_location / "blobs").values():
        path.unlink()
    with pytest.raises(ZodbvaultError) as refused:
        site.restore(stamp)
    plan = planned(site, stamp)
    assert plan.problems == (str(refused.value),)
    assert "  blobs    see below" in plan_as_text(plan)
    assert site.command("restore", "--dry-run", stamp).returncode == 1
    site.close()


def test_what_a_manifest_without_a_record_says_is_compared_with_the_data_in_the_plan_too(site: Site) -> None:
    site.commit_blobs(3)
    stamp, state = site.backed_up()
    (site.location / f"{stamp}.json").unlink()
    lose_blobs(site)
    plan = planned(site)
    assert plan.problems == ()
    assert plan.blobs is not None
    assert (plan.blobs.add, plan.blobs.is_certain) == (len(state.blobs), True)
    # One that closes well, and lacks a blob: nobody but the data knows that.
    path = manifest(site, stamp)
    lines = unpacked_manifest(path)
    path.write_bytes(packed_manifest([lines[0], *lines[2:]]))
    with pytest.raises(ZodbvaultError, match="1 blob that the data refer to: neither in the backup nor") as refused:
        site.restore()
    assert planned(site).problems == (str(refused.value),)
    assert planned(site, accept_missing_blobs=True).problems == ()
    finished = site.command("restore", "--dry-run")
    assert (finished.returncode, finished.stdout.count("PROBLEM: ")) == (1, 1)


def test_list_and_verify_name_what_is_missing(site: Site) -> None:
    site.commit_blobs(2)
    site.backup()
    before = site.timestamps()[-1]
    site.commit_pages(1)
    full, _ = site.backed_up(full=True)
    site.commit_blobs(1)
    newest, _ = site.backed_up()
    path = manifest(site, full)
    path.unlink()
    assert f"The chain of {full}: {path.name} is missing." in site.list()
    taken = site.list(newest)
    assert any(line.startswith(f"{path.name} is missing, which tells its blobs") for line in taken)
    assert any(
        line.startswith(f"The blobs are those of {before}: from the pool. It is not known to be") for line in taken
    )
    assert not any("which tells its blobs" in line for line in site.list(before))
    report = site.verify()
    assert not report.good
    assert any(f"{path.name} is missing; affected: {full} to {newest}" in line for line in report.lines)
    shutil.rmtree(site.blob_location)
    assert "No blobs are restored with it." in site.list(newest)
