"""Keeping what a verification found beside each backup, for list, check and report to show.

The files are written without a lock, where that is possible.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.repository.checks import DEEP, DEFAULT, QUICK, Checks, read_checks, write_all_checks
from zodbvault.repository.names import CHECKS_SUFFIX
from zodbvault.repository.store import list_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zodbvault.io.durable import Ownership

logger = logging.getLogger("zodbvault")

_DEPTHS = (QUICK, DEFAULT, DEEP)


class Verification(NamedTuple):
    """A verification that is to be kept. moment: ISO 8601, UTC. how: in _DEPTHS. ownership: of new files."""

    moment: str
    how: str
    ownership: Ownership


def replaces(good: bool | None, how: str, before: Checks) -> bool:
    """Whether a verdict takes the place of an earlier one: what was found to be damaged is not cleared by less."""
    is_less = before.verified_how in _DEPTHS and _DEPTHS.index(how) < _DEPTHS.index(before.verified_how)
    return good is False or before.verified_good is not False or not is_less


def keep_verdicts(location: Path, verdicts: Mapping[str, bool | None], verification: Verification) -> dict[str, str]:
    """Write the verdicts beside the backups, each with what was known of its last rehearsal.

    Gives by timestamp how thorough the verification was that found damage which this one cannot clear: that stands.
    """
    names = list_files(location)
    kept = []
    standing = {}
    for stamp, good in verdicts.items():
        before = (read_checks(location, stamp) if stamp + CHECKS_SUFFIX in names else None) or Checks(stamp)
        if replaces(good, verification.how, before):
            kept.append(
                before._replace(verified=verification.moment, verified_good=good, verified_how=verification.how)
            )
        else:
            standing[stamp] = str(before.verified_how)
    if kept and not write_all_checks(location, kept, verification.ownership):
        logger.debug("%s cannot be written, so the result of this verification is not kept.", location)
    return standing
