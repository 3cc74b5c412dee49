"""What is left behind: threads and open files that were not there before.

Only what is new counts. Files of earlier tests may be closed meanwhile, by Python's collector, and their threads end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_files() -> frozenset[str]:
    """The numbers of this process' descriptors, and of the one by which they are listed: the first that is free."""
    # What nobody has any more is not to be closed just between two looks: its number would be another file's then.
    gc.collect()
    return frozenset(os.listdir("/dev/fd"))


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """In the end no file is open that was not so before."""
    before = open_files()
    yield
    assert open_files() - before == set()


@contextlib.contextmanager
def no_thread_left() -> Iterator[frozenset[threading.Thread]]:
    """In the end no thread is there that was not there before; gives those that were."""
    before = frozenset(threading.enumerate())
    yield before
    assert set(threading.enumerate()) - before == set()
