"""The one table of options: each with its kind, default and help, which stand here and nowhere else.

Faces, documentation and help read it; what the values of a site amount to is settings.py's. Knows no buildout, no toml
and no command.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blob_options import LAYOUTS
from zodbvault.did_you_mean import nearest
from zodbvault.repository.records import POOL
from zodbvault.site_settings import PlainValue, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

UPSTREAM = "collective.recipe.backup"


class Kind(Enum):
    """What the value of an option is."""

    BACKUPS = "folder of backups"
    """Relative to `locationprefix`, else to the var folder."""
    PATH = "path"
    """Relative to the buildout folder, or to the folder of the toml file."""
    BOOLEAN = "true or false"
    NUMBER = "number"
    TEXT = "text"
    CHOICE = "one of several words"


class Status(Enum):
    """Whether we do what an option asks for."""

    OFFERED = "offered"
    RETIRED = "retired"
    """Gone from collective.recipe.backup; `help` says what takes its place."""


@dataclass(frozen=True)
class Option:
    """One row of the table.

    default: in the type of `kind`; for BACKUPS the folder's name in the part `backup`; None: nothing, or as
    `default_text` says. other_default: the folder's name in a part of another name, `{part}` standing for that name.
    since: the first recipe and version that knew the option. help: reStructuredText, whole sentences.
    """

    name: str
    kind: Kind
    help: str
    since: str
    default: PlainValue = None
    other_default: str = ""
    default_text: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    status: Status = Status.OFFERED


def _replicated(version: str) -> str:
    return f"{UPSTREAM} {version}"


_OURS = "zodbvault 1.0"

_PLACES = (Kind.BACKUPS, Kind.PATH)

OPTIONS: tuple[Option, ...] = (
    Option(
        "location",
        Kind.BACKUPS,
        "Where the backups of Data.fs go.",
        _replicated("0.1"),
        default="backups",
        other_default="{part}s",
    ),
    Option(
        "snapshotlocation",
        Kind.BACKUPS,
        "Where the snapshots of Data.fs go.",
        _replicated("0.1"),
        default="snapshotbackups",
        other_default="{part}-snapshots",
    ),
    Option(
        "blobbackuplocation",
        Kind.BACKUPS,
        "Where the blobs of the backups go.",
        _replicated("2.0"),
        default="blobstoragebackups",
        other_default="{part}-blobstorages",
    ),
    Option(
        "blobsnapshotlocation",
        Kind.BACKUPS,
        "Where the blobs of the snapshots go.",
        _replicated("2.0"),
        default="blobstoragesnapshots",
        other_default="{part}-blobstoragesnapshots",
    ),
    Option(
        "ziplocation",
        Kind.BACKUPS,
        "Where the zip backups of Data.fs go (``enable_zipbackup``).",
        _replicated("2.20"),
        default="zipbackups",
        other_default="{part}-zips",
    ),
    Option(
        "blobziplocation",
        Kind.BACKUPS,
        "Where the blobs of the zip backups go.",
        _replicated("2.20"),
        default="blobstoragezips",
        other_default="{part}-blobstoragezips",
    ),
    Option(
        "locationprefix",
        Kind.PATH,
        "The folder that the six locations are in, and that a relative location starts from.",
        _replicated("3.1"),
        default_text="the var folder",
    ),
    Option(
        "datafs",
        Kind.PATH,
        "The FileStorage to back up.",
        _replicated("0.1"),
        default_text="``file-storage`` of the zope part, else ``filestorage/Data.fs`` in the var folder; must be set in"
        " a toml file",
    ),
    Option(
        "blob_storage",
        Kind.PATH,
        "The blobstorage that belongs to the FileStorage, in bushy or lawn layout.",
        _replicated("2.0"),
        default_text="``blob-storage`` of the zope part, else, when there is such a part, ``blobstorage`` in the var"
        " folder; must be set in a toml file",
        aliases=("blob-storage",),
    ),
    Option(
        "backup_blobs",
        Kind.BOOLEAN,
        "Back up blobs too. A site without any sets this to false.",
        _replicated("2.0"),
        default=True,
    ),
    Option(
        "only_blobs",
        Kind.BOOLEAN,
        "Back up blobs and no Data.fs, for a site whose records live elsewhere.",
        _replicated("2.0"),
        default=False,
    ),
    Option(
        "shared_blob_storage",
        Kind.BOOLEAN,
        "The blobstorage holds the blobs of several Data.fs, each of which has a part or site of its own. (Better"
        " give each its own: when ZODB packs one database, it may remove blobs of another there.) All of these set this"
        " to true; parts and sites that share a blobstorage without it are refused. A restore then adds and"
        " mends blobs and removes none, for one that its backup does not know may belong to another database; and a"
        " full backup copies only the blobs that its own Data.fs refers to.",
        _OURS,
        default=False,
    ),
    Option(
        "blob_layout",
        Kind.CHOICE,
        "How backed-up blobs are kept. ``pool``: every blob once, and a list of blobs per backup; it takes the least"
        " time and room. The other two are those of collective.recipe.backup, which can restore them: ``directories``,"
        " one per backup with all its blobs, hard-linked to the one before; ``archives``, a tar file per backup. Which"
        " one is used, and why, is logged when buildout runs. The layout may change at any time: the next backup is in"
        " the new one, and every older date still restores.",
        _OURS,
        default=POOL,
        default_text="``archives`` when ``archive_blob`` is true; else ``directories`` when ``blob_timestamps`` or"
        " ``use_rsync`` is false or ``rsync_hard_links_on_first_copy`` is true; else ``pool``",
        choices=LAYOUTS,
    ),
    Option(
        "archive_blob",
        Kind.BOOLEAN,
        "Blobs in a tar file per backup, as with ``blob_layout = archives``. Contradicts any other ``blob_layout``.",
        _replicated("4.0"),
        default=False,
    ),
    Option(
        "compress_blob",
        Kind.BOOLEAN,
        "Compress the archives of blobs (``.tar.gz``). Many blobs, such as pictures, are compressed already, and hardly"
        " get smaller. Zip backups too. Without effect, and warned about, where there are neither.",
        _replicated("4.0"),
        default=False,
    ),
    Option(
        "incremental_blobs",
        Kind.BOOLEAN,
        "The archive of a full backup has all blobs, those of the incremental ones on it have what has changed, in the"
        " form of GNU tar's ``--listed-incremental``. Snapshots and zip backups always have all blobs. Contradicts"
        " ``blob_timestamps = false``. Without effect, and warned about, in another layout; the pool copies only new"
        " blobs anyway.",
        _replicated("4.0"),
        default=False,
    ),
    Option(
        "blob_timestamps",
        Kind.BOOLEAN,
        "Directories and archives of blobs have the timestamp of their backup in their name. False: they have a number,"
        " 0 is the newest, and every backup renames them all; collective.recipe.backup dates them by their time of"
        " modification, which a copy may lose. Timestamps are safer, and a buildout that sets this to false is told so."
        " Without effect, and warned about, with the pool.",
        _replicated("4.0"),
        default=True,
    ),
    Option(
        "use_rsync",
        Kind.BOOLEAN,
        "No rsync is ever started: zodbvault copies blobs itself. False: each backup in the layout ``directories`` is a"
        " copy of all blobs, without hard links to the one before, and takes as much room as the blobstorage. Without"
        " effect, and warned about, in another layout.",
        _replicated("2.0"),
        default=True,
    ),
    Option(
        "rsync_hard_links_on_first_copy",
        Kind.BOOLEAN,
        "The first backup in the layout ``directories`` hard-links the blobs of the live site instead of copying them,"
        " where both are in one file system: no time, no room. The danger: such a blob is one file with two names, and"
        " every later directory is linked to it too. As long as the site has it, until a newer one takes its place, a"
        " damaged block of the disk, or a program that writes into the file, damages the site and all these backups"
        " alike. Keep a copy of such backups on another disk. Without effect, and warned about, in another layout and"
        " with ``use_rsync = false``.",
        _replicated("5.0"),
        default=False,
    ),
    Option(
        "rsync_options",
        Kind.TEXT,
        "Does nothing, because no rsync is started; it may stay in a buildout of old. A warning names each option that"
        " asks for something that does not happen; those for what a copy does anyway, such as ``-a``, are passed over."
        " In place of ``--bwlimit`` let ``nice`` and ``io_priority`` hold a backup back; permissions follow those of"
        " the source, whatever ``--chmod`` says.",
        _replicated("2.18"),
        default="",
    ),
    Option(
        "full",
        Kind.BOOLEAN,
        "Make every backup a full one, as ``--full`` does for one run.",
        _replicated("0.1"),
        default=False,
    ),
    Option(
        "full_after_days",
        Kind.NUMBER,
        "Make a full backup when the newest one is this many days old; 0 is never.",
        _OURS,
        default=0,
    ),
    Option(
        "full_after_incrementals",
        Kind.NUMBER,
        "Make a full backup when this many incremental ones stand on the newest; 0 is never.",
        _OURS,
        default=0,
    ),
    Option(
        "nice",
        Kind.NUMBER,
        "How far a backup stands back behind the running site when both want the processor: 0 (not at all) to 19.",
        _OURS,
        default=0,
    ),
    Option(
        "io_priority",
        Kind.CHOICE,
        "``idle``: the disk serves a backup only when nobody else asks (Linux, with a disk scheduler that knows"
        " priorities, such as bfq). A backup may then take very long on a busy server.",
        _OURS,
        default="normal",
        choices=("normal", "idle"),
    ),
    Option(
        "keep",
        Kind.NUMBER,
        "How many full backups to keep, with their incremental ones; 0 keeps all. Snapshots are counted by themselves;"
        " of zip backups one is kept.",
        _replicated("0.1"),
        default=2,
    ),
    Option(
        "keep_daily",
        Kind.NUMBER,
        "Beside the fulls that ``keep`` holds keep the newest full of each of this many days that have one, with its"
        " incremental ones.",
        _OURS,
        default=0,
    ),
    Option("keep_weekly", Kind.NUMBER, "The same for weeks, which begin on Monday.", _OURS, default=0),
    Option("keep_monthly", Kind.NUMBER, "The same for months.", _OURS, default=0),
    Option(
        "keep_blob_days",
        Kind.NUMBER,
        "How many days to keep the states of an ``only_blobs`` site; 0 keeps all. Other sites go by ``keep``,"
        " whatever this says.",
        _replicated("2.2"),
        default=14,
    ),
    Option(
        "pre_command",
        Kind.TEXT,
        "Shell text that runs before everything else (after the question of a restore); it may mount the disk of the"
        " backups. When it fails nothing is done. It is told what is going on in the variables"
        " ``ZODBVAULT_RUN_COMMAND`` (``backup``, ``snapshot``, ``zipbackup``, ``restore``, ``snapshotrestore``,"
        " ``ziprestore``, ``altrestore``), ``ZODBVAULT_RUN_LOCATION`` and, in a restore, ``ZODBVAULT_RUN_TIMESTAMP``.",
        _replicated("2.6"),
        default="",
    ),
    Option(
        "post_command",
        Kind.TEXT,
        "Shell text that runs after a success, with the same variables; the timestamp is that of the backup that was"
        " made (empty when nothing was new) or restored.",
        _replicated("2.6"),
        default="",
    ),
    Option(
        "log_file",
        Kind.PATH,
        "A file that all scripts add their log lines to, with times (UTC); also those that ``-q`` leaves out. Its"
        " folder is made where it is missing.",
        _OURS,
    ),
    Option(
        "syslog",
        Kind.PATH,
        "The socket of the system's log, ``/dev/log`` on Linux, where syslog or journald listens: all scripts write"
        " their log lines there too.",
        _OURS,
    ),
    Option(
        "metrics_file",
        Kind.PATH,
        "A file that each backup writes its numbers to, in Prometheus' text format, for the textfile collector of the"
        " node exporter: those of ``check --all --metrics``. Needs ``zodbvault[metrics]``.",
        _OURS,
    ),
    Option(
        "healthcheck_url",
        Kind.TEXT,
        "The address of a service such as healthchecks.io, which raises an alarm when nobody calls it for too long."
        " Each backup calls it when it succeeded, with ``/start`` behind it when it begins, and with ``/fail`` when it"
        " failed, with the last lines of the log. A call that fails never fails a backup.",
        _OURS,
        default="",
    ),
    Option(
        "debug",
        Kind.BOOLEAN,
        "Log more, with times, as ``--debug`` does for one run.",
        _replicated("0.1"),
        default=False,
    ),
    Option(
        "enable_snapshotrestore",
        Kind.BOOLEAN,
        "Offer to restore a snapshot: the script, or ``zodbvault restore --snapshot``.",
        _replicated("1.6"),
        default=True,
    ),
    Option(
        "enable_zipbackup",
        Kind.BOOLEAN,
        "Offer zip backups: a full backup for carrying a site away, the data in one file and the blobs in another, of"
        " which only the newest is kept. The script ``zipbackup`` makes it and ``ziprestore`` restores it (``P-zip``,"
        " ``P-ziprestore``; ``zodbvault zipbackup``, ``zodbvault restore --zip``). Its blobs are in one archive,"
        " whatever ``blob_layout`` says."
        " Contradicts ``backup_blobs = false``.",
        _replicated("2.20"),
        default=False,
    ),
    Option(
        "alternative_restore_source",
        Kind.TEXT,
        "The backups of another site, which a further script restores here: ``Data`` (or ``1``), the folder of its"
        " backups of Data.fs and, where this site has blobs, that of its blobs, in one line; quotes around a path with"
        " spaces. zodbvault, repozo or collective.recipe.backup may have made them.",
        _replicated("2.17"),
        default="",
        aliases=("alternative_restore_sources",),
    ),
    Option(
        "gzip",
        Kind.TEXT,
        "Backups are always compressed, and plain ones can be restored. Remove this option.",
        _replicated("0.3"),
        status=Status.RETIRED,
    ),
    Option(
        "quick",
        Kind.TEXT,
        "Every backup is quick, and proves that it continues the one before. Remove this option.",
        _replicated("2.19"),
        status=Status.RETIRED,
    ),
    Option(
        "additional_filestorages",
        Kind.TEXT,
        "Only ``datafs`` is backed up! Write a part of its own for each further FileStorage, with its own ``datafs``,"
        " ``blob_storage`` and locations.",
        _replicated("0.5"),
        status=Status.RETIRED,
    ),
    Option(
        "enable_fullbackup",
        Kind.TEXT,
        "The backup script makes a full backup with ``--full``. Remove this option.",
        _replicated("2.20"),
        status=Status.RETIRED,
    ),
    Option(
        "gzip_blob",
        Kind.TEXT,
        "``archive_blob`` and ``compress_blob`` make compressed archives of blobs; ``blob_layout`` says what else there"
        " is. Remove this option.",
        _replicated("2.14"),
        status=Status.RETIRED,
    ),
)

OPTION_BY_NAME: Mapping[str, Option] = {name: option for option in OPTIONS for name in (option.name, *option.aliases)}
"""Every name and every alias."""


def nearest_option(name: str) -> str | None:
    """The option that was probably meant by a name that is none."""
    return nearest(name, [known for known, option in OPTION_BY_NAME.items() if option.status is Status.OFFERED])


def plain_defaults(plain: Mapping[str, PlainValue]) -> dict[str, PlainValue]:
    """What a generated script of an older version, which holds `plain`, lacks of the options that came since.

    The places of zip backups, which came later than the others, are beside those.
    """
    values = {each.name: each.default for each in OPTIONS if each.name in Settings._fields and each.kind not in _PLACES}
    for name, beside in (("ziplocation", "location"), ("blobziplocation", "blobbackuplocation")):
        folder, part = plain.get(beside), str(plain.get("part"))
        if isinstance(folder, str):
            values[name] = str(Path(folder).parent / default_folder_name(OPTION_BY_NAME[name], part))
        elif beside in plain:
            values[name] = None
    absent = ("alternative_location", "alternative_blob_location", "metrics_file", "log_file", "syslog")
    return {**values, **dict.fromkeys(absent)}


def default_folder_name(option: Option, part: str) -> str:
    """The name of a folder of backups, by the name of the part or site."""
    return str(option.default) if part == "backup" else option.other_default.format(part=part)
