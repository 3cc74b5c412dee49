from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zodbvault.io.closing import QuietFile, close_fd

if TYPE_CHECKING:
    from pathlib import Path


def test_closing_never_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    os.close(fd)
    close_fd(fd)
    file = QuietFile(str(path))
    assert file.read() == b"content"
    os.close(file.fileno())
    file.close()
    assert file.closed
