"""What holds for a site, option by option, and where each value comes from.

Shows what the faces have read; knows neither toml nor environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from zodbvault.commands.summary import iso_time, printable
from zodbvault.commands.tables import Column, Result, Table
from zodbvault.options import OPTIONS, Option, Status
from zodbvault.origins import DEFAULT, Origin
from zodbvault.settings import Settings

if TYPE_CHECKING:
    from zodbvault.io.clock import Clock
    from zodbvault.origins import ReadSite

JSON_FORMAT = 1

SECRETS = frozenset({"healthcheck_url"})
"""Options whose value is a key: who knows it can call the service. People show their settings to others."""

_BY_DEFAULT = Origin(DEFAULT, "")


class Shown(NamedTuple):
    """One option. value: what holds; text, number, boolean, or None for nothing. is_hidden: it is a part only."""

    name: str
    value: str | int | bool | None
    origin: Origin
    is_hidden: bool


def show_settings(site: ReadSite, clock: Clock) -> Result:
    """All options of a site, for people and for programs."""
    shown = [_shown(option, site) for option in OPTIONS if option.status is Status.OFFERED]
    columns = (Column("option"), Column("value"), Column("from"))
    rows = tuple((each.name, _text(each.value), each.origin.where or each.origin.level) for each in shown)
    where = "There is no toml file." if site.path is None else f"The toml file is {printable(site.path)}."
    return Result(Table(columns, rows), (where, *site.notes), (), _data(site, shown, clock))


def _shown(option: Option, site: ReadSite) -> Shown:
    """What holds for one option; as it was written where the settings have it in another form."""
    if option.name in Settings._fields:
        value = getattr(site.settings, option.name)
    else:
        value = site.written.get(option.name) or option.default
    if value is not None and not isinstance(value, int):
        value = printable(value)
    is_hidden = option.name in SECRETS and bool(value)
    if is_hidden:
        value = _without_key(str(value))
    origin = site.origins.get(option.name, _BY_DEFAULT)
    origin = origin._replace(where=printable(origin.where))
    return Shown(option.name, None if value == "" else value, origin, is_hidden)


def _without_key(url: str) -> str:
    """The address of a service without what only its owner should know."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}/..."


def _text(value: str | int | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return " \\n ".join(line.strip() for line in str(value).strip().splitlines())


def _data(site: ReadSite, shown: list[Shown], clock: Clock) -> dict[str, object]:
    """The settings as JSON can hold them; docs/json.rst tells of the keys."""
    return {
        "format": JSON_FORMAT,
        "command": "settings",
        "part": site.settings.part,
        "time": iso_time(clock.now()),
        "config": None if site.path is None else printable(site.path),
        "settings": [
            {
                "name": each.name,
                "value": each.value,
                "origin": each.origin.level,
                "where": each.origin.where or None,
                "hidden": each.is_hidden,
            }
            for each in shown
        ],
        "notes": list(site.notes),
    }
