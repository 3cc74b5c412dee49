from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import RECORD, line
from zodbvault.commands.decision import FullPolicy, Kind, Newest, Proof, Verdict, decide
from zodbvault.filestorage.tail import Tail

NEVER = FullPolicy(0, 0)
DAY = 86400
STAMP = "2026-11-23-18-05-00"
LINE = line(f"{STAMP}.deltafsz", 100, 150)
TID = bytes.fromhex("1" * 16)
SAME = Tail(TID, 120, 150, has_more=False)
MORE = Tail(TID, 120, 200, has_more=True)
OURS = RECORD._replace(start=100, end=150, tail_tid=TID.hex(), tail_header=120, magic="FS21", source_inode=2)
NEWEST = Newest(LINE, OURS, backups=3, age_of_chain=DAY)


def decided(
    newest: Newest | None = NEWEST,
    problem: str | None = None,
    tail: Tail | None = MORE,
    *,
    magic: str = "FS21",
    inode: int = 2,
    full_wanted: bool = False,
    policy: FullPolicy = NEVER,
) -> Verdict:
    return decide(newest, problem, tail, magic=magic, inode=inode, full_wanted=full_wanted, policy=policy)


def test_the_same_file_with_more_behind_it_is_continued() -> None:
    assert decided() == Verdict(Kind.INCREMENTAL, 150, f"continues {STAMP}")


def test_the_same_file_with_nothing_behind_it_is_no_work() -> None:
    assert decided(tail=SAME) == Verdict(Kind.NOTHING, 150, f"nothing was committed since {STAMP}")


def test_a_full_that_is_asked_for_is_made() -> None:
    assert decided(full_wanted=True) == Verdict(Kind.FULL, 0, "asked for")
    assert decided(tail=SAME, full_wanted=True).kind is Kind.FULL


def test_the_first_backup_is_a_full() -> None:
    assert decided(newest=None, tail=None) == Verdict(Kind.FULL, 0, "no backup to continue")


def test_nothing_is_built_on_a_chain_with_a_problem_and_the_administrator_hears_of_it() -> None:
    assert decided(problem="x is missing") == Verdict(Kind.FULL, 0, "x is missing", is_warning=True)
    assert decided(newest=None, problem="x is missing", tail=None).is_warning


@pytest.mark.parametrize(
    ("tail", "magic"),
    [
        (None, "FS21"),
        (MORE, "FS30"),
        (Tail(b"\x22" * 8, 120, 200, has_more=True), "FS21"),
        (Tail(None, 120, 200, has_more=True), "FS21"),
        (Tail(TID, 119, 200, has_more=True), "FS21"),
    ],
)
def test_another_transaction_at_the_end_of_the_backup_means_another_file(tail: Tail | None, magic: str) -> None:
    verdict = decided(tail=tail, magic=magic)
    assert verdict == Verdict(Kind.FULL, 0, f"Data.fs was packed or replaced since {STAMP}")


@pytest.mark.parametrize("tail", [SAME, MORE])
def test_in_another_inode_the_whole_chain_is_proved_before_it_is_believed(tail: Tail) -> None:
    assert decided(tail=tail, inode=3).proof is Proof.WHOLE_CHAIN


@pytest.mark.parametrize("tail", [SAME, MORE])
def test_without_a_record_the_last_line_is_proved(tail: Tail) -> None:
    assert decided(newest=NEWEST._replace(record=None), tail=tail).proof is Proof.LAST_LINE


def test_an_empty_last_line_of_repozos_proves_nothing_so_all_are_read() -> None:
    empty = NEWEST._replace(line=line(f"{STAMP}.deltafs", 150, 150), record=None)
    assert decided(newest=empty).proof is Proof.WHOLE_CHAIN


def test_an_empty_database_is_recognised_by_its_magic() -> None:
    full = line(f"{STAMP}.fsz", 0, 4)
    record = RECORD._replace(end=4, first_tid=None, last_tid=None, tail_tid=None, tail_header=0)
    newest = Newest(full, record, 1, 0)
    assert decided(newest, tail=Tail(None, 0, 4, has_more=False)).kind is Kind.NOTHING
    assert decided(newest, tail=Tail(None, 0, 99, has_more=True)) == Verdict(Kind.INCREMENTAL, 4, f"continues {STAMP}")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (FullPolicy(0, 2), "the chain has 2 incrementals"),
        (FullPolicy(0, 1), "the chain has 2 incrementals"),
        (FullPolicy(0, 3), None),
        (FullPolicy(1, 0), "the chain is 1 days old"),
        (FullPolicy(2, 0), None),
        (FullPolicy(2, 2), "the chain has 2 incrementals"),
    ],
)
def test_a_chain_that_is_long_or_old_enough_is_not_made_longer(policy: FullPolicy, reason: str | None) -> None:
    verdict = decided(policy=policy)
    assert (verdict.kind, verdict.start) == ((Kind.INCREMENTAL, 150) if reason is None else (Kind.FULL, 0))
    assert reason is None or verdict.reason == reason
    assert not verdict.is_warning


def test_nothing_to_back_up_is_no_reason_for_a_full_that_is_due() -> None:
    assert decided(tail=SAME, policy=FullPolicy(1, 1)).kind is Kind.NOTHING


tids = st.sampled_from([None, TID, b"\x22" * 8])
tails = st.none() | st.builds(Tail, tids, st.sampled_from([0, 120]), st.just(200), st.booleans())
records = st.none() | st.builds(
    OURS._replace,
    tail_tid=tids.map(lambda tid: None if tid is None else tid.hex()),
    tail_header=st.sampled_from([0, 120]),
    magic=st.sampled_from(["FS21", "FS30"]),
    source_inode=st.integers(1, 2),
)
newests = st.none() | st.builds(
    Newest,
    st.sampled_from([LINE, line(f"{STAMP}.deltafs", 150, 150)]),
    records,
    st.integers(1, 5),
    st.integers(0, 5 * DAY),
)


@given(
    newests,
    st.none() | st.just("a problem"),
    tails,
    st.sampled_from(["FS21", "FS30"]),
    st.integers(1, 2),
    st.booleans(),
    st.builds(FullPolicy, st.integers(0, 3), st.integers(0, 3)),
)
def test_a_backup_is_only_continued_where_it_is_shown_to_be_a_beginning_of_the_file(
    newest: Newest | None,
    problem: str | None,
    tail: Tail | None,
    magic: str,
    inode: int,
    full_wanted: bool,
    policy: FullPolicy,
) -> None:
    verdict = decide(newest, problem, tail, magic=magic, inode=inode, full_wanted=full_wanted, policy=policy)
    assert verdict.reason
    assert verdict.is_warning == (problem is not None and not full_wanted)
    if verdict.kind is Kind.FULL:
        assert (verdict.start, verdict.proof) == (0, Proof.NONE)
        return
    assert not full_wanted
    assert problem is None
    assert newest is not None
    assert tail is not None
    assert verdict.start == newest.line.end
    assert tail.has_more == (verdict.kind is Kind.INCREMENTAL)
    record = newest.record
    if verdict.proof is Proof.NONE:
        assert record is not None
        assert record.source_inode == inode
    if record is not None:
        assert verdict.proof is not Proof.LAST_LINE
        assert record.magic == magic
        assert record.tail_header == tail.header
        assert (record.tail_tid or "") == (tail.tid or b"").hex()
    elif newest.line.size:
        assert verdict.proof is Proof.LAST_LINE
    else:
        assert verdict.proof is Proof.WHOLE_CHAIN
    if verdict.kind is Kind.INCREMENTAL:
        assert not policy.after_incrementals or newest.backups - 1 < policy.after_incrementals
        assert not policy.after_days or newest.age_of_chain < policy.after_days * DAY
