"""What is to be thought of a repository that a monitoring system asks about: facts and thresholds in, states out.

Plain decisions without a disk or a clock. The states and their numbers are those of Nagios' plugins.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zodbvault.commands.tables import duration_text
from zodbvault.errors import ZodbvaultError
from zodbvault.io.clock import DAY, TOLERATED_SKEW
from zodbvault.io.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

GROWTH_WINDOW = 90 * DAY
"""Seconds that the growth of a site is looked at."""
SOON = 3650
"""Days that are worth telling of."""


class UnreadableThreshold(ZodbvaultError):
    """A threshold that cannot be understood: wrong usage, not a failure."""

    exit_code = 2


class State(IntEnum):
    """What a monitoring system is told; the number is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class FreeSpace(NamedTuple):
    """The least free space: a number of bytes, or a share of the file system (0 to 1)."""

    size: int = 0
    share: float = 0.0

    def of(self, total: int) -> int:
        """The bytes that have to be free in a file system of `total` bytes."""
        return max(self.size, int(self.share * total))


class Thresholds(NamedTuple):
    """What is still good, with what counts where nothing is said. Ages in seconds; None: not judged."""

    max_age: float = 26 * 3600
    max_full_age: float | None = None
    max_drill_age: float | None = None
    min_free: FreeSpace = FreeSpace(share=0.1)


class Facts(NamedTuple):
    """What is known of one repository. Times are seconds since 1970, sizes bytes; None is not known, or never.

    newest, newest_full: when the newest backup, and the newest full, was made. is_current: the database has nothing
    that is in no backup; None where it could not be looked at. unsaved_since: when the oldest change was made that is
    in no backup. newest_problem: why a restore of the newest backup is in doubt. older_problems: the same of older
    chains. lost_blobs: that the site has lost. verified, drilled: when last, with verified_good and drilled_good:
    whether that went well. bad: timestamps of the backups that a verification found damaged, is_newest_bad: the newest
    among them. free, total: of the file system that is fuller. next_full: what another full will need. growth: bytes a
    day.
    """

    now: float
    newest: float | None = None
    newest_full: float | None = None
    is_current: bool | None = None
    unsaved_since: float | None = None
    newest_problem: str | None = None
    older_problems: tuple[str, ...] = ()
    lacks_blobs: bool = False
    lost_blobs: int = 0
    verified: float | None = None
    verified_good: bool | None = None
    bad: tuple[str, ...] = ()
    is_newest_bad: bool = False
    drilled: float | None = None
    drilled_good: bool | None = None
    drill_seconds: float | None = None
    free: int | None = None
    total: int | None = None
    next_full: int | None = None
    growth: float | None = None
    backups: int = 0
    stored_size: int = 0

    @property
    def age(self) -> float | None:
        """Seconds for which a change has been in no backup: 0 where all are in one.

        Where the database could not be looked at, or was packed since, the age of the newest backup.
        """
        if self.newest is None:
            return None
        if self.is_current:
            return 0.0
        since = self.newest if self.unsaved_since is None else max(self.newest, self.unsaved_since)
        return max(0.0, self.now - since)

    @property
    def full_age(self) -> float | None:
        """Seconds from the newest full to now; to the newest backup where nothing was changed since."""
        if self.newest is None or self.newest_full is None:
            return None
        return max(0.0, (self.newest if self.is_current else self.now) - self.newest_full)

    @property
    def days_until_full(self) -> float | None:
        """Days until the disk is full, if the site goes on to grow as it did; None where it does not grow."""
        if self.free is None or self.growth is None or self.growth <= 0:
            return None
        return self.free / self.growth


class Judgement(NamedTuple):
    """One thing that was looked at. name: what. text: for people."""

    name: str
    state: State
    text: str


def judge(facts: Facts, thresholds: Thresholds) -> tuple[Judgement, ...]:
    """What is to be thought of each thing that was looked at."""
    if facts.newest is None:
        return (Judgement("backup", State.CRITICAL, "there is no backup"), *_judge_space(facts, thresholds.min_free))
    return (
        _judge_age(facts, thresholds.max_age),
        *_judge_chains(facts),
        *_judge_full(facts, thresholds.max_full_age),
        _judge_verification(facts),
        *_judge_drill(facts, thresholds.max_drill_age),
        *_judge_space(facts, thresholds.min_free),
    )


def worst(states: Iterable[State]) -> State:
    """The state of the whole: what is known to be broken counts more than what is not known."""
    severity = (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL)
    return max(states, key=severity.index, default=State.UNKNOWN)


def _judge_age(facts: Facts, most: float) -> Judgement:
    age = facts.age
    assert age is not None
    assert facts.newest is not None
    if facts.newest - facts.now > TOLERATED_SKEW:
        what = f"the newest backup is {duration_text(facts.newest - facts.now)} later than the clock"
        return Judgement("backup", State.WARNING, what)
    newest = f"newest backup {duration_text(max(0.0, facts.now - facts.newest))} old"
    if facts.is_current:
        return Judgement("backup", State.OK, f"{newest}, nothing was changed since")
    what = newest if facts.unsaved_since is None else f"{newest}, first change after it {duration_text(age)} ago"
    if age > most:
        return Judgement("backup", State.CRITICAL, f"{what}, more than {duration_text(most)}")
    return Judgement("backup", State.OK, what)


def _judge_chains(facts: Facts) -> Iterator[Judgement]:
    if facts.newest_problem is not None:
        yield Judgement("chain", State.CRITICAL, f"the newest backup may not restore: {facts.newest_problem}")
    elif facts.older_problems:
        yield Judgement("chain", State.WARNING, f"an older backup may not restore: {facts.older_problems[-1]}")
    if facts.lacks_blobs:
        yield Judgement("blobs", State.WARNING, "nothing tells which blobs belong to the newest backup")
    elif facts.lost_blobs:
        yield Judgement("blobs", State.WARNING, f"the site has lost {facts.lost_blobs:,} of the blobs that it needs")


def _judge_full(facts: Facts, most: float | None) -> Iterator[Judgement]:
    age = facts.full_age
    if age is None:
        return
    text = f"newest full {duration_text(age)} old"
    if most is not None and age > most:
        yield Judgement("full", State.WARNING, f"{text}, more than {duration_text(most)}")
    else:
        yield Judgement("full", State.OK, text)


def _judge_verification(facts: Facts) -> Judgement:
    if facts.bad:
        state = State.CRITICAL if facts.is_newest_bad else State.WARNING
        return Judgement("verify", state, f"a verification found that {facts.bad[-1]} does not restore")
    if facts.verified is None:
        return Judgement("verify", State.OK, "never verified")
    return Judgement("verify", State.OK, f"verified {duration_text(max(0.0, facts.now - facts.verified))} ago")


def _judge_drill(facts: Facts, most: float | None) -> Iterator[Judgement]:
    if facts.drilled is None:
        state = State.OK if most is None else State.WARNING
        yield Judgement("drill", state, "a restore was never rehearsed (drill)")
        return
    age = max(0.0, facts.now - facts.drilled)
    text = f"restore rehearsed {duration_text(age)} ago"
    if facts.drilled_good is False:
        yield Judgement("drill", State.CRITICAL, f"{text}, and it failed")
    elif most is not None and age > most:
        yield Judgement("drill", State.WARNING, f"{text}, more than {duration_text(most)}")
    else:
        yield Judgement("drill", State.OK, text)


def _judge_space(facts: Facts, least: FreeSpace) -> Iterator[Judgement]:
    if facts.free is None or not facts.total:
        return
    text = f"{size_text(facts.free)} free ({100 * facts.free / facts.total:.0f} %)"
    if facts.growth is not None:
        text += f", grows by {size_text(max(0.0, facts.growth))} a day"
    if facts.days_until_full is not None and facts.days_until_full < SOON:
        text += f", full in {facts.days_until_full:,.0f} days"
    if facts.free < least.of(facts.total):
        yield Judgement("space", State.WARNING, f"{text}; that is less than {size_text(least.of(facts.total))}")
    elif facts.next_full is not None and facts.free < facts.next_full:
        yield Judgement("space", State.WARNING, f"{text}; the next full needs {size_text(facts.next_full)}")
    else:
        yield Judgement("space", State.OK, text)


class Footprint(NamedTuple):
    """What a site measured when a backup was made: seconds since 1970, and bytes.

    data: size of Data.fs. blobs: size of all blobs. written: what this backup added to the disk.
    """

    moment: float
    data: int
    blobs: int
    written: int


def growth_per_day(
    footprints: Sequence[Footprint], *, now: float, chains: int, copies: float, ratio: float, prunes: bool
) -> float | None:
    """Bytes by which the backups grow in a day; None where less than a day can be looked at.

    footprints: oldest first. chains: how many copies of Data.fs are kept. copies: how many of each blob. ratio: what a
    byte of Data.fs takes in a full. prunes: each new chain lets an old one go: then the backups grow as the site does;
    else by all that is written.
    """
    seen = [one for one in footprints if now - one.moment <= GROWTH_WINDOW]
    if len(seen) < 2 or seen[-1].moment - seen[0].moment < DAY:
        return None
    days = (seen[-1].moment - seen[0].moment) / DAY
    if not prunes:
        return sum(one.written for one in seen[1:]) / days
    first, last = seen[0], seen[-1]
    return ((last.data - first.data) * ratio * chains + (last.blobs - first.blobs) * copies) / days


_Parsed = TypeVar("_Parsed")
_Usual = TypeVar("_Usual")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_SIZES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_age(text: str) -> float:
    """Seconds of a length of time: `26h`, `8d`, `90m`, `1.5d`. Raises UnreadableThreshold."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip(), re.ASCII)
    if match is None:
        raise UnreadableThreshold(f"cannot read the length of time {text!r}", hint="Give it as 90m, 26h or 8d.")
    return float(match[1]) * _UNITS[match[2]]


def parse_free_space(text: str) -> FreeSpace:
    """Free space: `10%`, or a size such as `5GB`. Raises UnreadableThreshold."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?(?:(%)|([kmgt]?)b?)", text.strip().lower(), re.ASCII)
    if match is None or (match[2] and float(match[1]) > 100):
        raise UnreadableThreshold(f"cannot read the free space {text!r}", hint="Give it as 10% or 5GB.")
    if match[2]:
        return FreeSpace(share=float(match[1]) / 100)
    return FreeSpace(size=int(float(match[1]) * _SIZES[match[3]]))


def thresholds_from(
    max_age: str | None, max_full_age: str | None, max_drill_age: str | None, min_free: str | None
) -> Thresholds:
    """The thresholds as they were written; None is one that was not. Raises UnreadableThreshold."""
    usual = Thresholds()
    return Thresholds(
        _threshold("--max-age", max_age, parse_age, usual.max_age),
        _threshold("--max-full-age", max_full_age, parse_age, None),
        _threshold("--max-drill-age", max_drill_age, parse_age, None),
        _threshold("--min-free", min_free, parse_free_space, usual.min_free),
    )


def _threshold(option: str, text: str | None, parse: Callable[[str], _Parsed], usual: _Usual) -> _Parsed | _Usual:
    """What was written for an option; the error of what cannot be read names the option."""
    if text is None:
        return usual
    try:
        return parse(text)
    except UnreadableThreshold as error:
        error.what = f"{option}: {error.what}"
        raise
