from __future__ import annotations

import itertools
import logging
import os
import re
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import OWNERSHIP, Made, stamp
from zodbvault.repository.checks import Checks, write_checks
from zodbvault.repository.names import split_name
from zodbvault.repository.prune import (
    Retention,
    Verdict,
    finish_begun_prunes,
    judge_chains,
    plan_prune,
    prune_chains,
    week_of,
)

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from tests.repository.conftest import Disk
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository

FIRST = [stamp(0), stamp(1), stamp(2)]
SECOND = [stamp(3), stamp(4)]
THIRD = [stamp(5)]
FOURTH = [stamp(6), stamp(7), stamp(8)]

judged = st.lists(st.none() | st.just("it is damaged"), max_size=10).map(
    lambda problems: [(stamp(number), problem) for number, problem in enumerate(problems)]
)


@given(judged, st.integers(0, 5))
def test_the_newest_whole_chains_stay_and_all_that_is_younger(chains: list[tuple[str, str | None]], keep: int) -> None:
    verdicts = plan_prune(chains, Retention(keep))
    assert [verdict.timestamp for verdict in verdicts] == [timestamp for timestamp, _ in chains]
    whole = [timestamp for timestamp, problem in chains if problem is None]
    staying = [verdict.timestamp for verdict in verdicts if verdict.stays]
    limit = (whole[0] if keep and len(whole) == keep else "") if keep == 0 or len(whole) <= keep else whole[-keep]
    assert staying == [timestamp for timestamp, _ in chains if timestamp >= limit]
    assert len([timestamp for timestamp in staying if timestamp in whole]) == min(len(whole), keep or len(whole))
    assert all(verdict.reasons for verdict in verdicts)
    assert set(plan_prune(list(reversed(chains)), Retention(keep))) == set(verdicts)


def test_the_reasons_say_what_was_counted() -> None:
    chains = [(stamp(0), None), (stamp(1), None), (stamp(2), "it is damaged"), (stamp(3), None)]
    assert [verdict.reasons for verdict in plan_prune(chains[2:], Retention(0))] == [
        ("not counted, because it is damaged",),
        ("number 1 of all",),
    ]
    assert plan_prune(chains, Retention(2)) == (
        Verdict(stamp(0), False, ("older than the newest 2 whole chains",)),
        Verdict(stamp(1), True, ("number 2 of 2",)),
        Verdict(stamp(2), True, ("not counted, because it is damaged",)),
        Verdict(stamp(3), True, ("number 1 of 2",)),
    )


def days(*numbers: int) -> list[tuple[str, str | None]]:
    """A whole chain at noon of each of these days, counted from the first of November 2026, a Sunday."""
    return [(f"2026-{11 + number // 30:02}-{1 + number % 30:02}-12-00-00", None) for number in numbers]


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (Retention(2), [28, 29]),
        (Retention(1, daily=3), [27, 28, 29]),
        # Sundays are the last days of a week.
        (Retention(1, weekly=3), [21, 28, 29]),
        (Retention(1, weekly=2), [28, 29]),
        (Retention(1, monthly=5), [29]),
        (Retention(2, daily=4, weekly=4), [14, 21, 26, 27, 28, 29]),
        (Retention(4, daily=2), [26, 27, 28, 29]),
        (Retention(0), list(range(30))),
    ],
)
def test_days_weeks_and_months(retention: Retention, left: list[int]) -> None:
    verdicts = plan_prune(days(*range(30)), retention)
    assert [verdict.timestamp for verdict in verdicts if verdict.stays] == [stamp for stamp, _ in days(*left)]


def test_days_without_a_full_do_not_count() -> None:
    verdicts = plan_prune(days(0, 10, 20, 29), Retention(1, daily=3))
    assert [verdict.stays for verdict in verdicts] == [False, True, True, True]


def test_every_reason_is_given() -> None:
    verdicts = plan_prune(days(2, 28, 29), Retention(1, daily=2, weekly=1, monthly=7))
    assert [verdict.reasons for verdict in verdicts] == [
        ("older than the newest 1 whole chain, and not the newest of a day or week or month that is kept",),
        ("newest of the day 2026-11-29 (2 of 2)",),
        (
            "number 1 of 1",
            "newest of the day 2026-11-30 (1 of 2)",
            "newest of the week 2026-W49 (1 of 1)",
            "newest of the month 2026-11 (1 of 7)",
        ),
    ]


def test_the_newest_whole_one_of_a_day_stays_for_a_broken_one() -> None:
    chains = [("2026-11-22-01-00-00", None), ("2026-11-22-02-00-00", "it is damaged"), ("2026-11-23-01-00-00", None)]
    verdicts = plan_prune(chains, Retention(1, daily=2))
    assert [verdict.stays for verdict in verdicts] == [True, False, True]


numbers = st.integers(0, 4)
dated = st.lists(st.tuples(st.integers(0, 59), st.none() | st.just("it is damaged")), unique_by=lambda one: one[0]).map(
    lambda found: [(days(number)[0][0], problem) for number, problem in sorted(found)]
)


@given(dated, st.builds(Retention, numbers, numbers, numbers, numbers))
def test_a_further_rule_never_lets_more_go(chains: list[tuple[str, str | None]], retention: Retention) -> None:
    def staying(wanted: Retention) -> set[str]:
        return {verdict.timestamp for verdict in plan_prune(chains, wanted) if verdict.stays}

    everything = staying(retention)
    assert staying(Retention(retention.keep)) <= everything
    for name in ("daily", "weekly", "monthly"):
        number = getattr(retention, name)
        assert staying(retention._replace(**{name: number + 1})) >= everything
        assert staying(retention._replace(**{name: 0})) <= everything
    # As many as wanted, where there are as many.
    whole = [timestamp for timestamp, problem in chains if problem is None]
    kept_days = {timestamp[:10] for timestamp in everything & set(whole)}
    assert len(kept_days) >= min(retention.daily, len({timestamp[:10] for timestamp in whole}))


@given(st.dates())
def test_weeks_are_those_of_the_calendar(day: date) -> None:
    assert week_of(f"{day:%Y-%m-%d}-23-59-59".rjust(19, "0")) == "{:04}-W{:02}".format(*day.isocalendar())


def test_weeks_begin_at_midnight_in_utc_wherever_the_site_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/Caracas")
        time.tzset()
        assert week_of("2026-11-23-01-00-00") == "2026-W48"
    time.tzset()


@pytest.fixture
def four(made: Made) -> Made:
    for chain in (FIRST, SECOND, THIRD, FOURTH):
        made.chain(*chain)
    return made


def stamps_left(made: Made) -> set[str]:
    parts = (split_name(name) for name in made.names())
    return {part[0] for part in parts if part is not None}


def test_who_wants_to_is_told_first_what_goes_and_what_stays(four: Made, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[list[str], list[str]]] = []
    before = four.names()

    def remember(leaving: tuple[Chain, ...], staying: tuple[Chain, ...]) -> None:
        assert four.names() == before
        told.append(([chain.timestamp for chain in leaving], [chain.timestamp for chain in staying]))

    caplog.set_level(logging.INFO, "zodbvault")
    prune_chains(four.read(), Retention(2), with_blobs=True, before=remember)
    assert told == [([FIRST[0], SECOND[0]], [THIRD[0], FOURTH[0]])]
    assert [record.getMessage() for record in caplog.records] == [
        f"Removed the backup of {stamp} and its incrementals." for stamp in (FIRST[0], SECOND[0])
    ]
    prune_chains(four.read(), Retention(2), with_blobs=True, before=remember)
    assert len(told) == 1


def test_what_a_verification_found_damaged_does_not_count(four: Made) -> None:
    write_checks(four.location, Checks(THIRD[-1], "2026-11-23T18:05:00Z", verified_good=False), OWNERSHIP)
    verdicts = judge_chains(four.read(), Retention(2), with_blobs=True)
    assert [(verdict.timestamp, verdict.stays) for verdict in verdicts] == [
        (FIRST[0], False),
        (SECOND[0], True),
        (THIRD[0], True),
        (FOURTH[0], True),
    ]
    assert verdicts[2].reasons == (f"not counted, because its last verification found {THIRD[-1]} damaged",)


def test_missing_manifests_count_only_with_blobs(four: Made) -> None:
    for timestamp in THIRD:
        (four.blob_location / f"{timestamp}.blobs.gz").unlink()
    assert prune_chains(four.read(), Retention(2), with_blobs=True) == (FIRST[0],)
    assert prune_chains(four.read(), Retention(2), with_blobs=False) == (SECOND[0],)


def test_nothing_is_left_of_a_chain_that_had_lost_a_file(four: Made) -> None:
    (four.location / f"{FIRST[1]}.deltafsz").unlink()
    assert prune(four, 3) == (FIRST[0],)
    assert stamps_left(four) == {*SECOND, *THIRD, *FOURTH}


def prune(made: Made, keep: int) -> tuple[str, ...]:
    return prune_chains(made.read(), Retention(keep), with_blobs=made.with_blobs)


@pytest.mark.parametrize(
    ("keep", "left"),
    [(1, [FOURTH]), (2, [THIRD, FOURTH]), (3, [SECOND, THIRD, FOURTH]), (4, None), (5, None), (0, None)],
)
def test_nothing_is_left_of_a_chain_that_goes_and_nothing_is_missing_of_one_that_stays(
    four: Made, keep: int, left: list[list[str]] | None
) -> None:
    left = [FIRST, SECOND, THIRD, FOURTH] if left is None else left
    before = four.names()
    gone = prune(four, keep)
    assert list(gone) == [chain[0] for chain in (FIRST, SECOND, THIRD, FOURTH) if chain not in left]
    remaining = [timestamp for chain in left for timestamp in chain]
    assert stamps_left(four) == set(remaining)
    assert four.names() == {name for name in before if name[:19] in remaining}
    four.assert_repozo_restores(remaining)
    assert prune(four, keep) == ()


def test_modification_times_do_not_count(four: Made) -> None:
    for number, name in enumerate(sorted(os.listdir(four.location), reverse=True)):
        os.utime(four.location / name, (number, number))
    prune(four, 1)
    assert stamps_left(four) == set(FOURTH)


def test_a_damaged_chain_is_not_counted(four: Made) -> None:
    os.truncate(four.location / f"{SECOND[1]}.deltafsz", 5)
    (four.location / f"{THIRD[0]}.dat").write_bytes(b"")
    assert prune(four, 2) == ()
    assert stamps_left(four) == {*FIRST, *SECOND, *THIRD, *FOURTH}
    assert prune(four, 1) == (FIRST[0], SECOND[0], THIRD[0])
    assert stamps_left(four) == set(FOURTH)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        f"{FIRST[1]}.txt",
        f"{FIRST[0]}.fsz.copy",
        "tmp.tmp",
        f"blobstorage.{FIRST[0]}",
        ".zodbvault.id",
        ".zodbvault.lock",
        ".nfs0001",
    ],
)
def test_files_of_others_stay(four: Made, name: str) -> None:
    (four.location / name).touch()
    (four.blob_location / name).touch()
    prune(four, 1)
    assert (four.location / name).exists()
    assert (four.blob_location / name).exists()


def test_a_foreign_full_without_a_dat_stays_and_nothing_is_joined_to_it(four: Made) -> None:
    early = "2026-10-31-18-00-00"
    (four.location / f"{early}.fs").write_bytes(b"foreign")
    prune(four, 1)
    assert stamps_left(four) == {early, *FOURTH}
    assert four.by_repozo(FIRST[2]) == b"foreign"
    four.assert_repozo_restores(FOURTH)


def test_what_a_sweep_put_aside_goes_with_its_chain(four: Made) -> None:
    between = [f"{timestamp[:-2]}30" for timestamp in (FIRST[1], SECOND[1], FOURTH[1])]
    for timestamp in (*between, FIRST[0], THIRD[0]):
        for suffix in (".deltafsz", ".json"):
            (four.location / f"{timestamp}{suffix}.orphan").touch()
        (four.blob_location / f"{timestamp}.deltablobs.gz.orphan").touch()
    prune(four, 2)
    orphans = {name for name in four.names() if name.endswith(".orphan")}
    assert {name[:19] for name in orphans} == {between[2], THIRD[0]}
    assert len(orphans) == 6


@pytest.mark.parametrize("damage", [False, True])
def test_a_younger_chain_that_lost_its_full_is_not_touched(four: Made, damage: bool) -> None:
    (four.location / f"{SECOND[0]}.fsz").unlink()
    if damage:
        (four.location / f"{FIRST[0]}.dat").write_bytes(b"nonsense")
    os.rename(four.location / f"{FIRST[0]}.dat", four.location / f"{FIRST[0]}.dat.pruned")
    second = {name for name in four.names() if name[:19] in SECOND}
    assert finish_begun_prunes(four.read()) == (FIRST[0],)
    assert {name for name in four.names() if name[:19] in SECOND} == second
    assert not stamps_left(four) & set(FIRST)


@pytest.mark.parametrize("stray", SECOND)
def test_a_dat_that_names_files_of_a_younger_chain_takes_none_of_them(four: Made, stray: str) -> None:
    with open(four.location / f"{FIRST[0]}.dat", "a") as dat:
        end = four.chains[FIRST[0]][-1].end
        dat.write(f"{stray}.deltafsz {end} {end + 1} {'0' * 32}\n")
    younger = {name for name in four.names() if name[:19] in {*SECOND, *THIRD, *FOURTH}}
    assert prune(four, 3) == (FIRST[0],)
    assert four.names() == younger
    four.assert_repozo_restores([*SECOND, *THIRD, *FOURTH])


def test_a_marker_beside_a_dat_removes_nothing(four: Made, caplog: pytest.LogCaptureFixture) -> None:
    (four.location / f"{FIRST[0]}.dat.pruned").write_bytes((four.location / f"{FIRST[0]}.dat").read_bytes())
    before = four.names()
    assert finish_begun_prunes(four.read()) == ()
    assert four.names() == before
    told = f"{four.location}/{FIRST[0]}.dat.pruned stands beside the chain's .dat; the chain is kept."
    assert [record.getMessage() for record in caplog.records] == [told]
    # It does not keep others from being finished; one without a successor neither.
    os.rename(four.location / f"{FOURTH[0]}.dat", four.location / f"{FOURTH[0]}.dat.pruned")
    assert finish_begun_prunes(four.read()) == (FOURTH[0],)
    assert stamps_left(four) == {*FIRST, *SECOND, *THIRD}


def test_the_order_of_removals_is_safe_at_every_instant(four: Made, disk: Disk) -> None:
    prune(four, 2)
    changes = [event for event in disk.events if not event.startswith("sync")]
    expected: list[str] = []
    for chain in (FIRST, SECOND):
        data = [f"{timestamp}.deltafsz" for timestamp in reversed(chain[1:])] + [f"{chain[0]}.fsz"]
        manifests = [f"{chain[0]}.blobs.gz"] + [f"{timestamp}.deltablobs.gz" for timestamp in chain[1:]]
        records = [f"{timestamp}.json" for timestamp in chain]
        expected.append(f"rename {chain[0]}.dat {chain[0]}.dat.pruned")
        names = [*data, *manifests, f"{chain[0]}.index", *records, f"{chain[0]}.dat.pruned"]
        expected += [f"remove {name}" for name in names]
    assert changes == expected

    # Each removal of a data file is durable before the next, and so is the rename before all of them.
    order = [event for event in disk.events if re.search(r"fsz$|\.dat|^sync location", event)]
    for first, second in itertools.pairwise(order):
        assert first.startswith("sync") or second.startswith("sync"), (first, second)
    last_record = disk.events.index(f"remove {FIRST[2]}.json")
    marker = disk.events.index(f"remove {FIRST[0]}.dat.pruned")
    assert {"sync location", "sync blobs"} <= set(disk.events[last_record:marker])


def everything_gone_or_whole(repository: Repository, made: Made) -> None:
    assert {chain.timestamp for chain in repository.chains} >= {THIRD[0], FOURTH[0]}
    for chain in repository.chains:
        for line in chain.lines:
            assert (made.location / line.file.name).exists()


@pytest.mark.parametrize("with_records", [True, False])
@pytest.mark.parametrize("damage", [False, True])
def test_killed_between_any_two_steps_it_is_finished_by_the_next_run(
    tmp_path: Path, disk: Disk, with_records: bool, damage: bool
) -> None:
    for step in itertools.count():
        made = Made(tmp_path / f"step {step}", with_records=with_records)
        for chain in (FIRST, SECOND, THIRD, FOURTH):
            made.chain(*chain)
        if damage:
            (made.location / f"{SECOND[0]}.dat").write_bytes(b"")
        with disk.killing_before(step):
            prune(made, 2)
        if not disk.has_killed:
            assert step >= 14
            break
        everything_gone_or_whole(made.read(), made)
        made.assert_repozo_restores([*THIRD, *FOURTH])
        for timestamp in [*FIRST, *SECOND]:  # what still comes out is some state of the same chain, or nothing
            chain = FIRST if timestamp in FIRST else SECOND
            assert made.by_repozo(timestamp) in (None, *(made.states[each] for each in chain)), (step, timestamp)

        # The next run is killed too, right after it began, and the one after that finishes.
        with disk.killing_before(1):
            made.sweep()
        made.assert_repozo_restores([*THIRD, *FOURTH])
        made.sweep()
        prune(made, 2)
        assert stamps_left(made) == {*THIRD, *FOURTH}
        made.assert_repozo_restores([*THIRD, *FOURTH])


def test_a_killed_prune_leaves_no_companions_although_another_chain_is_damaged(four: Made, disk: Disk) -> None:
    (four.location / f"{THIRD[0]}.dat").write_bytes(b"")
    with disk.killing_before(4):  # the rename and three data files are done
        prune(four, 1)
    assert f"{FIRST[1]}.json" in four.names()
    assert finish_begun_prunes(four.read()) == (FIRST[0],)
    assert not stamps_left(four) & set(FIRST)


def test_a_chain_that_is_being_pruned_is_seen_by_nobody(four: Made, disk: Disk) -> None:
    with disk.killing_before(1):
        prune(four, 3)
    repository = four.read()
    assert [chain.timestamp for chain in repository.chains] == [SECOND[0], THIRD[0], FOURTH[0]]
    assert repository.listed == ()
