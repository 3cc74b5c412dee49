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


def test_every_case_of_two_ids() -> None:
    ids, ours = (None, "a", "b"), (True, False)
    for here, there, blobs_are_ours in itertools.product(ids, ids, ours):
        is_foreign = here != there if None not in (here, there) else not blobs_are_ours
        if is_foreign:
            with pytest.raises(ForeignBlobs):
                decide_identity(here, there, fresh_name="new", blobs_are_ours=blobs_are_ours)
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


def test_a_new_repository_gets_a_random_id_in_both_folders(made: Made, tmp_path: Path) -> None:
    name = ensured(made)
    assert len(name) == 32
    assert name != ensured(Made(tmp_path / "other"))
    assert ensured(made) == name


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
    with pytest.raises(ForeignBlobs) as error:
        ensure_identity(made.read(), OWNERSHIP)
    assert str(made.blob_location) in str(error.value)
    assert str(made.location) in str(error.value)
    assert made.names() == before


def test_a_location_whose_disk_is_not_mounted_does_not_take_over_the_blobs(made: Made) -> None:
    made.chain(A)
    ensured(made)
    shutil.rmtree(made.location)
    made.location.mkdir()
    with pytest.raises(ForeignBlobs):
        ensure_identity(made.read(), OWNERSHIP)


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


def test_an_empty_id_is_none(made: Made) -> None:
    (made.location / ID).write_bytes(b"\n")
    assert read_id(made.location) is None
    assert ensured(made)
