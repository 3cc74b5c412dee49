"""Killing a command at each of its changes to the disk: a child process runs it, and dies at the number wanted.

What Python tells its audit hooks of counts: each name that is made, given, or taken away, and each file that is opened
for writing.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = frozenset(
    {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime"}
)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a change to the disk."""
    return event in CHANGES or (event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _TO_WRITE))


def killed_at(number: int, command: Callable[[], object]) -> bool:
    """Run `command` in a child that is killed before its change `number` (from 0 on); whether it came so far.

    A command that ends by itself has to end well.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            seen = 0

            def watch(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal seen
                if is_change(event, arguments):
                    if seen == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    seen += 1

            sys.addaudithook(watch)
            command()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
