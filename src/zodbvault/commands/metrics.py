"""The facts of a site's backups in Prometheus' text format, for the textfile collector of the node exporter.

prometheus_client, which writes the format, is installed only where somebody wants it (the extra `metrics`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError, explained
from zodbvault.io.durable import write_where_told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from zodbvault.commands.facts import Checked


class Metric(NamedTuple):
    """A number of each repository. of: the number; None leaves it out."""

    name: str
    help: str
    of: Callable[[Checked], float | None]


METRICS = (
    Metric("state", "What the check said: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN", lambda one: int(one.state)),
    Metric("check_timestamp_seconds", "When these numbers were gathered", lambda one: one.facts.now),
    Metric("backups", "Backups that are kept", lambda one: one.facts.backups),
    Metric("stored_bytes", "Size of the files of Data.fs that are kept", lambda one: one.facts.stored_size),
    Metric("newest_backup_timestamp_seconds", "When the newest backup was made", lambda one: one.facts.newest),
    Metric("newest_full_timestamp_seconds", "When the newest full backup was made", lambda one: one.facts.newest_full),
    Metric("unsaved_age_seconds", "For how long a change has been in no backup", lambda one: one.facts.age),
    Metric("verified_timestamp_seconds", "When backups were last verified", lambda one: one.facts.verified),
    Metric("damaged_backups", "Backups that a verification found damaged", lambda one: len(one.facts.bad)),
    Metric("drilled_timestamp_seconds", "When a restore was last rehearsed", lambda one: one.facts.drilled),
    Metric("drill_good", "Whether that went well", lambda one: _number(one.facts.drilled_good)),
    Metric("drill_duration_seconds", "How long that took", lambda one: one.facts.drill_seconds),
    Metric("free_bytes", "Free space where the backups are", lambda one: one.facts.free),
    Metric("disk_bytes", "Size of that file system", lambda one: one.facts.total),
    Metric("growth_bytes_per_day", "By how much the backups grow", lambda one: one.facts.growth),
)


def write_metrics(path: Path, part: str, checked: Sequence[Checked]) -> None:
    """Write the file: the old content or the new one stands in a file at every instant. Raises ZodbvaultError."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError as error:
        raise ZodbvaultError(
            "metrics need the Python package prometheus_client",
            hint="Install zodbvault[metrics]; in a buildout part: eggs = zodbvault[metrics].",
        ) from error
    registry = CollectorRegistry()
    for metric in METRICS:
        gauge = Gauge(f"zodbvault_{metric.name}", metric.help, ("part", "location"), registry=registry)
        for one in checked:
            value = metric.of(one)
            if value is not None:
                gauge.labels(part, one.survey.name).set(value)
    with explained("the metrics cannot be written", path=path):
        write_where_told(path, generate_latest(registry))


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)
