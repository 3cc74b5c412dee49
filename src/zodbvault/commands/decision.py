"""What the next backup is: a full, an incremental, or nothing. Plain data in, plain data out; no disk.

A backup is continued when the magic is the same and the same transaction ends at the same offset as before: tids are
unique, and a pack writes another file. Where the file itself may be another one, that alone is not believed.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.io.clock import DAY

if TYPE_CHECKING:
    from zodbvault.filestorage.tail import Tail
    from zodbvault.repository.dat import Line
    from zodbvault.repository.records import Record


class Kind(Enum):
    """What a backup has to do."""

    NOTHING = "no changes"
    INCREMENTAL = "incremental"
    FULL = "full"


class Proof(Enum):
    """What has to be read once more before the newest backup is believed to be a beginning of Data.fs."""

    NONE = "none"
    LAST_LINE = "the md5 of the last line"
    WHOLE_CHAIN = "the md5 of every line"


class Verdict(NamedTuple):
    """What the next backup is, and why.

    start: offset in Data.fs where it begins, in bytes. proof: what must be checked first; when the check fails, the
    backup is a full. is_warning: whether the reason is one that an administrator has to hear of.
    """

    kind: Kind
    start: int
    reason: str
    proof: Proof = Proof.NONE
    is_warning: bool = False


class FullPolicy(NamedTuple):
    """When a chain is long enough. Days and numbers; 0 is never."""

    after_days: int
    after_incrementals: int


class Newest(NamedTuple):
    """The newest backup of the newest chain. record: the one of exactly this line, None where there is none.

    backups: number of backups in the chain. age_of_chain: seconds since its full, where the policy asks for it.
    """

    line: Line
    record: Record | None
    backups: int
    age_of_chain: int


def decide(
    newest: Newest | None,
    problem: str | None,
    tail: Tail | None,
    *,
    magic: str,
    inode: int,
    full_wanted: bool,
    policy: FullPolicy,
) -> Verdict:
    """Decide what the next backup is.

    newest: None when there is nothing to continue. problem: why nothing may be built on its chain. tail: the
    transaction of Data.fs that ends where the newest backup ends, None when there is none. magic, inode: of Data.fs.
    """
    if full_wanted:
        return Verdict(Kind.FULL, 0, "asked for")
    if problem is not None:
        return Verdict(Kind.FULL, 0, problem, is_warning=True)
    if newest is None:
        return Verdict(Kind.FULL, 0, "no backup to continue")
    stamp = newest.line.timestamp
    if tail is None or not is_continued(newest.record, tail, magic):
        return Verdict(Kind.FULL, 0, f"Data.fs was packed or replaced since {stamp}")
    proof = _proof_needed(newest, inode)
    if not tail.has_more:
        return Verdict(Kind.NOTHING, newest.line.end, f"nothing was committed since {stamp}", proof)
    due = _why_full_is_due(newest, policy)
    if due is not None:
        return Verdict(Kind.FULL, 0, due)
    return Verdict(Kind.INCREMENTAL, newest.line.end, f"continues {stamp}", proof)


def is_continued(record: Record | None, tail: Tail, magic: str) -> bool:
    """Whether what ends at the newest backup's end is what ended there when it was made, as far as a record tells."""
    if record is None:
        return True
    tid = None if tail.tid is None else tail.tid.hex()
    return (record.magic, record.tail_tid, record.tail_header) == (magic, tid, tail.header)


def _proof_needed(newest: Newest, inode: int) -> Proof:
    """A file with another inode was copied, moved or packed; without a record there is no tid to compare.

    An empty last line, which repozo writes where only an unfinished transaction was added, would prove nothing.
    """
    if newest.record is None:
        return Proof.LAST_LINE if newest.line.size else Proof.WHOLE_CHAIN
    return Proof.NONE if newest.record.source_inode == inode else Proof.WHOLE_CHAIN


def _why_full_is_due(newest: Newest, policy: FullPolicy) -> str | None:
    """Why the chain is not to be made longer, or None."""
    if policy.after_incrementals and newest.backups - 1 >= policy.after_incrementals:
        return f"the chain has {newest.backups - 1} incrementals"
    if policy.after_days and newest.age_of_chain >= policy.after_days * DAY:
        return f"the chain is {newest.age_of_chain // DAY} days old"
    return None
