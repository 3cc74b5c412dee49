"""The blobs' part of a restore: added before the swap of Data.fs, removed after it.

More blobs never hurt the old database, so adding is safe at any time; removing waits until the new one is in place.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import BUSHY, OID_SIZE, key_of_bushy
from zodbvault.blobs.manifest import manifest_layout, merge_state
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.target import (
    AddOutcome,
    RestorePlan,
    Target,
    add_blobs,
    finish_replacements,
    open_target,
    plan_restore,
    remove_blobs,
)
from zodbvault.commands.summary import plural, size_text
from zodbvault.errors import ZodbvaultError
from zodbvault.io.space import require_space

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.commands.choosing import BlobChoice
    from zodbvault.filestorage.checking import CheckedRange

logger = logging.getLogger("zodbvault")


class BlobRestore:
    """The blobs of one state and the blobstorage that gets them; does nothing for a site without blobs.

    missing: blobs that the site had lost already when the backup was made, as paths in bushy layout.
    """

    def __init__(
        self,
        choice: BlobChoice | None,
        missing: tuple[str, ...],
        pool: Pool | None,
        target: Target | None,
        scratch: Path,
        *,
        checksum: bool,
    ) -> None:
        self._choice = choice
        self._missing = missing
        self._pool = pool
        self._target = target
        self._scratch = scratch
        self._checksum = checksum
        self._last_tid: bytes | None = None
        # State and site are compared once; what came of it is worked off later.
        self._plan: RestorePlan | None = None
        self._added = AddOutcome(0, 0, 0)
        self._removed = 0

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls,
        blob_storage: Path | None,
        location: Path | None,
        choice: BlobChoice | None,
        missing: tuple[str, ...],
        scratch: Path,
        *,
        checksum: bool,
    ) -> Iterator[BlobRestore]:
        """Look at the blobstorage that is to be restored. scratch: a folder for temporary files."""
        if blob_storage is None or location is None:
            yield cls(None, (), None, None, scratch, checksum=checksum)
            return
        layout = BUSHY if choice is None else manifest_layout(choice.complete)
        with Pool(location) as pool, open_target(blob_storage, layout) as target:
            blobs = cls(choice, missing, pool, target, scratch, checksum=checksum)
            try:
                yield blobs
            finally:
                blobs._forget_plan()

    def check_before_writing(self, last_tid: bytes | None, *, is_known: bool, also_needed: int = 0) -> None:
        """See that the manifests are whole, the pool has what will be needed, and there is space for it.

        last_tid: of the data, where it is known already (is_known). also_needed: bytes that will be written in the
        same file system before the blobs. Raises ZodbvaultError with nothing changed.
        """
        if self._pool is None or self._target is None:
            return
        if not is_known and self._is_later_than_data:
            return
        self._last_tid = last_tid
        self._forget_plan()
        with contextlib.closing(self._entries()) as entries:
            plan = plan_restore(entries, self._pool, self._target, self._scratch, checksum=self._checksum)
        self._plan = plan
        with_data = " and the new Data.fs" if also_needed else ""
        what_for = f"for {plural(plan.blobs, 'blob')} that the site lacks{with_data}"
        require_space(self._target.folder, plan.bytes + also_needed, what_for)

    def judge(self, checked: CheckedRange, referenced: Iterable[bytes], *, accept_missing: bool) -> None:
        """Decide whether data and blobs fit together. Nothing of the site has been changed yet.

        referenced: the blobs that the restored data refer to, in the order of their keys. Raises ZodbvaultError.
        """
        if self._target is None:
            return
        if self._plan is None or (self._is_later_than_data and self._last_tid != checked.last_tid):
            self.check_before_writing(checked.last_tid, is_known=True)
        assert self._plan is not None
        missing = self._plan.count_missing(referenced)
        is_certain = self._choice is not None and self._choice.is_exact
        if missing == 0 and (is_certain or not checked.encrypted):
            return
        what = f"{plural(missing, 'blob')} that the data refer to" if missing else "blobs that the data may refer to"
        if is_certain:
            logger.warning("%s: not in the backup; the site had lost them when it was made.", what)
        elif accept_missing:
            logger.warning("%s: neither in the backup nor in %s; restored without.", what, self._target.folder)
        else:
            raise ZodbvaultError(
                f"{what}: neither in the backup nor in the blob storage",
                path=self._target.folder,
                hint="Nothing was changed. Choose another date, or go on with --accept-missing-blobs.",
            )

    def add(self) -> None:
        """Add the blobs that the site lacks; durable on return."""
        if self._choice is not None and self._pool is not None and self._target is not None:
            assert self._plan is not None
            self._added = add_blobs(self._plan, self._pool, self._target)

    def remove(self, referenced: Iterable[bytes]) -> None:
        """Remove the blobs that the restored state does not have; none where that state is not known exactly."""
        if self._target is None:
            return
        if self._choice is None or not self._choice.is_exact:
            finish_replacements(self._target)
            return
        missing = [key for path in self._missing if (key := key_of_bushy(path)) is not None]
        assert self._plan is not None
        self._removed = remove_blobs(self._plan, referenced, missing, self._target)

    def summary(self) -> str:
        """The end of the line that says what was done."""
        if self._target is None:
            return ""
        added = f", {plural(self._added.added, 'blob')} added ({size_text(self._added.bytes)})"
        replaced = f", {self._added.replaced:,} damaged ones replaced" if self._added.replaced else ""
        return f"{added}{replaced}, {self._removed:,} removed"

    def _forget_plan(self) -> None:
        if self._plan is not None:
            self._plan.close()
            self._plan = None

    @property
    def _is_later_than_data(self) -> bool:
        return self._choice is not None and self._choice.is_later

    def _entries(self) -> Generator[Entry, None, None]:
        """The entries of the state, in the order of their keys; a state that is later without its later blobs."""
        if self._choice is None or self._pool is None:
            return
        with contextlib.closing(merge_state(self._choice.complete, self._choice.deltas, self._scratch)) as entries:
            for entry in entries:
                if not self._choice.is_later or entry.key[OID_SIZE:] <= (self._last_tid or b""):
                    yield entry
