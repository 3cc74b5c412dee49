from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ZODB.scripts import repozo

from tests.repository.made import line, stamp
from zodbvault.repository.chains import (
    Chain,
    ListedChain,
    chains_with_dat,
    chains_without_dat,
    choose_chain,
    data_files,
    newest_timestamp,
    newest_within,
)
from zodbvault.repository.dat import DamagedDat, Line

# Which of the backups, one a minute, are fulls; and where the date is: a backup's own, between two, a shortened one.
histories = st.lists(st.booleans(), min_size=1, max_size=12).map(lambda rest: [True, *rest])
dates = st.none() | st.builds(
    lambda number, length, second: (stamp(number)[:-2] + f"{second:02}")[:length],
    st.integers(0, 14),
    st.sampled_from([10, 13, 16, 19]),
    st.integers(0, 1),
)


def chains_of(history: list[bool]) -> tuple[Chain, ...]:
    """Chains of backups of ten bytes each."""
    dats: dict[str, tuple[Line, ...]] = {}
    for number, is_full in enumerate(history):
        if is_full:
            dats[stamp(number)] = (line(f"{stamp(number)}.fsz", 0, 10),)
        else:
            lines = dats[max(dats)]
            end = lines[-1].end
            dats[max(dats)] = (*lines, line(f"{stamp(number)}.deltafsz", end, end + 10))
    return chains_with_dat(dats)


def names_of(history: list[bool]) -> list[str]:
    return [stamp(number) + (".fsz" if is_full else ".deltafsz") for number, is_full in enumerate(history)]


def found_by_repozo(names: list[str], when: str | None) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).touch()
        options = SimpleNamespace(repository=folder, date=when or "9999", gzip=True, full=True)
        return [Path(name).name for name in repozo.find_files(options)]


@given(histories, dates)
def test_a_date_means_the_newest_backup_that_is_not_later(history: list[bool], when: str | None) -> None:
    chosen = choose_chain(chains_of(history), (), when)
    stamps = [stamp(number) for number in range(len(history)) if when is None or stamp(number) <= when]
    if not stamps:
        assert chosen is None
        return
    assert isinstance(chosen, Chain)
    assert chosen.newest.timestamp == stamps[-1]
    first = max(number for number in range(len(stamps)) if history[number])
    assert [each.timestamp for each in chosen.lines] == stamps[first:]


@settings(max_examples=60)
@given(histories, dates)
def test_the_files_are_those_that_repozo_would_join(history: list[bool], when: str | None) -> None:
    names = names_of(history)
    chosen = choose_chain(chains_of(history), (), when)
    ours = [] if not isinstance(chosen, Chain) else [each.file.name for each in chosen.lines]
    assert ours == found_by_repozo(names, when)


@settings(max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=12), dates)
def test_without_any_dat_the_listing_gives_the_same_files(history: list[bool], when: str | None) -> None:
    names = names_of(history)
    chosen = choose_chain((), chains_without_dat(frozenset(names)), when)
    ours = [] if not isinstance(chosen, ListedChain) else [file.name for file in chosen.files]
    theirs = found_by_repozo(names, when)
    # Incrementals without a full are nothing; repozo joins them all the same.
    assert ours == (theirs if theirs and data_files(theirs)[0].is_full else [])


@given(histories, st.integers(0, 12), dates)
def test_a_chain_that_lost_its_dat_counts_among_the_others(history: list[bool], lost: int, when: str | None) -> None:
    chains = chains_of(history)
    missing = chains[lost % len(chains)]
    names = frozenset([*names_of(history), *(chain.dat_name for chain in chains if chain is not missing)])
    listed = chains_without_dat(names)
    assert [(each.timestamp, [file.name for file in each.files]) for each in listed] == [
        (missing.timestamp, [each.file.name for each in missing.lines])
    ]
    chosen = choose_chain([chain for chain in chains if chain is not missing], listed, when)
    expected = choose_chain(chains, (), when)
    assert (chosen and chosen.timestamp) == (expected and expected.timestamp)
    assert isinstance(chosen, ListedChain) == (expected is not None and expected.timestamp == missing.timestamp)


def test_a_chain_that_is_being_pruned_does_not_exist() -> None:
    names = frozenset(["2026-11-23-18-05-00.fsz", "2026-11-23-18-06-00.deltafsz", "2026-11-23-18-05-00.dat.pruned"])
    assert chains_without_dat(names) == ()


def test_incrementals_after_a_chain_that_has_a_dat_belong_to_no_listed_one() -> None:
    names = frozenset(
        [
            "2026-11-23-18-05-00.fsz",
            "2026-11-23-18-06-00.fsz",
            "2026-11-23-18-06-00.dat",
            "2026-11-23-18-07-00.deltafsz",
        ]
    )
    (listed,) = chains_without_dat(names)
    assert [file.name for file in listed.files] == ["2026-11-23-18-05-00.fsz"]


def test_a_chain_whose_dat_is_damaged_is_chosen_as_such_and_not_passed_over() -> None:
    damage = DamagedDat("cannot be read")
    chains = chains_with_dat({stamp(0): (line(f"{stamp(0)}.fsz", 0, 10),), stamp(1): damage})
    chosen = choose_chain(chains, (), None)
    assert isinstance(chosen, Chain)
    assert chosen.damage is damage
    assert chosen.lines == ()
    assert choose_chain(chains, (), stamp(2)) == chosen
    assert choose_chain(chains, (), stamp(0)) == chains[0]


def test_a_date_that_is_a_backups_own_means_that_backup() -> None:
    names = names_of([True, False, False])
    for number in range(3):
        chosen = choose_chain((), chains_without_dat(frozenset(names)), stamp(number))
        assert isinstance(chosen, ListedChain)
        assert [file.name for file in chosen.files] == names[: number + 1]


def test_what_a_dat_says_goes_before_what_is_only_listed() -> None:
    (chain,) = chains_of([True])
    (listed,) = chains_without_dat(frozenset(names_of([True])))
    assert choose_chain([chain], [listed], None) is chain


def test_a_bare_date_knows_the_newest_backup_of_its_day() -> None:
    chains = chains_of([True, False, True, False])
    assert newest_within(chains, "2026-11-01") == stamp(3)
    assert newest_within(chains, "2026-11-02") is None
    assert newest_within(chains, stamp(3)[:-3]) == stamp(3)
    assert newest_within(chains, stamp(3)) is None


@pytest.mark.parametrize(
    "name",
    [".fsz", ".deltafsz.orphan", ".json", ".dat", ".dat.pruned", ".blobs.gz", ".fsz.part", ".index"],
)
def test_every_file_that_has_a_timestamp_makes_the_next_one_grow(name: str) -> None:
    assert newest_timestamp([stamp(0) + ".fsz", stamp(1) + name, "2099-notes", ".zodbvault.lock"]) == stamp(1)


def test_an_empty_repository_has_no_newest_timestamp() -> None:
    assert newest_timestamp([".zodbvault.lock", "tmp.tmp"]) is None
