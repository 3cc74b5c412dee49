from __future__ import annotations

import time
from pathlib import Path

import pytest

from zodbvault.blobs.stored import Form, Stored, stored_name
from zodbvault.commands.blob_choices import (
    BlobChoice,
    BlobListing,
    choose_blob_states,
    choose_states_alone,
    states_of_other_chains,
)

BLOBS = Path("/blobs")
FIRST, SECOND, THIRD, FOURTH = WHOLE = [f"2026-11-{day:02d}-18-05-00" for day in (20, 21, 22, 23)]


def directory(mark: str | int, timestamp: str = "") -> Stored:
    return _stored(mark, Form.DIRECTORY, timestamp)


def archive(mark: str | int, timestamp: str = "") -> Stored:
    return _stored(mark, Form.ARCHIVE, timestamp)


def delta(timestamp: str) -> Stored:
    return _stored(timestamp, Form.DELTA, timestamp)


def _stored(mark: str | int, form: Form, timestamp: str) -> Stored:
    number = mark if isinstance(mark, int) else None
    return Stored(BLOBS / stored_name("blobstorage", mark, form), "blobstorage", form, number, timestamp or str(mark))


def listing(*names: str, stored: tuple[Stored, ...] = ()) -> BlobListing:
    return BlobListing(BLOBS, frozenset(names), tuple(sorted(stored, key=lambda one: one.timestamp)))


def chosen(found: BlobListing, wanted: int, everything: list[str] = WHOLE) -> list[BlobChoice]:
    return list(choose_blob_states(found, WHOLE, wanted, everything))


def places(choices: list[BlobChoice]) -> list[str]:
    return [choice.place for choice in choices]


def test_our_own_state_comes_first_and_then_what_another_program_made_for_the_date() -> None:
    found = listing(f"{SECOND}.blobs.gz", stored=(directory(SECOND), archive(SECOND), directory(FIRST)))
    ours, *theirs = chosen(found, 2)
    assert (ours.complete, ours.stored, ours.is_exact) == (BLOBS / f"{SECOND}.blobs.gz", (), True)
    assert {choice.stored[0].path.name for choice in theirs if choice.is_of_date} == {
        f"blobstorage.{SECOND}",
        f"blobstorage.{SECOND}.tar",
    }
    assert not any(choice.is_exact or choice.complete for choice in theirs)
    assert theirs[-1].stored == (directory(FIRST),)
    assert not theirs[-1].is_of_date


def test_between_two_backups_of_a_chain_a_later_state_will_do_before_an_earlier_one() -> None:
    found = listing(f"{FIRST}.blobs.gz", f"{THIRD}.blobs.gz", f"{FOURTH}.blobs.gz", stored=(directory(FOURTH),))
    choices = chosen(found, 2)
    assert [(one.timestamp, one.is_later, one.is_exact) for one in choices] == [
        (THIRD, True, True),
        (FOURTH, True, True),
        (FOURTH, True, False),
        (FIRST, False, False),
    ]


def later(timestamp: str) -> BlobChoice:
    """A state of ours in the pool that is later than the wanted one."""
    return BlobChoice(timestamp, BLOBS / f"{timestamp}.blobs.gz", is_of_date=False, is_later=True)


def test_of_later_states_of_ours_the_next_and_the_newest_will_do() -> None:
    complete = [f"{stamp}.blobs.gz" for stamp in WHOLE]
    assert chosen(listing(*complete[1:]), 1) == [later(SECOND), later(FOURTH)]
    assert chosen(listing(*complete[2:]), 1) == [later(THIRD), later(FOURTH)]
    assert chosen(listing(complete[3]), 1) == [later(FOURTH)]
    assert chosen(listing(complete[2]), 1) == [later(THIRD)]


def test_of_earlier_states_of_ours_the_newest_will_do() -> None:
    earlier = BlobChoice(SECOND, BLOBS / f"{SECOND}.blobs.gz", is_exact=False, is_of_date=False)
    assert chosen(listing(f"{FIRST}.blobs.gz", f"{SECOND}.blobs.gz"), 4) == [earlier]


def test_of_earlier_states_of_another_program_the_newest_will_do_and_numbered_ones() -> None:
    def other(one: Stored) -> BlobChoice:
        return BlobChoice(one.timestamp, None, stored=(one,), is_exact=False, is_of_date=False)

    found = (directory(FIRST), directory(SECOND), directory(THIRD))
    assert chosen(listing(stored=found), 4) == [other(found[2])]
    found = (directory(2, FIRST), directory(1, SECOND), directory(0, THIRD))
    assert chosen(listing(stored=found), 4) == [other(one) for one in reversed(found)]


def test_what_is_older_than_every_backup_is_an_earlier_state() -> None:
    old = directory("2026-10-01-00-00-00")
    assert chosen(listing(stored=(old,)), 2) == [
        BlobChoice(old.timestamp, None, stored=(old,), is_exact=False, is_of_date=False)
    ]


def test_our_states_in_the_pool_and_in_a_directory_and_in_an_archive_are_all_the_datas(tmp_path: Path) -> None:
    names = (f"{SECOND}.blobs.gz", f"{SECOND}.directoryblobs.gz", f"{SECOND}.archiveblobs.gz")
    folder = tmp_path / str(time.time_ns())  # nobody has asked for paths in it before
    found = BlobListing(folder, frozenset(names), (archive(SECOND), directory(SECOND)))
    stored = ((), (directory(SECOND),), (archive(SECOND),))
    assert chosen(found, 2) == [
        BlobChoice(SECOND, folder / name, stored=each) for name, each in zip(names, stored, strict=True)
    ]


def test_a_later_state_of_another_chain_is_never_taken() -> None:
    found = listing(stored=(directory("2026-12-01-18-05-00"),))
    assert chosen(found, 4, [*WHOLE, "2026-12-01-18-05-00"]) == []


def test_what_is_numbered_belongs_to_the_backup_before_it() -> None:
    second, fourth = directory(1, "2026-11-21-18-05-09"), directory(0, "2026-11-23-18-05-04")
    found = listing(stored=(second, fourth))
    assert chosen(found, 2)[0] == BlobChoice(SECOND, None, stored=(second,), is_exact=False)
    assert chosen(found, 4)[0] == BlobChoice(FOURTH, None, stored=(fourth,), is_exact=False)
    assert [one.is_of_date for one in chosen(found, 3)] == [False, False]


def test_a_delta_brings_the_archives_before_it() -> None:
    found = listing(stored=(archive(FIRST), delta(SECOND), delta(THIRD), archive(FOURTH)))
    assert chosen(found, 3)[0].stored == (archive(FIRST), delta(SECOND), delta(THIRD))
    assert chosen(found, 3)[0].place == (
        f"blobstorage.{FIRST}.tar, blobstorage.{SECOND}.delta.tar, blobstorage.{THIRD}.delta.tar"
    )
    assert chosen(found, 1)[0].stored == (archive(FIRST),)
    assert chosen(found, 4)[0].stored == (archive(FOURTH),)


def test_a_delta_without_its_full_archive_is_no_state() -> None:
    assert chosen(listing(stored=(delta(SECOND),)), 2) == []


def test_our_manifest_finds_the_directory_of_its_date() -> None:
    found = listing(f"{SECOND}.directoryblobs.gz", stored=(directory(1, SECOND), directory(0, THIRD)))
    first = chosen(found, 2)[0]
    assert (first.complete, first.stored) == (BLOBS / f"{SECOND}.directoryblobs.gz", (directory(1, SECOND),))
    assert first.is_exact


def test_where_the_times_were_lost_each_numbered_one_may_be_it() -> None:
    copied = "2027-01-01-00-00-00"
    found = listing(f"{SECOND}.directoryblobs.gz", stored=(directory(1, copied), directory(0, copied)))
    exact = [choice for choice in chosen(found, 2) if choice.is_exact]
    assert sorted(places(exact)) == ["blobstorage.0", "blobstorage.1"]


@pytest.mark.parametrize("left", [_stored(SECOND, Form.SNAPSHOT_FILE, SECOND), delta(SECOND)])
def test_what_is_left_of_a_lost_archive_is_not_the_one_that_our_manifest_tells_of(left: Stored) -> None:
    """So the numbered one may be it, and is never taken without the manifest."""
    copied = archive(0, "2027-01-01-00-00-00")
    found = listing(f"{SECOND}.archiveblobs.gz", stored=(left, copied))
    exact = BlobChoice(SECOND, BLOBS / f"{SECOND}.archiveblobs.gz", stored=(copied,))
    assert chosen(found, 2) == [exact]
    assert choose_states_alone(found, [SECOND], None) == (exact,)


def test_without_data_no_older_state_of_ours_stands_in_for_the_one_of_the_date() -> None:
    """Blobs that it lacks would be removed."""
    found = listing(*(f"{stamp}.blobs.gz" for stamp in (FIRST, SECOND, FOURTH)))
    for stamp in (FIRST, SECOND, FOURTH):
        assert choose_states_alone(found, WHOLE, stamp) == (BlobChoice(stamp, BLOBS / f"{stamp}.blobs.gz"),)
    assert choose_states_alone(found, WHOLE, THIRD) == ()  # of that one nothing is left


def test_without_data_what_another_program_made_counts_once_and_where_it_is_newer_than_ours() -> None:
    found = listing(f"{SECOND}.blobs.gz", stored=(archive(SECOND), directory(THIRD), directory(FOURTH)))
    ours = BlobChoice(SECOND, BLOBS / f"{SECOND}.blobs.gz")
    theirs = BlobChoice(FOURTH, None, stored=(directory(FOURTH),), is_exact=False)
    assert choose_states_alone(found, [SECOND], None) == (theirs, ours)
    assert choose_states_alone(found, [SECOND], SECOND) == (ours,)


def test_without_data_the_newest_state_counts_whoever_made_it() -> None:
    found = listing(f"{SECOND}.blobs.gz", stored=(directory(FIRST), directory(THIRD)))
    assert places(list(choose_states_alone(found, [SECOND], None))) == [f"blobstorage.{THIRD}", "the pool"]
    assert places(list(choose_states_alone(found, [SECOND], SECOND))) == ["the pool"]
    assert places(list(choose_states_alone(found, [SECOND], FIRST))) == [f"blobstorage.{FIRST}"]
    assert choose_states_alone(found, [SECOND], "2026-11-01") == ()


def test_what_our_manifest_tells_of_is_never_taken_without_it() -> None:
    """A blob there that was cut short would be taken as it is."""
    found = listing(f"{SECOND}.directoryblobs.gz", stored=(directory(SECOND), archive(SECOND), directory(FIRST)))
    first, *others = chosen(found, 2)
    assert (first.place, first.is_exact) == (f"blobstorage.{SECOND}", True)
    assert places(others) == [f"blobstorage.{SECOND}.tar", f"blobstorage.{FIRST}"]
    lost = listing(f"{SECOND}.archiveblobs.gz", stored=(archive(0, "2027-01-01-00-00-00"), directory(1, SECOND)))
    assert [(one.place, one.is_exact) for one in chosen(lost, 2)] == [
        ("blobstorage.0.tar", True),
        ("blobstorage.1", False),
    ]
    alone = listing(f"{SECOND}.directoryblobs.gz", stored=(directory(SECOND),))
    assert [one.is_exact for one in choose_states_alone(alone, [SECOND], None)] == [True]


def test_the_states_of_a_long_chain_share_what_they_name() -> None:
    """verify holds the state of each date, and each names all manifests before its own."""
    stamps = [f"2026-11-23-18-05-{number:02}" for number in range(60)]
    names = [f"{stamps[0]}.blobs.gz", *(f"{stamp}.deltablobs.gz" for stamp in stamps[1:])]
    found = listing(*names)
    states = [next(choose_blob_states(found, stamps, length, stamps)) for length in range(1, 61)]
    assert [len(state.deltas) for state in states] == list(range(60))
    paths = {id(path) for state in states for path in (state.complete, *state.deltas)}
    assert len(paths) == 60


def test_of_other_chains_the_nearest_two_on_either_side_may_serve() -> None:
    chains = [[f"2026-11-{day:02d}-03-00-00", f"2026-11-{day:02d}-18-05-00"] for day in range(1, 9)]
    names = [f"{full}.blobs.gz" for full, _ in chains] + [f"{last}.deltablobs.gz" for _, last in chains]

    def other(chain: int, *, is_later: bool, with_delta: bool = False) -> BlobChoice:
        full, last = chains[chain]
        return BlobChoice(
            last if with_delta else full,
            BLOBS / f"{full}.blobs.gz",
            (BLOBS / f"{last}.deltablobs.gz",) if with_delta else (),
            is_exact=False,
            is_of_date=False,
            is_later=is_later,
        )

    def served(*gone: str) -> list[BlobChoice]:
        return list(states_of_other_chains(listing(*(set(names) - set(gone))), chains[4][0], chains))

    # Of a later one its full, of an earlier one its last backup.
    later = [other(5, is_later=True), other(6, is_later=True)]
    earlier = [other(3, is_later=False, with_delta=True), other(2, is_later=False, with_delta=True)]
    assert served() == later + earlier
    assert served(f"{chains[3][1]}.deltablobs.gz")[2:] == [other(3, is_later=False), earlier[1]]
    assert served(f"{chains[5][0]}.blobs.gz")[:2] == [later[1], other(7, is_later=True)]
    assert served(*names) == []
    assert list(states_of_other_chains(listing(*names), chains[4][0], [])) == []


def test_another_chain_may_be_a_full_alone_or_have_a_dat_that_cannot_be_read() -> None:
    chains: list[list[str]] = [[], [FIRST], [SECOND], [], [THIRD]]
    found = listing(*(f"{stamp}.blobs.gz" for stamp in WHOLE))
    states = list(states_of_other_chains(found, SECOND, chains))
    assert [(state.timestamp, state.is_later) for state in states] == [(THIRD, True), (FIRST, False)]
