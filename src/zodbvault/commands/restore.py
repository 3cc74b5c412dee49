"""A restore: the live database is the old one or the new one, whole, at every instant.

New bytes are written beside the old ones and checked on the way; blobs are added before the swap and removed after it.
Killed anywhere, the same command finishes the work. What is restored is chosen in restore_choice.py; the two halves of
the work are restore_data.py and restore_blobs.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands.choosing import NothingThere
from zodbvault.commands.copy_folder import folder_for_copy
from zodbvault.commands.index_file import copied_index
from zodbvault.commands.only_blobs_states import other_dates_named
from zodbvault.commands.places import locked, places_of_site
from zodbvault.commands.restore_blobs import blob_restore, restore_of_blobs_alone
from zodbvault.commands.restore_choice import (
    Request,
    Said,
    choose_and_say,
    choose_blobs_that_were_said,
    choose_what_was_said,
    last_tid_known,
    last_tid_known_for,
    name_of,
    nothing_known,
    request_of,
    require_that_all_is_there,
)
from zodbvault.commands.restore_data import (
    check_files,
    ownership_for,
    readable,
    swap,
    target_of,
    write_data,
)
from zodbvault.commands.summary import RestoreReport
from zodbvault.commands.users_command import run_users_command
from zodbvault.errors import ZodbvaultError, explained, reason_of
from zodbvault.io.durable import PartFile, make_folder, remove_durably
from zodbvault.io.locks import Locked, LockFile
from zodbvault.io.sizes import size_text
from zodbvault.io.space import require_space, share_space
from zodbvault.repository.chains import newest_timestamp
from zodbvault.repository.names import INDEX_SUFFIX
from zodbvault.repository.store import Repository, list_files, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zodbvault.commands.choosing import Choice
    from zodbvault.commands.places import Places
    from zodbvault.commands.restore_data import Target
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class Declined(ZodbvaultError):
    """The question was not answered with yes."""


def restore(
    settings: Settings,
    *,
    source: str,
    when: str | None,
    ask: Callable[[str], bool] | None,
    clock: Clock,
    accept_missing_blobs: bool,
    checksum: bool,
    at: str | None = None,
    to: Path | None = None,
    only: str | None = None,
) -> RestoreReport:
    """Restore a site to the newest backup, or to the newest one at or before `when`, or to a moment, `at`.

    source: "location", "snapshot", "zip" or "alternative". ask: puts a question and gives the answer; None asks
    nothing. accept_missing_blobs: go on where nobody has some of the blobs that the data refer to. checksum: compare
    the content of blobs that are there, not only their sizes. to: a folder that gets a copy, while the site is left
    alone; nothing is asked then. only: "data" or "blobs". Raises ZodbvaultError with the live data as they were, or,
    from the swap on, with a state that the same command finishes.
    Numbers as in docs/format.rst, "How a restore is made".
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
        return restore_copy(settings, request, request.to, choose_and_say(settings, request))
    places = request.places(settings)
    said = None if _comes_with_pre_command(settings, places) else choose_and_say(settings, request)  # 1
    if said is not None and settings.only_blobs:
        require_that_all_is_there(places, said)
    _ask(settings, request, said, ask)  # 2
    environment = {
        "ZODBVAULT_RUN_COMMAND": request.command,
        "ZODBVAULT_RUN_LOCATION": str(places.location),
        "ZODBVAULT_RUN_TIMESTAMP": said.timestamp if said is not None else "",
    }
    run_users_command("pre_command", settings.pre_command, environment)
    with explained("not restored"), _everything_locked(settings, places, clock):  # 3
        report = _restore(settings, request, said or choose_and_say(settings, request))
    environment["ZODBVAULT_RUN_TIMESTAMP"] = report.timestamp
    run_users_command("post_command", settings.post_command, environment, outcome=f"All else is done: {report.summary}")
    return report


def restore_copy(settings: Settings, request: Request, folder: Path, said: Said) -> RestoreReport:
    """Restore what was said into a folder of its own, which is new or empty.

    Takes no lock of the site, of its backups or of Zope. Raises ZodbvaultError; the folder is as it was then.
    """
    with folder_for_copy(settings, folder), explained("not restored"):
        try:
            with contextlib.ExitStack() as stack:
                if request.has_data(settings):
                    stack.enter_context(_database_locked(target_of(request.target(settings).datafs)))
                return _restore(settings, request, said)
        except ZodbvaultError as error:
            require_that_it_is_still_there(settings, request, said, error)
            raise


def require_that_it_is_still_there(settings: Settings, request: Request, said: Said, error: ZodbvaultError) -> None:
    """Say so where a backup has pruned meanwhile what was being read: no lock keeps it from that."""
    places = request.places(settings)
    try:
        if settings.only_blobs:
            choose_blobs_that_were_said(places, said)
        else:
            choose_what_was_said(settings, request, said)
    except NothingThere:
        raise NothingThere(
            f"the backup of {said.timestamp} was pruned meanwhile",
            path=places.location,
            hint="Nothing was changed. Choose a later date.",
        ) from error


def _restore(settings: Settings, request: Request, said: Said) -> RestoreReport:
    """Restore what was said, with all locks held that it takes."""
    target = request.target(settings)
    if settings.only_blobs:
        return _restore_blobs_alone(target, request.places(settings), said, request)
    repository, choice = choose_what_was_said(settings, request, said)
    if not request.has_data(settings):
        return _restore_blobs_beside_data(target, repository, choice, request)
    return _restore_data_and_blobs(target, repository, choice, request)


def _comes_with_pre_command(settings: Settings, places: Places) -> bool:
    """Whether `pre_command` may be what brings the backups: it is set, and there are none (an empty mount point)."""
    if not settings.pre_command.strip() or newest_timestamp(list_files(places.location)) is not None:
        return False
    logger.info("%s has no backups yet; pre_command runs first.", places.location)
    return True


def _ask(settings: Settings, request: Request, said: Said | None, ask: Callable[[str], bool] | None) -> None:
    """Go on only after a yes, where a question is to be asked; it says what will be lost."""
    if ask is None:
        return
    state = said.name if said is not None else "the chosen backup"
    data = str(settings.datafs) if request.has_data(settings) else ""
    blobs = f"the blobs in {settings.blob_storage}" if settings.blob_storage is not None else ""
    what = f"This will replace {' and '.join(filter(None, (data, blobs)))} by {state}."
    if not request.has_data(settings) and not settings.only_blobs:
        what = f"This will add the blobs of {state} to {settings.blob_storage}."
    lost = f" {said.loss.sentence}" if said is not None and said.loss is not None else ""
    if not ask(f"{what}{lost} Are you sure?"):
        raise Declined(
            "not restored: the question was not answered with yes",
            hint="Nothing was changed. Without a terminal, use --no-prompt.",
        )


@contextlib.contextmanager
def _everything_locked(settings: Settings, places: Places, clock: Clock) -> Iterator[None]:
    """Keep out Zope and ZEO (FileStorage's own lock), and every backup of this site, until the restore is done."""
    with contextlib.ExitStack() as stack:
        if not settings.only_blobs:
            stack.enter_context(_database_locked(target_of(settings.datafs)))
        stack.enter_context(locked((*places_of_site(settings), places), clock.now(), writable_only=True))
        yield


@contextlib.contextmanager
def _database_locked(target: Target) -> Iterator[None]:
    """Hold FileStorage's lock; the folder that it stands in is made where it is missing."""
    try:
        make_folder(target.resolved.parent)
    except OSError as error:
        raise ZodbvaultError(f"the folder cannot be made: {reason_of(error)}", path=target.resolved.parent) from error
    with contextlib.ExitStack() as stack:
        for lock in target.locks:
            stack.enter_context(_zope_kept_out(lock))
        yield


@contextlib.contextmanager
def _zope_kept_out(lock: Path) -> Iterator[None]:
    """Hold one lock of FileStorage's."""
    held = LockFile(lock, nofollow=False)
    try:
        held.acquire()
    except Locked as error:
        raise ZodbvaultError(
            f"is in use: {error.what}",
            path=lock.with_suffix(""),
            hint="Stop Zope and the ZEO server, then restore again. Nothing was changed.",
        ) from error
    try:
        yield
    finally:
        held.release()


def _restore_blobs_alone(settings: Settings, places: Places, said: Said, request: Request) -> RestoreReport:
    """Restore the blobs of a site whose records live elsewhere."""
    states = choose_blobs_that_were_said(places, said)
    assert settings.blob_storage is not None
    scratch = Path(os.path.realpath(settings.blob_storage)).parent
    with restore_of_blobs_alone(settings, places.location, states, scratch, request) as blobs:
        with explained("not restored"), other_dates_named(places.location, said.timestamp):
            blobs.check_before_writing(None, is_known=True)
        blobs.add()
        blobs.remove(())
    return RestoreReport(f"Restored the blobs of {said.timestamp}{blobs.summary()}.", said.timestamp)


def _restore_blobs_beside_data(
    settings: Settings, repository: Repository, choice: Choice, request: Request
) -> RestoreReport:
    """Add the blobs of a state; none is removed, for the data that stand there may be newer. settings: the target's."""
    assert settings.blob_storage is not None
    if choice.blobs is None:
        raise nothing_known(repository, choice)
    scratch = Path(os.path.realpath(settings.blob_storage)).parent
    with blob_restore(settings, repository, choice, scratch, request) as blobs, _untouched():
        last_tid, is_known = last_tid_known_for(repository, choice, request, settings)
        blobs.check_before_writing(last_tid, is_known=is_known)
        blobs.add()
        blobs.finish()
    other = f", but from the state of {blobs.timestamp}" if blobs.doubt() is not None else ""
    return RestoreReport(f"Restored the blobs of {name_of(choice)}{other}{blobs.summary()}.", choice.timestamp)


def _restore_data_and_blobs(
    settings: Settings, repository: Repository, choice: Choice, request: Request
) -> RestoreReport:
    """Check, write beside, add blobs, swap, remove blobs. settings: those of the target."""
    chain, target = choice.chain, target_of(settings.datafs)
    # A copy that is not whole goes; nobody has to finish it.
    behind_the_swap = _behind_the_swap if request.to is None else _untouched
    check_files(repository, chain.lines)  # 4
    # What a killed restore left would take the space of the new one.
    remove_durably(target.restoring)
    require_space(target.resolved.parent, choice.end, f"for a second Data.fs, {target.restoring.name}")
    had_database = size_of(target.resolved) is not None
    ownership = ownership_for(target, repository.location / chain.newest.file.name)
    with contextlib.ExitStack() as stack:
        scratch = target.resolved.parent
        referenced = stack.enter_context(SortedKeys(scratch))
        blobs = stack.enter_context(blob_restore(settings, repository, choice, scratch, request))
        last_tid, is_known = last_tid_known(repository, choice)
        with _untouched():
            is_same_disk = settings.blob_storage is not None and share_space(settings.blob_storage, target.resolved)
            also_needed = choice.end if is_same_disk else 0
            blobs.check_before_writing(last_tid, is_known=is_known, also_needed=also_needed)
        new = stack.enter_context(PartFile(target.resolved, ownership, part=target.restoring))  # 5
        read = stack.enter_context(readable(new))
        on_blob = None if settings.blob_storage is None else lambda oid, tid: referenced.add(oid + tid)
        with _untouched():
            checked = write_data(repository, chain.lines, choice.end, new, read, on_blob)
        blobs.judge(checked, referenced)
        stored_index = repository.location / (chain.timestamp + INDEX_SUFFIX)
        placed_index = Path(f"{target.configured}.index")
        index = stack.enter_context(
            copied_index(stored_index, placed_index, ownership, read, checked.end, nofollow=True)
        )
        if had_database:
            with _before_the_swap():
                blobs.add(referenced)  # 6
            swap(target, new, index)  # 7
        else:
            # A Zope that is started after a kill would make an empty database here, and empty the blob folder.
            swap(target, new, index)
            with behind_the_swap():
                blobs.add(referenced)
        with behind_the_swap():
            blobs.remove(referenced)  # 8
    return RestoreReport(
        f"Restored {target.configured} to {name_of(choice)}: {size_text(choice.end)}{blobs.summary()}.",
        choice.timestamp,
    )


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Tell whoever reads an error of the block that says no more than what is wrong, that the site is as it was."""
    try:
        yield
    except ZodbvaultError as error:
        if error.hint is None:
            error.hint = "Nothing was changed. The part's verify script says which dates restore."
        raise


@contextlib.contextmanager
def _before_the_swap() -> Iterator[None]:
    """Tell whoever reads an error of the block, and is told no more, that the old database is whole."""
    try:
        with explained("the blob storage cannot be changed"):
            yield
    except ZodbvaultError as error:
        if error.hint is None:
            error.hint = (
                "Data.fs was not touched, and blobs that were added do no harm."
                " When this is mended, run the same restore again."
            )
        raise


@contextlib.contextmanager
def _behind_the_swap() -> Iterator[None]:
    """Whatever goes wrong from now on, the database is the new one already; the error says so."""
    try:
        with explained("the blob storage cannot be changed"):
            yield
    except ZodbvaultError as error:
        raise ZodbvaultError(
            f"Data.fs was restored, but the work on its blobs stopped: {error.what}",
            path=error.path,
            hint="Do not start the site yet: when this is mended, run the same restore again, and it goes on.",
        ) from error
