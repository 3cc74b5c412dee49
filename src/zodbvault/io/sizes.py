"""A number of bytes in words for people. Knows nothing of what the bytes are."""

from __future__ import annotations


def size_text(size: float) -> str:
    """A number of bytes for people: `734 bytes`, `1.2 MB` (decimal units)."""
    if size < 1000:
        return f"{int(size)} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
