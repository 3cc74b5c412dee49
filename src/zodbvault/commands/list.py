"""Which backups there are: when, what, how large, checked when; and what a restore for a date would take.

From the `.dat` files and the records; no backup is read. What is found is a value; the lines for people and the plain
data for programs are made of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import choose, recorded_blob_states
from zodbvault.commands.only_blobs_states import choose_states, wrong_with_state
from zodbvault.commands.places import ALL
from zodbvault.commands.summary import iso_time, plural, printable
from zodbvault.commands.survey import SeenBackup, Survey, survey_site
from zodbvault.commands.tables import Column, Result, Table, duration_text, shown
from zodbvault.errors import one_line
from zodbvault.io.sizes import size_text
from zodbvault.repository.records import BLOBS, FULL, INCREMENTAL, NewerFormat
from zodbvault.repository.store import read_repository
from zodbvault.repository.timestamps import parse_when, seconds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.io.clock import Clock
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

JSON_FORMAT = 1

_MISSING = "MISSING"


class Taken(NamedTuple):
    """What a restore for a date takes.

    timestamp: of the state. files: of its data, oldest first. blobs: the blob state that serves. gone: the first of the
    missing manifests of its own one; None where that is all there. refusal: why nothing is taken, where that is known.
    """

    timestamp: str
    files: tuple[str, ...]
    blobs: BlobChoice | None
    gone: str | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Listing:
    """What was found. moment: when, seconds since 1970. taken: by the survey's name, where a date was given."""

    part: str
    moment: float
    surveys: tuple[Survey, ...]
    taken: dict[str, Taken] | None


def list_backups(settings: Settings, *, when: str | None, which: str, clock: Clock) -> Result:
    """What `look` finds, for people and for programs."""
    listing = look(settings, when=when, which=which, clock=clock)
    return Result(table_of(listing), lines_of(listing), warnings_of(listing), data_of(listing))


def look(settings: Settings, *, when: str | None, which: str, clock: Clock) -> Listing:
    """Look at the repositories that `which` names, as `survey_site` does.

    when: a date; then only the backups that a restore for it takes are listed, and repositories that have none for it
    are left out. Raises NothingThere where all would be.
    """
    date = parse_when(when)
    surveys = survey_site(settings, which)
    if when is None:
        return Listing(settings.part, clock.now(), surveys, None)
    if which == ALL:
        surveys = tuple(survey for survey in surveys if _has_any(survey, date)) or surveys
    taken = {survey.name: _taken(settings, survey, date) for survey in surveys}
    needed = tuple(_only(survey, taken[survey.name]) for survey in surveys)
    return Listing(settings.part, clock.now(), needed, taken)


def _has_any(survey: Survey, date: str | None) -> bool:
    return any(date is None or backup.timestamp <= date for backup in survey.backups)


def _taken(settings: Settings, survey: Survey, date: str | None) -> Taken:
    places = survey.places
    repository = read_repository(places.location, places.blobs)
    if settings.only_blobs:
        return _taken_of_blobs_alone(repository, date)
    choice = choose(repository, date, with_blobs=settings.backup_blobs)
    files = tuple(line.file.name for line in choice.chain.lines)
    gone = choice.blobs.gone[0].name if choice.blobs is not None and choice.blobs.gone else None
    there = next((one for one in choice.blob_choices if not one.gone), None)
    return Taken(choice.timestamp, files, there, gone)


def _taken_of_blobs_alone(repository: Repository, date: str | None) -> Taken:
    """What a restore takes where blobs alone are backed up, or why it refuses, as far as names and sizes tell that."""
    try:
        states = choose_states(repository, date)
    except NewerFormat as error:
        newest = max(stamp for stamp in recorded_blob_states(repository.names) if date is None or stamp <= date)
        return Taken(newest, (), None, refusal=str(error))
    refusals = [wrong_with_state(repository, state) for state in states]
    if None not in refusals:
        return Taken(states[0].timestamp, (), None, refusal=refusals[0])
    state = states[refusals.index(None)]
    return Taken(state.timestamp, (), state)


def _only(survey: Survey, taken: Taken) -> Survey:
    """The survey without the backups that are not needed."""
    chains = []
    for chain in survey.chains:
        backups = tuple(
            backup for backup in chain.backups if backup.name in taken.files or backup.timestamp == taken.timestamp
        )
        if backups:
            chains.append(chain._replace(backups=backups))
    return survey._replace(chains=tuple(chains))


# For people.


def table_of(listing: Listing) -> Table:
    """A row for each backup, oldest first."""
    several = len(listing.surveys) > 1
    local = any(time.localtime(seconds_of(each.timestamp)).tm_gmtoff for one in listing.surveys for each in one.backups)
    columns = (
        Column("location", is_shown=several),
        Column("backup (UTC)"),
        Column("local time", is_shown=local, spare=5),
        Column("kind"),
        Column("size", is_number=True, spare=1),
        Column("stored", is_number=True),
        Column("transactions", is_number=True, spare=4),
        Column("new blobs", is_number=True, spare=2),
        Column("blobs", is_number=True),
        Column("took", is_number=True, spare=3),
        Column("verified"),
    )
    rows = tuple((survey.name, *_cells(backup)) for survey in listing.surveys for backup in survey.backups)
    return shown(Table(columns, rows))


def lines_of(listing: Listing) -> tuple[str, ...]:
    """What is to be said below the table."""
    lines: list[str] = []
    for survey in listing.surveys:
        lines += [f"{_place_of(listing, survey)}{text}" for text in _sentences(listing, survey)]
    return tuple(lines)


def warnings_of(listing: Listing) -> tuple[str, ...]:
    """What is not as it should be, of all repositories."""
    return tuple(f"{_place_of(listing, survey)}{text}" for survey in listing.surveys for text in survey.warnings)


def _place_of(listing: Listing, survey: Survey) -> str:
    return f"{survey.name}: " if len(listing.surveys) > 1 else ""


def _sentences(listing: Listing, survey: Survey) -> list[str]:
    if not survey.backups:
        return [f"No backups in {survey.places.location}."]
    if listing.taken is not None:
        return _plan(survey, listing.taken[survey.name])
    return [_totals_text(survey)]


def _cells(backup: SeenBackup) -> tuple[str, ...]:
    """The cells of a row, those of all columns but the first."""
    blobs = backup.blobs
    moment = time.localtime(seconds_of(backup.timestamp))
    return (
        backup.timestamp,
        time.strftime("%Y-%m-%d %H:%M %Z", moment),
        _kind_text(backup),
        size_text(backup.size) if backup.size is not None else "-" if backup.kind == BLOBS else "?",
        _MISSING if backup.is_missing else "-" if backup.stored_size is None else size_text(backup.stored_size),
        "-" if backup.transactions is None else f"{backup.transactions:,}",
        "-" if blobs is None else f"{blobs.added:,} ({size_text(blobs.added_size)})",
        "-" if blobs is None else _total_text(backup),
        "-" if backup.seconds is None else duration_text(backup.seconds),
        _verified_text(backup),
    )


def _kind_text(backup: SeenBackup) -> str:
    if backup.kind != BLOBS:
        return backup.kind
    return "blobs (full)" if backup.is_complete else "blobs (change)"


def _total_text(backup: SeenBackup) -> str:
    assert backup.blobs is not None
    size = _blobs_size(backup)
    text = f"{backup.blobs.total:,}" + ("" if size is None else f" ({size_text(size)})")
    return text + (f", {len(backup.blobs.missing):,} lost" if backup.blobs.missing else "")


def _blobs_size(backup: SeenBackup) -> int | None:
    """Bytes of all blobs of a state; the changes of blobs alone do not know them."""
    if backup.blobs is None or (backup.kind == BLOBS and not backup.is_complete):
        return None
    return backup.blobs.total_size


def _verified_text(backup: SeenBackup) -> str:
    checks = backup.checks
    if checks is None or checks.verified is None:
        return "-"
    verdict = {True: "", False: " DAMAGED", None: " (no blobs)"}[checks.verified_good]
    return f"{checks.verified[:16].replace('T', ' ')}{verdict}"


def _totals_text(survey: Survey) -> str:
    backups = survey.backups
    newest = backups[-1]
    parts = [f"{plural(len(survey.chains), 'chain')}, {plural(len(backups), 'backup')}"]
    if newest.end is not None:
        stored = sum(chain.stored_size for chain in survey.chains)
        parts.append(f"{size_text(stored)} stored, Data.fs has {size_text(newest.end)} in the newest")
    if newest.blobs is not None:
        size = _blobs_size(newest)
        parts.append(plural(newest.blobs.total, "blob") + ("" if size is None else f" ({size_text(size)})"))
    return ", ".join(parts) + "."


def _plan(survey: Survey, taken: Taken) -> list[str]:
    """What a restore takes, in sentences."""
    if taken.refusal is not None:
        return [f"A restore of {taken.timestamp} is refused: {taken.refusal.rstrip('.')}."]
    lines = []
    if taken.files:
        by_name = {backup.name: backup for backup in survey.backups}
        found = [by_name[name] for name in taken.files if name in by_name]
        count = plural(len(taken.files) - 1, "incremental")
        lines.append(
            f"A restore takes the state of {taken.timestamp}: the full {taken.files[0][:19]} and {count}, "
            f"{size_text(sum(backup.stored_size or 0 for backup in found))} that become "
            f"{size_text(found[-1].end or 0) if found else '?'} of Data.fs."
        )
    if taken.gone is not None:
        lines.append(
            f"{taken.gone} is missing, which tells its blobs: another state has to serve, or those of the site."
        )
    if taken.blobs is None:
        lines.append("No blobs are restored with it.")
    else:
        state = taken.blobs
        newest = survey.backups[-1] if survey.backups else None
        number = ""
        if state.is_exact and newest is not None and newest.timestamp == state.timestamp and newest.blobs is not None:
            number = f"{_total_text(newest)}, "
        doubt = "" if state.is_exact else " It is not known to be whole: the restore compares it with the data."
        lines.append(f"The blobs are those of {state.timestamp}: {number}from {state.place}.{doubt}")
    return lines


# For programs.


def data_of(listing: Listing) -> dict[str, object]:
    """The listing as JSON can hold it; docs/json.rst tells of the keys."""
    return {
        "format": JSON_FORMAT,
        "command": "list",
        "part": listing.part,
        "time": iso_time(listing.moment),
        "locations": [_data_of_survey(listing, survey) for survey in listing.surveys],
    }


def _data_of_survey(listing: Listing, survey: Survey) -> dict[str, object]:
    blobs = survey.places.blobs
    return {
        "name": survey.name,
        "location": printable(survey.places.location),
        "blob_location": None if blobs is None else printable(blobs),
        "chains": [
            {
                "timestamp": chain.timestamp,
                "problem": None if chain.problem is None else one_line(chain.problem),
                "lacks_blobs": chain.lacks_blobs,
                "stored_size": chain.stored_size,
                "backups": [data_of_backup(backup) for backup in chain.backups],
            }
            for chain in survey.chains
        ],
        "totals": _data_of_totals(survey.backups, len(survey.chains)),
        "restore": None if listing.taken is None else _data_of_taken(listing.taken[survey.name]),
        "warnings": [one_line(warning) for warning in survey.warnings],
    }


def data_of_backup(backup: SeenBackup) -> dict[str, object]:
    """One backup as JSON can hold it."""
    blobs, checks = backup.blobs, backup.checks
    return {
        "timestamp": backup.timestamp,
        "time": iso_time(seconds_of(backup.timestamp)),
        "kind": backup.kind,
        "complete": backup.is_complete,
        "data_file": backup.name,
        "size": backup.size,
        "end": backup.end,
        "stored_size": backup.stored_size,
        "transactions": backup.transactions,
        "new_blobs": None if blobs is None else blobs.added,
        "new_blobs_size": None if blobs is None else blobs.added_size,
        "blobs": None if blobs is None else blobs.total,
        "blobs_size": _blobs_size(backup),
        "lost_blobs": None if blobs is None else len(blobs.missing),
        "seconds": backup.seconds,
        "verified": None if checks is None else checks.verified,
        "verified_good": None if checks is None else checks.verified_good,
        "verified_how": None if checks is None else checks.verified_how,
        "drilled": None if checks is None else checks.drilled,
        "drilled_good": None if checks is None else checks.drilled_good,
        "drill_seconds": None if checks is None else checks.drill_seconds,
    }


def _data_of_totals(backups: Sequence[SeenBackup], chains: int) -> dict[str, object]:
    newest = backups[-1] if backups else None
    return {
        "chains": chains,
        "backups": len(backups),
        "full": sum(backup.kind == FULL for backup in backups),
        "incremental": sum(backup.kind == INCREMENTAL for backup in backups),
        "stored_size": sum(backup.stored_size or 0 for backup in backups),
        "end": None if newest is None else newest.end,
        "blobs": None if newest is None or newest.blobs is None else newest.blobs.total,
        "blobs_size": None if newest is None else _blobs_size(newest),
    }


def _data_of_taken(taken: Taken) -> dict[str, object]:
    state = taken.blobs
    return {
        "timestamp": taken.timestamp,
        "data_files": list(taken.files),
        "blobs": None
        if state is None
        else {
            "timestamp": state.timestamp,
            "exact": state.is_exact,
            "manifests": [path.name for path in (state.complete, *state.deltas) if path is not None],
            "stored": [printable(one.path.name) for one in state.stored],
        },
    }
