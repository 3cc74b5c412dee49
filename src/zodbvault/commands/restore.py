"""A restore: the live database is the old one or the new one, whole, at every instant.

New bytes are written beside the old ones and checked on the way; blobs are added before the swap and removed after it.
Killed anywhere, the same command finishes the work.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands.choosing import Choice, NothingThere, choose, timestamps_of
from zodbvault.commands.index_file import copied_index
from zodbvault.commands.only_blobs import choose_states
from zodbvault.commands.places import (
    Places,
    alternative_places,
    locked,
    snapshot_places,
    source_ownership,
    usual_places,
)
from zodbvault.commands.restore_blobs import BlobRestore
from zodbvault.commands.summary import RestoreReport, plural, size_text
from zodbvault.commands.users_command import run_users_command
from zodbvault.commands.what_is_lost import last_tid_of, newest_saved_tid, what_is_lost
from zodbvault.errors import ZodbvaultError, explained, reason_of
from zodbvault.filestorage.checking import RestoredBytes
from zodbvault.io.durable import Ownership, PartFile, make_folder, remove_durably
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import BackgroundHash
from zodbvault.io.locks import Locked, LockFile
from zodbvault.io.space import require_space, share_space
from zodbvault.repository.chains import newest_timestamp, newest_within
from zodbvault.repository.names import INDEX_SUFFIX
from zodbvault.repository.store import Repository, list_files, read_repository, size_of
from zodbvault.repository.timestamps import meaning_of, parse_when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zodbvault.commands.what_is_lost import Loss
    from zodbvault.filestorage.checking import CheckedRange
    from zodbvault.io.clock import Clock
    from zodbvault.repository.dat import Line
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

RESTORING_SUFFIX = ".restoring"

# What a user's command is told that runs, and where the backups are.
_SOURCES = {
    "location": ("restore", usual_places),
    "snapshot": ("snapshotrestore", snapshot_places),
    "alternative": ("altrestore", alternative_places),
}


class DamagedBackup(ZodbvaultError):
    """The stored bytes are not the ones that were backed up."""


class Declined(ZodbvaultError):
    """The question was not answered with yes."""


@dataclass(frozen=True)
class Target:
    """Where the database is restored to.

    configured: the name that Zope knows, where `.lock` and `.index` stand. resolved: the file behind it, where a
    symlink leads to; bytes are written beside that one.
    """

    configured: Path
    resolved: Path

    @property
    def restoring(self) -> Path:
        """The new bytes, until the rename."""
        return self.resolved.with_name(self.resolved.name + RESTORING_SUFFIX)


def restore(
    settings: Settings,
    *,
    source: str,
    when: str | None,
    ask: Callable[[str], bool] | None,
    clock: Clock,
    accept_missing_blobs: bool,
    checksum: bool,
) -> RestoreReport:
    """Restore a site to the newest backup, or to the newest one at or before `when`.

    source: "location", "snapshot" or "alternative". ask: puts a question and gives the answer; None asks nothing.
    checksum: compare the content of blobs that are there, not only their sizes. Raises ZodbvaultError with the live
    data as they were, or, from the swap on, with a state that the same command finishes.
    """
    date = parse_when(when)
    command, places_of = _SOURCES[source]
    places = places_of(settings)
    said = loss = None
    if not _comes_with_pre_command(settings, places):
        said, loss = _choose_and_say(settings, places, date)
    _ask(settings, said, loss, ask)
    environment = {
        "ZODBVAULT_RUN_COMMAND": command,
        "ZODBVAULT_RUN_LOCATION": str(places.location),
        "ZODBVAULT_RUN_TIMESTAMP": said or "",
    }
    run_users_command("pre_command", settings.pre_command, environment)
    with explained("not restored"):
        if settings.only_blobs:
            with locked((usual_places(settings), snapshot_places(settings), places), clock.now(), writable_only=True):
                stamp = said or _choose_and_say(settings, places, date)[0]
                report = _restore_blobs_alone(settings, places, stamp, checksum=checksum)
        else:
            with _everything_locked(settings, places, clock) as target:
                stamp = said or _choose_and_say(settings, places, date)[0]
                repository = read_repository(places.location, places.blobs)
                choice = choose(repository, stamp, with_blobs=settings.backup_blobs)
                _require_what_was_said(stamp, choice.timestamp, places)
                report = _restore(
                    settings, repository, choice, target, accept_missing_blobs=accept_missing_blobs, checksum=checksum
                )
    environment["ZODBVAULT_RUN_TIMESTAMP"] = report.timestamp
    run_users_command("post_command", settings.post_command, environment, outcome=f"All else is done: {report.summary}")
    return report


def _comes_with_pre_command(settings: Settings, places: Places) -> bool:
    """Whether `pre_command` may be what brings the backups: it is set, and there are none (an empty mount point)."""
    if not settings.pre_command.strip() or newest_timestamp(list_files(places.location)) is not None:
        return False
    logger.info("%s has no backups yet; pre_command runs first.", places.location)
    return True


def _choose_and_say(settings: Settings, places: Places, date: str | None) -> tuple[str, Loss | None]:
    """Choose what to restore and say it; its timestamp, and what of Data.fs will be lost. Raises NothingThere."""
    repository = read_repository(places.location, places.blobs)
    if settings.only_blobs:
        state = choose_states(repository, date)[0]
        logger.info("Restoring the blobs of %s to %s, from %s.", state.timestamp, settings.blob_storage, state.place)
        return state.timestamp, None
    choice = choose(repository, date, with_blobs=settings.backup_blobs)
    chain, last = choice.chain, choice.chain.newest
    incrementals = f" and {plural(len(chain.lines) - 1, 'incremental')}" if len(chain.lines) > 1 else ""
    what = (last.timestamp, settings.datafs, chain.timestamp, incrementals, size_text(last.end))
    logger.info("Restoring %s to %s: full %s%s, %s.", *what)
    if choice.blobs is not None:
        place = f"{choice.blobs.place} in {places.blobs}"
        logger.info("The blobs are those of %s, from %s.", choice.blobs.timestamp, place)
    elif settings.backup_blobs:
        logger.warning("No blobs are known for %s; those that the data refer to have to be there.", last.timestamp)
    usual = usual_places(settings)
    saved = {repository.location: repository, usual.location: read_repository(usual.location, usual.blobs)}
    newest = max(newest_saved_tid(each) for each in saved.values())
    loss = what_is_lost(settings.datafs, last_tid_of(repository, chain), newest)
    logger.info("%s", loss.sentence)
    following = _following(repository, date)
    if following is not None and date != choice.timestamp:
        logger.info("This is the newest backup at or before %s; the next one is %s.", date, following)
    newer = None if date is None else newest_within(repository.chains, date)
    if newer is not None and newer != choice.timestamp:
        logger.warning("%s; newest of %s: %s", meaning_of(date or ""), date, newer)
    return choice.timestamp, loss


def _following(repository: Repository, date: str | None) -> str | None:
    """The timestamp of the first backup after a date; None where there is none, or no date."""
    stamps = timestamps_of(repository.chains, repository.listed)
    return None if date is None else next((stamp for stamp in stamps if stamp > date), None)


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Tell whoever reads an error of the block that says no more than what is wrong, that the site is as it was."""
    try:
        yield
    except ZodbvaultError as error:
        if error.hint is None:
            error.hint = "Nothing was changed. The part's verify script says which dates restore."
        raise


def _require_what_was_said(said: str, chosen: str, places: Places) -> None:
    """Refuse to restore another state than the one that was said, and agreed to: a backup may have run since."""
    if chosen != said:
        raise NothingThere(
            f"the backup of {said} is not there any more",
            path=places.location,
            hint="Nothing was changed. Run the restore again; it says what it chooses now.",
        )


def _restore_blobs_alone(settings: Settings, places: Places, said: str, *, checksum: bool) -> RestoreReport:
    """Restore the blobs of a site whose records live elsewhere."""
    states = choose_states(read_repository(places.location, places.location), said)
    state = states[0]
    _require_what_was_said(said, state.timestamp, places)
    assert settings.blob_storage is not None
    scratch = settings.blob_storage.resolve().parent
    with BlobRestore(settings.blob_storage, places.location, states, (), scratch, checksum=checksum) as blobs:
        blobs.check_before_writing(None, is_known=True)
        blobs.add()
        blobs.remove(())
    return RestoreReport(f"Restored the blobs of {state.timestamp}{blobs.summary()}.", state.timestamp)


def _ask(settings: Settings, timestamp: str | None, loss: Loss | None, ask: Callable[[str], bool] | None) -> None:
    """Go on only after a yes, where a question is to be asked; it says what will be lost."""
    if ask is None:
        return
    state = f"the backup of {timestamp}" if timestamp is not None else "the chosen backup"
    data = "" if settings.only_blobs else f"{settings.datafs}"
    blobs = f"the blobs in {settings.blob_storage}" if settings.blob_storage is not None else ""
    what = f"This will replace {' and '.join(filter(None, (data, blobs)))} by {state}."
    lost = f" {loss.sentence}" if loss is not None else ""
    if not ask(f"{what}{lost} Are you sure?"):
        raise Declined(
            "not restored: the question was not answered with yes",
            hint="Nothing was changed. Without a terminal, use --no-prompt.",
        )


@contextlib.contextmanager
def _everything_locked(settings: Settings, places: Places, clock: Clock) -> Iterator[Target]:
    """Keep out Zope and ZEO (FileStorage's own lock), and every backup of this site, until the restore is done."""
    resolved = Path(os.path.realpath(settings.datafs))
    target = Target(settings.datafs, resolved)
    try:
        make_folder(resolved.parent)
    except OSError as error:
        raise ZodbvaultError(f"the folder cannot be made: {reason_of(error)}", path=resolved.parent) from error
    sites = (usual_places(settings), snapshot_places(settings), places)
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys((settings.datafs, resolved)):
            lock = Path(f"{name}.lock")
            try:
                stack.enter_context(LockFile(lock, nofollow=False))
            except Locked as error:
                raise ZodbvaultError(
                    f"is in use: {error.what}",
                    path=name,
                    hint="Stop Zope and the ZEO server, then restore again. Nothing was changed.",
                ) from error
        stack.enter_context(locked(sites, clock.now(), writable_only=True))
        yield target


def _restore(
    settings: Settings,
    repository: Repository,
    choice: Choice,
    target: Target,
    *,
    accept_missing_blobs: bool,
    checksum: bool,
) -> RestoreReport:
    """Check, write beside, add blobs, swap, remove blobs."""
    chain = choice.chain
    _check_files(repository, chain.lines)
    # What a killed restore left would take the space of the new one.
    remove_durably(target.restoring)
    require_space(target.resolved.parent, chain.newest.end, f"for a second Data.fs, {target.restoring.name}")
    had_database = size_of(target.resolved) is not None
    ownership = _ownership(target, repository.location / chain.newest.file.name)
    with contextlib.ExitStack() as stack:
        scratch = target.resolved.parent
        referenced = stack.enter_context(SortedKeys(scratch))
        record = repository.record_of(chain.newest)
        missing = record.blobs.missing if record is not None and record.blobs is not None else ()
        blobs = stack.enter_context(
            BlobRestore(
                settings.blob_storage,
                repository.blob_location,
                choice.blob_choices,
                missing,
                scratch,
                checksum=checksum,
            )
        )
        last_tid = bytes.fromhex(record.last_tid) if record is not None and record.last_tid is not None else None
        with _untouched():
            is_same_disk = settings.blob_storage is not None and share_space(settings.blob_storage, target.resolved)
            also_needed = chain.newest.end if is_same_disk else 0
            blobs.check_before_writing(last_tid, is_known=record is not None, also_needed=also_needed)
        new = stack.enter_context(PartFile(target.resolved, ownership, part=target.restoring))
        read = stack.enter_context(_readable(new))
        on_blob = None if settings.blob_storage is None else lambda oid, tid: referenced.add(oid + tid)
        with _untouched():
            checked = _write(repository, chain.lines, new, read, on_blob)
        blobs.judge(checked, referenced, accept_missing=accept_missing_blobs)
        stored_index = repository.location / (chain.timestamp + INDEX_SUFFIX)
        placed_index = Path(f"{target.configured}.index")
        index = stack.enter_context(copied_index(stored_index, placed_index, ownership, read, checked.end))
        if had_database:
            blobs.add()
            _swap(target, new, index)
        else:
            # A Zope that is started after a kill would make an empty database here, and empty the blob folder.
            _swap(target, new, index)
            with _behind_the_swap():
                blobs.add()
        with _behind_the_swap():
            blobs.remove(referenced)
    return RestoreReport(
        f"Restored {target.configured} to {choice.timestamp}: {size_text(chain.newest.end)}{blobs.summary()}.",
        choice.timestamp,
    )


def _check_files(repository: Repository, lines: tuple[Line, ...]) -> None:
    """See that every file of the chain is there in its size, before anything is touched."""
    for line in lines:
        path = repository.location / line.file.name
        size = size_of(path)
        record = repository.record_of(line)
        expected = record.stored_size if record is not None else None if line.file.is_compressed else line.size
        if size is None:
            raise DamagedBackup("is missing", path=path, hint="Nothing was changed. Choose an earlier date.")
        if expected is not None and size != expected:
            raise DamagedBackup(
                f"has {size} bytes, written were {expected}",
                path=path,
                hint="Nothing was changed. Choose an earlier date.",
            )


def _ownership(target: Target, stored: Path) -> Ownership:
    """Owner, group and mode of the file that is replaced; else of its folder, but for nobody who cannot read `stored`.

    stored: a data file of the backup, which has the mode of the database that it was made from.
    """
    if size_of(target.resolved) is not None:
        return source_ownership(target.resolved)
    folder = source_ownership(target.resolved.parent)
    return folder._replace(mode=folder.mode & (source_ownership(stored).mode | 0o600) & 0o666)


def _write(
    repository: Repository,
    lines: tuple[Line, ...],
    new: PartFile,
    read: Callable[[int, int], bytes],
    on_blob: Callable[[bytes, bytes], None] | None,
) -> CheckedRange:
    """Write the joined bytes of the chain, checking the md5 of each line and every transaction on the way.

    read: gives back what was written, by offset and length.
    """
    checker = RestoredBytes(lines[-1].end, read, on_blob)
    for line in lines:
        with contextlib.closing(BackgroundHash("md5")) as digest:
            path = repository.location / line.file.name
            for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
                new.file.write(block)
                digest.update(block)
                checker.feed(block)
            found = digest.hexdigest()
        if found != line.md5:
            raise DamagedBackup(
                f"holds md5 {found}, written was {line.md5}",
                path=path,
                hint="Data.fs was not touched. Choose an earlier date.",
            )
    checked = checker.finish()
    new.finish()
    return checked


@contextlib.contextmanager
def _readable(new: PartFile) -> Iterator[Callable[[int, int], bytes]]:
    """Reads bytes of the new file, by offset and length, also when its mode would not let us open it."""
    descriptor = os.dup(new.file.fileno())
    try:
        yield lambda offset, length: os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def _swap(target: Target, new: PartFile, index: PartFile | None) -> None:
    """The one instant of change. No index of the old database may stand beside the new one, not for a moment."""
    remove_durably(Path(f"{target.configured}.index"))
    new.publish()
    if index is not None:
        try:
            index.publish()
        except OSError as error:
            logger.warning("%s: cannot be written: %s; the site only starts slower.", index.path, reason_of(error))


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
