"""Which manifests make the blob state of a backup. A plain decision: names in, names out, no disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

COMPLETE_SUFFIX = ".blobs.gz"
DELTA_SUFFIX = ".deltablobs.gz"


def blob_state(timestamps: Sequence[str], names: Container[str]) -> tuple[str, tuple[str, ...]] | None:
    """The names of the complete manifest and of its deltas, oldest first, that make the state of the last timestamp.

    timestamps: those of the chain's lines in its `.dat`, oldest first, up to the wanted one. names: the files that are
    there. The newest complete manifest counts, and each line after it must have a delta of its own; None where that
    is not so. Manifests of timestamps that no line names are never looked at.
    """
    deltas: list[str] = []
    for timestamp in reversed(timestamps):
        if timestamp + COMPLETE_SUFFIX in names:
            return timestamp + COMPLETE_SUFFIX, tuple(reversed(deltas))
        if timestamp + DELTA_SUFFIX not in names:
            return None
        deltas.append(timestamp + DELTA_SUFFIX)
    return None


def newest_state(timestamps: Sequence[str], names: Container[str]) -> tuple[str, tuple[str, ...]] | None:
    """The state of the newest of these timestamps that has one, as blob_state() gives it; None where none has."""
    for length in range(len(timestamps), 0, -1):
        state = blob_state(timestamps[:length], names)
        if state is not None:
            return state
    return None
