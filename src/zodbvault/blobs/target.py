"""The site's blobstorage, as a restore writes it.

Before the swap of Data.fs blobs are only added, which never hurts the old database; after it those that the restored
state does not have are removed. Each step can be killed and done again. Knows the pool and entries of a state; nothing
of Data.fs: what the data refer to comes from the caller, as keys.

The target is written below its resolved folder, and nowhere else: a symlink in the way is refused.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.copying import (
    SharedBatch,
    copy_blocks,
    hash_blob,
    remove_temporaries,
    temporary_name,
)
from zodbvault.blobs.layouts import (
    BUSHY,
    LAWN,
    LAYOUT_MARKER,
    TEMPORARY_FOLDER,
    key_for,
    path_for,
    read_layout,
    read_marker,
)
from zodbvault.blobs.manifest import PACKED_SIZE, pack_entry, unpack_entry
from zodbvault.blobs.pool import remove_empty_folders, without
from zodbvault.blobs.source import BlobWalk, open_blob
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.errors import ZodbvaultError, cause_of, reason_of
from zodbvault.io.closing import Closing, close_fd
from zodbvault.io.durable import PART_SUFFIX, FolderSyncs, Ownership, SyncBatch, ownership_of, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from zodbvault.blobs.containers import Blocks, Container
    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.manifest import Entry

logger = logging.getLogger(__name__)

# Behind the name of a damaged blob of the site, while its good copy has taken its place and the swap is to come.
REPLACED_SUFFIX = ".replaced"

_REPLACED_NAME = re.compile(r"0x(?:[0-9a-f]{2}){1,8}\.blob\.replaced\Z")
_READ_BITS = 0o444
# What the system answers where it is this one blob of the backup that cannot be read.
_UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.EIO})
_EXAMPLES = 3

# Blobs that a thread looks at before it hands over what it found.
_LOOKED_AT_ONCE = 64
# Blobs that are copied, then brought to the disk, then given their names.
_PLACED_AT_ONCE = 512


class RestorePlan(Closing):
    """What a restore will have to do at a target, made by plan_restore(). A context manager: close() forgets it.

    to_add: the entries whose blobs the target lacks or has damaged, packed. blobs, bytes: their number and size. kept:
    number of the entries whose blobs the target has, as far as that was looked at. there: keys of all blobs that the
    state or the target has. not_in_state: keys of those that only the target has. left_over: keys of blobs beside which
    a killed restore has left a damaged copy. strange, strange_example: what is neither a blob nor ours. left_out: the
    blobs that the container cannot give, where that is accepted; those that the target has in some size stay there, the
    others are `absent`.
    """

    def __init__(self, scratch: Path) -> None:
        self.to_add = SortedRecords(PACKED_SIZE, scratch)
        self.there = SortedKeys(scratch)
        self.not_in_state = SortedKeys(scratch)
        self.left_over = SortedKeys(scratch)
        self.absent = SortedKeys(scratch)
        self.left_out = LeftOut()
        self.blobs = 0
        self.bytes = 0
        self.kept = 0
        self.strange = 0
        self.strange_example = ""

    def count_missing(self, referenced: Iterable[bytes], lost: Iterable[bytes] = ()) -> int:
        """How many blobs that the data refer to neither the state nor the target can give, nor are among `lost`.

        All keys in ascending order.
        """
        from heapq import merge

        there = (key for key, _ in without(((key, 0) for key in self.there), iter(self.absent)))
        return sum(1 for _ in without(((key, 0) for key in referenced), merge(there, lost)))

    def close(self) -> None:
        """Forget everything."""
        for records in (self.to_add, self.there, self.not_in_state, self.left_over, self.absent):
            records.close()


@dataclass
class LeftOut:
    """Blobs of a state that its container lacks or has damaged: how many, and where the first ones should be."""

    number: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Take in the blob that should be at `path`."""
        self.number += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(path)


@dataclass
class AddOutcome:
    """What add_blobs() has done: blobs that the site lacked, damaged ones that were replaced, and bytes of both.

    left_out: those that turned out to be damaged in the container, where that is accepted.
    """

    added: int = 0
    replaced: int = 0
    bytes: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


class Target(Closing):
    """The blobstorage at the configured `folder`: opened by open_target(), written by the functions below.

    layout: where its blobs stand. is_filled: it has blobs, so that its layout is as it is. set_aside: keys of damaged
    blobs that wait for the swap beside their good copies. A context manager.
    """

    def __init__(self, folder: Path, layout: Layout, *, is_filled: bool) -> None:
        self.folder = folder
        self.layout: Layout = layout
        self.is_filled = is_filled
        self.root = Path(os.path.realpath(folder))
        self.scratch = self.root / TEMPORARY_FOLDER
        self.set_aside = SortedKeys(self.scratch)
        self._root = str(self.root)
        self._batch = SyncBatch()
        self._shared_batch = SharedBatch(self._batch)
        self._folders = FolderSyncs(self._batch)
        # Names of the folders down to the last one that was found to be a real folder.
        self._real: list[str] = []
        self._folder_ownership: Ownership | None = None
        self._file_ownership: Ownership | None = None

    def prepare(self) -> None:
        """Make the folder, where it holds no blob its layout marker, and its tmp/. Clears what a kill left of them.

        Raises ZodbvaultError.
        """
        marker = self.root / LAYOUT_MARKER
        try:
            self._folders.make_folders(self._root, ownership_of(_nearest_folder(self.root), executable=True))
            # Before tmp/: a Zope that is started after a kill takes a folder that holds anything but hidden names, and
            # no marker, for a lawn (ZODB.blob.auto_layout_select), and would never find bushy blobs there.
            with suppress(FileNotFoundError):
                os.unlink(f"{marker}{PART_SUFFIX}")
            if not self.is_filled and read_marker(self.root) != self.layout:
                write_durably(marker, self.layout.encode(), ownership_of(self.root))
            self.require_real_folder(str(self.scratch))
            self._folders.make_folders(str(self.scratch), ownership_of(self.root, executable=True))
            remove_temporaries(str(self.scratch))
            self._folder_ownership = ownership_of(self.root, executable=True)
            self._file_ownership = _blob_ownership(self._root)
        except OSError as error:
            raise ZodbvaultError(f"the blob storage cannot be written: {reason_of(error)}", path=self.folder) from error

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` stands, if it is there."""
        return f"{self._root}/{path_for(self.layout, key)}"

    def status_of(self, key: bytes) -> os.stat_result | None:
        """The status of the file of the blob `key`, or None when it is not there.

        Raises ZodbvaultError when anything but a file in real folders stands in its place.
        """
        path = self.path_of(key)
        self.require_real_folder(os.path.dirname(path))
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ZodbvaultError(f"the site's blob cannot be read: {reason_of(error)}", path=path) from error
        if not stat.S_ISREG(status.st_mode):
            raise ZodbvaultError("stands where a blob should, but is no regular file", path=path, hint=_IN_THE_WAY)
        return status

    def require_real_folder(self, folder: str) -> None:
        """Raise ZodbvaultError when anything but real folders is on the way from the root to `folder`.

        Those that are not there yet are good. In the order of the keys each folder is looked at once.
        """
        names = folder[len(self._root) + 1 :].split("/")
        known = 0
        while known < min(len(names), len(self._real)) and names[known] == self._real[known]:
            known += 1
        del self._real[known:]
        for number in range(known, len(names)):
            path = "/".join((self._root, *names[: number + 1]))
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                return
            except OSError as error:
                raise ZodbvaultError(f"cannot be looked at: {reason_of(error)}", path=path) from error
            if not stat.S_ISDIR(mode):
                raise ZodbvaultError("stands where a folder of blobs should be", path=path, hint=_IN_THE_WAY)
            self._real.append(names[number])

    def copy_out(self, entry: Entry, blocks: Blocks, container: Container) -> str:
        """Write a blob of the container to a temporary file here, checked against `entry`; the file's path.

        After prepare(); several threads may do so at a time. Raises DamagedBlob, and ZodbvaultError when the copy
        cannot be written.
        """
        temporary = f"{self.scratch}/{temporary_name(entry.key)}"
        assert self._file_ownership is not None
        try:
            size, sha256 = copy_blocks(blocks, temporary, self._file_ownership, self._shared_batch)
        except OSError as error:
            path = container.path_of(entry.key)
            if error.filename != temporary and _is_unreadable(error):
                raise DamagedBlob(f"cannot be read: {reason_of(error)}", path=path, hint=_OTHER_STATE) from error
            raise ZodbvaultError(
                f"the blob cannot be copied to {self.path_of(entry.key)}: {reason_of(error)}", path=path
            ) from error
        except ZodbvaultError as error:
            if _is_unreadable(error):
                raise DamagedBlob(error.what, path=error.path, hint=_OTHER_STATE) from error
            if isinstance(error, DamagedBlob):
                error.hint = error.hint or _OTHER_STATE
            raise
        if size != entry.size or (entry.sha256 and sha256 != entry.sha256):
            os.unlink(temporary)
            raise DamagedBlob(
                f"is damaged: it holds {size} bytes with sha256 {sha256}, "
                f"backed up were {entry.size} bytes with {entry.sha256 or 'another content'}",
                path=container.path_of(entry.key),
                hint=_OTHER_STATE,
            )
        return temporary

    def catch_up(self) -> None:
        """Make durable what copy_out() has written so far. Raises ZodbvaultError."""
        try:
            self._shared_batch.catch_up()
        except OSError as error:
            raise self._not_on_disk(error) from error

    def place(self, key: bytes, temporary: str, *, damaged: bool) -> None:
        """Give a temporary file its name, after catch_up(). By one thread; in the order of the keys that is fastest.

        damaged: set what stands there aside, until remove_blobs() or finish_replacements() takes it away. Raises
        ZodbvaultError.
        """
        path = self.path_of(key)
        folder = os.path.dirname(path)
        try:
            self._folders.make_folders(folder, self._folder_ownership)
            if damaged:
                _set_aside(path)
                self.set_aside.add(key)
            os.replace(temporary, path)
            self._folders.enter(folder)
        except OSError as error:
            raise ZodbvaultError(f"the blob cannot be put in place: {reason_of(error)}", path=path) from error

    def finish(self) -> None:
        """Make all that was placed durable, with its folders. Raises ZodbvaultError."""
        try:
            self._folders.finish()
            self._batch.finish()
        except OSError as error:
            raise self._not_on_disk(error) from error

    def _not_on_disk(self, error: OSError) -> ZodbvaultError:
        return ZodbvaultError(f"the blob storage cannot be brought to the disk: {reason_of(error)}", path=self.folder)

    def close(self) -> None:
        """Let go of what was not finished."""
        self._batch.__exit__(None, None, None)
        self.set_aside.close()


def _is_unreadable(error: Exception) -> bool:
    """Whether it is one file that cannot be read, behind an error of ours too."""
    cause = cause_of(error)
    return isinstance(cause, OSError) and cause.errno in _UNREADABLE


_IN_THE_WAY = "A restore writes only real files in real folders below the blob storage: move it away"
_OTHER_STATE = (
    "The database was not changed. Another date may be whole, a full backup mends the pool, and --accept-missing-blobs "
    "restores without what the backup cannot give"
)


def open_target(folder: Path, layout_for_empty: Layout) -> Target:
    """The blobstorage to restore to. Reads only.

    One that has blobs keeps its layout; an empty or missing one gets `layout_for_empty`. Raises ZodbvaultError for
    the cache of a ZEO client, and for what is no folder or cannot be read.
    """
    root = Path(os.path.realpath(folder))
    if os.path.lexists(root) and not root.is_dir():
        raise ZodbvaultError("the blob storage is not a folder", path=folder)
    layout = read_layout(root)
    is_filled = root.is_dir() and not all(BlobWalk(str(root), each, root).is_empty() for each in (BUSHY, LAWN))
    return Target(folder, layout if is_filled else layout_for_empty, is_filled=is_filled)


def plan_restore(
    entries: Iterable[Entry],
    container: Container,
    target: Target,
    scratch: Path,
    *,
    checksum: bool = False,
    accept_missing: bool = False,
) -> RestorePlan:
    """Compare a state with the target, once: what add_blobs() and remove_blobs() will have to do. Changes nothing.

    scratch: a folder for temporary files. A blob of the target with another size (or, with `checksum`, another content)
    than its entry's is to be added too. Raises DamagedBlob when the container lacks a blob that is to be added, or has
    it in another size, unless `accept_missing`: it is left out then. Raises ZodbvaultError when something stands in the
    way at the target.
    """
    scratch = _nearest_folder(scratch)
    plan = RestorePlan(scratch)
    try:
        _fill_plan(plan, entries, target, scratch, checksum=checksum)
        with SortedRecords(PACKED_SIZE, scratch) as lacking:
            _find_lacking(plan, container, lacking)
            if lacking:
                _leave_out(plan, container, target, lacking, scratch)
                if not accept_missing:
                    raise _refusal(plan.left_out, container)
    except BaseException:
        plan.close()
        raise
    return plan


def add_blobs(
    plan: RestorePlan,
    container: Container,
    target: Target,
    on_progress: Callable[[int], None] | None = None,
    *,
    accept_missing: bool = False,
    outcome: AddOutcome | None = None,
) -> AddOutcome:
    """Add the blobs that the target lacks; durable on return. on_progress: is told the bytes copied so far.

    outcome: of an attempt before this one, to be added to; it is up to date where an error is raised, too.

    Each copy is checked against its entry before it gets its name; several are copied at a time. The good copy of a
    blob that the site has damaged takes its place, and the damaged one waits beside it as `<name>.replaced`. Raises
    ZodbvaultError, and DamagedBlob where one turns out to be damaged in the container, unless `accept_missing`: it is
    left out then. The old database has all its blobs in any case.
    """
    target.prepare()
    outcome = AddOutcome() if outcome is None else outcome
    left_out, seen_bytes = outcome.left_out, 0

    def copied(entry: Entry, blocks: Blocks) -> str | None:
        try:
            return target.copy_out(entry, blocks, container)
        except DamagedBlob as error:
            if not accept_missing:
                raise
            logger.debug("%s", error)
            return None

    def counted(copies: Iterator[tuple[Entry, str | None]]) -> Iterator[tuple[Entry, str]]:
        nonlocal seen_bytes
        for entry, temporary in copies:
            seen_bytes += entry.size
            if on_progress is not None:
                on_progress(seen_bytes)
            if temporary is None:
                left_out.add(container.path_of(entry.key))
                continue
            yield entry, temporary

    try:
        with closing(container.read(map(unpack_entry, plan.to_add), copied)) as copies:
            for group in pieces_of(counted(copies), _PLACED_AT_ONCE):
                # A blob of the right name and size is never looked into again, so its content comes before its name.
                target.catch_up()
                for entry, temporary in group:
                    is_damaged = target.status_of(entry.key) is not None
                    target.place(entry.key, temporary, damaged=is_damaged)
                    outcome.replaced += is_damaged
                    outcome.added += not is_damaged
                    outcome.bytes += entry.size
    except BaseException:
        with suppress(OSError):
            remove_temporaries(str(target.scratch))
        raise
    target.finish()
    return outcome


def remove_blobs(plan: RestorePlan, referenced: Iterable[bytes], missing: Iterable[bytes], target: Target) -> int:
    """Remove the blobs of the target that the restored state does not have, and the folders left empty; how many.

    Never one of the state, of `referenced` (what the restored data refer to, ascending) or of `missing` (what the
    backup's record lists as lacking, few); nor one that came after the plan was made. Also takes away what was set
    aside, in this run or a killed one. What is neither a blob nor ours stays, with one warning. Raises ZodbvaultError.
    """
    from heapq import merge

    removed = 0
    kept = merge(referenced, sorted(missing))
    for key, _ in without(((key, 0) for key in plan.not_in_state), kept):
        path = target.path_of(key)
        if target.status_of(key) is None:
            continue
        try:
            os.unlink(path)
        except OSError as error:
            raise ZodbvaultError(f"the blob cannot be removed: {reason_of(error)}", path=path) from error
        remove_empty_folders(path, str(target.root))
        removed += 1
    _remove_set_aside(target.set_aside, target)
    _remove_set_aside(plan.left_over, target)
    if plan.strange:
        logger.warning(
            "%s: left %d files or folders alone that are not blobs of this storage, such as %s",
            target.folder,
            plan.strange,
            plan.strange_example,
        )
    return removed


def finish_replacements(plan: RestorePlan, target: Target) -> None:
    """Take away the damaged blobs beside which a good one stands, and remove nothing else. After the swap.

    Those that add_blobs() set aside, and those that the plan found: of a killed run, or of this one before it went on
    with another state. Raises ZodbvaultError.
    """
    _remove_set_aside(target.set_aside, target)
    _remove_set_aside((key for key in plan.left_over if target.status_of(key) is not None), target)


def _remove_set_aside(keys: Iterable[bytes], target: Target) -> None:
    for key in keys:
        path = target.path_of(key)
        target.require_real_folder(os.path.dirname(path))
        try:
            os.unlink(path + REPLACED_SUFFIX)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ZodbvaultError(
                f"a damaged blob that was replaced cannot be removed: {reason_of(error)}", path=path + REPLACED_SUFFIX
            ) from error
        remove_empty_folders(path, str(target.root))


def _fill_plan(plan: RestorePlan, entries: Iterable[Entry], target: Target, scratch: Path, *, checksum: bool) -> None:
    def looked_at(pairs: list[tuple[Entry, int | None]]) -> list[Entry]:
        """The entries that are to be added."""
        return [entry for entry, size in pairs if size != entry.size or (checksum and not _is_good(target, entry))]

    walk = BlobWalk(str(target.root), target.layout, scratch, lambda entry: _note_left_over(plan, target, entry))
    with closing(walk.blobs() if target.root.is_dir() else _nothing()) as blobs:
        pairs = _compared(entries, blobs, plan)
        with closing(worked_ahead(looked_at, pieces_of(pairs, _LOOKED_AT_ONCE))) as pieces:
            for entry in (one for piece in pieces for one in piece):
                # Says what is in the way, where something is.
                plan.kept -= target.status_of(entry.key) is not None
                plan.to_add.add(pack_entry(entry))
                plan.blobs += 1
                plan.bytes += entry.size
    plan.strange, plan.strange_example = walk.strange, walk.strange_example


def _find_lacking(plan: RestorePlan, container: Container, lacking: SortedRecords) -> None:
    """Note what is to be added, but is not in the container in its size."""
    with closing(container.sizes(map(unpack_entry, plan.to_add))) as held:
        for entry, size in held:
            if size != entry.size:
                lacking.add(pack_entry(entry))


def _leave_out(plan: RestorePlan, container: Container, target: Target, lacking: SortedRecords, scratch: Path) -> None:
    """Take out of the plan what the container lacks."""
    kept = SortedRecords(PACKED_SIZE, scratch)
    left = iter(lacking)
    following = next(left, None)
    for record in plan.to_add:
        if record != following:
            kept.add(record)
            continue
        following = next(left, None)
        entry = unpack_entry(record)
        plan.blobs -= 1
        plan.bytes -= entry.size
        plan.left_out.add(container.path_of(entry.key))
        if target.status_of(entry.key) is None:
            plan.absent.add(entry.key)
    plan.to_add.close()
    plan.to_add = kept


def _refusal(left_out: LeftOut, container: Container) -> DamagedBlob:
    examples = ", ".join(left_out.examples)
    what = f"lacks {left_out.number} of the blobs that are needed, or has them in another size: {examples}"
    return DamagedBlob(what, path=container.folder, hint=_OTHER_STATE)


def _nothing() -> Generator[tuple[bytes, int], None, None]:
    yield from ()


def _compared(
    entries: Iterable[Entry], blobs: Iterator[tuple[bytes, int]], plan: RestorePlan
) -> Iterator[tuple[Entry, int | None]]:
    """Each entry with the size of its blob in the target, or None. Notes in the plan which blobs there are.

    All that are there count as kept; of those that are no good the caller takes that back.
    """
    there, not_in_state = plan.there.add, plan.not_in_state.add
    blob = next(blobs, None)
    for entry in entries:
        key = entry.key
        while blob is not None and blob[0] < key:
            there(blob[0])
            not_in_state(blob[0])
            blob = next(blobs, None)
        there(key)
        if blob is not None and blob[0] == key:
            plan.kept += 1
            yield entry, blob[1]
            blob = next(blobs, None)
        else:
            yield entry, None
    while blob is not None:
        there(blob[0])
        not_in_state(blob[0])
        blob = next(blobs, None)


def _note_left_over(plan: RestorePlan, target: Target, entry: os.DirEntry[str]) -> bool:
    """Whether a strange file of the target is a damaged blob that a killed restore has set aside."""
    if not (_REPLACED_NAME.match(entry.name) and entry.is_file(follow_symlinks=False)):
        return False
    key = key_for(target.layout, entry.path[len(str(target.root)) + 1 :].removesuffix(REPLACED_SUFFIX))
    if key is None:
        return False
    plan.left_over.add(key)
    return True


def _is_good(target: Target, entry: Entry) -> bool:
    """Whether the site's blob has the content that `entry` says."""
    path = target.path_of(entry.key)
    fd = open_blob(path)
    if fd is None:
        return False
    try:
        # Where the backup does not know the content, the site's own is taken.
        return not entry.sha256 or hash_blob(fd) == (entry.size, entry.sha256)
    except OSError as error:
        # What cannot be read is as good as damaged: the backup's copy takes its place.
        logger.warning("%s: cannot be read: %s", path, reason_of(error))
        return False
    finally:
        close_fd(fd)


def _set_aside(path: str) -> None:
    """Give a damaged blob its second name. What a killed run set aside before stays the one that is kept."""
    aside = path + REPLACED_SUFFIX
    try:
        # As a second link, so that a file of that name stands there at every instant.
        os.link(path, aside, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError:
        # No links in this file system, or no more of them.
        os.rename(path, aside)


def _blob_ownership(root: str) -> Ownership:
    """Whose a restored blob is: the blobstorage's owner and group, readable for whom it is, writable for nobody.

    As ZODB.blob.set_not_writable leaves it.
    """
    status = os.stat(root)
    return Ownership(status.st_mode & _READ_BITS | stat.S_IRUSR, status.st_uid, status.st_gid)


def _nearest_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path
