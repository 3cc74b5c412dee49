"""A backup that others are told of: metrics for Prometheus in a file, and pings to a service that misses them.

Whatever goes wrong here is a warning, never the end of a backup. Imported only where a site asks for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from zodbvault.commands.backup import backup
from zodbvault.commands.facts import look
from zodbvault.commands.metrics import write_metrics
from zodbvault.commands.places import ALL
from zodbvault.commands.watching import Thresholds
from zodbvault.errors import ZodbvaultError
from zodbvault.io.locks import AlreadyRunning
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zodbvault.commands.summary import BackupReport
    from zodbvault.io.clock import Clock
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

TIMEOUT = 5.0
"""Seconds that a server may take for one step of its answer."""
PATIENCE = 10.0
"""Seconds after which a ping is given up, whatever it waits for (looking up a name has no other limit)."""
LINES = 20
"""Lines of the log that a failure brings with it."""
LONGEST = 10_000
"""Characters that are sent."""


def backup_and_tell(settings: Settings, *, full: bool, clock: Clock) -> BackupReport:
    """Back up one site, and tell of it. Raises what `backup` raises."""
    return tell_of(settings, lambda: backup(settings, full=full, clock=clock), clock=clock)


def tell_of(settings: Settings, make: Callable[[], BackupReport], *, clock: Clock) -> BackupReport:
    """Make a backup of any kind, and tell of it. Raises what `make` raises.

    A run that finds another one at work tells nothing: the other one will.
    """
    healthcheck = Healthcheck(settings.healthcheck_url) if settings.healthcheck_url else None
    with _last_lines() as lines:
        if healthcheck is not None:
            healthcheck.begin()
        try:
            report = make()
        except AlreadyRunning:
            raise
        except BaseException as error:
            _write_metrics(settings, clock)
            if healthcheck is not None:
                healthcheck.end("fail", "\n".join([*lines, f"ERROR: {str(error) or type(error).__name__}"]))
            raise
    _write_metrics(settings, clock)
    if healthcheck is not None:
        healthcheck.end("", report.summary)
    return report


def _write_metrics(settings: Settings, clock: Clock) -> None:
    if settings.metrics_file is None:
        return
    try:
        checked = look(settings, which=ALL, thresholds=Thresholds(), clock=clock)
        write_metrics(settings.metrics_file, settings.part, checked)
    except (ZodbvaultError, OSError) as error:
        logger.warning("The metrics are not written: %s. Check the option metrics_file.", str(error).rstrip("."))


class Healthcheck:
    """The address of a service such as healthchecks.io, which raises an alarm when nobody calls for too long.

    url: is called when a backup succeeded, with `/start` behind its path when one begins, with `/fail` when it failed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._beginning: threading.Thread | None = None

    def begin(self) -> None:
        """Tell that a backup begins, without waiting for it."""
        self._beginning = self._ping("start", "")

    def end(self, what: str, text: str) -> None:
        """Tell how it ended; what: "" or "fail". Comes back when that is told, or cannot be told."""
        if self._beginning is not None:
            # Else it may come after the end, and a backup would seem to go on for ever.
            self._beginning.join(PATIENCE)
        thread = self._ping(what, text)
        thread.join(PATIENCE)
        if thread.is_alive():
            logger.warning("The health check was not told of the backup: no answer in %.0f seconds.", PATIENCE)

    def _ping(self, what: str, text: str) -> threading.Thread:
        """Call in a thread of its own, which ends with the process."""
        thread = threading.Thread(target=_call, args=(address(self._url, what), text), daemon=True)
        thread.start()
        return thread


def address(url: str, what: str) -> str:
    """The address for an event; what: "start", "fail", or "" for a success. A query stays behind the path."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{what}").geturl() if what else url


def _call(url: str, text: str) -> None:
    body = text[-LONGEST:].encode("utf-8", "backslashreplace")
    headers = {"User-Agent": f"zodbvault/{VERSION}", "Content-Type": "text/plain; charset=utf-8"}
    try:
        request = Request(url, data=body, headers=headers)  # noqa: S310 - the settings allow http and https only
        with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            answer.read(1)
    except (OSError, ValueError, HTTPException) as error:
        # Not the whole address: who knows it can make a dead backup look alive.
        logger.warning("The health check at %s was not told of the backup: %s", urlsplit(url).hostname, error)


@contextmanager
def _last_lines() -> Iterator[deque[str]]:
    """Collect the last lines that are logged."""
    collector = _Collector()
    project = logging.getLogger("zodbvault")
    project.addHandler(collector)
    try:
        yield collector.lines
    finally:
        project.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember a line as it is shown."""
        self.lines.append(f"{record.levelname}: {record.getMessage()}")
