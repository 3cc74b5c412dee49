"""A page about a site's backups: one HTML file that needs nothing else, no network and no script.

The story of the page; what it shows comes from facts.py, its pictures from drawing.py. Takes no lock, reads no backup.
"""

from __future__ import annotations

from datetime import date, timedelta
from html import escape
from typing import TYPE_CHECKING

from zodbvault.commands.drawing import Series, bars, calendar, lines
from zodbvault.commands.facts import Checked, look
from zodbvault.commands.report_style import STYLE
from zodbvault.commands.summary import iso_time, plural, printable
from zodbvault.commands.tables import duration_text
from zodbvault.commands.watching import State, Thresholds, worst
from zodbvault.errors import explained
from zodbvault.io.clock import DAY
from zodbvault.io.durable import write_where_told
from zodbvault.io.sizes import size_text
from zodbvault.repository.records import BLOBS, FULL
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from zodbvault.commands.survey import SeenBackup, SeenChain
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

CALENDAR_DAYS = 26 * 7
"""Days that the calendar and the pictures show."""
MOST_ROWS = 500
"""Backups that the table lists, the newest ones."""

_HEADINGS = ("Date (UTC)", "Kind", "Size", "Stored", "Transactions", "New blobs", "Blobs", "Took", "Verified", "Drill")

_WORDS = {
    State.OK: "All is well",
    State.WARNING: "Something wants attention",
    State.CRITICAL: "The backups are not as they should be",
    State.UNKNOWN: "Not everything could be found out",
}


def report(settings: Settings, *, which: str, thresholds: Thresholds, clock: Clock) -> str:
    """The page about the repositories that `which` names (in LOCATIONS, or ALL), in ASCII."""
    checked = look(settings, which=which, thresholds=thresholds, clock=clock)
    return page(settings.part, clock.now(), checked).encode("ascii", "xmlcharrefreplace").decode("ascii")


def write_page(path: Path, text: str) -> None:
    """Put the page into a file; the old content or the new one stands there at every instant. Raises ZodbvaultError."""
    hint = "Is its folder there, and may you write into it? -o names another file; without it the page is shown."
    with explained("the page cannot be written", path=path, hint=hint):
        write_where_told(path, text.encode("ascii"))


def page(part: str, now: float, checked: Sequence[Checked]) -> str:
    """The whole page. now: seconds since 1970."""
    title = escape(f"Backups of {part}")
    state = worst(one.state for one in checked)
    sections = "\n".join(_location(one, now) for one in checked)
    links = " ".join(f'<a href="#{one.survey.name}">{one.survey.name.capitalize()}</a>' for one in checked)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {state.name}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{iso_time(now).replace("T", " ").replace("Z", " UTC")}</p>
<nav aria-label="Repositories">{links}</nav>
</header>
<main>
<section aria-labelledby="state" class="{state.name.lower()}">
<h2 id="state"><span class="badge">{state.name}</span> {_WORDS[state]}</h2>
{_list(_reasons(checked)) or "<p>Nothing to do.</p>"}
</section>
{sections}
</main>
<footer><p>Made by zodbvault. All dates are UTC.</p></footer>
</body>
</html>
"""


def _reasons(checked: Sequence[Checked]) -> Iterator[str]:
    """What is not as it should be, the judgements first, then what a look at the files tells beside them."""
    several = len(checked) > 1
    for one in checked:
        place = f"{one.survey.name}: " if several else ""
        for judgement in one.judgements:
            if judgement.state is not State.OK:
                yield f"{judgement.state.name}: {place}{judgement.text}"
        yield from (f"{place}{warning}" for warning in one.survey.warnings)


def _list(items: Iterable[str]) -> str:
    found = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>\n{found}\n</ul>" if found else ""


def _location(one: Checked, now: float) -> str:
    """What is to be said of one repository."""
    name, backups = one.survey.name, one.survey.backups
    heading = f'<h2 id="{name}">{name.capitalize()}</h2>'
    place = f"<p><code>{escape(printable(one.survey.places.location))}</code></p>"
    parts = [heading, place, _facts(one)]
    if backups:
        shown = [each for each in backups if now - seconds_of(each.timestamp) <= CALENDAR_DAYS * DAY] or [backups[-1]]
        parts += [_calendar(shown, now), _sizes(shown), _growth(shown), _durations(shown)]
        parts += [_chains(one.survey.chains), _table_of_backups(backups)]
    return f'<section aria-labelledby="{name}">\n' + "\n".join(filter(None, parts)) + "\n</section>"


def _facts(one: Checked) -> str:
    """The judgements, those that are good too."""
    rows = (
        f'<tr class="{each.state.name.lower()}"><th scope="row">{escape(each.name.capitalize())}</th>'
        f"<td>{each.state.name}</td><td>{escape(each.text)}</td></tr>"
        for each in one.judgements
    )
    return _table("What was looked at", ("What", "State", "Found"), rows)


# Pictures


def _day(moment: float) -> str:
    return iso_time(moment)[: len("2026-11-23")]


def _figure(picture: str, caption: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    keys = "".join(f'<span class="key {style}">{escape(name)}</span> ' for name, style in legend)
    return f"<figure>\n<figcaption>{escape(caption)} {keys}</figcaption>\n{picture}\n</figure>"


def _calendar(backups: Sequence[SeenBackup], now: float) -> str:
    """A square for each day of the last weeks."""
    by_day: dict[str, list[SeenBackup]] = {}
    for backup in backups:
        # Not the first half of the name: a name may be no real date.
        by_day.setdefault(_day(seconds_of(backup.timestamp)), []).append(backup)
    last = max(_day(now), *by_day)
    first = max(min(by_day), str(date.fromisoformat(last) - timedelta(days=CALENDAR_DAYS - 1)))
    start = date.fromisoformat(first)
    number = (date.fromisoformat(last) - start).days + 1
    every = (str(start + timedelta(days=each)) for each in range(number))
    days = [(day, *_look_of(by_day.get(day, []))) for day in every]
    missing = sum(style == "none" for _, style, _ in days)
    title = f"Days with backups from {first} to {last}: {number - missing} of {number}"
    legend = (("full", "full"), ("incremental", "incremental"), ("damaged", "damaged"), ("none", "none"))
    return _figure(calendar(title, days, start.weekday()), "Calendar.", legend)


def _look_of(backups: Sequence[SeenBackup]) -> tuple[str, str]:
    """Class and words of a day."""
    if not backups:
        return "none", "no backup"
    fulls = sum(backup.is_complete for backup in backups)
    words = f"{plural(len(backups), 'backup')}, {fulls} full"
    if any(is_bad(backup) for backup in backups):
        return "damaged", f"{words}, damaged"
    return ("full" if fulls else "incremental"), words


def is_bad(backup: SeenBackup) -> bool:
    """Whether a backup is known not to restore."""
    checks = backup.checks
    return backup.is_missing or (checks is not None and (checks.verified_good is False or checks.drilled_good is False))


def _by_day(backups: Iterable[SeenBackup], sizes: Iterable[float], *, adds: bool) -> tuple[tuple[float, float], ...]:
    """A value for each day: the sum of its backups' values, or the greatest."""
    found: dict[float, float] = {}
    for backup, size in zip(backups, sizes, strict=True):
        day = float(seconds_of(backup.timestamp) // DAY * DAY)
        found[day] = found.get(day, 0.0) + size if adds else max(found.get(day, 0.0), size)
    return tuple(sorted(found.items()))


def _sizes(backups: Sequence[SeenBackup]) -> str:
    """What was written on each day."""
    fulls = [backup for backup in backups if backup.is_complete]
    others = [backup for backup in backups if not backup.is_complete]
    stacks = (
        Series("full", "full", _by_day(fulls, [each.stored_size or 0 for each in fulls], adds=True)),
        Series("incremental", "incremental", _by_day(others, [each.stored_size or 0 for each in others], adds=True)),
        Series("new blobs", "blobs", _by_day(backups, [_added(each) for each in backups], adds=True)),
    )
    shown = [series for series in stacks if any(value for _, value in series.values)]
    if not shown:
        return ""
    picture = bars("Bytes that were written on each day", shown, size_text, _day)
    return _figure(picture, "Written on each day.", [(series.name, series.style) for series in shown])


def _added(backup: SeenBackup) -> float:
    return 0 if backup.blobs is None else backup.blobs.added_size


def _growth(backups: Sequence[SeenBackup]) -> str:
    """Data.fs and the blobs over time."""
    with_data = [backup for backup in backups if backup.end is not None]
    with_blobs = [
        backup for backup in backups if backup.blobs is not None and (backup.kind != BLOBS or backup.is_complete)
    ]
    every = (
        Series("Data.fs", "full", _by_day(with_data, [each.end or 0 for each in with_data], adds=False)),
        Series(
            "blobs",
            "blobs",
            _by_day(with_blobs, [each.blobs.total_size if each.blobs else 0 for each in with_blobs], adds=False),
        ),
    )
    shown = [series for series in every if len(series.values) > 1]
    if not shown:
        return ""
    picture = lines("Size of Data.fs and of all blobs over time", shown, size_text, _day)
    return _figure(picture, "Size of the site.", [(series.name, series.style) for series in shown])


def _durations(backups: Sequence[SeenBackup]) -> str:
    """How long the longest backup of each day took."""
    timed = [backup for backup in backups if backup.seconds is not None]
    values = _by_day(timed, [float(each.seconds or 0) for each in timed], adds=False)
    if not any(value for _, value in values):
        return ""
    title = "Seconds that the longest backup of each day took"
    picture = bars(title, [Series("took", "time", values)], duration_text, _day)
    return _figure(picture, "Time that the longest backup of each day took.")


# Tables


def _table(caption: str, headings: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _chains(chains: Sequence[SeenChain]) -> str:
    """Each chain, and what would be lost if one of its files broke."""
    rows = []
    before = ""
    for chain in chains:
        number = len(chain.backups)
        newest = chain.backups[-1].timestamp if chain.backups else chain.timestamp
        rows.append(
            f'<tr class="{"ok" if chain.problem is None else "critical"}"><th scope="row">{chain.timestamp}</th>'
            f"<td>{escape(chain.problem or 'whole')}</td>"
            f'<td class="stamp">{newest}</td><td class="number">{number:,}</td>'
            f'<td class="number">{escape(size_text(chain.stored_size))}</td>'
            f'<td class="number">{number:,}</td><td class="stamp">{before or "none"}</td></tr>'
        )
        before = newest
    headings = (
        "Chain (UTC)",
        "State",
        "Newest backup",
        "Backups",
        "Stored",
        "Lost if its full broke",
        "Newest left then",
    )
    table = _table("Chains, newest first, and the dates that would be lost if one broke", headings, reversed(rows))
    return f"{table}\n<p>An incremental that broke would take itself and the later dates of its chain with it.</p>"


def _table_of_backups(backups: Sequence[SeenBackup]) -> str:
    """The newest backups, the newest first."""
    shown = list(reversed(backups))[:MOST_ROWS]
    left_out = len(backups) - len(shown)
    caption = f"Backups, newest first{f' (the newest {MOST_ROWS} of {len(backups):,})' if left_out else ''}"
    table = _table(caption, _HEADINGS, (_row(backup) for backup in shown))
    which = f"The newest {MOST_ROWS} of" if left_out else "All"
    return f"<details>\n<summary>{which} {plural(len(backups), 'backup')}</summary>\n{table}\n</details>"


def _row(backup: SeenBackup) -> str:
    blobs, checks = backup.blobs, backup.checks
    numbers = (
        "" if backup.size is None else size_text(backup.size),
        "missing" if backup.is_missing else "" if backup.stored_size is None else size_text(backup.stored_size),
        "" if backup.transactions is None else f"{backup.transactions:,}",
        "" if blobs is None else f"{blobs.added:,}",
        "" if blobs is None else f"{blobs.total:,}",
        "" if backup.seconds is None else duration_text(backup.seconds),
    )
    texts = (
        _check_text(None if checks is None else checks.verified, None if checks is None else checks.verified_good),
        _check_text(None if checks is None else checks.drilled, None if checks is None else checks.drilled_good),
    )
    kind = "blobs" if backup.kind == BLOBS else "full" if backup.kind == FULL else "incremental"
    return (
        f'<tr class="{"critical" if is_bad(backup) else "ok"}"><th scope="row">{backup.timestamp}</th><td>{kind}</td>'
        + "".join(f'<td class="number">{escape(text)}</td>' for text in numbers)
        + "".join(f"<td>{escape(text)}</td>" for text in texts)
        + "</tr>"
    )


def _check_text(moment: str | None, good: bool | None) -> str:
    if moment is None:
        return ""
    return f"{moment[:16].replace('T', ' ')}{' failed' if good is False else ''}"
