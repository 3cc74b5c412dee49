from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from zodbvault.io.c_library import c_function

if TYPE_CHECKING:
    import pytest


def test_a_function_of_the_c_library_can_be_called() -> None:
    getpid = c_function("getpid")
    assert getpid is not None
    assert getpid() == os.getpid()


def test_one_that_is_missing_is_none() -> None:
    assert c_function("zodbvault_has_no_such_function") is None


def test_without_ctypes_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert c_function("getpid") is None
