"""The names of the scripts that a buildout has for a part. Knows neither buildout nor a setting."""

from __future__ import annotations


def names_of_scripts(part: str) -> dict[str, str]:
    """The script of each command, by the command's name; whether there is one the settings say."""
    names = {
        "backup": part,
        "snapshot": f"{part}-snapshot",
        "zipbackup": f"{part}-zip",
        "restore": f"{part}-restore",
        "snapshotrestore": f"{part}-snapshotrestore",
        "ziprestore": f"{part}-ziprestore",
        "altrestore": f"{part}-altrestore",
        "verify": f"{part}-verify",
        "list": f"{part}-list",
        "log": f"{part}-log",
        "drill": f"{part}-drill",
        "check": f"{part}-check",
        "prune": f"{part}-prune",
        "report": f"{part}-report",
        "schedule": f"{part}-schedule",
    }
    if part == "backup":
        names |= {"snapshot": "snapshotbackup", "zipbackup": "zipbackup"}
        names |= {command: command for command in ("restore", "snapshotrestore", "ziprestore", "altrestore")}
    return names
