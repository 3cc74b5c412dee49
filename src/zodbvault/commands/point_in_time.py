"""The state after any one transaction (`restore --at`): which backup holds it, and where in that it ends.

The bytes of a chain are those of Data.fs, so a part of them from the beginning on is the Data.fs of an earlier moment,
as long as no pack came between: a pack rewrites what is older than itself. So it is the oldest backup that goes far
enough that counts, and never a moment before a pack that this backup has been through. Reads, never writes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.chain_bytes import ChainBytes, every_chain, reaches
from zodbvault.commands.choosing import Choice, Cut, NothingThere, choose_blobs
from zodbvault.filestorage.format import PACKED_STATUS
from zodbvault.filestorage.tids import tid_at, time_of_tid
from zodbvault.repository.chains import Chain
from zodbvault.repository.timestamps import LATEST, UnreadableDate, parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.chain_bytes import Reach
    from zodbvault.filestorage.backward import Transaction
    from zodbvault.repository.store import Repository

_TID = re.compile(r"(?:0x)?([0-9a-fA-F]{16})\Z")


def parse_point(text: str) -> bytes:
    """The greatest tid that a moment means: a tid in hexadecimal digits, or a date in any form but `latest`.

    Raises UnreadableDate.
    """
    match = _TID.match(text.strip())
    if match is not None:
        return bytes.fromhex(match[1])
    if text.strip() == LATEST:
        raise UnreadableDate("the newest backup is no moment", hint="Without a moment the newest backup is taken.")
    try:
        moment = parse_moment(text)
        return tid_at(moment.seconds, moment.nanoseconds)
    except UnreadableDate as error:
        error.hint = f"{error.hint} A transaction is named by its tid, 16 hexadecimal digits."
        raise
    except ValueError as error:
        raise UnreadableDate(f"cannot use the date {text!r}: {error}") from error


class Place(NamedTuple):
    """Where a state ends, among the transactions of one backup, which come last first.

    last: the state's last transaction; None where it is older than the backup's own. following: the one after it; None
    where the state is the backup's. newest_packed: the newest transaction of the backup that a pack has rewritten.
    """

    last: Transaction | None
    following: Transaction | None
    newest_packed: Transaction | None


def find_place(transactions: Iterator[Transaction], wanted: bytes) -> Place:
    """Look for the last transaction that is not later than `wanted`."""
    following = newest_packed = None
    for transaction in transactions:
        if newest_packed is None and transaction.status == PACKED_STATUS:
            newest_packed = transaction
        if transaction.tid <= wanted:
            return Place(transaction, following, newest_packed)
        following = transaction
    return Place(None, following, newest_packed)


def choose_at(repository: Repository, wanted: bytes, scratch: Path, *, with_blobs: bool) -> Choice:
    """The state after the last transaction whose tid is not greater than `wanted`.

    scratch: a folder for temporary files. Raises NothingThere where no backup goes that far, or none has a transaction
    that is old enough, or the first that goes that far was made after a pack; ZodbvaultError where a backup cannot be
    read.
    """
    chains = every_chain(repository)
    older: Reach | None = None
    for reach in reaches(repository, chains, wanted, scratch):
        if reach.last_tid is not None and reach.last_tid >= wanted:
            break
        older = reach
    else:
        raise _too_late(repository, older, wanted)
    with ChainBytes(repository.location, reach.chain.lines, scratch) as data:
        place = find_place(data.transactions(reach.line), wanted)
    if place.following is not None and place.following.status == PACKED_STATUS:
        raise _packed_away(repository, reach, older, place, wanted)
    return _choice(repository, reach, place, wanted, with_blobs=with_blobs)


def _choice(repository: Repository, reach: Reach, place: Place, wanted: bytes, *, with_blobs: bool) -> Choice:
    whole, number, cut = reach.chain, reach.number, None
    if place.last is None and number == 0:
        oldest = "" if place.following is None else f" The oldest transaction is {_named(place.following.tid)}."
        raise NothingThere(
            f"no transaction at or before {_named(wanted)} is in the backup of {whole.timestamp}",
            path=repository.location,
            hint=f"Nothing was changed.{oldest}",
        )
    if place.last is None:
        # Older than all that this backup has, and so where the one before it in its chain ends.
        number -= 1
    elif place.following is not None:
        cut = Cut(place.last.end, place.last.tid)
    chain = Chain(whole.timestamp, whole.lines[: number + 1])
    blobs = choose_blobs(repository, whole, chain) if with_blobs else ()
    return Choice(chain, blobs if cut is None else as_they_were(blobs, chain.newest.timestamp), cut)


def as_they_were(choices: tuple[BlobChoice, ...], timestamp: str) -> tuple[BlobChoice, ...]:
    """The same blob states for a moment before the backup at `timestamp`: what is later in them does not count."""
    return tuple(replace(one, is_later=one.timestamp >= timestamp, is_of_date=False) for one in choices)


def _too_late(repository: Repository, newest: Reach | None, wanted: bytes) -> NothingThere:
    if newest is None:
        return NothingThere("holds no backup", path=repository.location, hint="Nothing was changed.")
    last = "" if newest.last_tid is None else f", whose last transaction is {_named(newest.last_tid)}"
    return NothingThere(
        f"no backup goes as far as {_named(wanted)}",
        path=repository.location,
        hint=f"Nothing was changed. The newest backup is {newest.line.timestamp}{last}.",
    )


def _packed_away(
    repository: Repository, reach: Reach, older: Reach | None, place: Place, wanted: bytes
) -> NothingThere:
    before = "There is no older backup" if older is None else f"The backup before that is {older.line.timestamp}"
    assert place.newest_packed is not None
    return NothingThere(
        f"the state at {_named(wanted)} is not known: the database was packed before the backup of "
        f"{reach.line.timestamp} was made, the first one that goes that far",
        path=repository.location,
        hint=f"Nothing was changed. {before}; the next state that is known is {_named(place.newest_packed.tid)}.",
    )


def _named(tid: bytes) -> str:
    """A moment as both people and `--at` can read it."""
    return f"{time_of_tid(tid)} (tid {tid.hex()})"
