"""What a backup of blobs has done, in whichever layout: a value, and the judgement on what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zodbvault.blobs.manifest import ManifestSummary


class BlobOutcome(NamedTuple):
    """What a backup of blobs has done.

    summary: of the manifest that was written. copied, copied_bytes: to the backups. missing: keys of the blobs that the
    data refer to and nobody has. needed: how many the data refer to. removed: blobs of the state before that are gone
    (only_blobs). waiting: files that are too young, or changed while they were copied (only_blobs).
    """

    summary: ManifestSummary
    copied: int
    copied_bytes: int
    missing: tuple[bytes, ...] = ()
    needed: int = 0
    removed: int = 0
    waiting: int = 0

    @property
    def misses_most(self) -> bool:
        """Whether so many blobs are missing, more than ten and than half, that the blobstorage is not the right one."""
        return len(self.missing) > 10 and 2 * len(self.missing) > self.needed
