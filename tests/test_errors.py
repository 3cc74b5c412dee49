from __future__ import annotations

import errno
import os

import pytest

from zodbvault.errors import ZodbvaultError, explained, reason_of


def error_about(role: str, name: str | None) -> ZodbvaultError:
    """Ours about one file, where the system's is about another."""
    error = ZodbvaultError("cannot be written: No space left on device", path=role, hint="Make some.")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    return error


def test_the_file_that_the_system_names_is_named_too() -> None:
    assert str(error_about("/pool", "/pool/tmp/x.part")) == (
        "/pool: cannot be written: No space left on device (/pool/tmp/x.part). Make some."
    )
    assert "(" not in str(error_about("/pool", "/pool"))
    assert "(" not in str(error_about("/pool", None))


def test_it_is_named_through_another_error_of_ours_too() -> None:
    outer = ZodbvaultError("restored, but the work on its blobs stopped", path="/blobs")
    outer.__cause__ = error_about("/blobs", "/blobs/.layout.part")
    assert str(outer).endswith("stopped (/blobs/.layout.part)")


def test_what_is_explained_has_one_name() -> None:
    with pytest.raises(ZodbvaultError) as caught, explained("not done"):
        os.stat("/there/is/no/such/file")
    assert str(caught.value) == "/there/is/no/such/file: not done: No such file or directory"
    assert caught.value.__cause__ is not None
    assert reason_of(caught.value.__cause__) == "No such file or directory"  # type: ignore[arg-type]


def test_what_another_program_says_with_a_full_stop_has_one() -> None:
    error = ZodbvaultError("cannot be written: can't install.", hint="Nothing was changed.")
    assert str(error) == "cannot be written: can't install. Nothing was changed."
