"""Which blobs a chain is known to have: read from the manifests and records of its backups, in whichever layout.

Between two backups of a chain no pack came, so what the data referred to they refer to still. Reads only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from zodbvault.blobs.known import readable
from zodbvault.blobs.layouts import key_of_bushy
from zodbvault.blobs.manifest import merge_state, read_manifest
from zodbvault.blobs.state import blob_state, newest_state
from zodbvault.commands.written_manifests import believable, vouched_for
from zodbvault.repository.records import POOL

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository


def newest_pool_state(repository: Repository) -> tuple[str, tuple[str, ...]] | None:
    """The manifests of the newest state that the repository has in the pool, as blob_state() gives them.

    Their checksums are taken over, so each is what its record says.
    """
    for chain in reversed(repository.chains):
        state = newest_state([line.timestamp for line in chain.lines], repository.blob_names)
        if state is not None and vouched_for(repository, names := (state[0], *state[1])) >= set(names):
            return state
    return None


def merged_state(
    repository: Repository, state: tuple[str, tuple[str, ...]], scratch: Path
) -> Generator[Entry, None, None]:
    """The entries of a state in the pool. scratch: a folder for temporary files."""
    complete, deltas = state
    return merge_state(repository.path(complete), [repository.path(name) for name in deltas], scratch)


def keys_of_chain(repository: Repository, chain: Chain, scratch: Path) -> Generator[bytes, None, None]:
    """The keys of the blobs of the newest state of `chain` that is known, and of those that the site had lost by then.

    A manifest that is damaged is warned about, and what stands behind the damage is left out.
    """
    for length in range(len(chain.lines), 0, -1):
        entries = _entries_at(repository, chain, length, scratch)
        if entries is None:
            continue
        with contextlib.closing(entries):
            for entry in readable(entries):
                yield entry.key
        record = repository.record_of(chain.lines[length - 1])
        if record is not None and record.blobs is not None:
            for path in record.blobs.missing:
                key = key_of_bushy(path)
                if key is not None:
                    yield key
        return


def _entries_at(
    repository: Repository, chain: Chain, length: int, scratch: Path
) -> Generator[Entry, None, None] | None:
    """The entries of the state of the `length`th backup of `chain`; None where it has none of ours."""
    record = repository.record_of(chain.lines[length - 1])
    if record is not None and record.blobs is not None and record.blobs.layout != POOL:
        manifest = record.blobs.manifest
        is_there = repository.has(manifest) and bool(believable(repository, (manifest,)))
        return read_manifest(repository.path(manifest)) if is_there else None
    state = blob_state([line.timestamp for line in chain.lines[:length]], repository.blob_names)
    if state is None or not believable(repository, names := (state[0], *state[1])) >= set(names):
        return None
    return merged_state(repository, state, scratch)
