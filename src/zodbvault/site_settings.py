"""The settings of one site as a value: frozen, and to and from the plain data that a generated script holds.

Where they come from is settings.py's business; this module is apart from it because each run of a script imports it,
and none needs the table of options. For the same reason Settings is a NamedTuple: it is made in a third of the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PlainValue = str | int | bool | None


class ConfigurationError(ZodbvaultError):
    """The configuration of a site cannot be used. mistakes: all of them, each naming its option."""

    exit_code = 2

    def __init__(self, mistakes: Iterable[str], *, path: Path | None = None, hint: str | None = None) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes), path=path, hint=hint)


class Settings(NamedTuple):
    """One site, ready for a command. Paths are absolute.

    blob_storage and the three blob locations are None where blobs are not backed up. part: name of the buildout part or
    of the site. keep_blob_days and full_after_days: days. pre_command and post_command: shell text, may be empty.
    alternative_location, alternative_blob_location: the backups of another site, None where none are named.
    blob_layout: `pool`, `directories` or `archives`; the options about blobs that it has no use for may be set or not.
    metrics_file, log_file, syslog: None for none. healthcheck_url: may be empty.
    """

    part: str
    location: Path
    snapshotlocation: Path
    datafs: Path
    blob_storage: Path | None
    blobbackuplocation: Path | None
    blobsnapshotlocation: Path | None
    backup_blobs: bool
    only_blobs: bool
    blob_layout: str
    full: bool
    full_after_days: int
    full_after_incrementals: int
    nice: int
    io_priority: str
    keep: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_blob_days: int
    pre_command: str
    post_command: str
    debug: bool
    enable_snapshotrestore: bool
    alternative_location: Path | None
    alternative_blob_location: Path | None
    compress_blob: bool
    incremental_blobs: bool
    blob_timestamps: bool
    use_rsync: bool
    rsync_hard_links_on_first_copy: bool
    shared_blob_storage: bool
    enable_zipbackup: bool
    ziplocation: Path
    blobziplocation: Path | None
    metrics_file: Path | None
    healthcheck_url: str
    log_file: Path | None
    syslog: Path | None

    def folders(self) -> tuple[Path, ...]:
        """The folders that the backups of this site go into, snapshots and zip backups too: those that are used."""
        data = (self.location, self.snapshotlocation, self.ziplocation)
        blobs = (self.blobbackuplocation, self.blobsnapshotlocation, self.blobziplocation)
        kinds = 3 if self.enable_zipbackup else 2
        used = (*(() if self.only_blobs else data[:kinds]), *blobs[:kinds])
        return tuple(folder for folder in used if folder is not None)


_PATHS = frozenset(
    {
        "location",
        "snapshotlocation",
        "datafs",
        "blob_storage",
        "blobbackuplocation",
        "blobsnapshotlocation",
        "alternative_location",
        "alternative_blob_location",
        "ziplocation",
        "blobziplocation",
        "metrics_file",
        "log_file",
        "syslog",
    }
)


def settings_to_plain(settings: Settings) -> dict[str, PlainValue]:
    """The settings as text, numbers, booleans and None, for a generated script to hold."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in zip(Settings._fields, settings, strict=True)
    }


def settings_from_plain(
    plain: Mapping[str, PlainValue],
    defaults: Callable[[Mapping[str, PlainValue]], Mapping[str, PlainValue]] = dict,
) -> Settings:
    """The settings that `settings_to_plain` was given. They were checked when they were made; this is quick.

    A script that an older version made lacks the options that came since; those have their defaults, as in a new one.
    defaults: gives these for `plain`, and is called only where some are lacking; it comes with the table of options,
    which is not known here.
    Raises ConfigurationError for an option of a newer version, and for a place that is missing.
    """
    if plain.keys() != set(Settings._fields):
        plain = {**defaults(plain), **plain}
        different = sorted(plain.keys() ^ set(Settings._fields))
        if different:
            raise ConfigurationError(
                [f"this script was made by another version of zodbvault (option {', '.join(different)})"],
                hint="Nothing was done. Run buildout again.",
            )
    values = {
        name: Path(value) if name in _PATHS and isinstance(value, str) else value for name, value in plain.items()
    }
    return Settings(**values)  # type: ignore[arg-type]
