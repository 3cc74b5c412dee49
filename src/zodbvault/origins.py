"""A site with the origin of each of its options, for a program that is configured in several places.

Plain values; who reads the places is site_file.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zodbvault.site_settings import Settings

DEFAULT = "default"
TOML = "toml"
ENVIRONMENT = "environment"
OPTION = "option"
"""Where a value may come from; each wins over those before it."""


class Origin(NamedTuple):
    """Where a value was written. level: TOML, ENVIRONMENT or OPTION. where: the place, for people."""

    level: str
    where: str


class ReadSite(NamedTuple):
    """One site as it was read.

    written: the values as they were written, and origins: where, both by the option's own name and without those that
    have their default. notes: what was decided for the site. path: the toml file; None where there is none. options:
    the `NAME=VALUE` of the command line.
    """

    settings: Settings
    written: Mapping[str, object]
    origins: Mapping[str, Origin]
    notes: tuple[str, ...]
    path: Path | None
    options: tuple[str, ...]
