from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB.scripts.repozo import is_data_file

from zodbvault.repository.names import (
    COMPANION_SUFFIXES,
    DAT_SUFFIX,
    DATA_SUFFIXES,
    ID_NAME,
    LOCK_NAME,
    MANIFEST_SUFFIXES,
    ORPHAN_SUFFIX,
    PART_SUFFIX,
    PRUNED_SUFFIX,
    DataFile,
    container_states,
    data_file,
    is_our_part,
    split_name,
)

STAMP = "2026-11-23-18-05-00"


@pytest.mark.parametrize(
    ("suffix", "is_full", "is_compressed"),
    [(".fsz", True, True), (".fs", True, False), (".deltafsz", False, True), (".deltafs", False, False)],
)
def test_a_data_files_name_says_what_it_is(suffix: str, is_full: bool, is_compressed: bool) -> None:
    assert data_file(STAMP + suffix) == DataFile(STAMP + suffix, STAMP, is_full, is_compressed)


@given(
    st.lists(
        st.sampled_from(
            [STAMP, "2026-11-23", "-18-05-00", "9", ".", "fs", "z", "delta", ".fsz", ".deltafs", "dat", ".orphan", " "]
        ),
        max_size=5,
    ).map("".join)
)
def test_the_same_files_as_repozos_are_data_files(name: str) -> None:
    assert (data_file(name) is not None) == bool(is_data_file(name))


@pytest.mark.parametrize(
    "name", ["", STAMP, STAMP + "fsz", STAMP[1:] + ".fsz", "x" + STAMP + ".fsz", "٢٠٢٦" + STAMP[4:] + ".fs"]
)
def test_what_is_not_exactly_a_timestamp_and_a_suffix_is_no_repository_file(name: str) -> None:
    assert split_name(name) is None
    assert data_file(name) is None


def test_repozo_joins_nothing_that_we_put_beside_its_files() -> None:
    others = (*COMPANION_SUFFIXES, *MANIFEST_SUFFIXES, DAT_SUFFIX, PRUNED_SUFFIX)
    names = [STAMP + suffix for suffix in others]
    names += [STAMP + suffix + behind for suffix in DATA_SUFFIXES for behind in (ORPHAN_SUFFIX, PART_SUFFIX)]
    assert not [name for name in (*names, LOCK_NAME, ID_NAME) if is_data_file(name)]


def test_a_suffix_goes_from_the_first_dot() -> None:
    assert split_name(STAMP + ".dat.pruned") == (STAMP, ".dat.pruned")
    assert split_name(STAMP + ".fsz.orphan") == (STAMP, ".fsz.orphan")


@pytest.mark.parametrize(
    "name",
    [STAMP + suffix for suffix in (*DATA_SUFFIXES, *COMPANION_SUFFIXES, *MANIFEST_SUFFIXES, DAT_SUFFIX)] + [ID_NAME],
)
def test_what_we_write_is_ours_while_it_is_a_part(name: str) -> None:
    assert is_our_part(name + ".part")
    assert not is_our_part(name)


@pytest.mark.parametrize(
    "name", ["notes.part", STAMP + ".part", STAMP + ".txt.part", STAMP + ".fsz.orphan.part", ".part"]
)
def test_other_peoples_part_files_are_not_ours(name: str) -> None:
    assert not is_our_part(name)


def test_manifests_tell_which_states_are_in_directories_and_archives() -> None:
    other = "2026-11-24-18-05-00"
    names = [
        STAMP + ".directoryblobs.gz",
        other + ".directoryblobs.gz",
        STAMP + ".archiveblobs.gz",
        other + ".blobs.gz",
        other + ".x.archiveblobs.gz",
        "notes.archiveblobs.gz",
        STAMP + ".fsz",
    ]
    assert container_states(names) == {(STAMP, True), (other, True), (STAMP, False)}


def test_checks_that_several_may_write_have_something_random_in_the_name_of_their_part() -> None:
    assert is_our_part(STAMP + ".checks.json.x7.part")
    assert not is_our_part(STAMP + ".checks.jsonx.part")
    assert not is_our_part(STAMP + ".json.x7.part")
