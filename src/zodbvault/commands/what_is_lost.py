"""What a restore takes away: the transactions of the live Data.fs that are later than the state to be restored.

Reads the end of the live file, nothing else of it, and changes nothing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.summary import plural
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.filestorage.backward import Later, later_than
from zodbvault.filestorage.format import MAGIC_LENGTH, MAGICS, NO_TID
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.tids import nearest_tid_at, time_of_tid
from zodbvault.io.stored import open_stored
from zodbvault.repository.records import NewerFormat
from zodbvault.repository.store import size_of
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


class Loss(NamedTuple):
    """What the live database has and the state has not.

    later: transactions after the state; None where they cannot be counted, or there is no database. unsaved: those of
    them that are in no backup either. unknown: why they cannot be counted; None where they can.
    """

    later: Later | None
    unsaved: Later | None
    unknown: str | None = None

    @property
    def sentence(self) -> str:
        """For the question, the log and the plan."""
        if self.unknown is not None:
            return f"Which transactions will be lost cannot be told: {self.unknown}."
        if self.later is None:
            return "There is no Data.fs now, so no transaction will be lost."
        if self.later.newest is None:
            return "No transaction since then will be lost."
        newest = time_of_tid(self.later.newest)
        of_newest = f"of {newest}" if self.later == (1, self.later.newest, True) else f"the newest of {newest}"
        return f"{_number(self.later)} since then will be lost, {of_newest}; {self._unsaved_words} in no backup."

    @property
    def _unsaved_words(self) -> str:
        assert self.unsaved is not None
        if self.unsaved.number == 0:
            return "none is"
        one = self.unsaved == (1, self.unsaved.newest, True)
        return "1 is" if one else f"{'' if self.unsaved.is_all else 'more than '}{self.unsaved.number:,} are"


def _number(later: Later) -> str:
    return plural(later.number, "transaction") if later.is_all else f"More than {plural(later.number, 'transaction')}"


def what_is_lost(datafs: Path, state: bytes, saved: bytes) -> Loss:
    """Compare the live database with a state whose last tid is `state`, where the newest backup ends with `saved`.

    Data.fs may be a symlink, damaged or missing.
    """
    try:
        size = size_of(Path(os.path.realpath(datafs)))
        if size is None:
            return Loss(None, None)
        with open_stored(datafs, nofollow=False) as file:
            fd = file.fileno()

            def read(offset: int, length: int) -> bytes:
                return os.pread(fd, length, offset)

            if read(0, MAGIC_LENGTH) not in MAGICS:
                return Loss(None, None, f"{datafs} is no FileStorage")
            later = later_than(read, size, state)
            return Loss(later, later_than(read, size, max(state, saved)))
    except DamagedDataFs as error:
        return Loss(None, None, f"in {datafs} {error.what}")
    except ZodbvaultError as error:
        return Loss(None, None, f"{error.path or datafs}: {error.what}")
    except OSError as error:
        return Loss(None, None, f"{datafs}: {reason_of(error)}")


def last_tid_of(repository: Repository, chain: Chain) -> bytes:
    """The greatest tid of the newest state of a chain; where no record tells it, that of the moment of the backup."""
    try:
        record = repository.record_of(chain.newest)
    except NewerFormat as error:
        # What is only told to people stops no restore of another backup.
        logger.warning("%s", error)
        record = None
    if record is None:
        return nearest_tid_at(max(seconds_of(chain.newest.timestamp), 0))
    return NO_TID if record.last_tid is None else bytes.fromhex(record.last_tid)


def newest_saved_tid(repository: Repository) -> bytes:
    """The greatest tid of the newest backup in the repository."""
    chains = [chain for chain in repository.chains if chain.lines]
    return last_tid_of(repository, chains[-1]) if chains else NO_TID
