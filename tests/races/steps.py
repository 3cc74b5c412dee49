"""The steps of a backup and of a restore, as places where a test lets something happen in between.

A step is a function that the command calls at that point, and whether it happens before or behind that call. It is put
around the function for the time of a test, so the commands know nothing of it and it costs them nothing.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

FIRST_FULL = "first full"
FULL = "full"
PRUNING = "full that prunes"
INCREMENTAL = "incremental"
NOTHING = "nothing new"
COMPLETION = "only blobs lacking"

WITH_DATA = frozenset({FIRST_FULL, FULL, PRUNING, INCREMENTAL})
WITH_BLOBS = WITH_DATA | {COMPLETION}
ALL_KINDS = WITH_BLOBS | {NOTHING}
CONTINUING = frozenset({INCREMENTAL, NOTHING, COMPLETION})


@dataclass(frozen=True)
class Step:
    """One place in a command. name: begins with its number on the page on backups (or restores).

    module, attribute: what is called there. is_before: whether it is the instant before the call, or behind it. call:
    which of several calls, from 1 on. kinds: the backups that come by.
    """

    name: str
    module: str
    attribute: str
    is_before: bool = True
    call: int = 1
    kinds: frozenset[str] = ALL_KINDS


_BACKUP = "zodbvault.commands.backup"
_ATTEMPT = "zodbvault.commands.attempt"
_BLOBS = "zodbvault.commands.backup_blobs"
_SOURCE = "zodbvault.filestorage.source"
_DURABLE = "zodbvault.io.durable"

BACKUP_STEPS: tuple[Step, ...] = (
    Step("1 before pre_command", _BACKUP, "run_users_command"),
    Step("1 places made", _BACKUP, "make_folders", is_before=False),
    Step("2 locked", _BACKUP, "read_repository"),
    Step("3 swept", _BACKUP, "sweep", is_before=False),
    Step("4 before opening", _BACKUP, "open_data_fs"),
    Step("4 opened", _BACKUP, "open_data_fs", is_before=False),
    Step("5 before the look at the tail", _BACKUP, "read_tail", kinds=CONTINUING | {FULL, PRUNING}),
    Step("5 decided", _BACKUP, "_judge", is_before=False),
    Step("6 before the copy", _ATTEMPT, "copy_range", kinds=WITH_DATA),
    Step("7 before the first block", _SOURCE, "DataFs.read_into", kinds=WITH_DATA),
    Step("7 behind the first block", _SOURCE, "DataFs.read_into", is_before=False, kinds=WITH_DATA),
    Step("7 before the second block", _SOURCE, "DataFs.read_into", call=2, kinds=WITH_DATA),
    Step("7 copied", _ATTEMPT, "copy_range", is_before=False, kinds=WITH_DATA),
    Step("8 before the blobs", _BLOBS, "BlobBackup.back_up", kinds=WITH_DATA),
    Step("8 before the blobs of a completion", _BLOBS, "BlobBackup.catch_up", kinds=frozenset({COMPLETION})),
    Step(
        "8 before the walk",
        "zodbvault.blobs.source",
        "BlobWalk._listing",
        kinds=WITH_BLOBS - {INCREMENTAL},
    ),
    Step(
        "8 behind the walk",
        "zodbvault.blobs.source",
        "BlobWalk._listing",
        is_before=False,
        kinds=WITH_BLOBS - {INCREMENTAL},
    ),
    Step("8 before the first blob", "zodbvault.blobs.source", "SourceBlobs.open", kinds=WITH_BLOBS),
    Step("8 first blob opened", "zodbvault.blobs.source", "SourceBlobs.open", is_before=False, kinds=WITH_BLOBS),
    Step("8 before the second blob", "zodbvault.blobs.source", "SourceBlobs.open", call=2, kinds=WITH_BLOBS),
    Step("9 before the look", _SOURCE, "DataFs.was_replaced", kinds=WITH_BLOBS - {INCREMENTAL}),
    Step("9 looked", _SOURCE, "DataFs.was_replaced", is_before=False, kinds=WITH_BLOBS - {INCREMENTAL}),
    Step("9 judged", _BLOBS, "BlobResult.judge_missing", kinds=WITH_BLOBS),
    Step("10 before the manifest", _BLOBS, "BlobResult.publish", kinds=WITH_BLOBS),
    Step("10 before the record", "zodbvault.repository.publish", "publish_record", kinds=WITH_DATA),
    Step("10 before the line", "zodbvault.repository.publish", "publish_line", kinds=WITH_DATA),
    Step("10 published", _BLOBS, "BlobResult.settle", kinds=WITH_BLOBS),
    Step("11 before the prune", _BACKUP, "prune_repository"),
    Step("11 chains pruned", _BACKUP, "prune_chains", is_before=False),
    Step("11 before the blobs go", _BLOBS, "BlobBackup.prune", kinds=frozenset({PRUNING})),
    Step("11 before post_command", _BACKUP, "run_users_command", call=2),
)

_RESTORE = "zodbvault.commands.restore"
_RESTORE_BLOBS = "zodbvault.commands.restore_blobs"

RESTORE_STEPS: tuple[Step, ...] = (
    Step("3 all locked", _RESTORE, "_restore"),
    Step("4 before the check of files", _RESTORE, "check_files"),
    Step("4 before the blobs are compared", _RESTORE_BLOBS, "BlobRestore.check_before_writing"),
    Step("5 before the bytes", _RESTORE, "write_data"),
    Step("5 bytes written", _RESTORE, "write_data", is_before=False),
    Step("6 judged", _RESTORE_BLOBS, "BlobRestore.judge", is_before=False),
    Step("6 before blobs are added", _RESTORE_BLOBS, "BlobRestore.add"),
    Step("6 blobs added", _RESTORE_BLOBS, "BlobRestore.add", is_before=False),
    Step("7 before the swap", _RESTORE, "swap"),
    Step("7 index gone", _DURABLE, "PartFile.publish"),
    Step("7 swapped", _RESTORE, "swap", is_before=False),
    Step("8 before blobs are removed", _RESTORE_BLOBS, "BlobRestore.remove"),
    Step("8 blobs removed", _RESTORE_BLOBS, "BlobRestore.remove", is_before=False),
)


@dataclass
class Happening:
    """What happens at one step, once. times: how often it did."""

    act: Callable[[], None]
    call: int
    times: int = 0
    calls: int = 0
    _lock: Lock = field(default_factory=Lock)

    def came_by(self) -> None:
        """The command is at this place; it is the right call, or too early or too late."""
        with self._lock:
            # What happens may come by the same place itself.
            self.calls += 1
            is_now = self.calls == self.call
        if is_now:
            self.act()
            self.times += 1


def let_happen(monkeypatch: pytest.MonkeyPatch, step: Step, act: Callable[[], None]) -> Happening:
    """Let `act` happen at `step` of the next command of this process."""
    happening = Happening(act, step.call)
    owner: Any = importlib.import_module(step.module)
    *classes, name = step.attribute.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, name)

    @functools.wraps(original)
    def around(*arguments: Any, **keywords: Any) -> Any:
        if step.is_before:
            happening.came_by()
        result = original(*arguments, **keywords)
        if not step.is_before:
            happening.came_by()
        return result

    monkeypatch.setattr(owner, name, around)
    return happening
