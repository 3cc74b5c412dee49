"""The toml file of sites without buildout: tables `[site.NAME]` with the options of the table in settings.py.

Relative paths start from the folder of the file. A site's default locations stand in `var` beside the file
(`locationprefix` says otherwise) and are named after the site as a part's are after the part. `datafs` has no default,
nor has `blob_storage`. Knows no command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.errors import reason_of
from zodbvault.settings import ConfigurationError, Surroundings, parse_settings
from zodbvault.several_sites import conflict_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zodbvault.settings import Settings

DEFAULT_FILE = Path("zodbvault.toml")


def read_site_file(path: Path, site: str | None) -> Settings:
    """The settings of one site in the file. site: its name; None where there is only one.

    Raises ConfigurationError for a file that cannot be read, and with all mistakes of that site: an unknown option is
    one of them, and so is a value that buildout would only warn about. Another site of the file that gets in its way is
    one too.
    """
    path = Path(os.path.abspath(path))
    sites = _sites(_read_toml(path), path)
    name = _choose(sites, site, path)
    settings = _settings(sites, name, path)
    conflicts = [conflict for other in sites if other != name and (conflict := _conflict(sites, settings, other, path))]
    if conflicts:
        raise ConfigurationError(conflicts, path=path)
    return settings


def _settings(sites: Mapping[str, Mapping[str, object]], name: str, path: Path) -> Settings:
    folder = path.parent
    around = Surroundings(name, f"[site.{name}]", folder, folder / "var", locations_base=folder)
    try:
        return parse_settings(sites[name], around, strict=True).settings
    except ConfigurationError as error:
        raise ConfigurationError(error.mistakes, path=path) from error


def _conflict(sites: Mapping[str, Mapping[str, object]], settings: Settings, other: str, path: Path) -> str | None:
    """Why a site cannot stand beside another of the file; None where it can, and where that other cannot be used."""
    try:
        others = _settings(sites, other, path)
    except ConfigurationError:
        return None
    return conflict_of(settings, others, (f"[site.{settings.part}]", f"[site.{other}]"))


def _read_toml(path: Path) -> Mapping[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        hint = "--config names the file; without it, it is zodbvault.toml in the current folder."
        raise ConfigurationError(["there is no such configuration file"], path=path, hint=hint) from error
    except OSError as error:
        raise ConfigurationError([f"cannot be read: {reason_of(error)}"], path=path) from error
    except ValueError as error:  # TOMLDecodeError, and bytes that are no UTF-8
        raise ConfigurationError([f"is not a toml file: {error}"], path=path) from error


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
        elif not name.strip() or name in (".", "..") or "/" in name or not name.isprintable():
            mistakes.append(f"[site.{name}]: a site's name is part of the names of its folders; choose another one")
        else:
            found[name] = options
    if not found and not mistakes:
        mistakes.append("no site in it; options stand in a table [site.NAME]")
    if mistakes:
        raise ConfigurationError(mistakes, path=path)
    return found


def _choose(sites: Mapping[str, object], site: str | None, path: Path) -> str:
    names = ", ".join(sites)
    if site is None:
        if len(sites) > 1:
            raise ConfigurationError([f"has several sites: {names}"], path=path, hint="Name one of them with --site.")
        return next(iter(sites))
    if site not in sites:
        raise ConfigurationError([f"has no site {site}; there is: {names}"], path=path)
    return site
