"""A bar on the terminal for a step that takes more than a moment, drawn by rich where that is installed.

Imported only where standard error is a terminal. Knows no command.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

AFTER = 1.0
"""Seconds that a step takes before a bar is shown."""


class Bars:
    """Listens to steps (io/progress.py) and shows the one that goes on: bytes, times, speed, time left."""

    def __init__(self) -> None:
        self._what = ""
        self._total: int | None = None
        self._began = 0.0
        self._told = 0
        self._bar: Progress | None = None
        self._is_possible = True

    def begin(self, what: str, total: int | None) -> None:
        """A step begins; the one before, if it did not end, is over."""
        self.end()
        self._what, self._total, self._began, self._told = what, total, time.monotonic(), 0

    def at(self, done: int) -> None:
        """So many bytes are done."""
        self._told += 1
        if self._bar is None:
            if not self._is_possible or time.monotonic() - self._began < AFTER:
                return
            self._show()
        if self._bar is not None:
            # Where nobody knows how much there will be, each call is one more blob.
            text = self._what if self._total is not None else f"{self._told:,} {self._what}"
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)

    def end(self) -> None:
        """The step is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            _log_to(sys.stderr)

    def _show(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
        except ImportError:
            self._is_possible = False
            return
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        # Gone when the step is: what was done, a log line says.
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task(self._what, total=self._total)
        self._bar.start()
        # What stands for standard error now puts lines above the bar.
        _log_to(sys.stderr)


def _log_to(stream: object) -> None:
    """Let the log lines of standard error go to what stands for it now."""
    for handler in logging.getLogger("zodbvault").handlers[:1]:
        if isinstance(handler, logging.StreamHandler):
            with suppress(ValueError):
                handler.setStream(stream)
