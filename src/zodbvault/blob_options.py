"""What the options about blobs mean together: the layout that they choose, what contradicts what, what does nothing.

Plain decisions: values of options in, words for people out. Knows no Settings, no face and no disk.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.repository.records import ARCHIVES, DIRECTORIES, POOL

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUTS = (POOL, DIRECTORIES, ARCHIVES)


class BlobOptions(NamedTuple):
    """The options about blobs as an administrator set them. blob_layout: None where it is not set."""

    blob_layout: str | None = None
    archive_blob: bool = False
    compress_blob: bool = False
    incremental_blobs: bool = False
    blob_timestamps: bool = True
    use_rsync: bool = True
    rsync_hard_links_on_first_copy: bool = False
    enable_zipbackup: bool = False


class LayoutChoice(NamedTuple):
    """How blobs are kept: one of LAYOUTS, and why; the reason goes on after "because"."""

    layout: str
    reason: str


class Remark(NamedTuple):
    """What is to be said of one option."""

    option: str
    text: str


def choose_layout(options: BlobOptions) -> LayoutChoice:
    """The layout of a site's blob backups; what contradicts itself has one too."""
    if options.blob_layout is not None:
        return LayoutChoice(options.blob_layout, f"blob_layout = {options.blob_layout} is set")
    if options.archive_blob:
        return LayoutChoice(ARCHIVES, "archive_blob = true is set")
    for name in ("blob_timestamps", "use_rsync", "rsync_hard_links_on_first_copy"):
        value = getattr(options, name)
        if value != BlobOptions._field_defaults[name]:
            return LayoutChoice(DIRECTORIES, f"{name} = {_word(value)} is set")
    return LayoutChoice(POOL, "no option asks for another layout")


def contradictions(options: BlobOptions) -> tuple[Remark, ...]:
    """The options that cannot both be meant."""
    found = []
    if options.archive_blob and options.blob_layout in (POOL, DIRECTORIES):
        text = f"true contradicts blob_layout = {options.blob_layout}; keep one of them"
        found.append(Remark("archive_blob", text))
    if options.incremental_blobs and not options.blob_timestamps:
        text = "true contradicts blob_timestamps = false: archives that build on each other need timestamps"
        found.append(Remark("incremental_blobs", text))
    return tuple(found)


def without_effect(options: BlobOptions, layout: str) -> tuple[Remark, ...]:
    """The options that are set and change nothing in the chosen layout."""
    layouts_of = {
        "compress_blob": (ARCHIVES,),
        "incremental_blobs": (ARCHIVES,),
        "blob_timestamps": (DIRECTORIES, ARCHIVES),
        "use_rsync": (DIRECTORIES,),
        "rsync_hard_links_on_first_copy": (DIRECTORIES,),
    }
    found = []
    for name, layouts in layouts_of.items():
        value = getattr(options, name)
        # A zip backup is an archive whatever the layout is.
        is_of_zip = name == "compress_blob" and options.enable_zipbackup
        if value != BlobOptions._field_defaults[name] and layout not in layouts and not is_of_zip:
            text = f"{_word(value)} has no effect, because blobs are kept in the layout {layout}"
            found.append(Remark(name, text))
    if layout == DIRECTORIES and options.rsync_hard_links_on_first_copy and not options.use_rsync:
        text = "true has no effect, because use_rsync = false asks for copies without hard links"
        found.append(Remark("rsync_hard_links_on_first_copy", text))
    return tuple(found)


def advice(options: BlobOptions, layout: str) -> tuple[Remark, ...]:
    """What has its effect and is not the best choice."""
    if options.blob_timestamps or layout == POOL:
        return ()
    text = (
        "false gives the backups of blobs numbers, which every backup changes, and collective.recipe.backup dates them "
        "by their time of modification. Timestamps, the default, are safer"
    )
    return (Remark("blob_timestamps", text),)


def _word(value: bool) -> str:
    return str(value).lower()


# Options of rsync

_DONE_ANYWAY = frozenset(
    {"archive", "recursive", "perms", "owner", "group", "whole-file", "quiet", "no-links", "no-l"}
    | {"del", "delete", "delete-before", "delete-during", "delete-delay", "delete-after"}
)
"""What a copy of ours does too: whole files, with permissions and owner, no symlinks, nothing that has gone."""

_LETTERS = {
    "a": "archive",
    "r": "recursive",
    "p": "perms",
    "o": "owner",
    "g": "group",
    "q": "quiet",
    "W": "whole-file",
}
"""The letters that stand for _DONE_ANYWAY."""

_LETTERS_WITH_VALUE = "BMT@ef"

_WITH_VALUE = frozenset(
    {"backup-dir", "block-size", "bwlimit", "checksum-choice", "chmod", "chown", "compare-dest", "compress-choice"}
    | {"compress-level", "copy-dest", "debug", "exclude", "exclude-from", "files-from", "filter", "groupmap", "iconv"}
    | {"include", "include-from", "info", "link-dest", "log-file", "log-file-format", "max-delete", "max-size"}
    | {"min-size", "modify-window", "out-format", "partial-dir", "rsh", "rsync-path", "skip-compress", "suffix"}
    | {"temp-dir", "timeout", "usermap"}
)
"""The long names whose value may be the next word."""

_INSTEAD = {
    "bwlimit": "nice and io_priority let a backup stand back",
    "chmod": "permissions follow those of the source",
    "chown": "the owner follows that of the source",
    "copy-dirlinks": "symlinks in a blobstorage are not followed",
    "copy-links": "symlinks in a blobstorage are not followed",
    "k": "symlinks in a blobstorage are not followed",
    "L": "symlinks in a blobstorage are not followed",
}
"""What there is in place of an option, by its name."""


def rsync_options_without_effect(text: str) -> tuple[str, ...]:
    """The options for rsync that ask for something that does not happen, as they are written, with what happens.

    Raises ValueError for a text that no shell could split into words.
    """
    return tuple(
        f"{written} ({_INSTEAD[name]})" if name in _INSTEAD else written
        for name, written in _rsync_options(shlex.split(text))
        if name not in _DONE_ANYWAY
    )


def _rsync_options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Each option: its name without dashes, and how it is written, with its value; without a name what is none."""
    rest = iter(words)
    for word in rest:
        if word.startswith("--") and len(word) > 2:
            name, equals, _ = word[2:].partition("=")
            takes_next = not equals and name in _WITH_VALUE
            yield name, f"{word} {next(rest, '')}".rstrip() if takes_next else word
        elif word.startswith("-") and len(word) > 1:
            yield from _rsync_letters(word[1:], rest)
        else:
            yield "", word


def _rsync_letters(letters: str, rest: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The options of one word such as `-avz`; the value of the last one may be the next word."""
    for position, letter in enumerate(letters):
        if letter in _LETTERS_WITH_VALUE:
            value = letters[position + 1 :] or next(rest, "")
            yield letter, f"-{letter} {value}".rstrip()
            return
        yield _LETTERS.get(letter, letter), f"-{letter}"
