"""A process that stands back: by as much as it is asked to, and where the system cannot do it, with a warning only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zodbvault.settings import MOST_NICE

WHO_AM_I = """
import logging, os, sys
sys.path[0:0] = {path!r}
logging.basicConfig(format="%(message)s")
from zodbvault.io.priority import yield_disk, yield_processor
before = os.nice(0)
{change}
{call}
print(os.nice(0) - before)
"""


def in_another_process(call: str, change: str = "") -> tuple[str, str]:
    """What a process says that calls this, and to standard error; a priority is never raised again."""
    program = WHO_AM_I.format(path=sys.path, call=call, change=change)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return finished.stdout.strip(), finished.stderr.strip()


@pytest.mark.parametrize("nice", [0, 3])
def test_a_process_gets_nicer_by_what_is_asked_for(nice: int) -> None:
    # The tests may be as nice as can be themselves.
    added = min(os.nice(0) + nice, MOST_NICE) - os.nice(0)
    assert in_another_process(f"yield_processor({nice})") == (str(added), "")


@pytest.mark.parametrize(
    "change",
    [
        "os.uname = lambda: os.uname_result(('Darwin', 'host', '25.0', 'of today', 'arm64'))",
        "os.uname = lambda: os.uname_result(('Linux', 'host', '6.1', 'of today', 'mips64'))",
        "sys.modules['ctypes'] = None",
    ],
)
def test_where_no_idle_class_can_be_had_that_is_a_warning(change: str) -> None:
    assert in_another_process("yield_disk()", change) == ("0", "This system has no idle priority for disks.")
