"""What a restore is asked for, and what it takes: chosen, and said to whoever reads the log.

Shared by the restore itself and by its plan (`--dry-run`), so that both mean the same. Reads, never writes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.another_database import other_database
from zodbvault.commands.choosing import NothingThere, choose, timestamps_of
from zodbvault.commands.copy_folder import BLOB_FOLDER, FILESTORAGE_FOLDER
from zodbvault.commands.only_blobs_states import choose_states, other_dates_named
from zodbvault.commands.places import (
    BACKUPS,
    SNAPSHOTS,
    ZIPS,
    Places,
    alternative_places,
    snapshot_places,
    usual_places,
    zip_places,
)
from zodbvault.commands.point_in_time import choose_at, parse_point
from zodbvault.commands.summary import plural
from zodbvault.commands.what_is_lost import Loss, last_tid_of, newest_saved_tid, what_is_lost
from zodbvault.commands.written_manifests import require_all_there
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.format import LAST_TID
from zodbvault.filestorage.tids import time_of_tid
from zodbvault.io.sizes import size_text
from zodbvault.repository.chains import newest_within
from zodbvault.repository.store import read_repository
from zodbvault.repository.timestamps import meaning_of, parse_when
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

# Where the backups are, and what a user's command is told that runs.
_SOURCES = {
    "location": ("restore", usual_places),
    "snapshot": ("snapshotrestore", snapshot_places),
    "zip": ("ziprestore", zip_places),
    "alternative": ("altrestore", alternative_places),
}

SOURCE_OF = {BACKUPS: "location", SNAPSHOTS: "snapshot", ZIPS: "zip"}
"""The source for a repository of the site, by its name in LOCATIONS."""

DATA = "data"
BLOBS = "blobs"
"""What may be restored alone."""


class Request(NamedTuple):
    """What a restore is asked for.

    source: "location", "snapshot", "zip" or "alternative". date: as `parse_when` gives it. at: as `parse_point` gives
    it, None for a whole backup; the date does not count with it. to: a folder that gets a copy of the site, the live
    one is left alone then. only: "data" or "blobs", None for both. accept_missing_blobs: go on where nobody has some
    of the blobs that the data refer to. checksum: compare the content of blobs that are there, not only their sizes.
    """

    source: str
    date: str | None
    at: bytes | None
    to: Path | None
    only: str | None
    accept_missing_blobs: bool
    checksum: bool

    @property
    def command(self) -> str:
        """The name that a user's command is told."""
        return _SOURCES[self.source][0]

    def places(self, settings: Settings) -> Places:
        """Where the backups are."""
        return _SOURCES[self.source][1](settings)

    def narrowed(self, settings: Settings) -> Settings:
        """The same settings for a site of which only this much is restored.

        Raises ConfigurationError where that is not in the backups, and for a moment without data.
        """
        if settings.only_blobs and self.at is not None:
            raise ConfigurationError(["--at needs transactions: this site's blobs alone are backed up"])
        if settings.only_blobs and self.only == DATA:
            raise ConfigurationError(["--only data: this site's blobs alone are backed up"])
        if settings.blob_storage is None and self.only == BLOBS:
            raise ConfigurationError(["--only blobs: this site's blobs are not backed up"])
        return settings._replace(blob_storage=None, backup_blobs=False) if self.only == DATA else settings

    def has_data(self, settings: Settings) -> bool:
        """Whether a Data.fs is restored."""
        return not settings.only_blobs and self.only != BLOBS

    def target(self, settings: Settings) -> Settings:
        """The same settings with what is restored to in the place of the site."""
        if self.to is None:
            return settings
        blob_storage = None if settings.blob_storage is None else self.to / BLOB_FOLDER
        return settings._replace(datafs=self.to / FILESTORAGE_FOLDER / "Data.fs", blob_storage=blob_storage)


def request_of(
    *,
    source: str,
    when: str | None,
    at: str | None,
    to: Path | None,
    only: str | None,
    accept_missing_blobs: bool = False,
    checksum: bool,
) -> Request:
    """A request from what was written on the command line. Raises UnreadableDate."""
    point = None if at is None else parse_point(at)
    return Request(source, parse_when(when), point, to, only, accept_missing_blobs, checksum)


class Said(NamedTuple):
    """A state that was chosen and said. name: for people. end: bytes of Data.fs; None for blobs alone.

    loss: what it takes away; None where it replaces no Data.fs.
    """

    timestamp: str
    name: str
    end: int | None = None
    loss: Loss | None = None


def choose_state(settings: Settings, request: Request) -> tuple[Repository, Choice]:
    """The state of data and blobs for a date or moment, and the repository that it is in.

    Raises NothingThere.
    """
    places = request.places(settings)
    repository = read_repository(places.location, places.blobs)
    if request.at is not None:
        # Not in the site: a plan may write nothing there, and a copy may have no folder yet.
        scratch = Path(gettempdir())
        return repository, choose_at(repository, request.at, scratch, with_blobs=settings.backup_blobs)
    return repository, choose(repository, request.date, with_blobs=settings.backup_blobs)


def choose_what_was_said(settings: Settings, request: Request, said: Said) -> tuple[Repository, Choice]:
    """The state that was said, and agreed to. Raises NothingThere where it is not there any more."""
    repository, choice = choose_state(settings, request._replace(date=said.timestamp))
    if (choice.timestamp, choice.end) != (said.timestamp, said.end):
        raise _gone(said, request.places(settings))
    return repository, choice


def name_of(choice: Choice) -> str:
    """A state, for people."""
    if choice.cut is None:
        return choice.timestamp
    return f"the transaction of {time_of_tid(choice.cut.tid)} (tid {choice.cut.tid.hex()})"


def last_tid_known(repository: Repository, choice: Choice) -> tuple[bytes | None, bool]:
    """The greatest tid of a state (None of an empty database), and whether it is known before the data are read."""
    if choice.cut is not None:
        return choice.cut.tid, True
    record = repository.record_of(choice.chain.newest)
    if record is None:
        return None, False
    return None if record.last_tid is None else bytes.fromhex(record.last_tid), True


def last_tid_known_for(
    repository: Repository, choice: Choice, request: Request, settings: Settings
) -> tuple[bytes | None, bool]:
    """The same as last_tid_known() for this request.

    Where only blobs are restored and nobody knows the state's last tid, blobs that are later than it do no harm.
    """
    last_tid, is_known = last_tid_known(repository, choice)
    return (last_tid, is_known) if is_known or request.has_data(settings) else (LAST_TID, True)


def nothing_known(repository: Repository, choice: Choice) -> ZodbvaultError:
    """Why the blobs of a state cannot be restored without its data."""
    return ZodbvaultError(
        f"no blobs are known for the backup of {choice.timestamp}",
        path=repository.blob_location,
        hint="Nothing was changed. Choose another date.",
    )


def choose_blobs_alone(places: Places, date: str | None) -> tuple[BlobChoice, ...]:
    """The state of blobs for a date, in each layout that holds it, of a site whose records live elsewhere."""
    return choose_states(read_repository(places.location, places.location), date)


def choose_blobs_that_were_said(places: Places, said: Said) -> tuple[BlobChoice, ...]:
    """The states of blobs for the one that was said. Raises NothingThere where that is not there any more."""
    states = choose_blobs_alone(places, said.timestamp)
    if states[0].timestamp != said.timestamp:
        raise _gone(said, places)
    return states


def require_that_all_is_there(places: Places, said: Said) -> None:
    """Refuse a state of blobs alone of which something is gone, while nobody was asked yet. Raises DamagedManifest."""
    with other_dates_named(places.location, said.timestamp):
        require_all_there(choose_blobs_that_were_said(places, said)[0])


def choose_and_say(settings: Settings, request: Request) -> Said:
    """Choose what to restore and say it. Raises NothingThere."""
    places, target = request.places(settings), request.target(settings)
    if settings.only_blobs:
        state = choose_blobs_alone(places, request.date)[0]
        if not state.lacks:
            logger.info("Restoring the blobs of %s to %s, from %s.", state.timestamp, target.blob_storage, state.place)
        return Said(state.timestamp, state.timestamp)
    repository, choice = choose_state(settings, request)
    name = name_of(choice)
    if request.has_data(settings):
        chain = choice.chain
        incrementals = f" and {plural(len(chain.lines) - 1, 'incremental')}" if len(chain.lines) > 1 else ""
        what = (name, target.datafs, chain.timestamp, incrementals, size_text(choice.end))
        logger.info("Restoring %s to %s: full %s%s, %s.", *what)
    if choice.blobs is not None and choice.blobs.gone:
        logger.warning("A manifest of the blobs of %s is missing; another state has to serve.", choice.timestamp)
    elif choice.blobs is not None:
        place = f"{choice.blobs.place} in {places.blobs}"
        logger.info("The blobs are those of %s, from %s.", choice.blobs.timestamp, place)
    elif settings.backup_blobs:
        logger.warning("No blobs are known for %s; those that the data refer to have to be there.", choice.timestamp)
    _warn_of_one_half(request, settings)
    if request.at is None:
        _say_what_is_near(repository, choice, request.date)
    said = Said(choice.timestamp, name if choice.cut is not None else f"the backup of {name}", choice.end)
    if request.to is not None or not request.has_data(settings):
        return said
    other = other_database(repository.record_of(choice.chain.newest), settings.datafs)
    if other is not None and request.source != "alternative":
        logger.warning("This backup was made of another Data.fs, %s, which is still there.", other)
    loss = loss_of(settings, repository, choice)
    logger.info("%s", loss.sentence)
    return said._replace(loss=loss)


def _warn_of_one_half(request: Request, settings: Settings) -> None:
    """Say what may go wrong where only data or only blobs are restored."""
    if request.only == DATA:
        logger.warning("Only Data.fs is restored, no blobs: it may refer to blobs that are not there.")
    elif request.only == BLOBS and not settings.only_blobs:
        logger.warning(
            "Only blobs are restored: Data.fs may refer to others. Those that are lacking are added, none is removed."
        )


def _say_what_is_near(repository: Repository, choice: Choice, date: str | None) -> None:
    """Say which backups there are beside the one that was chosen for a date, where another may have been meant."""
    if date is None or date == choice.timestamp:
        return
    stamps = timestamps_of(repository.chains, repository.listed)
    following = next((stamp for stamp in stamps if stamp > date), None)
    if following is not None:
        logger.info("This is the newest backup at or before %s; the next one is %s.", date, following)
    newer = newest_within(repository.chains, date)
    if newer is not None and newer != choice.timestamp:
        logger.warning("%s; newest of %s: %s", meaning_of(date), date, newer)


def loss_of(settings: Settings, repository: Repository, choice: Choice) -> Loss:
    """What the live Data.fs has and the chosen state has not."""
    usual = usual_places(settings)
    saved = {repository.location: repository, usual.location: read_repository(usual.location, usual.blobs)}
    newest = max(newest_saved_tid(each) for each in saved.values())
    state = choice.cut.tid if choice.cut is not None else last_tid_of(repository, choice.chain)
    return what_is_lost(settings.datafs, state, newest)


def _gone(said: Said, places: Places) -> NothingThere:
    """Why another state than the one that was said, and agreed to, is not restored: a backup may have run since."""
    return NothingThere(
        f"the backup of {said.timestamp} is not there any more",
        path=places.location,
        hint="Nothing was changed. Run the restore again; it says what it chooses now.",
    )
