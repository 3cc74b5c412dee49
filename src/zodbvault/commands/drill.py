"""A rehearsal: restore a backup into a folder that goes again, read all of it with ZODB, and say how long it took.

What a verification finds by checksums this finds by doing it. The site is left alone. The result is kept beside the
backup, for list, check and report to show.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import BUSHY, OID_SIZE
from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.target import open_target
from zodbvault.commands.choosing import NothingThere, of_each_that_has_some
from zodbvault.commands.copy_folder import require_apart
from zodbvault.commands.places import BACKUPS, chosen_places, live_place, ownership_beside
from zodbvault.commands.reading import Reading, read_database
from zodbvault.commands.restore import require_that_it_is_still_there, restore_copy
from zodbvault.commands.restore_choice import SOURCE_OF, choose_and_say, choose_state, last_tid_known, request_of
from zodbvault.commands.state_in_use import entries_of
from zodbvault.commands.summary import iso_time, plural
from zodbvault.commands.written_manifests import require_as_written
from zodbvault.errors import ZodbvaultError, cause_of, explained, is_disk_full
from zodbvault.filestorage.format import LAST_TID, NO_TID
from zodbvault.io.durable import remove_as_far_as_possible
from zodbvault.io.locks import Locked, LockFile
from zodbvault.io.space import NotEnoughSpace
from zodbvault.repository.checks import Checks, read_checks, write_checks
from zodbvault.repository.records import NewerFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.places import Places
    from zodbvault.commands.restore_choice import Request, Said
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

DRILL_FORMAT = 1
PREFIX = "zodbvault-drill-"
LOCK_NAME = "lock"
SITE_FOLDER = "site"

MAKING_TAKES_AT_MOST = 3600
"""Seconds after which a folder without a lock is no longer one that another rehearsal is making."""


class DrillReport(NamedTuple):
    """What a rehearsal found. seconds: that the restore took. reading: None where it did not come to that.

    failures: what went wrong; none of them and it is good. failed: their number, where it is more than are named.
    location: name of the repository.
    """

    timestamp: str
    seconds: float
    reading: Reading | None
    failures: tuple[str, ...]
    failed: int
    location: str = BACKUPS

    @property
    def good(self) -> bool:
        """Whether the backup restores, and all of it can be read."""
        return self.failed == 0


def drill_each(
    settings: Settings, *, when: str | None, which: str, sample: int | None, tmp: Path | None, clock: Clock
) -> tuple[DrillReport, ...]:
    """Rehearse a restore from each of the repositories that `which` names: in LOCATIONS, or ALL.

    A repository without a backup (for `when`) is left out where another one has some. Raises as `drill` does.
    """

    def of_one(chosen: tuple[str, Places]) -> DrillReport:
        return drill(settings, when=when, which=chosen[0], sample=sample, tmp=tmp, clock=clock)

    return tuple(of_each_that_has_some(chosen_places(settings, which), of_one))


def drill(
    settings: Settings, *, when: str | None, which: str, sample: int | None, tmp: Path | None, clock: Clock
) -> DrillReport:
    """Rehearse a restore of the newest backup, or of the newest at or before `when`.

    which: in LOCATIONS. sample: read so many objects; None for all. tmp: where the folder is made; None for beside the
    live data. Raises NothingThere, NewerFormat, and ZodbvaultError where the rehearsal itself cannot be made: too
    little space, no folder to write.
    """
    request = request_of(source=SOURCE_OF[which], when=when, at=None, to=None, only=None, checksum=False)
    place = tmp or _beside(settings)
    require_apart(settings, place)
    with _folder(place, clock.now()) as folder:
        request = request._replace(to=folder / SITE_FOLDER)
        said = choose_and_say(settings, request)
        started = time.monotonic()
        failures: list[str] = []
        reading = None
        try:
            restore_copy(settings, request, folder / SITE_FOLDER, said)
        except (NothingThere, NotEnoughSpace, NewerFormat):
            raise
        except ZodbvaultError as error:
            if _is_no_fault_of_the_backup(error, folder):
                raise
            failures.append(str(error))
        seconds = time.monotonic() - started
        failed = len(failures)
        if not failures:
            target = request.target(settings)
            if not settings.only_blobs:
                reading = read_database(target.datafs, target.blob_storage, sample)
                failures += reading.failures
                failed += reading.failed
            try:
                wrong = _wrong_sizes(settings, request, said)
            except ZodbvaultError as error:
                require_that_it_is_still_there(settings, request, said, error)
                raise
            failures += wrong
            failed += len(wrong)
    report = DrillReport(said.timestamp, round(seconds, 1), reading, tuple(failures), failed, which)
    _keep(settings, request, report, clock)
    return report


def _beside(settings: Settings) -> Path:
    """The folder of the live data, or the nearest one above it that is there."""
    folder = Path(os.path.realpath(live_place(settings))).parent
    while not folder.is_dir():
        folder = folder.parent
    return folder


@contextlib.contextmanager
def _folder(place: Path, now: float) -> Iterator[Path]:
    """A new folder that only we may look into, removed in the end. Removes those that killed rehearsals left."""
    with explained("no folder for the rehearsal can be made", path=place, hint="Name another place with --tmp."):
        _remove_left_overs(place, now)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        with LockFile(folder / LOCK_NAME):
            yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder of a rehearsal, its lock last: by that the next one knows what is nobody's."""
    remove_as_far_as_possible(folder / SITE_FOLDER)
    if not os.path.lexists(folder / SITE_FOLDER):
        remove_as_far_as_possible(folder)
    if os.path.lexists(folder):
        logger.warning("%s cannot be removed. The next rehearsal beside it tries that again.", folder)


def _remove_left_overs(place: Path, now: float) -> None:
    for old in place.glob(f"{PREFIX}*"):
        if _is_left_over(old, now):
            with contextlib.suppress(Locked), LockFile(old / LOCK_NAME):
                logger.info("Removing %s, which a killed rehearsal left.", old)
                _remove(old)


def _is_left_over(folder: Path, now: float) -> bool:
    """Whether a folder is one of ours, and nobody's any more."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False  # another one has just ended
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    lock = LockFile(folder / LOCK_NAME)
    if lock.who_holds_it() is not None:
        return False
    # In one that is being made the lock comes at once: it is made, then taken, then says whose it is.
    return lock.holder() is not None or now - status.st_mtime > MAKING_TAKES_AT_MOST


def _is_no_fault_of_the_backup(error: ZodbvaultError, folder: Path) -> bool:
    """Whether it is the place of the rehearsal that failed."""
    cause = cause_of(error)
    if not isinstance(cause, OSError):
        return False
    name = cause.filename
    return is_disk_full(cause) or (
        isinstance(name, (str, bytes))
        and Path(os.path.realpath(os.fsdecode(name))).is_relative_to(os.path.realpath(folder))
    )


def _wrong_sizes(settings: Settings, request: Request, said: Said) -> tuple[str, ...]:
    """Blobs of the restored state that are missing, or of another size than its manifest says."""
    target = request.target(settings)
    if settings.only_blobs or target.blob_storage is None:
        return ()
    repository, choice = choose_state(settings, request._replace(date=said.timestamp))
    for blobs in choice.blob_choices:
        if not blobs.is_exact:
            break  # of what has no manifest nothing is known but what was copied
        try:
            require_as_written(repository, blobs)
            last_tid, is_known = last_tid_known(repository, choice)
            last = (last_tid or NO_TID) if is_known and blobs.is_later else LAST_TID
            return _of_another_size(target.blob_storage, blobs, last)
        except DamagedManifest as error:
            # So the restore has passed over it too, unless it went meanwhile.
            require_that_it_is_still_there(settings, request, said, error)
    return ()


def _of_another_size(blob_storage: Path, blobs: BlobChoice, last: bytes) -> tuple[str, ...]:
    """Those of a state's blobs up to the tid `last` that a blobstorage lacks or has in another size."""
    found: list[str] = []
    scratch = blob_storage.parent
    with (
        open_target(blob_storage, BUSHY) as restored,
        contextlib.closing(entries_of(blobs, scratch)) as entries,
    ):
        for entry in entries:
            if entry.key[OID_SIZE:] > last:
                continue
            status = restored.status_of(entry.key)
            if status is None or status.st_size != entry.size:
                size = "missing" if status is None else f"there with {status.st_size:,} bytes"
                found.append(f"a blob of {entry.size:,} bytes is {size}: {restored.path_of(entry.key)}")
    return tuple(found)


def _keep(settings: Settings, request: Request, report: DrillReport, clock: Clock) -> None:
    """Write the result beside the backup, where that is possible."""
    location = request.places(settings).location
    known = read_checks(location, report.timestamp) or Checks(report.timestamp)
    checks = known._replace(drilled=iso_time(clock.now()), drilled_good=report.good, drill_seconds=report.seconds)
    if not write_checks(location, checks, ownership_beside(settings, location)):
        logger.info("%s cannot be written, so the result is not kept there.", location)


def drill_as_text(report: DrillReport) -> tuple[str, ...]:
    """What a rehearsal found, for people."""
    lines = [f"{report.timestamp}: rehearsed: {'good' if report.good else 'FAILED'}"]
    if report.reading is not None:
        lines.append(f"  {_read_text(report.reading)}")
    if report.good:
        lines.append(f"  A real restore would take about {about_text(report.seconds)}.")
    lines += [f"  FAILED: {what}" for what in report.failures]
    more = report.failed - len(report.failures)
    if more:
        lines.append(f"  FAILED: {plural(more, 'more object')}")
    return tuple(lines)


def drills_as_text(reports: Sequence[DrillReport]) -> tuple[str, ...]:
    """What several rehearsals found, for people; each line says of which repository."""
    if len(reports) == 1:
        return drill_as_text(reports[0])
    return tuple(f"{report.location}: {line}" for report in reports for line in drill_as_text(report))


def drills_as_data(reports: Sequence[DrillReport]) -> dict[str, object]:
    """What the rehearsals of all repositories found, as JSON can hold it."""
    good = all(report.good for report in reports)
    return {"format": DRILL_FORMAT, "good": good, "drills": [drill_as_data(report) for report in reports]}


def _read_text(reading: Reading) -> str:
    what = plural(reading.read, "object")
    if reading.read < reading.objects:
        what = f"{reading.read:,} of {plural(reading.objects, 'object')}"
    encrypted = f", {reading.encrypted:,} of them encrypted" if reading.encrypted else ""
    return f"ZODB read {what}{encrypted}, which refer to {plural(reading.blobs, 'blob')}."


def about_text(seconds: float) -> str:
    """A time for people, not more exact than it is: `2 s`, `3 min`, `1.5 h`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def drill_as_data(report: DrillReport) -> dict[str, object]:
    """What a rehearsal found, as JSON can hold it; the keys are those of docs/restore.rst."""
    reading = report.reading
    return {
        "format": DRILL_FORMAT,
        "location": report.location,
        "timestamp": report.timestamp,
        "good": report.good,
        "seconds": report.seconds,
        "objects": None if reading is None else reading.objects,
        "objects_read": None if reading is None else reading.read,
        "blobs_read": None if reading is None else reading.blobs,
        "encrypted": None if reading is None else reading.encrypted,
        "failed": report.failed,
        "failures": report.failures,
    }
