"""Entries of a site in a crontab: what stands beside the lines of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.commands.crontab import with_block
from zodbvault.errors import ZodbvaultError

BLOCK = b"# BEGIN zodbvault a /x\n1 * * * * a\n# END zodbvault a /x\n"
lines_of_others = st.lists(st.sampled_from([b"# BEGIN zodbvault b /x", b"\xff 1 * * * * other", b"", b"A=b", b"# x"]))


@given(lines_of_others, lines_of_others)
def test_the_lines_of_others_stay_byte_for_byte(before: list[bytes], behind: list[bytes]) -> None:
    old = b"".join(line + b"\n" for line in before)
    installed = with_block(old, "a /x", BLOCK)
    assert installed == old + BLOCK
    assert with_block(installed, "a /x", b"") == old
    rest = b"".join(line + b"\r\n" for line in behind)
    newer = BLOCK.replace(b"1 *", b"2 *")
    assert with_block(installed + rest, "a /x", newer) == old + newer + rest
    assert with_block(installed + rest, "a /x", b"") == old + rest
    assert with_block(old, "a /x", b"") == old


def test_a_last_line_without_its_end_stays_a_line() -> None:
    assert with_block(b"1 * * * * other", "a /x", BLOCK) == b"1 * * * * other\n" + BLOCK


@pytest.mark.parametrize("text", [b"# BEGIN zodbvault a /x\n", BLOCK + BLOCK, BLOCK.replace(b"# END", b"# AND")])
def test_marks_that_do_not_fit_are_for_a_person(text: bytes) -> None:
    with pytest.raises(ZodbvaultError, match=r"# BEGIN zodbvault a /x.*crontab -e"):
        with_block(text, "a /x", BLOCK)
