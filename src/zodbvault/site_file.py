"""The configuration of sites without buildout: a toml file, the environment, and the command line.

The toml file has tables `[site.NAME]` with the options of the table in options.py. `ZODBVAULT_KEEP` in the environment
is the option `keep`, and wins over the file; `--option keep=3` wins over both. A site may be made of these alone.

Relative paths start from the folder of the file, without one from the current folder. A site's default locations stand
in `var` there (`locationprefix` says otherwise) and are named after the site as a part's are after the part. `datafs`
has no default, nor has `blob_storage`. Knows no command.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.did_you_mean import nearest
from zodbvault.errors import reason_of
from zodbvault.options import OPTION_BY_NAME, OPTIONS, Kind, nearest_option
from zodbvault.origins import ENVIRONMENT, OPTION, TOML, Origin, ReadSite
from zodbvault.settings import ConfigurationError, Surroundings, parse_settings
from zodbvault.several_sites import conflict_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zodbvault.settings import Parsed, Settings

DEFAULT_FILE = Path("zodbvault.toml")
DEFAULT_SITE = "backup"
"""The name of a site that is in no file: its folders are those of the buildout part of this name."""

PREFIX = "ZODBVAULT_"
CONFIG_VARIABLE = "ZODBVAULT_CONFIG"
SITE_VARIABLE = "ZODBVAULT_SITE"

_NO_OPTIONS = re.compile(
    # Those of this reader, of pre_command and post_command, and of the tests; and what container managers set for a
    # service that is called zodbvault.
    r"CONFIG|SITE|RUN_.*|TEST_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP)(_.*)?)?"
)

_OF_ONE_SITE = frozenset(option.name for option in OPTIONS if option.kind is Kind.BACKUPS) | {
    "datafs",
    "blob_storage",
    "alternative_restore_source",
    "metrics_file",
    "healthcheck_url",
}
"""What no two sites can have in common."""


class _Given(NamedTuple):
    """Options from outside of the file: their text by their own name, or by what was written where nobody knows it."""

    variables: Mapping[str, str]
    options: Mapping[str, str]


class _Tables(NamedTuple):
    """The sites that there are, each a dict of options. path: the file; None without one. folder: for paths."""

    sites: Mapping[str, Mapping[str, object]]
    path: Path | None
    folder: Path


class _Merged(NamedTuple):
    """The options of one site, as ReadSite has them, by the names that they were written with."""

    values: Mapping[str, object]
    origins: Mapping[str, Origin]


def read_site_file(path: Path, site: str | None) -> Settings:
    """The settings of one site in the file alone. Arguments and errors as of read_site."""
    return read_site(path, site, {}, ()).settings


def read_site(
    config: Path | None, site: str | None, environment: Mapping[str, str], options: Sequence[str]
) -> ReadSite:
    """One site of the file, with what the environment and the command line say.

    config: the file; None: the one that the environment names, or `zodbvault.toml` in the current folder, which need
    not be there. site: its name; None: the one that the environment names, or the only one. options: `NAME=VALUE`.

    Raises ConfigurationError for a file that cannot be read, and with all mistakes of that site: an unknown option is
    one of them, and so is a value that buildout would only warn about. Another site of the file that gets in its way is
    one too.
    """
    given = _Given(_from_environment(environment), _from_command_line(options))
    site = site or environment.get(SITE_VARIABLE) or None
    tables = _tables(config, site, environment, has_options=bool(given.variables or given.options))
    name = _choose(tables, site)
    _refuse_places_for_several(tables, given.variables)
    merged = _merged(tables, name, given)
    parsed = _parsed(tables, name, merged)
    conflicts = [
        conflict
        for other in tables.sites
        if other != name and (conflict := _conflict(tables, parsed.settings, other, given)) is not None
    ]
    if conflicts:
        raise ConfigurationError(conflicts, path=tables.path)
    written = {_own_name(each): value for each, value in merged.values.items()}
    return ReadSite(parsed.settings, written, merged.origins, parsed.notes, tables.path, tuple(options))


def _own_name(name: str) -> str:
    """An option's own name for any of its names; others as they are."""
    option = OPTION_BY_NAME.get(name)
    return name if option is None else option.name


# What stands outside of the file


def variable_of(option: str) -> str:
    """The variable of an option."""
    return PREFIX + option.upper().replace("-", "_")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The options in the environment. An empty one is none."""
    names = {variable_of(name): option.name for name, option in OPTION_BY_NAME.items()}
    found: dict[str, str] = {}
    mistakes = []
    for variable in sorted(environment):
        name = variable.removeprefix(PREFIX)
        if not variable.startswith(PREFIX) or _NO_OPTIONS.fullmatch(name):
            continue
        if variable not in names:
            meant = nearest_option(name)
            hint = f"; did you mean {variable_of(meant)}?" if meant else ""
            mistakes.append(f"{variable}: there is no option for this variable of the environment{hint}")
        elif not environment[variable]:
            continue
        elif names[variable] in found and found[names[variable]] != environment[variable]:
            mistakes.append(f"{variable}: is another spelling of {variable_of(names[variable])}; keep one of them")
        else:
            found[names[variable]] = environment[variable]
    if mistakes:
        raise ConfigurationError(mistakes)
    return found


def _from_command_line(options: Sequence[str]) -> dict[str, str]:
    """The options of the command line; of one that is there twice the last."""
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name.strip():
            raise ConfigurationError([f"--option {option}: is not of the form NAME=VALUE"])
        found[_own_name(name.strip())] = value
    return found


def _refuse_places_for_several(tables: _Tables, variables: Mapping[str, str]) -> None:
    """Raise ConfigurationError where the environment would give several sites one place."""
    if len(tables.sites) < 2:
        return
    several = ", ".join(tables.sites)
    mistakes = [
        f"{variable_of(name)}: cannot hold for all sites that there are ({several}); set it in a table, or with"
        f" --option for one run"
        for name in variables
        if name in _OF_ONE_SITE
    ]
    if mistakes:
        raise ConfigurationError(mistakes, path=tables.path)


# One site


def _merged(tables: _Tables, name: str, given: _Given) -> _Merged:
    """The options of a site; on the command line an empty value takes away what was set elsewhere."""
    values = dict(tables.sites[name])
    place = Origin(TOML, f"{tables.path.name if tables.path else ''} [site.{name}]")
    origins = {_own_name(each): place for each, value in values.items() if value != ""}
    for level, options in ((ENVIRONMENT, given.variables), (OPTION, given.options)):
        for option, value in options.items():
            for spelling in [each for each in values if _own_name(each) == option]:
                del values[spelling]
            values[option] = value
            origins[option] = Origin(level, variable_of(option) if level == ENVIRONMENT else "--option")
            if not value:
                del origins[option]
    return _Merged(values, origins)


def _parsed(tables: _Tables, name: str, merged: _Merged) -> Parsed:
    spellings = {
        option: origin.where if origin.level == ENVIRONMENT else f"--option {option}"
        for option, origin in merged.origins.items()
        if origin.level != TOML
    }
    folder = tables.folder
    around = Surroundings(name, f"[site.{name}]", folder, folder / "var", locations_base=folder, spellings=spellings)
    try:
        return parse_settings(merged.values, around, strict=True)
    except ConfigurationError as error:
        hint = None
        if tables.path is None:
            hint = "There is no zodbvault.toml here: the options are those of the environment and of --option."
        raise ConfigurationError(error.mistakes, path=tables.path, hint=hint) from error


def _conflict(tables: _Tables, settings: Settings, other: str, given: _Given) -> str | None:
    """Why a site cannot stand beside another of the file; None where it can, and where that other cannot be used."""
    try:
        others = _parsed(tables, other, _merged(tables, other, given._replace(options={}))).settings
    except ConfigurationError:
        return None
    return conflict_of(settings, others, (f"[site.{settings.part}]", f"[site.{other}]"))


# The file


def _tables(config: Path | None, site: str | None, environment: Mapping[str, str], *, has_options: bool) -> _Tables:
    """The sites of the file; one without a file where options are given elsewhere and no file is named or there."""
    named = config or environment.get(CONFIG_VARIABLE) or None
    path = Path(os.path.abspath(named or DEFAULT_FILE))
    if named is None and has_options and not os.path.lexists(path):
        name = site or DEFAULT_SITE
        if not _is_name(name):
            raise ConfigurationError([f"{name!r}: {_BAD_NAME}"])
        return _Tables({name: {}}, None, path.parent)
    return _Tables(_sites(_read_toml(path), path), path, path.parent)


def _read_toml(path: Path) -> Mapping[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        hint = (
            "--config names the file; without it, it is zodbvault.toml in the current folder. `zodbvault init` writes"
            " one; or set ZODBVAULT_DATAFS and other options in the environment."
        )
        raise ConfigurationError(["there is no such configuration file"], path=path, hint=hint) from error
    except OSError as error:
        raise ConfigurationError([f"cannot be read: {reason_of(error)}"], path=path) from error
    except ValueError as error:  # TOMLDecodeError, and bytes that are no UTF-8
        raise ConfigurationError([f"is not a toml file: {error}"], path=path) from error


_BAD_NAME = "a site's name is part of the names of its folders; choose another one"


def _is_name(name: str) -> bool:
    """Whether a site may be called so."""
    return bool(name.strip()) and name not in (".", "..") and "/" not in name and name.isprintable()


def _sites(document: Mapping[str, object], path: Path) -> dict[str, Mapping[str, object]]:
    """The tables below `site`, each a dict of options. Nothing else may stand in the file."""
    mistakes = [f"{key}: nobody knows this; options stand in a table [site.NAME]" for key in document if key != "site"]
    found: dict[str, Mapping[str, object]] = {}
    tables = document.get("site", {})
    if not isinstance(tables, dict):
        tables = {}
        mistakes.append("site: is not a table; options stand in a table [site.NAME]")
    for name, options in tables.items():
        if not isinstance(options, dict):
            mistakes.append(f"[site] {name}: options stand in a table with the name of a site, [site.NAME]")
        elif not _is_name(name):
            mistakes.append(f"[site.{name}]: {_BAD_NAME}")
        else:
            found[name] = options
    if not found and not mistakes:
        mistakes.append("no site in it; options stand in a table [site.NAME]")
    if mistakes:
        raise ConfigurationError(mistakes, path=path)
    return found


def _choose(tables: _Tables, site: str | None) -> str:
    names = ", ".join(tables.sites)
    if site is None:
        if len(tables.sites) > 1:
            raise ConfigurationError(
                [f"has several sites: {names}"], path=tables.path, hint="Name one of them with --site."
            )
        return next(iter(tables.sites))
    if site not in tables.sites:
        spellings = {each.lower(): each for each in tables.sites}
        meant = nearest(site, list(spellings))
        hint = f"; did you mean {spellings[meant]}?" if meant else ""
        raise ConfigurationError([f"has no site {site}; there is: {names}{hint}"], path=tables.path)
    return site
