"""Which chains go, and in which order their files are removed.

A prune is first a value, which can be printed and tested, then it is carried out. It sees timestamps, never
modification times.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.io.durable import remove_durably, rename_durably
from zodbvault.repository.chains import Chain, data_files
from zodbvault.repository.dat import DamagedDat
from zodbvault.repository.names import (
    COMPANION_SUFFIXES,
    DAT_SUFFIX,
    MANIFEST_SUFFIXES,
    ORPHAN_SUFFIX,
    PRUNED_SUFFIX,
    DataFile,
    split_name,
)
from zodbvault.repository.store import Repository, chain_problem, read_dat
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

logger = logging.getLogger("zodbvault")

_AFTER_ALL_TIMESTAMPS = "~"


class Retention(NamedTuple):
    """How many chains stay: the newest ones, and the newest of each of so many days, weeks and months that have one.

    keep: 0 keeps all. Days, weeks (from Monday, ISO 8601) and months are those of the full, in UTC.
    """

    keep: int
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


class Verdict(NamedTuple):
    """What becomes of the chain whose full has this timestamp, and why: all reasons that it has to stay, or to go."""

    timestamp: str
    stays: bool
    reasons: tuple[str, ...]


def plan_prune(chains: Sequence[tuple[str, str | None]], retention: Retention) -> tuple[Verdict, ...]:
    """Decide for each chain, oldest first, given as (timestamp of the full, what is wrong with it or None).

    Only chains that are whole are counted. One that is not stays as long as it is younger than the oldest of the newest
    `keep` whole ones.
    """
    keep, rules = retention.keep, _rules(retention)
    verdicts: list[Verdict] = []
    whole = 0
    for timestamp, problem in sorted(chains, reverse=True):
        if problem is not None:
            reasons = [f"not counted, because {problem}"] if not keep or whole < keep else []
        else:
            whole += 1
            reasons = [f"number {whole} of {keep or 'all'}"] if not keep or whole <= keep else []
            reasons += [reason for rule in rules if (reason := rule.reason_to_keep(timestamp))]
        gone = f"older than the newest {keep} whole chain{'' if keep == 1 else 's'}" + _not_the_newest(rules)
        verdicts.append(Verdict(timestamp, bool(reasons), tuple(reasons) or (gone,)))
    return tuple(reversed(verdicts))


class _Rule:
    """Keeps the newest chain of each of the newest `number` periods; told of the chains, the newest one first."""

    def __init__(self, name: str, number: int, period_of: Callable[[str], str]) -> None:
        self.name = name
        self.number = number
        self._period_of = period_of
        self._seen: list[str] = []

    def reason_to_keep(self, timestamp: str) -> str | None:
        """Why the chain stays, as far as this rule is asked; None for no reason."""
        period = self._period_of(timestamp)
        if len(self._seen) == self.number or period in self._seen:
            return None
        self._seen.append(period)
        return f"newest of the {self.name} {period} ({len(self._seen)} of {self.number})"


def _rules(retention: Retention) -> list[_Rule]:
    rules = (
        _Rule("day", retention.daily, lambda timestamp: timestamp[: len("2026-11-23")]),
        _Rule("week", retention.weekly, week_of),
        _Rule("month", retention.monthly, lambda timestamp: timestamp[: len("2026-11")]),
    )
    return [rule for rule in rules if rule.number]


def _not_the_newest(rules: list[_Rule]) -> str:
    """What else is said of a chain that goes."""
    return f", and not the newest of a {' or '.join(rule.name for rule in rules)} that is kept" if rules else ""


def week_of(timestamp: str) -> str:
    """The week of a timestamp as ISO 8601 writes it, `2026-W48`; that of the year's beginning for no real date."""
    from datetime import datetime, timezone

    year, week, _ = datetime.fromtimestamp(seconds_of(timestamp), timezone.utc).isocalendar()
    return f"{year:04}-W{week:02}"


def judge_chains(repository: Repository, retention: Retention, *, with_blobs: bool) -> tuple[Verdict, ...]:
    """What becomes of each chain of a repository, oldest first.

    What a verification has found damaged counts as little as what can be seen to be.
    """
    judged = [
        (
            chain.timestamp,
            chain_problem(repository, chain, with_blobs=with_blobs) or _verified_problem(repository, chain),
        )
        for chain in repository.chains
    ]
    return plan_prune(judged, retention)


def _verified_problem(repository: Repository, chain: Chain) -> str | None:
    from zodbvault.repository.checks import found_damaged

    bad = found_damaged(repository.location, repository.names, (line.timestamp for line in chain.lines))
    return None if bad is None else f"its last verification found {bad} damaged"


def prune_chains(
    repository: Repository,
    retention: Retention,
    *,
    with_blobs: bool,
    before: Callable[[tuple[Chain, ...], tuple[Chain, ...]], None] | None = None,
) -> tuple[str, ...]:
    """Remove the chains that `retention` lets go, oldest first; return the timestamps of their fulls.

    before: is told of the chains that go and of those that stay, before any file is removed. The blobs that only those
    named are the caller's next step.
    """
    if not retention.keep or len(repository.chains) <= retention.keep:
        return ()
    verdicts = judge_chains(repository, retention, with_blobs=with_blobs)
    gone = {verdict.timestamp for verdict in verdicts if not verdict.stays}
    leaving = tuple(chain for chain in repository.chains if chain.timestamp in gone)
    if leaving and before is not None:
        before(leaving, tuple(chain for chain in repository.chains if chain.timestamp not in gone))
    for chain in leaving:
        _remove_chain(repository, chain)
    return tuple(chain.timestamp for chain in leaving)


def _remove_chain(repository: Repository, chain: Chain) -> None:
    """Let a chain vanish in one instant, by the name of its `.dat`; then remove what it held."""
    marker = chain.timestamp + PRUNED_SUFFIX
    rename_durably(repository.location / chain.dat_name, repository.location / marker)
    remove_files(repository, chain.timestamp, None if chain.damage else tuple(line.file for line in chain.lines))
    logger.info("Removed the backup of %s and its incrementals.", chain.timestamp)


def finish_begun_prunes(repository: Repository) -> tuple[str, ...]:
    """Finish what a killed prune left: chains whose `.dat` has the name `.dat.pruned`. Returns their timestamps."""
    begun: list[str] = []
    for name in sorted(repository.names):
        parts = split_name(name)
        if parts is None or parts[1] != PRUNED_SUFFIX:
            continue
        timestamp = parts[0]
        if timestamp + DAT_SUFFIX in repository.names:
            logger.warning("%s stands beside the chain's .dat; the chain is kept.", repository.location / name)
            continue
        try:
            lines = read_dat(repository.location / name)
        except DamagedDat:
            remove_files(repository, timestamp, None)
        else:
            remove_files(repository, timestamp, tuple(line.file for line in lines))
        begun.append(timestamp)
    return tuple(begun)


def remove_files(repository: Repository, timestamp: str, named: tuple[DataFile, ...] | None) -> None:
    """Remove all files of the chain whose full has `timestamp` and whose `.dat` is renamed already.

    named: the data files of its `.dat`, oldest first; None when that could not be read, so that the listing has to
    tell. Incrementals go first, the newest before the others, each durably: what is left at any instant is the
    beginning of a chain, which repozo cannot join to another one.
    """
    following = _next_chain(repository, timestamp)
    present = tuple(file for file in data_files(repository.names) if timestamp <= file.timestamp < following)
    # A `.dat` that a copy went wrong with may name files of a younger chain: those stay.
    files = present if named is None else tuple(file for file in named if timestamp <= file.timestamp < following)
    for file in reversed(files):
        remove_durably(repository.location / file.name)
    # All that the `.dat` names, although a killed run may have removed the data files already.
    remove_durably(*_companions(repository, {timestamp, *(file.timestamp for file in files)}))
    remove_durably(*_put_aside_between(repository, timestamp, following))
    remove_durably(repository.location / (timestamp + PRUNED_SUFFIX))


def _companions(repository: Repository, stamps: set[str]) -> list[Path]:
    """The manifests, indexes and records of the backups at `stamps`, in the order of removal."""
    names = (stamp + suffix for suffix in (*MANIFEST_SUFFIXES, *COMPANION_SUFFIXES) for stamp in sorted(stamps))
    return [repository.path(name) for name in names if repository.has(name)]


def _put_aside_between(repository: Repository, timestamp: str, following: str) -> list[Path]:
    """What a sweep has put aside in the time of a chain: it goes with it."""
    found = []
    for name in sorted(repository.names | repository.blob_names):
        parts = split_name(name)
        if parts is not None and name.endswith(ORPHAN_SUFFIX) and timestamp <= parts[0] < following:
            found.append(repository.path(name.removesuffix(ORPHAN_SUFFIX)).with_name(name))
    return found


def _next_chain(repository: Repository, timestamp: str) -> str:
    """The timestamp of the next full after the one at `timestamp`, by its own name or its `.dat`'s."""
    fulls = {file.timestamp for file in data_files(repository.names) if file.is_full}
    fulls.update(chain.timestamp for chain in repository.chains)
    return min((full for full in fulls if full > timestamp), default=_AFTER_ALL_TIMESTAMPS)
