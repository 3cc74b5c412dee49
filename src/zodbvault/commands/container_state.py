"""The blobs of one backup in a directory or an archive of its own, as collective.recipe.backup keeps them.

Everything is made under a name that ends with `.part` and made durable there. Then the manifest appears, then the
directory or archive; by the manifest a sweep knows whose it is while the backup has no line yet. Knows names and order;
how a directory or an archive is written stands below blobs/.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from zodbvault.blobs.archive_writer import ArchiveWriter
from zodbvault.blobs.containers import has_all
from zodbvault.blobs.directory_writer import DirectoryWriter
from zodbvault.blobs.known import InOrder, readable, with_known
from zodbvault.blobs.manifest import DamagedManifest, Entry, ManifestWriter, read_manifest
from zodbvault.blobs.opening import opened_state
from zodbvault.blobs.outcome import BlobOutcome
from zodbvault.blobs.rotation import newest_link_target, point_latest, rotate
from zodbvault.blobs.snapshot_file import SnapshotFileWriter
from zodbvault.blobs.stored import Form, find_stored, series_up_to, stored_name
from zodbvault.commands.basis import (
    NO_BASIS,
    archives_of,
    manifest_of,
    newest_directory,
    opened_basis,
    pool_basis,
    series_to_continue,
)
from zodbvault.commands.new_state import NewState, blob_record, nothing_to_settle
from zodbvault.commands.written_manifests import believable, recorded
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.durable import PartFile, remove_durably
from zodbvault.io.progress import step
from zodbvault.io.space import require_space, share_space
from zodbvault.repository.names import CONTAINER_MANIFEST_SUFFIX
from zodbvault.repository.records import DIRECTORIES
from zodbvault.repository.store import size_of
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.manifest import ManifestSummary
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.stored import Stored
    from zodbvault.blobs.wanted import StateList
    from zodbvault.commands.basis import Basis, Unknown
    from zodbvault.io.durable import Ownership
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

# What comes between the data of an archive and its size: headers, dumpdirs, each filled up to a block.
_BYTES_AROUND_A_BLOB = 2048


class ContainerBackup:
    """Writes the states of one blobstorage into a location, in the layout that the settings ask for."""

    def __init__(self, settings: Settings, location: Path, ownership: Ownership, source: SourceBlobs) -> None:
        self._settings = settings
        self._location = location
        self._ownership = ownership
        self._source = source
        self._base = source.folder.name
        self._is_directory = settings.blob_layout == DIRECTORIES

    @contextlib.contextmanager
    def new_state(
        self,
        stamp: str,
        repository: Repository,
        list_blobs: Callable[[Callable[[bytes], int | None]], StateList],
        met: Iterable[bytes],
        *,
        since: str | None,
        series_stamp: str | None,
    ) -> Iterator[NewState]:
        """Write the state of the backup at `stamp`; durable on return, and not published yet.

        list_blobs: finds the state's blobs; is given a function that tells the size of a blob that an earlier state
        has. met: what the data refer to. since: timestamp of the full backup that a series of archives may be continued
        from; None where an archive begins one. series_stamp: names the snapshot file of the series; None for that of
        the archive that begins it. Raises ZodbvaultError.
        """
        moment = time.time_ns()
        stored = find_stored(self._location)
        with contextlib.ExitStack() as stack:
            earlier, manifest = _with_manifest(repository, self._earlier(stored, repository, stamp, since))
            basis = NO_BASIS
            if not earlier and self._is_directory:
                basis = stack.enter_context(pool_basis(repository, self._location))
            entries = basis.known if manifest is None else partial(read_manifest, manifest)
            state = stack.enter_context(list_blobs(stack.enter_context(_sizes_in(entries))))
            if earlier:
                basis = stack.enter_context(opened_basis(earlier, manifest, state, self._source, self._location))
            basis, unknown = _readable(basis, state)
            is_of_stamp = bool(basis.stored) and basis.stored[-1].timestamp == stamp
            is_there = is_of_stamp and not unknown.number and basis.layout == self._source.layout
            name = stamp + CONTAINER_MANIFEST_SUFFIX[self._settings.blob_layout]
            part = stack.enter_context(PartFile(self._location / name, self._ownership))
            if is_there and self._holds(basis, state):
                yield self._adopted(part, state, basis)
                return
            if self._is_directory:
                self._require_space(self._size_of_copies(state, basis, unknown))
                yield stack.enter_context(self._directory(stamp, part, state, basis, met))
                return
            if is_of_stamp or basis.layout != self._source.layout:
                basis, unknown = NO_BASIS, NO_BASIS.unknown_in(state)
            self._require_space(unknown.size + state.number * _BYTES_AROUND_A_BLOB)
            named = series_stamp or (basis.stored[0].timestamp if basis.stored else stamp)
            yield stack.enter_context(self._archive(stamp, part, state, basis, met, named, moment))

    def _size_of_copies(self, state: StateList, basis: Basis, unknown: Unknown) -> int:
        """Bytes of the blobs of a new directory that cannot be links."""
        if not self._settings.use_rsync:
            return state.bytes
        return 0 if self._links_live(basis) and share_space(self._location, self._source.root) else unknown.size

    def _links_live(self, basis: Basis) -> bool:
        """Whether blobs are linked to the site's own files: a first copy has nothing else to link to."""
        is_wanted = self._settings.rsync_hard_links_on_first_copy and self._settings.use_rsync
        return is_wanted and basis.known is None

    def _earlier(
        self, stored: tuple[Stored, ...], repository: Repository, stamp: str, since: str | None
    ) -> tuple[Stored, ...]:
        """The directory to link from; or the archives that have the timestamp already, or else those to continue."""
        if self._is_directory:
            directory = newest_directory(stored, self._base)
            return () if directory is None else (directory,)
        of_stamp = archives_of(stored, self._base, stamp)
        if of_stamp:
            return series_up_to(stored, of_stamp[-1])
        if since is None or not self._settings.incremental_blobs:
            return ()
        series = series_to_continue(stored, self._base, since)
        return series if series and self._is_as_recorded(series, repository) else ()

    def _is_as_recorded(self, series: tuple[Stored, ...], repository: Repository) -> bool:
        """Whether archives have the size that the record of the newest one tells of, where it does."""
        record = repository.record(series[-1].timestamp)
        recorded = None if record is None or record.blobs is None else record.blobs.archives_size
        found = size_of_archives(series)
        if recorded == found:
            return True
        if recorded is None:
            manifest = manifest_of(repository, series[-1])
            return manifest is None or self._are_in(series, manifest)
        logger.warning(
            "The archives up to %s have %d bytes, %d were written: a full one is made.",
            series[-1].path,
            found,
            recorded,
        )
        return False

    def _are_in(self, series: tuple[Stored, ...], manifest: Path) -> bool:
        """Whether archives of which no record tells the size have all blobs that our manifest names."""
        try:
            with (
                opened_state(series, self._location) as container,
                contextlib.closing(read_manifest(manifest)) as entries,
            ):
                return has_all(container, entries)
        except ZodbvaultError as error:
            logger.warning("%s A full archive is made.", error.sentence)
            return False

    def _holds(self, basis: Basis, state: StateList) -> bool:
        """Whether the blobs are there in their sizes: a manifest tells what was written, not what is left of it."""
        try:
            with opened_state(basis.stored, self._location) as container:
                return has_all(container, (Entry(key, size, "") for key, size in state))
        except ZodbvaultError as error:
            logger.warning("%s", error)
            return False

    def _require_space(self, needed: int) -> None:
        require_space(self._location, needed, "for the blobs of this backup")

    def _adopted(self, part: PartFile, state: StateList, basis: Basis) -> NewState:
        """A state whose directory or archives are there already, and are the site's to the last byte: a manifest."""
        with (
            ManifestWriter(part, self._source.layout, complete=True) as writer,
            contextlib.closing(with_known(state, basis.known)) as blobs,
        ):
            for _, _, entry in blobs:
                assert entry is not None
                writer.add(entry)
            summary = writer.finish()
        outcome = _outcome(summary, state, [], (), 0, 0)
        record = blob_record(
            outcome, layout=self._settings.blob_layout, archives_size=self._archives_size(basis.stored)
        )
        return NewState(record, outcome, part.publish, nothing_to_settle)

    @contextlib.contextmanager
    def _directory(
        self, stamp: str, part: PartFile, state: StateList, basis: Basis, met: Iterable[bytes]
    ) -> Iterator[NewState]:
        """A new directory with all blobs, those that the basis has as links."""
        mark: str | int = stamp if self._settings.blob_timestamps else 0
        path = self._location / stored_name(self._base, mark, Form.DIRECTORY)
        settings = self._settings
        with DirectoryWriter(path, self._base, self._source, may_link=settings.use_rsync) as directory:
            directory.begin()
            blobs = directory.write(state, basis.known, basis.held, link_live=self._links_live(basis))
            summary, gone = self._manifest(part, blobs, state.bytes)
            directory.finish(seconds_of(stamp))
            outcome = _outcome(summary, state, gone, met, directory.copied, directory.copied_bytes)

            def publish() -> None:
                part.publish()
                if mark == 0:
                    rotate(self._location, self._base, Form.DIRECTORY)
                directory.publish()

            record = blob_record(outcome, layout=self._settings.blob_layout)
            yield NewState(record, outcome, publish, nothing_to_settle)

    @contextlib.contextmanager
    def _archive(
        self,
        stamp: str,
        part: PartFile,
        state: StateList,
        basis: Basis,
        met: Iterable[bytes],
        series_stamp: str,
        moment: int,
    ) -> Iterator[NewState]:
        """A new archive: of all blobs, or of those that the archives of the basis lack."""
        form = Form.DELTA if basis.stored else Form.ARCHIVE
        mark: str | int = stamp if self._settings.blob_timestamps else 0
        name = stored_name(self._base, mark, form, compressed=self._settings.compress_blob)
        with (
            PartFile(self._location / name, self._ownership) as archive_part,
            self._snapshot_part(series_stamp) as snapshot_part,
        ):
            archive = ArchiveWriter(
                archive_part,
                self._source,
                self._location,
                is_compressed=self._settings.compress_blob,
                snapshot=None if snapshot_part is None else SnapshotFileWriter(snapshot_part, moment),
            )
            summary, gone = self._manifest(part, archive.write(state, basis.known), state.bytes)
            archive.finish(seconds_of(stamp))
            if snapshot_part is not None:
                snapshot_part.finish()
            outcome = _outcome(summary, state, gone, met, archive.copied, archive.copied_bytes)
            size = os.stat(archive_part.part).st_size + (self._archives_size(basis.stored) or 0)

            def publish() -> None:
                part.publish()
                if mark == 0:
                    rotate(self._location, self._base, Form.ARCHIVE)
                archive_part.publish()
                if mark == stamp:
                    self._remove_others(stamp, name)

            def settle() -> None:
                # By it tar leaves out what it names: it must not tell of an archive before that counts.
                if snapshot_part is not None:
                    try:
                        snapshot_part.publish()
                    except OSError as error:
                        what = "%s: cannot be written: %s; tar cannot go on with this series."
                        logger.warning(what, snapshot_part.path, reason_of(error))

            record = blob_record(outcome, layout=self._settings.blob_layout, archives_size=size)
            yield NewState(record, outcome, publish, settle)

    @contextlib.contextmanager
    def _snapshot_part(self, series_stamp: str) -> Iterator[PartFile | None]:
        """The snapshot file of GNU tar for a series, to be filled; None for an archive that stands alone."""
        if not self._settings.incremental_blobs:
            yield None
            return
        name = stored_name(self._base, series_stamp, Form.SNAPSHOT_FILE)
        with PartFile(self._location / name, self._ownership) as part:
            yield part

    def _manifest(
        self, part: PartFile, blobs: Generator[tuple[bytes, Entry | None], None, None], size: int
    ) -> tuple[ManifestSummary, list[bytes]]:
        """Write what is backed up and its manifest; the keys of blobs that went away meanwhile are returned.

        size: bytes of all these blobs.
        """
        gone: list[bytes] = []
        done = 0
        with (
            step("blobs", size) as on_progress,
            ManifestWriter(part, self._source.layout, complete=True) as writer,
            contextlib.closing(blobs),
        ):
            for key, entry in blobs:
                if entry is None:
                    gone.append(key)
                    continue
                writer.add(entry)
                done += entry.size
                if on_progress is not None:
                    on_progress(done)
            return writer.finish(), gone

    def _remove_others(self, stamp: str, name: str) -> None:
        """Remove archives that had the timestamp before: compressed otherwise, or another program's that lack blobs."""
        others = [one.path for one in archives_of(find_stored(self._location), self._base, stamp)]
        remove_durably(*(path for path in others if path.name != name and f".{stamp}." in path.name))

    def _archives_size(self, stored: tuple[Stored, ...]) -> int | None:
        return None if self._is_directory else size_of_archives(stored)


def settle_latest(settings: Settings, location: Path, base: str, timestamp: str) -> None:
    """Let the link to the newest directory or archive lead to that of a timestamp; take it away where none is wanted.

    With numbers, or archives that build on each other, the other recipe has none either. Raises ZodbvaultError.
    """
    form = Form.DIRECTORY if settings.blob_layout == DIRECTORIES else Form.ARCHIVE
    is_wanted = settings.blob_timestamps and not settings.incremental_blobs
    point_latest(location, newest_link_target(location, base, timestamp, form) if is_wanted else None)


def _with_manifest(repository: Repository, earlier: tuple[Stored, ...]) -> tuple[tuple[Stored, ...], Path | None]:
    """What was found of earlier backups, and our manifest that tells what is in it.

    Nothing where that manifest is another one than was written. No manifest where nobody knows that, as after a change
    of layout and back: then it is compared with the site, like another program's.
    """
    manifest = manifest_of(repository, earlier[-1]) if earlier else None
    if manifest is None:
        return earlier, None
    if not believable(repository, (manifest.name,)):
        return (), None
    return earlier, manifest if recorded(repository, manifest.name) is not None else None


def _readable(basis: Basis, state: StateList) -> tuple[Basis, Unknown]:
    """The basis and what a state has beyond it; nothing counts where our manifest of it turns out to be damaged."""
    try:
        return basis, basis.unknown_in(state)
    except DamagedManifest as error:
        logger.warning("%s Nothing of it is used for this backup.", error.sentence)
        return NO_BASIS, NO_BASIS.unknown_in(state)


def size_of_archives(series: Iterable[Stored]) -> int:
    """Bytes of some archives together."""
    return sum(size_of(one.path) or 0 for one in series)


@contextlib.contextmanager
def _sizes_in(
    known: Callable[[], Generator[Entry, None, None]] | None,
) -> Iterator[Callable[[bytes], int | None]]:
    """Tells the size that a blob has in a state of ours, asked in the order of the keys; None where it is not in it."""
    if known is None:
        yield lambda _: None
        return
    with contextlib.closing(known()) as entries:
        in_order = InOrder(readable(entries))
        yield lambda key: next((entry.size for entry in in_order.at(key)), None)


def _outcome(
    summary: ManifestSummary,
    state: StateList,
    gone: Iterable[bytes],
    met: Iterable[bytes],
    copied: int,
    copied_bytes: int,
) -> BlobOutcome:
    """What was done. gone: blobs of the state that went away while it was written."""
    lost = set(gone)
    missing = (*state.missing, *(key for key in met if key in lost)) if lost else tuple(state.missing)
    return BlobOutcome(
        summary,
        copied,
        copied_bytes,
        missing=missing,
        needed=state.needed,
        removed=state.removed,
        waiting=state.waiting + len(lost),
    )
