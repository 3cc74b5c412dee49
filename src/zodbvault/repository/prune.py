"""Which chains go, and in which order their files are removed.

A prune is first a value, which can be printed and tested, then it is carried out. It sees timestamps, never
modification times.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.io.durable import remove_durably, rename_durably
from zodbvault.repository.chains import Chain, data_files
from zodbvault.repository.dat import DamagedDat, parse_dat
from zodbvault.repository.names import (
    COMPANION_SUFFIXES,
    DAT_SUFFIX,
    MANIFEST_SUFFIXES,
    ORPHAN_SUFFIX,
    PRUNED_SUFFIX,
    DataFile,
    split_name,
)
from zodbvault.repository.store import Repository, chain_problem, read_small

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger("zodbvault")


@dataclass(frozen=True)
class Verdict:
    """What becomes of the chain whose full has this timestamp, and why."""

    timestamp: str
    stays: bool
    reason: str


def plan_prune(chains: Sequence[tuple[str, str | None]], keep: int) -> tuple[Verdict, ...]:
    """Decide for each chain, oldest first, given as (timestamp of the full, what is wrong with it or None).

    The newest `keep` chains that are whole stay, and whatever is younger than the oldest of these. 0 keeps all.
    """
    verdicts: list[Verdict] = []
    whole = 0
    for timestamp, problem in sorted(chains, reverse=True):
        if keep and whole >= keep:
            verdicts.append(Verdict(timestamp, stays=False, reason=f"older than the newest {keep} whole chains"))
        elif problem is not None:
            verdicts.append(Verdict(timestamp, stays=True, reason=f"not counted, because {problem}"))
        else:
            whole += 1
            verdicts.append(Verdict(timestamp, stays=True, reason=f"number {whole} of {keep or 'all'}"))
    return tuple(reversed(verdicts))


def prune_chains(repository: Repository, keep: int, *, with_blobs: bool) -> tuple[str, ...]:
    """Remove the chains that `keep` lets go, oldest first; return the timestamps of their fulls.

    The blobs that only they named are the caller's next step.
    """
    if not keep or len(repository.chains) <= keep:
        return ()
    judged = [(chain.timestamp, chain_problem(repository, chain, with_blobs=with_blobs)) for chain in repository.chains]
    gone = [verdict.timestamp for verdict in plan_prune(judged, keep) if not verdict.stays]
    for chain in repository.chains:
        if chain.timestamp in gone:
            _remove_chain(repository, chain)
    return tuple(gone)


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
            lines = parse_dat(read_small(repository.location / name), name)
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
    belonging = files_of_chain(repository, timestamp)
    # A `.dat` that a copy went wrong with may name files of a younger chain: those stay.
    files = data_files(belonging) if named is None else tuple(file for file in named if file.name in belonging)
    for file in reversed(files):
        remove_durably(repository.location / file.name)
    stamps = {file.timestamp for file in files} | {timestamp}
    companions = [
        repository.path(stamp + suffix)
        for suffix in (*MANIFEST_SUFFIXES, *COMPANION_SUFFIXES)
        for stamp in sorted(stamps)
        if stamp + suffix in repository.names or stamp + suffix in repository.blob_names
    ]
    orphans = [
        repository.path(name.removesuffix(ORPHAN_SUFFIX)).with_name(name)
        for name in belonging
        if name.endswith(ORPHAN_SUFFIX)
    ]
    remove_durably(*companions, *orphans)
    remove_durably(repository.location / (timestamp + PRUNED_SUFFIX))


def files_of_chain(repository: Repository, timestamp: str) -> tuple[str, ...]:
    """The repository files from the full at `timestamp` to just before the next full, by their names."""
    fulls = [file.timestamp for file in data_files(repository.names) if file.is_full and file.timestamp > timestamp]
    following = min(fulls, default=None)
    found = []
    for name in sorted(repository.names | repository.blob_names):
        parts = split_name(name)
        if parts is not None and timestamp <= parts[0] and (following is None or parts[0] < following):
            found.append(name)
    return tuple(found)
