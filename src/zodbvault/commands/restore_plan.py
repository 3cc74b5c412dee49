"""What a restore would do (`--dry-run`): found out as the restore itself finds it out, and nothing written at all.

What would stop the restore is a problem in the plan, not an error: the rest of the plan is of use to whoever mends it.
That the site is running is none; a plan is made while it does.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, NamedTuple

from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands.copy_folder import require_place_for_copy
from zodbvault.commands.only_blobs_states import other_dates_named
from zodbvault.commands.restore_blobs import blob_restore, restore_of_blobs_alone
from zodbvault.commands.restore_choice import (
    Request,
    choose_blobs_alone,
    choose_state,
    last_tid_known_for,
    loss_of,
    nothing_known,
    request_of,
)
from zodbvault.commands.restore_data import check_files, read_data, target_of
from zodbvault.commands.summary import plural, printable
from zodbvault.errors import ZodbvaultError, one_line
from zodbvault.filestorage.tids import time_of_tid
from zodbvault.io.locks import LockFile
from zodbvault.io.sizes import size_text
from zodbvault.io.space import free_bytes, nearest_existing, share_space
from zodbvault.repository.store import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zodbvault.commands.choosing import Choice
    from zodbvault.commands.restore_blobs import BlobRestore, Expected
    from zodbvault.commands.restore_data import Target
    from zodbvault.commands.what_is_lost import Loss
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

PLAN_FORMAT = 1


class Space(NamedTuple):
    """Bytes that will be written at `folder` before anything is removed, and that are free there."""

    folder: Path
    needed: int
    free: int


class Plan(NamedTuple):
    """What a restore would do.

    timestamp: of the backup. tid: of the last transaction, where it is not the backup's own; else None. target: the
    Data.fs, or the blob storage of a site whose blobs alone are backed up.
    backups: timestamps of the chain, the full first; empty for blobs alone. size: bytes of the new Data.fs.
    blobs: None where none are restored, or too little is known. blob_note: why it is None, for people.
    running: who holds the database, None when nobody does. loss: None where no Data.fs is replaced.
    problems: what would stop the restore.
    """

    timestamp: str
    tid: bytes | None
    location: Path
    target: Path
    blob_storage: Path | None
    backups: tuple[str, ...]
    size: int | None
    blobs: Expected | None
    blob_note: str
    space: tuple[Space, ...]
    running: str | None
    loss: Loss | None
    problems: tuple[str, ...]


def plan_restore(
    settings: Settings,
    *,
    source: str,
    when: str | None,
    accept_missing_blobs: bool = False,
    checksum: bool,
    at: str | None = None,
    to: Path | None = None,
    only: str | None = None,
) -> Plan:
    """Plan what `restore` would do with the same arguments.

    Raises NothingThere, DamagedDat for a `.dat` that cannot be read, ZodbvaultError where `to` is no place for a copy.
    """
    request = request_of(
        source=source,
        when=when,
        at=at,
        to=to,
        only=only,
        accept_missing_blobs=accept_missing_blobs,
        checksum=checksum,
    )
    settings = request.narrowed(settings)
    if request.to is not None:
        require_place_for_copy(settings, request.to)
    return _plan_blobs_alone(settings, request) if settings.only_blobs else _plan_data_and_blobs(settings, request)


def _plan_data_and_blobs(settings: Settings, request: Request) -> Plan:
    """The plan for a site with a Data.fs, or for its data or blobs alone."""
    places, target_settings = request.places(settings), request.target(settings)
    repository, choice = choose_state(settings, request)
    problems: list[str] = []
    has_data = request.has_data(settings)
    if has_data:
        _noting(problems, lambda: check_files(repository, choice.chain.lines))
    expected = _expected(target_settings, repository, choice, request, problems)
    if expected is not None and not has_data:
        # The data that stand there may be newer.
        expected = expected._replace(remove=0, is_certain=True)
    if not has_data and choice.blobs is None:
        problems.append(str(nothing_known(repository, choice)))
    target = target_of(target_settings.datafs)
    needs = _needs(target if has_data else None, choice.end, target_settings.blob_storage, expected)
    space = _space(needs, problems)
    problems += _unwritable(needs, target.locks if request.to is None else ())
    return Plan(
        timestamp=choice.timestamp,
        tid=None if choice.cut is None else choice.cut.tid,
        location=places.location,
        target=target_settings.datafs if has_data else target_settings.blob_storage or target_settings.datafs,
        blob_storage=target_settings.blob_storage,
        backups=tuple(line.timestamp for line in choice.chain.lines),
        size=choice.end if has_data else None,
        blobs=expected,
        blob_note=_note_on_blobs(target_settings, expected),
        space=space,
        running=_who_runs(target.locks, problems) if request.to is None else None,
        loss=loss_of(settings, repository, choice) if request.to is None and has_data else None,
        problems=tuple(problems),
    )


def _expected(
    settings: Settings, repository: Repository, choice: Choice, request: Request, problems: list[str]
) -> Expected | None:
    """What is to be done with the blobs of a chosen state; adds to `problems`. settings: those of the target.

    Where only the data can tell whether a state will do, they are read, as the restore reads them.
    """
    files_are_there = not problems
    with blob_restore(settings, repository, choice, Path(gettempdir()), request) as blobs:
        last_tid, is_known = last_tid_known_for(repository, choice, request, settings)
        if not _noting(problems, lambda: blobs.compare(last_tid, is_known=is_known)):
            return None
        is_judged = request.has_data(settings) and files_are_there and blobs.waits_for_data
        if is_judged and not _noting(problems, lambda: _judge(blobs, repository, choice)):
            return None
        blobs.say_what_is_taken()
        return blobs.expected()


def _judge(blobs: BlobRestore, repository: Repository, choice: Choice) -> None:
    """Read the data and see whether their blobs are all to be had. Raises ZodbvaultError as the restore does."""
    scratch = Path(gettempdir())
    with SortedKeys(scratch) as referenced:
        checked = read_data(repository, choice.chain.lines, choice.end, referenced, scratch)
        blobs.judge(checked, referenced)


def _needs(target: Target | None, end: int, blob_storage: Path | None, expected: Expected | None) -> dict[Path, int]:
    """Bytes that will be written, by the folder that they go to.

    target: of the Data.fs, which will have `end` bytes; None where none is restored. What a killed restore left of it
    goes first.
    """
    needs = {} if target is None else {target.resolved.parent: end - (size_of(target.restoring) or 0)}
    if blob_storage is not None and expected is not None:
        needs[blob_storage] = expected.add_size
    return needs


def _plan_blobs_alone(settings: Settings, request: Request) -> Plan:
    """The plan for a site whose blobs alone are backed up."""
    places, target = request.places(settings), request.target(settings)
    states = choose_blobs_alone(places, request.date)
    assert target.blob_storage is not None
    problems: list[str] = []
    scratch = Path(gettempdir())
    with restore_of_blobs_alone(target, places.location, states, scratch, request) as blobs:

        def compare() -> None:
            with other_dates_named(places.location, states[0].timestamp):
                blobs.compare(None, is_known=True)

        if _noting(problems, compare):
            blobs.say_what_is_taken()
        expected = blobs.expected()
    problems += _unwritable((target.blob_storage,))
    return Plan(
        timestamp=states[0].timestamp,
        tid=None,
        location=places.location,
        target=target.blob_storage,
        blob_storage=target.blob_storage,
        backups=(),
        size=None,
        blobs=expected,
        blob_note="see below" if problems else "",
        space=_space(_needs(None, 0, target.blob_storage, expected), problems),
        running=None,
        loss=None,
        problems=tuple(problems),
    )


def _noting(problems: list[str], look: Callable[[], object]) -> bool:
    """Look at something; what is wrong with it is a problem of the plan. Whether nothing is."""
    try:
        look()
    except ZodbvaultError as error:
        problems.append(str(error))
        return False
    return True


def _note_on_blobs(settings: Settings, expected: Expected | None) -> str:
    """Why nothing is known of the blobs, where that is so: a problem of the plan says it."""
    if expected is not None and expected.choice is None:
        return "none are known; those that the data refer to have to be there"
    return "see below" if expected is None and settings.blob_storage is not None else ""


def _space(needs: dict[Path, int], problems: list[str]) -> tuple[Space, ...]:
    """What each disk has to take, the needs of places on one disk added up; a problem where it has no room."""
    found: list[Space] = []
    for folder, needed in needs.items():
        same = next((number for number, one in enumerate(found) if share_space(one.folder, folder)), None)
        if same is None:
            found.append(Space(folder, max(needed, 0), free_bytes(folder)))
        else:
            found[same] = found[same]._replace(needed=found[same].needed + max(needed, 0))
    problems += [
        f"{one.folder}: not enough space: {one.needed:,} bytes are needed, {one.free:,} are free"
        for one in found
        if one.needed > one.free
    ]
    return tuple(found)


def _unwritable(folders: Iterable[Path], locks: Iterable[Path] = ()) -> list[str]:
    """A problem for each place that a restore has to write to and may not: a disk mounted read-only, another's folder.

    What is not there yet is made in the nearest folder that is.
    """
    places = dict.fromkeys(nearest_existing(folder) for folder in (*folders, *locks))
    return [
        f"{place}: is not writable, and a restore writes there" for place in places if not os.access(place, os.W_OK)
    ]


def _who_runs(locks: tuple[Path, ...], problems: list[str]) -> str | None:
    """Who holds the database, as far as one may look."""
    holders: list[str | None] = []

    def look() -> None:
        holders.extend(LockFile(lock, nofollow=False).who_holds_it() for lock in locks)

    _noting(problems, look)
    return next(filter(None, holders), None)


def plan_as_data(plan: Plan) -> dict[str, object]:
    """The plan as JSON can hold it; the keys are those of docs/restore.rst."""
    return {
        "format": PLAN_FORMAT,
        "timestamp": plan.timestamp,
        "tid": None if plan.tid is None else plan.tid.hex(),
        "time": None if plan.tid is None else time_of_tid(plan.tid),
        "location": printable(plan.location),
        "target": printable(plan.target),
        "backups": plan.backups,
        "bytes": plan.size,
        "blobs": _blobs_as_json(plan.blobs),
        "space": [{"folder": printable(one.folder), "needed": one.needed, "free": one.free} for one in plan.space],
        "running": plan.running is not None,
        "lost": _loss_as_json(plan.loss),
        "problems": [one_line(problem) for problem in plan.problems],
    }


def _blobs_as_json(blobs: Expected | None) -> dict[str, Any] | None:
    if blobs is None:
        return None
    return {
        "timestamp": None if blobs.choice is None else blobs.choice.timestamp,
        "from": None if blobs.choice is None else printable(blobs.choice.place),
        "add": blobs.add,
        "add_bytes": blobs.add_size,
        "remove": blobs.remove,
        "is_certain": blobs.is_certain,
    }


def _loss_as_json(loss: Loss | None) -> dict[str, Any] | None:
    if loss is None or loss.later is None or loss.unsaved is None:
        return None
    newest = loss.later.newest
    return {
        "transactions": loss.later.number,
        "are_all": loss.later.is_all,
        "newest": None if newest is None else time_of_tid(newest),
        "in_no_backup": loss.unsaved.number,
    }


def plan_as_text(plan: Plan) -> tuple[str, ...]:
    """The plan for people."""
    lines = [
        "Nothing was changed. This is what the restore would do:",
        f"  state    {plan.timestamp} in {plan.location}",
        f"  target   {plan.target}",
    ]
    if plan.tid is not None:
        lines.append(f"  at       the transaction of {time_of_tid(plan.tid)} (tid {plan.tid.hex()})")
    if plan.backups:
        lines.append(f"  chain    {_chain_text(plan.backups)}")
    if plan.size is not None:
        lines.append(f"  Data.fs  {plan.size:,} bytes to write")
    if plan.blob_storage is not None:
        lines.append(f"  blobs    {_blob_text(plan)}")
    lines += [
        f"  space    {size_text(one.needed)} needed, {size_text(one.free)} free at {one.folder}" for one in plan.space
    ]
    if plan.size is not None or plan.running is not None:
        runs = "nobody has it open" if plan.running is None else f"is running, stop it first: {plan.running}"
        is_alone = plan.loss is None and plan.running is None
        lines.append(f"  site     {'is left alone' if is_alone else runs}")
    if plan.loss is not None:
        lines.append(f"  lost     {plan.loss.sentence}")
    return (*lines, *(f"PROBLEM: {problem}" for problem in plan.problems))


def _chain_text(backups: tuple[str, ...]) -> str:
    """The full and its incrementals; of many the first and the last."""
    full, *incrementals = backups
    if not incrementals:
        return f"full {full}"
    named = f"{incrementals[0]} to {incrementals[-1]}" if len(incrementals) > 1 else incrementals[0]
    return f"full {full} and {plural(len(incrementals), 'incremental')}, {named}"


def _blob_text(plan: Plan) -> str:
    if plan.blobs is None:
        return plan.blob_note
    if plan.blobs.choice is None:
        return plan.blob_note
    at_most = "" if plan.blobs.is_certain else ", if it has all that the data refer to"
    choice = plan.blobs.choice
    add = f"{plural(plan.blobs.add, 'blob')} to add ({size_text(plan.blobs.add_size)})"
    return f"those of {choice.timestamp}, from {choice.place}: {add}, {plan.blobs.remove:,} to remove{at_most}"
