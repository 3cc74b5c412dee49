"""Keeping what a verification found beside each backup, for list, check and report to show.

What each backup gets is decided from plain data; the files are written without a lock, where that is possible.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.repository.checks import DEEP, DEFAULT, Checks, read_checks, write_all_checks
from zodbvault.repository.names import CHECKS_SUFFIX
from zodbvault.repository.store import list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from zodbvault.io.durable import Ownership

logger = logging.getLogger("zodbvault")


class Verification(NamedTuple):
    """A verification that is to be kept. moment: ISO 8601, UTC. ownership: of new files."""

    moment: str
    deep: bool
    ownership: Ownership


def verdicts_of_chain(
    timestamps: Sequence[str], damaged: Iterable[str], *, lacks_blobs: bool
) -> dict[str, bool | None]:
    """What is found of each backup of a chain: it restores, it does not, or (None) nobody knows its blobs.

    timestamps: of its backups. damaged: of those that something is wrong with; everything later in the chain needs them
    too.
    """
    first = min(damaged, default=None)
    good = None if lacks_blobs else True
    return {stamp: good if first is None or stamp < first else False for stamp in timestamps}


def keep_verdicts(location: Path, verdicts: Mapping[str, bool | None], verification: Verification) -> None:
    """Write the verdicts beside the backups, each with what was known of its last rehearsal."""
    if not verdicts:
        return
    names = list_files(location)
    how = DEEP if verification.deep else DEFAULT
    kept = []
    for stamp, good in verdicts.items():
        before = read_checks(location, stamp) if stamp + CHECKS_SUFFIX in names else None
        now = before or Checks(stamp)
        kept.append(now._replace(verified=verification.moment, verified_good=good, verified_how=how))
    if not write_all_checks(location, kept, verification.ownership):
        logger.debug("%s cannot be written, so the result of this verification is not kept.", location)
