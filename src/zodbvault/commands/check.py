"""What a monitoring system is told of a site's backups: a state, a line with performance data, and metrics.

Makes lines and data of what facts.py gathers and watching.py thinks of it. Writes nothing but the file of metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.commands.facts import Checked, look
from zodbvault.commands.summary import iso_time, printable
from zodbvault.commands.watching import State, Thresholds, worst
from zodbvault.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

JSON_FORMAT = 1


@dataclass(frozen=True)
class CheckReport:
    """What is to be told. lines: for standard output, the first with performance data. data: for JSON."""

    state: State
    lines: tuple[str, ...]
    data: dict[str, object]


def check(settings: Settings, *, which: str, thresholds: Thresholds, metrics: Path | None, clock: Clock) -> CheckReport:
    """Check the repositories that `which` names (in LOCATIONS, or ALL), and write the metrics where that is asked for.

    Raises ZodbvaultError where a repository cannot be read: nothing is known of it then.
    """
    checked = look(settings, which=which, thresholds=thresholds, clock=clock)
    if metrics is not None:
        from zodbvault.commands.metrics import write_metrics

        write_metrics(metrics, settings.part, checked)
    state = worst(one.state for one in checked)
    return CheckReport(state, _lines(state, checked, thresholds), _data(settings, state, checked, clock.now()))


# For people and for Nagios.


def _lines(state: State, checked: Sequence[Checked], thresholds: Thresholds) -> tuple[str, ...]:
    """The first line with what is worst, and the performance data; then everything that was looked at."""
    several = len(checked) > 1
    every = [(judgement, f"{one.survey.name}: " if several else "") for one in checked for judgement in one.judgements]
    reasons = [place + each.text for each, place in every if each.state is not State.OK]
    shown = reasons or [place + each.text for each, place in every if each.name == "backup"]
    numbers = [
        text for one in checked for text in _performance(one, f"{one.survey.name}_" if several else "", thresholds)
    ]
    first = f"ZODBVAULT {state.name}: {'; '.join(shown)}".replace("|", "/")
    return (
        f"{first} | {' '.join(numbers)}" if numbers else first,
        *(f"{each.state.name}: {place}{each.text}".replace("|", "/") for each, place in every),
    )


def _performance(one: Checked, prefix: str, thresholds: Thresholds) -> list[str]:
    """Performance data as Nagios' plugins write it: 'label'=value[unit];warning;critical;minimum;maximum."""
    facts = one.facts
    least = None if facts.total is None else thresholds.min_free.of(facts.total)

    def number(label: str, value: float | None, unit: str, *limits: float | None) -> list[str]:
        if value is None:
            return []
        shown = ";".join("" if limit is None else f"{limit:.0f}" for limit in limits)
        return [f"'{prefix}{label}'={value:.0f}{unit};{shown}".rstrip(";")]

    free = [] if facts.free is None else [f"'{prefix}free'={facts.free}B;{least or 0}:;;0;{facts.total}"]
    return [
        *number("age", facts.age, "s", None, thresholds.max_age, 0),
        *number("full_age", facts.full_age, "s", thresholds.max_full_age, None, 0),
        *number("drill_age", _age(facts.now, facts.drilled), "s", thresholds.max_drill_age, None, 0),
        *number("verify_age", _age(facts.now, facts.verified), "s", None, None, 0),
        *free,
        *number("growth", facts.growth, "B"),
        *number("days_until_full", facts.days_until_full, ""),
        *number("stored", facts.stored_size, "B"),
        *number("backups", facts.backups, ""),
    ]


def _age(now: float, moment: float | None) -> float | None:
    return None if moment is None else max(0.0, now - moment)


# For programs.


def _data(settings: Settings, state: State, checked: Sequence[Checked], now: float) -> dict[str, object]:
    """The result as JSON can hold it; docs/json.rst tells of the keys."""
    return {
        "format": JSON_FORMAT,
        "command": "check",
        "part": settings.part,
        "time": iso_time(now),
        "state": state.name,
        "locations": [_data_of(one) for one in checked],
    }


def _data_of(one: Checked) -> dict[str, object]:
    facts = one.facts

    def time_of(moment: float | None) -> str | None:
        return None if moment is None else iso_time(moment)

    def whole(value: float | None) -> int | None:
        return None if value is None else int(value)

    return {
        "name": one.survey.name,
        "location": printable(one.survey.places.location),
        "state": one.state.name,
        "judgements": [
            {"name": each.name, "state": each.state.name, "text": one_line(each.text)} for each in one.judgements
        ],
        "newest": time_of(facts.newest),
        "newest_full": time_of(facts.newest_full),
        "current": facts.is_current,
        "unsaved_since": time_of(facts.unsaved_since),
        "age": whole(facts.age),
        "full_age": whole(facts.full_age),
        "verified": time_of(facts.verified),
        "verified_good": facts.verified_good,
        "drilled": time_of(facts.drilled),
        "drilled_good": facts.drilled_good,
        "drill_seconds": facts.drill_seconds,
        "free": facts.free,
        "disk_size": facts.total,
        "next_full": facts.next_full,
        "growth": whole(facts.growth),
        "days_until_full": whole(facts.days_until_full),
        "backups": facts.backups,
        "stored_size": facts.stored_size,
    }
