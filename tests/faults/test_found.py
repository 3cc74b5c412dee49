"""What killing and failing at every call has found, each for itself."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.faults.cases import EVERY_SCENARIO
from tests.faults.copies import COPY
from tests.faults.disturbing import CHANGE, CLOSE, FAIL, HALF, KILL, LASTING, READ, Point, disturbed
from zodbvault.commands.copy_folder import UNFINISHED
from zodbvault.commands.drill import PREFIX, drill
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.checks import read_checks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.disturbing import Call, Outcome
    from tests.faults.scenarios import Start
    from tests.site import Site
    from zodbvault.commands.drill import DrillReport


class Disturber:
    """Disturbs a command at the call of its kind that is wanted."""

    def __init__(self, start: Start, workshop: Path, log: Path) -> None:
        self.start = start
        self._library = workshop / "interposer.so"
        self._log = log

    def at(self, series: str, name: str, path: str, act: str, error: str = "", *, number: int = 0) -> Outcome:
        """Run the command; `number`: of the calls of that name on a path that ends so (from below var on)."""
        return self.at_call(self.calls(series, name, f".*{re.escape(path)}")[number], act, error)

    def at_call(self, wanted: Call, act: str, error: str = "") -> Outcome:
        """Run the command, which is disturbed at this call."""
        outcome = self._copy(Point(wanted.series, wanted.number, act, error))
        assert outcome.hit is not None
        assert _without_chance(outcome.hit.path) == _without_chance(wanted.path)
        return outcome

    def calls(self, series: str, name: str, path: str) -> list[Call]:
        """The calls whose name begins with `name`, on paths (from below var on) that match."""
        calls = [call for call in self._copy(None).calls if call.series == series and call.name.startswith(name)]
        return [call for call in calls if re.fullmatch(path, os.path.relpath(call.path, self.start.site.var))]

    def _copy(self, point: Point | None) -> Outcome:
        from tests.faults.rewinding import Rewinder

        command, environment = self.start.command, self.start.environment
        rewinder = Rewinder(self.start.site.folder)
        outcome = disturbed(
            command, environment, library=self._library, root=self.start.site.var, log=self._log, point=point
        )
        if point is None:
            rewinder.back()
        return outcome


def _without_chance(path: str) -> str:
    return re.sub(rf"{PREFIX}\w+", PREFIX, path)


@pytest.fixture
def disturber(request: pytest.FixtureRequest, workshop: Path, tmp_path: Path) -> Disturber:
    name, layout = request.param
    return Disturber(EVERY_SCENARIO[name].start(tmp_path / "site", layout), workshop, tmp_path / "calls")


def of(name: str, layout: str = "pool") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("disturber", [(name, layout)], indirect=True, ids=[f"{layout}, {name}"])


@of("restore into nothing")
def test_a_zope_that_is_started_in_the_middle_of_a_restore_makes_no_lawn_of_it(disturber: Disturber) -> None:
    """ZODB takes a folder that has something in it, and no marker, for a lawn, and writes that down."""
    start = disturber.start
    assert disturber.at(CHANGE, "mkdir", "blobstorage/tmp", KILL).was_killed
    assert start.site.db.storage.lastTransaction() == start.wanted.last_tid  # type: ignore[union-attr]
    start.site.close()
    assert start.site.blob_storage is not None
    assert (start.site.blob_storage / ".layout").read_text() == "bushy"
    start.site.restore()
    assert start.wanted is not None
    start.site.assert_is(start.wanted)


@of("restore into nothing")
def test_what_a_kill_left_of_the_layout_marker_goes(disturber: Disturber) -> None:
    start = disturber.start
    assert disturber.at(CHANGE, "rename", "blobstorage/.layout", KILL).was_killed
    assert start.site.blob_storage is not None
    assert (start.site.blob_storage / ".layout.part").exists()
    # Zope, meanwhile, chooses the layout itself.
    assert start.site.db
    start.site.restore()
    assert not (start.site.blob_storage / ".layout.part").exists()


@of("first full")
@pytest.mark.parametrize("name", ["fsync", "fchmod", "write"])
@pytest.mark.parametrize("path", [".fsz.part", ".json.part", ".zodbvault.id.part", ".dat.part", ".blobs.gz.part"])
def test_an_error_of_an_open_file_names_the_file(disturber: Disturber, name: str, path: str) -> None:
    outcome = disturber.at(CHANGE, name, path, FAIL, "EIO")
    assert outcome.exit_code == 1
    assert outcome.hit is not None
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
    assert outcome.hit.path in line
    assert "Input/output error" in line


@of("first full")
def test_an_error_of_reading_a_blob_names_the_site_s_own_file(disturber: Disturber) -> None:
    outcome = disturber.at(READ, "pread", ".blob", FAIL, "EIO")
    assert outcome.exit_code == 1
    assert "/var/blobstorage/" in outcome.hit.path  # type: ignore[union-attr]
    assert outcome.hit.path in outcome.stderr  # type: ignore[union-attr]


@of("incremental")
def test_an_error_of_a_folder_names_the_folder(disturber: Disturber) -> None:
    outcome = disturber.at(CHANGE, "fsync", "backups", FAIL, "EIO")
    assert outcome.exit_code == 1
    assert f"{outcome.hit.path}: " in outcome.stderr  # type: ignore[union-attr]


@of("incremental")
@pytest.mark.parametrize("path", ["Data.fs", ".dat", ".json", ".deltafsz.part", ".dat.part", ".lock", ".blob"])
def test_an_error_on_closing_is_none(disturber: Disturber, path: str) -> None:
    """What has to be on the disk was synced before that."""
    outcome = disturber.at(CLOSE, "close", path, FAIL, "EIO")
    assert (outcome.exit_code, "ERROR" in outcome.stderr) == (0, False), outcome.stderr


@of("restore over other blobs")
def test_a_site_whose_blobs_cannot_be_listed_is_not_restored_from_another_state(disturber: Disturber) -> None:
    """No other state mends that, and one that is less exact would leave blobs that nobody needs."""
    outcome = disturber.at(READ, "readdir", "blobstorage/0x00", FAIL, "EIO")
    assert outcome.exit_code == 1
    assert "Another state is taken" not in outcome.stderr
    assert f"{outcome.hit.path}: blobs cannot be listed" in outcome.stderr  # type: ignore[union-attr]
    site = disturber.start.site
    assert disturber.start.live is not None
    assert site.datafs.read_bytes() == disturber.start.live.data
    assert site.blobs == disturber.start.live.blobs


@of("prune")
def test_a_marker_that_is_read_in_pieces_is_read_whole(disturber: Disturber) -> None:
    outcome = disturber.at(READ, "read", "blobs/.layout", HALF)
    assert outcome.exit_code == 0, outcome.stderr


@of("full that prunes", "directories")
@pytest.mark.parametrize(("name", "path"), [("utimensat", "blobstorage/0x00/0x00"), ("unlinkat", "blobstorage/0x00")])
def test_an_error_in_a_directory_of_blobs_names_the_whole_path(disturber: Disturber, name: str, path: str) -> None:
    """Python's own errors of utime() name nothing, and those of rmtree() the last part of the path."""
    outcome = disturber.at(CHANGE, name, path, FAIL, "EIO")
    assert outcome.exit_code == 1
    assert outcome.hit is not None
    assert outcome.hit.path in outcome.stderr


# Copies


def folders_of_rehearsals(site: Site) -> list[Path]:
    return list(site.datafs.parent.glob(f"{PREFIX}*"))


def drilled(site: Site) -> DrillReport:
    site.tick(3600)
    return drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock)


@pytest.mark.parametrize(
    ("disturber", "name", "path"),
    [
        (("copy", "pool"), "fchmod", "copy/filestorage/Data.fs.restoring"),
        (("copy", "pool"), "rename", ".blob"),
        (("copy of blobs alone", "pool"), "rename", ".blob"),
    ],
    indirect=["disturber"],
)
def test_a_copy_that_was_killed_says_that_it_is_not_whole(disturber: Disturber, name: str, path: str) -> None:
    """Data.fs stands there before its blobs do."""
    outcome = disturber.at(CHANGE, name, path, KILL)
    assert outcome.was_killed
    site = disturber.start.site
    assert (site.var / COPY / UNFINISHED).read_text().startswith("This copy is not whole")
    with pytest.raises(ZodbvaultError, match=r"holds a copy that is not whole.*empty the folder"):
        site.restore_while_open(to=site.var / COPY)


@of("copy")
def test_a_copy_that_cannot_be_removed_is_not_said_to_be(disturber: Disturber) -> None:
    outcome = disturber.at(CHANGE, "rename", ".blob", LASTING, "EROFS")
    assert outcome.exit_code == 1
    copy = disturber.start.site.var / COPY
    assert (copy / "filestorage" / "Data.fs").exists()
    assert (copy / UNFINISHED).exists()
    assert f"WARNING: {copy}: what was written there cannot be removed again" in outcome.stderr
    assert "was removed again" not in outcome.stderr


@of("drill")
def test_a_rehearsal_s_folder_that_cannot_be_removed_goes_with_the_next_one(disturber: Disturber) -> None:
    """Without its lock nobody knew what it was."""
    outcome = disturber.at(CHANGE, "unlinkat", "/site/blobstorage", FAIL, "EIO")
    assert outcome.exit_code == 0
    site = disturber.start.site
    (left,) = folders_of_rehearsals(site)
    assert f"WARNING: {left} cannot be removed" in outcome.stderr
    assert drilled(site).good
    assert not folders_of_rehearsals(site)


@of("drill")
@pytest.mark.parametrize(("name", "path"), [("open", "/lock"), ("rmdir", "")])
def test_a_rehearsal_s_folder_without_a_lock_goes_with_the_next_one(disturber: Disturber, name: str, path: str) -> None:
    outcome = disturber.at_call(disturber.calls(CHANGE, name, rf"filestorage/{PREFIX}\w+{path}")[-1], KILL)
    assert outcome.was_killed
    site = disturber.start.site
    assert folders_of_rehearsals(site)
    assert drilled(site).good
    assert not folders_of_rehearsals(site)


@of("drill")
def test_a_backup_is_not_blamed_for_the_place_of_a_rehearsal(disturber: Disturber) -> None:
    outcome = disturber.at(CHANGE, "write", "/Data.fs.restoring", FAIL, "EIO")
    assert outcome.exit_code == 1
    assert "ERROR: " in outcome.stderr
    assert "FAILED" not in outcome.stdout
    assert read_checks(disturber.start.site.location, disturber.start.reported[-1].timestamp) is None


@of("drill")
@pytest.mark.parametrize("path", ["/site/filestorage/Data.fs", "/site/filestorage", "/site"])
def test_an_error_on_closing_what_was_rehearsed_is_none(disturber: Disturber, path: str) -> None:
    outcome = disturber.at_call(disturber.calls(CLOSE, "close", rf"filestorage/{PREFIX}\w+{path}")[-1], FAIL, "EIO")
    assert "ERROR" not in outcome.stderr
    assert outcome.exit_code == 0


@of("drill")
@pytest.mark.parametrize(("name", "path"), [("fsync", ""), ("write", f"/site/{UNFINISHED}")])
def test_a_backup_is_not_blamed_for_the_folder_of_a_rehearsal(disturber: Disturber, name: str, path: str) -> None:
    outcome = disturber.at_call(disturber.calls(CHANGE, name, rf"filestorage/{PREFIX}\w+{path}")[0], FAIL, "EIO")
    assert outcome.exit_code == 1
    assert "FAILED" not in outcome.stdout
    assert read_checks(disturber.start.site.location, disturber.start.reported[-1].timestamp) is None


@of("copy")
def test_an_error_at_the_mark_of_a_copy_names_the_mark(disturber: Disturber) -> None:
    outcome = disturber.at(CHANGE, "fsync", f"{COPY}/{UNFINISHED}", FAIL, "EACCES")
    assert outcome.exit_code == 1
    assert f"{COPY}/{UNFINISHED}: cannot be written" in outcome.stderr


@of("drill")
def test_a_backup_is_not_blamed_for_a_copy_that_the_disk_does_not_give_back(disturber: Disturber) -> None:
    """ZODB reads the copy, and its errors do not name every file."""
    path = rf"filestorage/{PREFIX}\w+/site/blobstorage/\.layout"
    outcomes = [disturber.at_call(call, FAIL, "EIO") for call in disturber.calls(CLOSE, "close", path)]
    assert not [outcome for outcome in outcomes if "FAILED" in outcome.stdout]
    told = [outcome for outcome in outcomes if "/site: cannot be read: Input/output error" in outcome.stderr]
    assert {outcome.exit_code for outcome in told} == {1}
