"""The values of a site's options, checked: what comes out is a frozen Settings object.

Every face (buildout section, toml file) hands its values to `parse_settings`; which options there are says options.py.
Knows no buildout, no toml and no command; looks at no file and makes no folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blob_options import (
    LAYOUTS,
    BlobOptions,
    Remark,
    advice,
    choose_layout,
    contradictions,
    rsync_options_without_effect,
    without_effect,
)
from zodbvault.blobs.layouts import POOL_FOLDER
from zodbvault.did_you_mean import nearest
from zodbvault.options import OPTION_BY_NAME, OPTIONS, Kind, Option, Status, default_folder_name, nearest_option
from zodbvault.site_settings import (
    ConfigurationError,
    PlainValue,
    Settings,
    settings_from_plain,
    settings_to_plain,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ConfigurationError",
    "Parsed",
    "PlainValue",
    "Settings",
    "Surroundings",
    "expand_path",
    "parse_settings",
    "settings_from_plain",
    "settings_to_plain",
]

TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0", "none"})

MOST = 999_999_999
"""The greatest number that an option may be; more is a slip of the finger."""

MOST_NICE = 19
"""The greatest niceness that systems have."""


@dataclass(frozen=True)
class Surroundings:
    """What a face knows of a site beside its options.

    part: name of the part or site, names the default folders. section: how messages call the place of the options, as
    `[backup]`. base: absolute folder that relative paths start from. var: absolute folder of the default locations.
    datafs, blob_storage: their defaults, as text that may be relative; None where there is none.
    locations_base: absolute folder that a relative location starts from without `locationprefix`; None for the var
    folder. spellings: how messages call the options that were not written in the section, by their name in the values.
    """

    part: str
    section: str
    base: Path
    var: Path
    datafs: str | None = None
    blob_storage: str | None = None
    locations_base: Path | None = None
    spellings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parsed:
    """The settings of a site, and what its administrator should know of the options, a line each.

    notes: what was decided for them, and is no reason to change anything.
    """

    settings: Settings
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def parse_settings(values: Mapping[str, object], around: Surroundings, *, strict: bool = False) -> Parsed:
    """Check the options of a site and make its settings of them.

    values: as they were written: text, or the booleans and whole numbers of toml. An empty text is an option that is
    not set. strict: what is worth a warning is a mistake, an option without effect too; not so what has its effect and
    is only not the best choice. Raises ConfigurationError with all mistakes at once.
    """
    reader = _Reader(values, around)
    settings = reader.settings()
    mistakes = reader.mistakes + reader.warnings if strict else reader.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return Parsed(settings, (*reader.warnings, *reader.advice), tuple(reader.notes))


class _Reader:
    """Reads the values of one site, collecting mistakes and warnings instead of stopping at the first."""

    def __init__(self, values: Mapping[str, object], around: Surroundings) -> None:
        self.mistakes: list[str] = []
        self.warnings: list[str] = []
        self.advice: list[str] = []
        self.notes: list[str] = []
        self._around = around
        self._values: dict[str, object] = {}
        for name, value in values.items():
            self._take(name, value)
        prefix = self._path("locationprefix", around.base)
        self._prefix = around.var if prefix is None else prefix
        self._relative_locations = prefix or around.locations_base or around.var

    def settings(self) -> Settings:
        """The settings; not to be used when there are mistakes."""
        for option in OPTIONS:
            if option.status is Status.RETIRED and option.name in self._values:
                self._warn(option.name, option.help)
        backup_blobs = self._boolean("backup_blobs")
        only_blobs = self._boolean("only_blobs")
        blobs = self._blob_options()
        enable_zipbackup = blobs.enable_zipbackup
        folders = {option.name: self._backups(option) for option in OPTIONS if option.kind is Kind.BACKUPS}
        blob_storage = self._path("blob_storage", self._around.base, self._around.blob_storage)
        if backup_blobs:
            self._check_blob_places(blob_storage, folders)
        else:
            self._refuse_without_blobs(only_blobs=only_blobs, enable_zipbackup=enable_zipbackup)
        self._check_distinct(folders)
        layout = self._layout(blobs, backup_blobs)
        alternative = self._alternative(backup_blobs, has_blobs=blob_storage is not None)
        return Settings(
            part=self._around.part,
            location=folders["location"],
            snapshotlocation=folders["snapshotlocation"],
            datafs=self._datafs(only_blobs),
            blob_storage=blob_storage if backup_blobs else None,
            blobbackuplocation=folders["blobbackuplocation"] if backup_blobs else None,
            blobsnapshotlocation=folders["blobsnapshotlocation"] if backup_blobs else None,
            backup_blobs=backup_blobs,
            only_blobs=only_blobs,
            blob_layout=layout,
            full=self._boolean("full"),
            full_after_days=self._number("full_after_days"),
            full_after_incrementals=self._number("full_after_incrementals"),
            nice=self._number("nice", most=MOST_NICE),
            io_priority=self._choice("io_priority"),
            keep=self._number("keep"),
            keep_daily=self._periods("keep_daily", only_blobs),
            keep_weekly=self._periods("keep_weekly", only_blobs),
            keep_monthly=self._periods("keep_monthly", only_blobs),
            keep_blob_days=self._keep_blob_days(only_blobs),
            pre_command=self._text("pre_command"),
            post_command=self._text("post_command"),
            debug=self._boolean("debug"),
            enable_snapshotrestore=self._boolean("enable_snapshotrestore"),
            alternative_location=alternative[0],
            alternative_blob_location=alternative[1],
            compress_blob=blobs.compress_blob,
            incremental_blobs=blobs.incremental_blobs,
            blob_timestamps=blobs.blob_timestamps,
            use_rsync=blobs.use_rsync,
            rsync_hard_links_on_first_copy=blobs.rsync_hard_links_on_first_copy and blobs.use_rsync,
            shared_blob_storage=self._boolean("shared_blob_storage"),
            enable_zipbackup=enable_zipbackup,
            ziplocation=folders["ziplocation"],
            blobziplocation=folders["blobziplocation"] if backup_blobs else None,
            metrics_file=self._path("metrics_file", self._around.base),
            healthcheck_url=self._address("healthcheck_url"),
            log_file=self._path("log_file", self._around.base),
            syslog=self._path("syslog", self._around.base),
        )

    def _take(self, name: str, value: object) -> None:
        """Keep a value under the option's own name."""
        option = OPTION_BY_NAME.get(name)
        if option is None:
            meant = nearest_option(name)
            self._warn(
                name, f"nobody knows this option; did you mean {meant}?" if meant else "nobody knows this option"
            )
            return
        if isinstance(value, str) and not value.strip():
            return
        other = self._values.get(option.name)
        if other is not None and str(other).rstrip(os.sep) != str(value).rstrip(os.sep):
            names = " and ".join((option.name, *option.aliases))
            self._mistake(name, f"{names} are two spellings of one option and are set differently; keep one of them")
            return
        self._values[option.name] = value

    def _mistake(self, name: str, text: str) -> None:
        self.mistakes.append(self._line(name, text))

    def _warn(self, name: str, text: str) -> None:
        self.warnings.append(self._line(name, text.replace("``", "").rstrip(".")))

    def _line(self, name: str, text: str) -> str:
        """What is to be said of an option."""
        return f"{self._around.spellings.get(name) or f'{self._around.section} {name}'}: {text}"

    def _boolean(self, name: str) -> bool:
        """True for the known words; as in the recipe that we replicate everything else is false."""
        value = self._values.get(name, OPTION_BY_NAME[name].default)
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word not in TRUE_WORDS and word not in FALSE_WORDS:
            self._warn(
                name, f"{value!r} is neither true nor false, and a buildout takes it for false; write true or false"
            )
        return word in TRUE_WORDS

    def _number(self, name: str, *, most: int = MOST) -> int:
        value = self._values.get(name, OPTION_BY_NAME[name].default)
        number = -1
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and value.isascii() and value.strip().isdecimal() and len(value.strip()) < 10:
            number = int(value)
        if not 0 <= number <= most:
            self._mistake(name, f"{value!r} is not a whole number from 0 to {most}")
        return number

    def _periods(self, name: str, only_blobs: bool) -> int:
        """A number of days, weeks or months, where it can have an effect."""
        number = self._number(name)
        if number > 0 and only_blobs:
            self._mistake(name, "has no effect with only_blobs; keep_blob_days says what stays")
        elif number > 0 and self._number("keep") == 0:
            self._mistake(name, "has no effect with keep = 0, which keeps all; set keep = 1, say")
        return number

    def _keep_blob_days(self, only_blobs: bool) -> int:
        name = "keep_blob_days"
        number = self._number(name)
        if not only_blobs and number not in (-1, OPTION_BY_NAME[name].default):
            # No mistake in a file of ours either: it is at home in every configuration of collective.recipe.backup.
            self.advice.append(self._line(name, f"{number} has no effect without only_blobs; keep says what stays"))
        return number

    def _choice(self, name: str) -> str:
        option = OPTION_BY_NAME[name]
        value = self._values.get(name, option.default)
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in option.choices:
            meant = nearest(word, option.choices)
            hint = f"; did you mean {meant}?" if meant else ""
            self._mistake(name, f"{value!r} is not one of: {', '.join(option.choices)}{hint}")
        return word

    def _text(self, name: str) -> str:
        value = self._values.get(name, OPTION_BY_NAME[name].default)
        if isinstance(value, str) and "\0" not in value:
            return value
        hint = "no text may have a zero byte" if isinstance(value, str) else "write it in quotes"
        self._mistake(name, f"{value!r} is not text; {hint}")
        return ""

    def _address(self, name: str) -> str:
        """A web address; empty for none."""
        text = self._text(name).strip()
        begins = text.lower().startswith(("http://", "https://"))
        if text and (not begins or not text.isascii() or not text.isprintable() or " " in text):
            self._mistake(name, f"{text!r} is not a web address; it begins with http:// or https://")
        return text

    def _backups(self, option: Option) -> Path:
        """Where backups of a kind go."""
        default = self._prefix / default_folder_name(option, self._around.part)
        return self._path(option.name, self._relative_locations) or default

    def _path(self, name: str, folder: Path, default: str | None = None) -> Path | None:
        """An absolute path, without a symlink being followed; None where nothing is set."""
        if name not in self._values:
            return None if not default else expand_path(default, folder)
        text = self._text(name).strip()
        if "\n" in text or "\r" in text:
            self._mistake(name, f"{text!r} is not one path; write it in one line")
            return None
        if not text:
            return None
        path = expand_path(text, folder)
        if "$" in text:
            self._look_for_unset_variable(name, text)
        if text.startswith("~") and os.path.expanduser(text) == text:
            user = text.split("/", 1)[0]
            self._warn(name, f"{text!r}: nobody knows where the home of {user} is; it stays as it is")
        return path

    def _look_for_unset_variable(self, name: str, text: str) -> None:
        import re

        for variable in re.findall(r"\$(\w+|\{[^}]*\})", text, re.ASCII):
            if variable.strip("{}") not in os.environ:
                self._warn(name, f"{text!r}: no such variable as ${variable} is in the environment; it stays as it is")

    def _alternative(self, backup_blobs: bool, *, has_blobs: bool) -> tuple[Path | None, Path | None]:
        """Where the backups of another site are: of its Data.fs, and of its blobs.

        has_blobs: whether this site has a blobstorage, be it backed up or not.
        """
        import shlex

        name = "alternative_restore_source"
        lines = [line.strip() for line in self._text(name).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            return None, None
        try:
            words = shlex.split(lines[0])
        except ValueError:
            words = []
        if len(lines) > 1:
            self._mistake(name, "only one line is possible, because only one FileStorage is restored")
        elif len(words) not in (2, 3):
            form = "'Data FOLDER-OF-BACKUPS FOLDER-OF-BLOBS'" if backup_blobs else "'Data FOLDER-OF-BACKUPS'"
            self._mistake(name, f"{lines[0]!r} is not of the form {form}")
        elif words[0] not in ("Data", "1"):
            self._mistake(name, f"{words[0]!r} is not known; the line begins with Data (or 1)")
        elif backup_blobs and len(words) == 2:
            self._mistake(name, f"{lines[0]!r}: the folder of blobs is missing")
        elif len(words) == 3 and not has_blobs:
            self._mistake(name, f"{lines[0]!r}: a folder of blobs, but this site has none")
        else:
            if len(words) == 3 and not backup_blobs:
                self._warn(name, f"the folder of blobs, {words[2]}, has no effect, because backup_blobs is false")
            paths = [expand_path(word, self._around.base) for word in words[1:]]
            return paths[0], paths[1] if backup_blobs else None
        return None, None

    def _datafs(self, only_blobs: bool) -> Path:
        datafs = self._path("datafs", self._around.base, self._around.datafs)
        if datafs is not None:
            return datafs
        if not only_blobs and "datafs" not in self._values:
            self._mistake("datafs", "is not set; it names the FileStorage to back up")
        return self._around.var / "filestorage" / "Data.fs"

    def _blob_options(self) -> BlobOptions:
        """The options that have to do with the layout of blob backups."""
        layout = self._choice("blob_layout") if "blob_layout" in self._values else None
        return BlobOptions(
            layout if layout in LAYOUTS else None,
            *(self._boolean(name) for name in BlobOptions._fields[1:]),
        )

    def _layout(self, options: BlobOptions, backup_blobs: bool) -> str:
        """The layout of blob backups; says what there is to say of it, where blobs are backed up at all."""
        choice = choose_layout(options)
        for remark in contradictions(options):
            self._mistake(*remark)
        pointless = self._pointless_rsync_options()
        if backup_blobs:
            for remark in (*without_effect(options, choice.layout), *pointless):
                self._warn(*remark)
            self.advice += (self._line(*remark) for remark in advice(options, choice.layout))
            self.notes.append(self._line("blob_layout", f"{choice.layout} is used, because {choice.reason}"))
        return choice.layout

    def _pointless_rsync_options(self) -> tuple[Remark, ...]:
        """What is to be said of options for an rsync that is not started."""
        name = "rsync_options"
        text = self._text(name)
        try:
            options = rsync_options_without_effect(text)
        except ValueError:
            self._mistake(name, f"{text!r} cannot be split into words: a quote is not closed")
            return ()
        said = f"no rsync is started, and these have no effect: {'; '.join(options)}"
        return (Remark(name, said),) if options else ()

    def _refuse_without_blobs(self, *, only_blobs: bool, enable_zipbackup: bool) -> None:
        """Refuse what makes no sense for a site whose blobs are not backed up."""
        if only_blobs:
            self._mistake("only_blobs", "true contradicts backup_blobs = false: nothing would be backed up")
        if enable_zipbackup:
            self._mistake(
                "enable_zipbackup", "true contradicts backup_blobs = false: a zip backup is made for its blobs"
            )

    def _check_blob_places(self, blob_storage: Path | None, folders: Mapping[str, Path]) -> None:
        """There is a blobstorage, and no backup goes into it."""
        if blob_storage is None:
            if "blob_storage" not in self._values:
                section = self._around.section
                text = f"No blob_storage found. Set it, or set backup_blobs = false in the {section} section"
                self._mistake("blob_storage", text)
            return
        for name, folder in folders.items():
            if _is_within(folder, blob_storage):
                self._mistake(name, f"{folder} lies in the blob_storage {blob_storage}")
            elif "blob" in name and _is_within(blob_storage, folder / POOL_FOLDER):
                self._mistake(name, f"{folder} keeps blobs where the blob_storage {blob_storage} is")

    def _check_distinct(self, folders: Mapping[str, Path]) -> None:
        names_by_folder: dict[Path, list[str]] = {}
        for name, folder in folders.items():
            names_by_folder.setdefault(folder, []).append(name)
        for folder, names in names_by_folder.items():
            if len(names) > 1:
                text = f"These must be distinct locations, and each of them is {folder}"
                self._mistake(" and ".join(names), text)


def expand_path(text: str, folder: Path) -> Path:
    """The absolute path that `text` means: `~` and `$VARIABLE` replaced, relative ones from `folder`, `..` resolved."""
    return Path(os.path.normpath(os.path.join(folder, os.path.expandvars(os.path.expanduser(text)))))


def _is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or folder in path.parents
