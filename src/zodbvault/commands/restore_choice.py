"""What a restore is asked for, and what it takes: chosen, and said to whoever reads the log.

Shared by the restore itself and by its plan (`--dry-run`), so that both mean the same. Reads, never writes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import NothingThere, choose, timestamps_of
from zodbvault.commands.copy_folder import BLOB_FOLDER, FILESTORAGE_FOLDER
from zodbvault.commands.only_blobs import choose_states
from zodbvault.commands.places import Places, alternative_places, snapshot_places, usual_places
from zodbvault.commands.summary import plural, size_text
from zodbvault.commands.what_is_lost import Loss, last_tid_of, newest_saved_tid, what_is_lost
from zodbvault.repository.chains import newest_within
from zodbvault.repository.store import read_repository
from zodbvault.repository.timestamps import meaning_of

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

# Where the backups are, and what a user's command is told that runs.
_SOURCES = {
    "location": ("restore", usual_places),
    "snapshot": ("snapshotrestore", snapshot_places),
    "alternative": ("altrestore", alternative_places),
}


class Request(NamedTuple):
    """What a restore is asked for.

    source: "location", "snapshot" or "alternative". date: as `parse_when` gives it. to: a folder that gets a copy of
    the site, the live one is left alone then. checksum: compare the content of blobs that are there, not only their
    sizes.
    """

    source: str
    date: str | None
    to: Path | None
    accept_missing_blobs: bool
    checksum: bool

    @property
    def command(self) -> str:
        """The name that a user's command is told."""
        return _SOURCES[self.source][0]

    def places(self, settings: Settings) -> Places:
        """Where the backups are."""
        return _SOURCES[self.source][1](settings)

    def target(self, settings: Settings) -> Settings:
        """The same settings with what is restored to in the place of the site."""
        if self.to is None:
            return settings
        blob_storage = None if settings.blob_storage is None else self.to / BLOB_FOLDER
        return settings._replace(datafs=self.to / FILESTORAGE_FOLDER / "Data.fs", blob_storage=blob_storage)


class Said(NamedTuple):
    """A state that was chosen and said. loss: what it takes away; None where it replaces no Data.fs."""

    timestamp: str
    loss: Loss | None = None


def choose_state(settings: Settings, places: Places, date: str | None) -> tuple[Repository, Choice]:
    """The state of data and blobs for a date, and the repository that it is in. Raises NothingThere."""
    repository = read_repository(places.location, places.blobs)
    return repository, choose(repository, date, with_blobs=settings.backup_blobs)


def choose_blobs_alone(places: Places, date: str | None) -> tuple[BlobChoice, ...]:
    """The states of blobs for a date, the best one first, of a site whose records live elsewhere."""
    return choose_states(read_repository(places.location, places.location), date)


def choose_and_say(settings: Settings, request: Request) -> Said:
    """Choose what to restore and say it. Raises NothingThere."""
    places, target = request.places(settings), request.target(settings)
    if settings.only_blobs:
        state = choose_blobs_alone(places, request.date)[0]
        logger.info("Restoring the blobs of %s to %s, from %s.", state.timestamp, target.blob_storage, state.place)
        return Said(state.timestamp)
    repository, choice = choose_state(settings, places, request.date)
    chain, last = choice.chain, choice.chain.newest
    incrementals = f" and {plural(len(chain.lines) - 1, 'incremental')}" if len(chain.lines) > 1 else ""
    what = (last.timestamp, target.datafs, chain.timestamp, incrementals, size_text(last.end))
    logger.info("Restoring %s to %s: full %s%s, %s.", *what)
    if choice.blobs is not None:
        place = f"{choice.blobs.place} in {places.blobs}"
        logger.info("The blobs are those of %s, from %s.", choice.blobs.timestamp, place)
    elif settings.backup_blobs:
        logger.warning("No blobs are known for %s; those that the data refer to have to be there.", last.timestamp)
    _say_what_is_near(repository, choice, request.date)
    if request.to is not None:
        return Said(choice.timestamp)
    loss = loss_of(settings, repository, choice)
    logger.info("%s", loss.sentence)
    return Said(choice.timestamp, loss)


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
    return what_is_lost(settings.datafs, last_tid_of(repository, choice.chain), newest)


def require_what_was_said(said: str, chosen: str, places: Places) -> None:
    """Refuse to restore another state than the one that was said, and agreed to: a backup may have run since."""
    if chosen != said:
        raise NothingThere(
            f"the backup of {said} is not there any more",
            path=places.location,
            hint="Nothing was changed. Run the restore again; it says what it chooses now.",
        )
