from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import OWNERSHIP, Made
from zodbvault.repository.identity import ForeignBlobs, Identity, decide_identity, ensure_identity, read_id
from zodbvault.repository.store import read_repository

if TYPE_CHECKING:
    from pathlib import Path

    from tests.repository.conftest import Disk


A, B = "2026-11-01-18-00-00", "2026-11-01-18-01-00"
ID = ".zodbvault.id"
NO_BACKUPS = "holds blob backups for which there are no backups in the location"


def test_every_case_of_two_ids() -> None:
    ids, ours = (None, "a", "b"), (True, False)
    for here, there, blobs_are_ours in itertools.product(ids, ids, ours):
        is_foreign = here != there if None not in (here, there) else not blobs_are_ours
        if is_foreign:
            with pytest.raises(ForeignBlobs) as error:
                decide_identity(here, there, fresh_name="new", blobs_are_ours=blobs_are_ours)
            told = f"belongs to repository {there}, not to {here}" if None not in (here, there) else NO_BACKUPS
            assert str(error.value) == told
            continue
        identity = decide_identity(here, there, fresh_name="new", blobs_are_ours=blobs_are_ours)
        assert identity == Identity(here or there or "new", here is None, there is None)


@given(st.none() | st.text(min_size=1), st.text(min_size=1))
def test_one_id_is_taken_over_by_the_other_side(one: str | None, fresh: str) -> None:
    name = one or fresh
    assert decide_identity(one, None, fresh_name=fresh, blobs_are_ours=True).name == name
    assert decide_identity(None, one, fresh_name=fresh, blobs_are_ours=True).name == name


def ensured(made: Made) -> str:
    ensure_identity(made.read(), OWNERSHIP)
    here = read_id(made.location)
    assert here is not None
    assert here == read_id(made.blob_location)
    return here


def refused(made: Made) -> str:
    """What is told where the two folders do not belong together."""
    with pytest.raises(ForeignBlobs) as error:
        ensure_identity(made.read(), OWNERSHIP)
    return str(error.value)


def test_a_new_repository_gets_a_random_id_in_both_folders(made: Made, tmp_path: Path) -> None:
    name = ensured(made)
    assert len(name) == 32
    assert name != ensured(Made(tmp_path / "other"))
    assert ensured(made) == name
    for folder in (made.location, made.blob_location):
        assert (folder / ID).stat().st_mode & 0o777 == OWNERSHIP.mode


@pytest.mark.parametrize("lost", ["location", "blobs"])
def test_an_id_that_was_lost_on_one_side_is_written_anew(made: Made, lost: str) -> None:
    name = ensured(made)
    made.chain(A, B)
    (made.folder / lost / ID).unlink()
    assert ensured(made) == name


def test_a_repository_from_before_there_were_ids_gets_one(made: Made) -> None:
    made.chain(A, B)
    assert ensured(made)


@pytest.mark.parametrize("with_ids", [True, False])
def test_the_blobs_of_another_repository_are_refused_and_nothing_is_written(
    made: Made, tmp_path: Path, with_ids: bool
) -> None:
    made.chain(A)
    other = Made(tmp_path / "other")
    other.chain(B)
    if with_ids:
        ensured(made)
        ensured(other)
    shutil.rmtree(made.blob_location)
    shutil.copytree(other.blob_location, made.blob_location)
    before = made.names()
    ids = read_id(other.location), read_id(made.location)
    told = f"belongs to repository {ids[0]}, not to {ids[1]}" if with_ids else NO_BACKUPS
    assert refused(made) == (
        f"{made.blob_location}: {told}. If {made.location} is another repository's, give it a blob location of its "
        "own. If collective.recipe.backup has removed the older backups there, move the manifests (*blobs.gz) and "
        ".zodbvault.id in the blob location away; the next backup is a full one."
    )
    assert made.names() == before


def test_a_location_whose_disk_is_not_mounted_does_not_take_over_the_blobs(made: Made) -> None:
    made.chain(A)
    ensured(made)
    shutil.rmtree(made.location)
    made.location.mkdir()
    assert refused(made) == not_mounted(made)


def not_mounted(made: Made) -> str:
    return (
        f"{made.blob_location}: {NO_BACKUPS}. Is the disk of the location, {made.location}, mounted? There are no "
        "backups in it. If they are lost, move the blob backups to another place; the next backup is a new full one."
    )


def test_a_location_of_which_the_id_and_an_index_are_left_does_not_take_over_the_blobs(made: Made) -> None:
    made.chain(A)
    made.chain(B)
    ensured(made)
    for path in made.location.iterdir():
        if path.name not in (ID, f"{A}.index"):
            path.unlink()
    before = made.names()
    assert refused(made) == not_mounted(made)
    assert made.names() == before


def test_a_first_run_that_was_killed_before_its_record_came_is_no_loss(made: Made) -> None:
    name = ensured(made)
    made.full(A, upto="manifest")
    assert ensured(made) == name


def test_a_record_tells_that_the_blobs_are_ours_before_the_data_are_there(made: Made) -> None:
    made.full(A, upto="record")
    assert ensured(made)


def test_what_is_no_manifest_is_no_sign_of_a_loss(made: Made) -> None:
    name = ensured(made)
    for stamp in (A, B):
        (made.blob_location / f"{stamp}.txt").touch()
    assert ensured(made) == name


def test_a_site_without_blobs_needs_no_id(made: Made) -> None:
    made.full(A)
    ensure_identity(read_repository(made.location, None), OWNERSHIP)
    assert read_id(made.location) is None


def test_a_run_that_was_killed_between_the_two_files_is_finished_by_the_next(made: Made, disk: Disk) -> None:
    with disk.killing_before(1):
        ensure_identity(made.read(), OWNERSHIP)
    name = read_id(made.location)
    assert name is not None
    assert read_id(made.blob_location) is None
    assert ensured(made) == name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff" * 32,
        b" " + b"0" * 32,
        b"X" + b"0" * 32,
        b"0" * 31,
        b"0" * 33,
        b"A" * 32,
        b"0" * 32 + b"\r\n",
    ],
)
def test_a_damaged_id_is_none(made: Made, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (made.location / ID).write_bytes(content)
    assert read_id(made.location) is None
    assert caplog.messages == [
        f"{made.location}/{ID}: is damaged: it holds no id of a repository. The id counts as missing."
    ]
    assert ensured(made)


@pytest.mark.parametrize("harm", ["symlink", "large"])
def test_an_id_that_is_no_small_file_is_none(made: Made, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    path = made.location / ID
    if harm == "symlink":
        (made.folder / "id").write_bytes(b"0" * 32)
        path.symlink_to(made.folder / "id")
        reason = "cannot be read: Too many levels of symbolic links"
    else:
        path.write_bytes(b"0" * 5000)
        reason = "is not a file that a repository can hold"
    assert read_id(made.location) is None
    assert caplog.messages == [f"{path}: {reason}. The id counts as missing."]
