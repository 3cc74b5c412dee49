"""`--dry-run`: the plan of a restore says what the restore then does, and making it changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.schemas import documented_keys, validate
from tests.site import Site, State, blob_files, committed_tids
from tests.test_bad_input import unprivileged
from zodbvault.commands.restore_plan import Plan, plan_as_data, plan_as_text, plan_restore
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.tids import time_of_tid

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {
    "format",
    "timestamp",
    "tid",
    "time",
    "location",
    "target",
    "backups",
    "bytes",
    "blobs",
    "space",
    "running",
    "lost",
    "problems",
}


def all_there(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder, with time of change and inode: locks and folders too."""
    found = {}
    for where, folders, names in os.walk(folder):
        for name in (*folders, *names, "."):
            status = os.lstat(os.path.join(where, name))
            found[os.path.join(where, name)] = (status.st_size, status.st_ctime_ns, status.st_ino)
    return found


def planned(
    site: Site, when: str | None = None, *, source: str = "location", accepts: bool = False, checksum: bool = False
) -> Plan:
    before = all_there(site.folder)
    plan = plan_restore(site.settings, source=source, when=when, accept_missing_blobs=accepts, checksum=checksum)
    assert all_there(site.folder) == before
    return plan


def lived(site: Site) -> dict[str, State]:
    states: dict[str, State] = {}
    for step in range(5):
        site.commit_pages(2)
        site.commit_blobs(3)
        if step == 3:
            site.pack()
        states.update([site.backed_up()])
    return states


def test_what_was_planned_is_what_happens(site: Site) -> None:
    states = lived(site)
    site.commit_blobs(2)
    for stamp in [*states, *reversed(states)]:
        site.close()
        plan = planned(site, stamp)
        before = set(site.blobs)
        report = site.restore(stamp)
        site.assert_is(states[stamp])
        after = set(site.blobs)
        assert plan.timestamp == report.timestamp == stamp
        assert plan.size == len(states[stamp].data)
        assert plan.blobs is not None
        assert (plan.blobs.add, plan.blobs.remove) == (len(after - before), len(before - after))
        assert plan.blobs.add_size == sum(len(site.blobs[key]) for key in after - before)
        assert plan.blobs.is_certain
        assert plan.problems == ()
        assert plan.backups[-1] == stamp
        assert plan.backups[0] in {name[:19] for name in site.names() if name.endswith(".fsz")}
        (space,) = plan.space
        assert space.needed == plan.size + plan.blobs.add_size
        assert space.free > 0


def test_it_says_whether_zope_runs_and_that_is_no_failure(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    plan = planned(site)
    assert plan.running is not None
    assert f"pid {os.getpid()}" in plan.running
    assert plan.problems == ()
    assert any("site     is running, stop it first" in line for line in plan_as_text(plan))
    site.close()
    assert planned(site).running is None


def test_the_json_has_the_documented_keys(site: Site) -> None:
    stamp, state = site.backed_up()
    site.commit_blobs(2)
    site.commit_pages(1)
    newest = time_of_tid(committed_tids(site.data)[-1][0])
    site.close()
    content: dict[str, Any] = json.loads(json.dumps(plan_as_data(planned(site))))
    assert next(iter(content)) == "format"
    assert set(content) == KEYS
    assert {*content, *content["blobs"], *content["lost"]} <= documented_keys()
    validate("restore", content)
    tid = committed_tids(state.data)[-2][0]
    for keywords in ({"at": tid.hex()}, {"only": "data"}, {"only": "blobs"}, {"to": site.folder / "copy"}):
        plan = plan_restore(site.settings, source="location", when=None, checksum=False, **keywords)
        validate("restore", json.loads(json.dumps(plan_as_data(plan))))
    assert content["format"] == 1
    assert content["timestamp"] == stamp
    assert content["backups"] == [stamp]
    assert content["running"] is False
    assert content["lost"] == {"transactions": 2, "are_all": True, "newest": newest, "in_no_backup": 2}
    assert content["blobs"]["timestamp"] == stamp
    assert (content["blobs"]["from"], content["blobs"]["add"], content["blobs"]["is_certain"]) == ("the pool", 0, True)
    assert content["blobs"]["remove"] > 0
    assert content["problems"] == []
    assert [sorted(one) for one in content["space"]] == [["folder", "free", "needed"]]


def test_what_would_stop_the_restore_is_a_problem_of_the_plan(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = site.backed_up()
    site.commit_blobs(2)
    second, _ = site.backed_up()
    site.close()
    data = site.location / f"{second}.deltafsz"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    plan = planned(site)
    assert len(plan.problems) == 1
    assert f"{data}: has {len(whole) - 1} bytes, written were {len(whole)}" in plan.problems[0]
    assert plan_as_text(plan)[-1].startswith("PROBLEM: ")
    assert planned(site, first).problems == ()
    data.unlink()
    assert "is missing" in planned(site).problems[0]
    data.write_bytes(whole)

    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    # The oldest one: every state has it, so that no other one can serve.
    files = blob_files(site.blob_location / "blobs")
    gone = files[min(files, key=lambda key: key[1])]
    content = gone.read_bytes()
    gone.unlink()
    plan = planned(site)
    assert "lacks 1 of the blobs" in plan.problems[0]
    assert plan.blobs is None
    assert any(line.startswith("  blobs    see below") for line in plan_as_text(plan))
    # The state of the backup before is whole, but the data refer to what it lacks.
    gone.write_bytes(content)
    files[max(files)].unlink()
    plan = planned(site)
    assert "lacks 1 of the blobs" in plan.problems[0]
    with pytest.raises(
        ZodbvaultError, match=r"neither another state nor .* has 2 blobs that the data refer to"
    ) as refused:
        site.restore()
    assert plan.problems == (str(refused.value),)
    # Who accepts that is told, and finds that nothing stops the restore.
    plan = planned(site, accepts=True)
    assert plan.problems == ()
    assert "1 blob that the data refer to: neither in the backup nor in" in caplog.text
    site.restore(accept_missing_blobs=True)


def test_too_little_space_is_a_problem(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zodbvault.commands import restore_plan

    site.backup()
    site.close()
    monkeypatch.setattr(restore_plan, "free_bytes", lambda _: 10)
    plan = planned(site)
    assert len(plan.problems) == 1
    assert "not enough space" in plan.problems[0]


def test_a_date_without_a_backup_is_an_error_as_in_the_restore(site: Site) -> None:
    site.backup()
    with pytest.raises(ZodbvaultError, match="no backup at or before 2001"):
        planned(site, "2001-01-01")


def test_after_the_loss_of_everything_all_is_to_be_added(site: Site) -> None:
    _, state = site.backed_up()
    site.close()
    shutil.rmtree(site.datafs.parent)
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    plan = planned(site)
    assert plan.blobs is not None
    assert (plan.blobs.add, plan.blobs.remove) == (len(state.blobs), 0)
    assert plan.loss is not None
    assert "There is no Data.fs now" in plan.loss.sentence
    site.restore()
    site.assert_is(state)


def test_damaged_blobs_are_found_with_checksum_only(site: Site) -> None:
    site.backup()
    site.close()
    assert site.blob_storage is not None
    some = next(path for path in blob_files(site.blob_storage).values() if path.stat().st_size > 3)
    content = some.read_bytes()
    os.chmod(some, 0o600)
    some.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for checksum in (False, True):
        plan = planned(site, checksum=checksum)
        assert plan.blobs is not None
        assert plan.blobs.add == int(checksum)


def test_snapshots_blobs_alone_and_sites_without_blobs_have_plans_too(site: Site, tmp_path: Path) -> None:
    site.snapshot()
    site.commit_pages(1)
    site.close()
    plan = planned(site, source="snapshot")
    assert plan.location == site.settings.snapshotlocation
    assert plan.loss is not None
    assert "1 transaction" in plan.loss.sentence

    alone = Site(tmp_path / "alone", options={"only_blobs": "true"})
    alone.commit_blobs(3)
    alone.tick(3600)
    alone.backup()
    alone.commit_blobs(1, names=1)
    alone.close()
    plan = planned(alone)
    assert plan.blobs is not None
    assert (plan.size, plan.loss, plan.blobs.add) == (None, None, 0)
    assert plan.blobs.remove >= 1
    assert not any(re.search("Data.fs|site  ", line) for line in plan_as_text(plan))

    without = Site(tmp_path / "without", blobs=False)
    without.commit_pages(1)
    without.backup()
    without.close()
    plan = planned(without)
    assert plan.blobs is None
    assert plan.problems == ()
    assert not any("  blobs " in line for line in plan_as_text(plan))


def test_a_state_that_another_program_made_is_compared_with_the_data(site: Site) -> None:
    stamp, state = site.backed_up()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_location)
    shutil.copytree(site.blob_storage, site.blob_location / f"blobstorage.{stamp}" / "blobstorage")
    (site.location / f"{stamp}.json").unlink()
    site.commit_blobs(2)
    site.close()
    plan = planned(site, stamp)
    assert plan.problems == ()
    assert plan.blobs is not None
    assert plan.blobs.is_certain
    assert plan.blobs.remove == len(set(site.blobs) - set(state.blobs)) > 0
    site.restore(stamp)
    site.assert_is(state)
    # Where it lacks one that nobody has, the restore is refused, and the plan says so with the same words.
    site.commit_blobs(1)
    site.close()
    folder = site.blob_location / f"blobstorage.{stamp}" / "blobstorage"
    for files in (blob_files(folder), blob_files(site.blob_storage)):
        files[min(state.referenced)].unlink()
    with pytest.raises(ZodbvaultError, match="1 blob that the data refer to: neither in the backup nor") as refused:
        site.restore(stamp)
    plan = planned(site, stamp)
    assert plan.problems == (str(refused.value),)
    # Who accepts that is told, and no blob goes: the state does not tell which ones are too many.
    plan = planned(site, stamp, accepts=True)
    assert (plan.problems, plan.blobs and (plan.blobs.remove, plan.blobs.is_certain)) == ((), (0, True))
    before = set(site.blobs)
    site.restore(stamp, accept_missing_blobs=True)
    assert set(site.blobs) == before
    # Without its data nobody can tell.
    (site.location / f"{stamp}.fsz").unlink()
    plan = planned(site, stamp)
    assert "is missing" in plan.problems[0]
    assert plan.blobs is not None
    assert not plan.blobs.is_certain
    assert any("if it has all that the data refer to" in line for line in plan_as_text(plan))


def test_the_script_writes_nothing_anywhere_in_the_site(site: Site) -> None:
    site.backup()
    site.commit_blobs(2)
    site.close()
    site.command("restore", "--help")
    before = all_there(site.var)
    output = site.folder.parent / "trace"
    calls = (
        "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink"
    )
    finished = site.command("restore", "--dry-run", prefix=("strace", "-f", "-y", "-e", calls, "-o", str(output)))
    assert finished.returncode == 0, finished.stderr
    assert "Nothing was changed" in finished.stdout
    assert all_there(site.var) == before
    text = output.read_text(errors="replace")
    assert f"{site.datafs}" in text
    here = [line for line in text.splitlines() if str(site.var) in line and "ENOENT" not in line]
    assert [
        line for line in here if re.search(r"O_WRONLY|O_RDWR|O_CREAT|mkdir|rename|unlink|link\(|creat\(", line)
    ] == []


def test_a_site_that_may_not_be_written_is_a_problem_of_the_plan(site: Site) -> None:
    site.backed_up()
    site.close()
    assert site.blob_storage is not None
    lock = site.datafs.with_name("Data.fs.lock")
    for place in (site.datafs.parent, site.blob_storage, lock):
        mode = place.stat().st_mode
        place.chmod(mode & ~0o222)
        try:
            with unprivileged() as prefix:
                finished = site.command("restore", "--dry-run", prefix=prefix)
                again = site.command("restore", "-n", prefix=prefix)
        finally:
            place.chmod(mode)
        if place != site.blob_storage:
            assert again.returncode == 1, again.stderr
        assert finished.returncode == 1, place
        problems = [line for line in finished.stdout.splitlines() if line.startswith("PROBLEM: ")]
        assert problems == [f"PROBLEM: {place}: is not writable, and a restore writes there"]
    assert site.command("restore", "--dry-run").returncode == 0
