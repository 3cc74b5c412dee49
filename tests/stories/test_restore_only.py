"""`restore --only data|blobs`: one of the two, said to be that, and nothing of the other is touched."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, blob_files, tree
from zodbvault.commands.restore import Declined, restore
from zodbvault.commands.restore_plan import plan_as_text, plan_restore
from zodbvault.errors import ZodbvaultError
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.commands.summary import RestoreReport


def only(site: Site, what: str, when: str | None = None, **more: Any) -> RestoreReport:
    site.close()
    keywords = {"source": "location", "ask": None, "accept_missing_blobs": False, "checksum": False, **more}
    return restore(site.settings, when=when, clock=site.clock, only=what, **keywords)


def blob_tree(site: Site) -> dict[str, tuple[int, int, int]]:
    assert site.blob_storage is not None
    return tree(site.blob_storage)


def test_only_data_leaves_the_blobs_as_they_are(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stamp, state = site.backed_up()
    site.commit_blobs(3)
    site.backup()
    before = blob_tree(site)
    report = only(site, "data", stamp)
    assert site.data == state.data
    assert blob_tree(site) == before
    assert "Only Data.fs is restored" in caplog.text
    assert " blob" not in report.summary
    assert only(site, "data").timestamp != stamp
    site.read_everything()


def test_only_blobs_adds_what_is_lacking_and_removes_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.commit_blobs(5)
    stamp, state = site.backed_up()
    site.commit_blobs(2)
    newer = site.blobs
    site.close()
    data = tree(site.datafs.parent, ignore=("Data.fs.lock",))
    assert site.blob_storage is not None
    lost = [key for key in state.blobs if key in newer][:3]
    files = blob_files(site.blob_storage)
    for key in lost:
        files[key].unlink()
    damaged = next(key for key in state.blobs if key not in lost and len(state.blobs[key]) > 3)
    os.chmod(files[damaged], 0o600)
    files[damaged].write_bytes(b"x")
    report = only(site, "blobs", stamp)
    assert "3 blobs added" in report.summary
    assert "1 damaged ones replaced, 0 removed" in report.summary
    assert site.blobs == newer
    assert not [name for name in blob_tree(site) if name.endswith(".replaced")]
    after = tree(site.datafs.parent)
    assert {name: after.get(name) for name in data} == data
    assert "none is removed" in caplog.text
    site.read_everything()


@pytest.mark.parametrize("what", ["data", "blobs"])
def test_a_plan_and_a_copy_have_one_half(site: Site, tmp_path: Path, what: str) -> None:
    _, state = site.backed_up()
    site.commit_blobs(2)
    before = tree(site.folder, ignore=())
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, only=what)
    assert tree(site.folder, ignore=()) == before
    assert plan.problems == ()
    if what == "data":
        assert (plan.size, plan.blobs) == (len(state.data), None)
        assert plan.loss is not None
        assert not any(line.startswith("  blobs") for line in plan_as_text(plan))
    else:
        assert (plan.size, plan.loss, plan.target) == (None, None, site.blob_storage)
        assert plan.blobs is not None
        assert (plan.blobs.add, plan.blobs.remove) == (0, 0)
        assert any("is running" in line for line in plan_as_text(plan))
    only(site, what, to=tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == ["filestorage" if what == "data" else "blobstorage"]
    if what == "data":
        assert (tmp_path / "copy/filestorage/Data.fs").read_bytes() == state.data
    else:
        found = blob_files(tmp_path / "copy/blobstorage")
        assert {key: path.read_bytes() for key, path in found.items()} == state.blobs


def test_the_question_says_which_half(site: Site) -> None:
    site.backup()
    questions: list[str] = []

    def no(question: str) -> bool:
        questions.append(question)
        return False

    for what in ("data", "blobs"):
        with pytest.raises(Declined):
            only(site, what, ask=no)
    data, blobs = questions
    assert str(site.datafs) in data
    assert str(site.blob_storage) not in data
    assert "No transaction since then will be lost" in data
    assert blobs.startswith("This will add the blobs of the backup of")
    assert "transaction" not in blobs


def test_only_the_blobs_up_to_a_transaction(site: Site, tmp_path: Path) -> None:
    site.backup()
    site.commit_blobs(2)
    moment = site.state()
    site.commit_blobs(2)
    site.backup()
    assert moment.last_tid is not None
    only(site, "blobs", to=tmp_path / "copy", at=moment.last_tid.hex())
    found = blob_files(tmp_path / "copy/blobstorage")
    assert {key: path.read_bytes() for key, path in found.items()} == moment.blobs


def test_blobs_of_a_later_state_without_records(site: Site, tmp_path: Path) -> None:
    """Nobody knows the last tid of the data then: all that the later state has is better than too little."""
    stamp, state = site.backed_up()
    site.commit_blobs(2)
    later, newest = site.backed_up()
    for name in (f"{stamp}.json", f"{later}.json"):
        (site.location / name).unlink()
    complete = site.blob_location / f"{stamp}.blobs.gz"
    (site.blob_location / f"{later}.deltablobs.gz").unlink()
    complete.rename(site.blob_location / f"{later}.blobs.gz")
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    only(site, "blobs", stamp)
    assert set(site.blobs) == set(state.blobs) < set(newest.blobs)


def test_where_no_blobs_are_known_there_is_nothing_to_restore(site: Site) -> None:
    site.backup()
    shutil.rmtree(site.blob_location)
    for record, what in ((True, r"\.blobs\.gz: is missing"), (False, "no blobs are known")):
        if not record:
            for path in site.location.glob("*.json"):
                path.unlink()
        with pytest.raises(ZodbvaultError, match=what):
            only(site, "blobs")
        (problem,) = plan_restore(site.settings, source="location", when=None, checksum=False, only="blobs").problems
        assert re.search(what, problem)


def test_what_is_not_backed_up_cannot_be_restored_alone(tmp_path: Path) -> None:
    alone = Site(tmp_path / "alone", options={"only_blobs": "true"})
    alone.commit_blobs(1)
    alone.tick(3600)
    alone.backup()
    with pytest.raises(ConfigurationError, match="--only data"):
        only(alone, "data")
    assert "blob" in only(alone, "blobs").summary
    without = Site(tmp_path / "without", blobs=False)
    without.commit_pages(1)
    without.backup()
    with pytest.raises(ConfigurationError, match="--only blobs"):
        only(without, "blobs")
    without.close()


def test_on_the_command_line(site: Site) -> None:
    site.backup()
    site.close()
    finished = site.command("restore", "-n", "--only", "data")
    assert finished.returncode == 0
    assert "WARNING: Only Data.fs is restored" in finished.stderr
    assert site.command("restore", "-n", "--only", "both").returncode == 2
