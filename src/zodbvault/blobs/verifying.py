"""Whether a container holds what a state's manifests say: each blob, its size and, unless in a hurry, its content.

Reads only. Several blobs are read at the same time, in constant memory.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.copying import hash_blocks
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.progress import step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zodbvault.blobs.containers import Blocks, Container
    from zodbvault.blobs.manifest import Entry

# Of more than these a person learns nothing new; that there are more is the last finding.
MOST_FINDINGS = 1000

MORE = "more"
"""The kind of the last finding, where there are more than are listed."""


class Finding(NamedTuple):
    """Something that is wrong with one blob. kind: missing, size, sha256, unreadable, or more (findings not listed)."""

    kind: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def verify_blobs(entries: Iterable[Entry], container: Container, quick: bool = False) -> list[Finding]:
    """What is wrong with the blobs of a state, as far as one look may go; an empty list when nothing is.

    quick: names and sizes only. The list ends after MOST_FINDINGS, with one that says how many more there are. Raises
    what reading the entries raises (DamagedManifest).
    """
    findings = _Findings()

    def in_their_size() -> Iterator[Entry]:
        with closing(container.sizes(entries)) as held:
            for entry, size in held:
                if size == entry.size:
                    yield entry
                elif size is None:
                    findings.note(
                        Finding("missing", container.path_of(entry.key), f"is missing from {container.folder}")
                    )
                else:
                    text = f"holds {size} bytes instead of {entry.size}"
                    findings.note(Finding("size", container.path_of(entry.key), text))

    if quick:
        for _ in in_their_size():
            pass
    else:

        def wrong(entry: Entry, blocks: Blocks) -> Finding | None:
            return _wrong_content(entry, blocks, container)

        done = 0
        with step("blobs", None) as on_progress, closing(container.read(in_their_size(), wrong)) as results:
            for entry, finding in results:
                done += entry.size
                if on_progress is not None:
                    on_progress(done)
                if finding is not None:
                    findings.note(finding)
    return findings.all(container)


class _Findings:
    """The findings of one verification, of which only so many are kept."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._more = 0

    def note(self, finding: Finding) -> None:
        """Keep a finding, or only count it where there are many already."""
        if len(self._found) < MOST_FINDINGS:
            self._found.append(finding)
        else:
            self._more += 1

    def all(self, container: Container) -> list[Finding]:
        """What was noted, by path, and how much more there was."""
        found = sorted(self._found, key=lambda finding: finding.path)
        if self._more:
            text = f"{self._more} more blobs are missing or damaged"
            found.append(Finding(MORE, str(container.folder), text))
        return found


def _wrong_content(entry: Entry, blocks: Blocks, container: Container) -> Finding | None:
    path = container.path_of(entry.key)
    try:
        size, sha256 = hash_blocks(blocks)
    except ZodbvaultError as error:
        return Finding("unreadable", path, error.what)
    except OSError as error:
        return Finding("unreadable", path, f"cannot be read: {reason_of(error)}")
    if size != entry.size or (entry.sha256 and sha256 != entry.sha256):
        return Finding("sha256", path, f"has sha256 {sha256}, backed up was {entry.sha256 or 'another size'}")
    return None
