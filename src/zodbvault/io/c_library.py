"""Functions of the C library that Python has no name for.

ctypes is slow to import, and not everywhere there: it is imported with the first of them. Knows nothing of what they
do.
"""

from __future__ import annotations

from typing import Any


def c_function(name: str) -> Any | None:
    """A function of the C library; None where it, or ctypes, is missing. ctypes.get_errno() tells its error number."""
    try:
        import ctypes

        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (ImportError, OSError, AttributeError, MemoryError):
        # MemoryError: ctypes cannot be imported where memory may not be both written and executed.
        return None
