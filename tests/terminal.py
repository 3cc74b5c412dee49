"""A program on a terminal: what a person would see of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def shown_on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command, which has to end with 0, on a terminal; what it shows, without colours and movements."""
    main, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                read = os.read(main, 65536)
            except OSError:  # how Linux tells that nobody has the other side open
                break
            if not read:
                break
            shown += read
        assert process.wait(300) == 0, shown
    os.close(main)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
