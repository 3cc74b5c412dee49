"""The crontab of whoever runs the tests: theirs to use for a while, and put back as it was, whatever happens."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def crontab(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The program."""
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(["crontab", *arguments], input=given, capture_output=True, env=environment)


@contextmanager
def own_crontab() -> Iterator[None]:
    """Let a test change the crontab."""
    # Each user has only one, and tests run side by side.
    with open(f"/tmp/zodbvault-tests-crontab-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = crontab("-l")
        assert before.returncode == 0 or b"no crontab for" in before.stderr, before.stderr
        try:
            yield
        finally:
            if before.returncode == 0:
                assert crontab("-", given=before.stdout).returncode == 0
            else:
                crontab("-r")
            assert crontab("-l").stdout == before.stdout
