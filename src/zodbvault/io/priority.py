"""Yielding to the running site: a lower priority for this process, for the processor and for the disk.

Only lowers, and only when asked; what the system cannot do is logged and done without. Knows no command.
"""

from __future__ import annotations

import logging
import os

from zodbvault.io.c_library import c_function

logger = logging.getLogger(__name__)

# ioprio_set(2): its number by machine (there is no function for it in the C library), and the class `idle`.
_SYSTEM_CALLS = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_IDLE = 3 << 13


def yield_processor(nice: int) -> None:
    """Add `nice` (0 to 19) to this process' niceness; 0 leaves it."""
    if not nice:
        return
    try:
        os.nice(nice)
    except OSError as error:
        logger.warning("The process cannot be made nicer: %s", error.strerror)


def yield_disk() -> None:
    """Put this process into the idle class of disk priorities: it is served when nobody else asks.

    Linux, with a disk scheduler that has priorities (bfq); elsewhere without effect.
    """
    number = _SYSTEM_CALLS.get(os.uname().machine) if os.uname().sysname == "Linux" else None
    call = None if number is None else c_function("syscall")
    if call is None:
        logger.warning("This system has no idle priority for disks.")
    elif call(number, _WHO_PROCESS, 0, _IDLE) != 0:
        import ctypes

        logger.warning("The idle priority for disks cannot be had: %s", os.strerror(ctypes.get_errno()))
