"""Examples for the help of each command, for the reference and for the man pages. Imported only where one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Example(NamedTuple):
    """Arguments as somebody would type them behind the program's name, and what they are good for."""

    arguments: str
    purpose: str


_RESTORES = (
    Example("--dry-run", "what a restore of the newest one would do"),
    Example("2026-11-23-18-05-00", "the site as it was at that moment (UTC), or just before"),
    Example("--to /tmp/copy", "a copy in another folder; the site is left alone"),
)

EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "backup": (
        Example("-q", "for cron: says something only when something is wrong"),
        Example("--full", "a full backup, even where an incremental would do"),
    ),
    "snapshot": (Example("", "before an upgrade, say"),),
    "zipbackup": (Example("", "two files to carry away"),),
    "restore": (
        *_RESTORES,
        Example("--at 2026-11-23T14:31:59+01:00", "the state after the last transaction before 14:32 in Berlin"),
    ),
    "snapshotrestore": _RESTORES,
    "ziprestore": (_RESTORES[0], _RESTORES[2]),
    "altrestore": _RESTORES,
    "verify": (
        Example("", "every file of all backups, as it is stored"),
        Example("--deep", "unpacks everything: for a quiet night"),
    ),
    "drill": (
        Example("", "the newest backup, every object"),
        Example("--sample 10000 --tmp /srv/space", "10,000 objects, on another disk"),
    ),
    "list": (
        Example("", "the backups"),
        Example("2026-11-23", "what a restore of midnight before the 23rd would take"),
        Example("--all --json", "backups, snapshots and zip backup, for a program"),
    ),
    "log": (
        Example("2026-11-23T14:00:00+01:00..", "the transactions since two o'clock"),
        Example("2026-11-22..2026-11-23 --json", "those of a day in UTC, for a program"),
    ),
    "report": (Example("--all -o backups.html", "a page about backups, snapshots and zip backup"),),
    "prune": (Example("--dry-run", "what would go, and why; removes nothing"),),
    "check": (
        Example("--max-age 26h --max-full-age 8d --max-drill-age 45d --min-free 10%", "for Nagios or Icinga"),
        Example("--metrics var/backup.prom", "for Prometheus"),
    ),
    "schedule": (
        Example("--every 60", "lines for a crontab, with a backup each hour"),
        Example("--install", "the same, every 15 minutes, into your crontab"),
        Example("--systemd --units /etc/systemd/system --install", "timers of systemd"),
    ),
    "settings": (
        Example("", "what holds, and why"),
        Example("--option keep=5 --json", "what would hold with this option, for a program"),
    ),
    "init": (
        Example("/srv/plone", "looks there, and writes /srv/plone/zodbvault.toml"),
        Example("/srv/plone -o -", "only shows it"),
    ),
    "completion": (
        Example("bash > ~/.local/share/bash-completion/completions/zodbvault", "for bash"),
        Example("bash --part backup >> ~/.bash_completion", "for bash, the scripts of the part backup"),
        Example("zsh > ~/.zfunc/_zodbvault", "for zsh, where ~/.zfunc is in fpath"),
    ),
}
"""By the name of the command."""


def examples_text(command: str, program: str) -> str:
    """The examples of a command for its help. program: how it was called."""
    lines = ["Examples:" if len(EXAMPLES[command]) > 1 else "Example:"]
    for example in EXAMPLES[command]:
        lines += [f"  {program} {example.arguments}".rstrip(), f"      {example.purpose}"]
    return "\n".join([*lines, ""])
