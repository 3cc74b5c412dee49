"""Chains as plain data, and the choice of the one that holds a date.

A chain is a full backup and the incrementals on it. The `.dat` file says which data files belong to it; where a copy
of a repository lost it, the folder's listing has to do. Nothing here touches a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.repository.dat import DamagedDat, Line
from zodbvault.repository.names import DAT_SUFFIX, PRUNED_SUFFIX, DataFile, data_file, split_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Chain(NamedTuple):
    """A full backup and its incrementals, oldest first, as its `.dat` file names them.

    timestamp: of the full. damage: why the `.dat` cannot be read, with no lines then.
    """

    timestamp: str
    lines: tuple[Line, ...]
    damage: DamagedDat | None = None

    @property
    def newest(self) -> Line:
        """The last line: where the next incremental begins."""
        return self.lines[-1]

    @property
    def dat_name(self) -> str:
        """The name of the chain's `.dat` file."""
        return self.timestamp + DAT_SUFFIX

    def until(self, when: str | None) -> Chain:
        """The same chain without what is later than `when`."""
        if when is None:
            return self
        return Chain(self.timestamp, tuple(line for line in self.lines if line.timestamp <= when), self.damage)


class ListedChain(NamedTuple):
    """A full without a `.dat` file and the incrementals after it, known from the folder's listing alone."""

    timestamp: str
    files: tuple[DataFile, ...]

    def until(self, when: str | None) -> ListedChain:
        """The same chain without what is later than `when`."""
        if when is None:
            return self
        return ListedChain(self.timestamp, tuple(file for file in self.files if file.timestamp <= when))


def data_files(names: Iterable[str]) -> tuple[DataFile, ...]:
    """The data files among `names`, oldest first: their names, which they compare by, begin with the timestamp."""
    files = (data_file(name) for name in names)
    return tuple(sorted(file for file in files if file is not None))


def chains_with_dat(dats: Mapping[str, tuple[Line, ...] | DamagedDat]) -> tuple[Chain, ...]:
    """The chains, oldest first, from what was read of each full's `.dat` file (by the full's timestamp)."""
    return tuple(
        Chain(timestamp, (), content) if isinstance(content, DamagedDat) else Chain(timestamp, content)
        for timestamp, content in sorted(dats.items())
    )


def chains_without_dat(names: frozenset[str]) -> tuple[ListedChain, ...]:
    """The chains, oldest first, whose full has no `.dat` file and is not being pruned."""
    found: list[ListedChain] = []
    current: list[DataFile] | None = None
    for file in data_files(names):
        if file.is_full:
            has_dat = file.timestamp + DAT_SUFFIX in names or file.timestamp + PRUNED_SUFFIX in names
            current = None if has_dat else [file]
            if current is not None:
                found.append(ListedChain(file.timestamp, (file,)))
        elif current is not None:
            current.append(file)
            found[-1] = ListedChain(current[0].timestamp, tuple(current))
    return tuple(found)


def choose_chain(
    chains: Iterable[Chain], listed: Iterable[ListedChain], when: str | None
) -> Chain | ListedChain | None:
    """The chain that holds the newest state at or before `when`, cut off there; None when there is no such state.

    As repozo does: the newest full whose timestamp is not greater, with the later incrementals that are not greater.
    """
    every: list[Chain | ListedChain] = [*chains, *listed]
    candidates = [chain for chain in every if when is None or chain.timestamp <= when]
    if not candidates:
        return None
    return max(candidates, key=lambda chain: chain.timestamp).until(when)


def newest_within(chains: Iterable[Chain], when: str) -> str | None:
    """The newest backup in the day, hour or minute `when`; None for a second. As a date it means its first moment."""
    if len(when) >= len("2026-11-23-18-05-00"):
        return None
    within = [line.timestamp for chain in chains for line in chain.lines if line.timestamp.startswith(when)]
    return max(within, default=None)


def newest_timestamp(names: Iterable[str]) -> str | None:
    """The greatest timestamp that any file in the repository has, whatever became of its backup."""
    parts = (split_name(name) for name in names)
    return max((part[0] for part in parts if part is not None), default=None)
