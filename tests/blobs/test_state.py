from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zodbvault.blobs import state, stored
from zodbvault.blobs.state import blob_state, newest_state
from zodbvault.io import durable
from zodbvault.repository import names as names_there
from zodbvault.repository import timestamps

T = [f"2026-11-23-18-05-{second:02d}" for second in range(20)]


def test_a_complete_manifest_alone_is_a_state() -> None:
    assert blob_state(T[:1], {f"{T[0]}.blobs.gz"}) == (f"{T[0]}.blobs.gz", ())


def test_deltas_follow_the_newest_complete_one() -> None:
    names = {f"{T[0]}.blobs.gz", f"{T[1]}.deltablobs.gz", f"{T[2]}.blobs.gz", f"{T[3]}.deltablobs.gz"}
    assert blob_state(T[:4], names) == (f"{T[2]}.blobs.gz", (f"{T[3]}.deltablobs.gz",))
    assert blob_state(T[:2], names) == (f"{T[0]}.blobs.gz", (f"{T[1]}.deltablobs.gz",))


def test_a_line_without_a_delta_has_no_state() -> None:
    names = {f"{T[0]}.blobs.gz", f"{T[2]}.deltablobs.gz"}
    assert blob_state(T[:3], names) is None
    assert blob_state(T[:2], names) is None


def test_nothing_to_begin_with_is_no_state() -> None:
    assert blob_state(T[:2], {f"{T[0]}.deltablobs.gz", f"{T[1]}.deltablobs.gz"}) is None
    assert blob_state([], {f"{T[0]}.blobs.gz"}) is None


def test_manifests_that_no_line_names_do_not_count() -> None:
    names = {f"{T[0]}.blobs.gz", f"{T[1]}.blobs.gz", f"{T[1]}.deltablobs.gz", f"{T[2]}.deltablobs.gz"}
    assert blob_state([T[0], T[2]], names) == (f"{T[0]}.blobs.gz", (f"{T[2]}.deltablobs.gz",))


@given(st.lists(st.sampled_from(["none", "complete", "delta", "both"]), max_size=20))
def test_each_state_is_one_complete_and_a_delta_for_each_later_line(kinds: list[str]) -> None:
    names = {f"{t}.blobs.gz" for t, kind in zip(T, kinds, strict=False) if kind in ("complete", "both")}
    names |= {f"{t}.deltablobs.gz" for t, kind in zip(T, kinds, strict=False) if kind in ("delta", "both")}
    state = blob_state(T[: len(kinds)], names)
    complete = [number for number, kind in enumerate(kinds) if kind in ("complete", "both")]
    if not complete or any(kind == "none" for kind in kinds[complete[-1] :]):
        assert state is None
    else:
        later = tuple(f"{t}.deltablobs.gz" for t in T[complete[-1] + 1 : len(kinds)])
        assert state == (f"{T[complete[-1]]}.blobs.gz", later)


def test_the_newest_that_has_a_state_counts() -> None:
    names = {f"{T[0]}.blobs.gz", f"{T[1]}.deltablobs.gz", f"{T[4]}.deltablobs.gz", f"{T[5]}.blobs.gz"}
    first, second = (f"{T[0]}.blobs.gz", ()), (f"{T[0]}.blobs.gz", (f"{T[1]}.deltablobs.gz",))
    expected = [None, first, second, second, second, second, (f"{T[5]}.blobs.gz", ())]
    assert [newest_state(T[:length], names) for length in range(7)] == expected
    assert newest_state(T[1:5], names) is None


def test_what_blobs_and_repository_each_know_of_names_is_the_same() -> None:
    """Neither may import the other."""
    assert (state.COMPLETE_SUFFIX, state.DELTA_SUFFIX) == names_there.POOL_MANIFEST_SUFFIXES
    assert stored.ORPHAN_SUFFIX == names_there.ORPHAN_SUFFIX
    assert durable.PART_SUFFIX == names_there.PART_SUFFIX
    for moment in (0.0, 1795490740.9, 4_000_000_000.0):
        assert stored.timestamp_at(moment) == timestamps.timestamp_of(moment)
