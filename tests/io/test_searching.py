"""Finding bytes in a block: the same answers as Python's own search, at any size and place, in both kinds of bytes."""

from __future__ import annotations

import random

import pytest

from zodbvault.io import searching
from zodbvault.io.searching import WORTH_MEMMEM, Block

NAME = b"ZODB.blob"


def _random_block(chance: random.Random, size: int) -> bytes:
    """Bytes in which the name, parts of it and runs of zeros occur, at the very beginning and end too."""
    block = bytearray(chance.choices(b"\0ZODB.blob\n", k=size))
    for _ in range(chance.randrange(4)):
        at = chance.choice((0, size - len(NAME), chance.randrange(size)))
        block[at : at + len(NAME)] = NAME
    return bytes(block[:size])


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [100, WORTH_MEMMEM - 1, WORTH_MEMMEM, 3 * WORTH_MEMMEM])
def test_every_place_is_found(kind: type[bytes] | type[bytearray], size: int) -> None:
    chance = random.Random(size)
    for _ in range(20):
        data = kind(_random_block(chance, size))
        block = Block(data)
        for sought in (NAME, bytes(14), bytes(3)):
            start, end = sorted((chance.randrange(size + 1), chance.randrange(size + 1)))
            at = -1
            while True:
                expected = data.find(sought, start, end)
                found = block.find(sought, start, end)
                assert found == expected
                if found < 0:
                    break
                at, start = found, found + 1
            assert at < end


def test_an_end_before_the_start_is_an_empty_place_to_look_in() -> None:
    assert Block(bytes(WORTH_MEMMEM)).find(b"\0", 20, 10) == -1


def test_a_block_that_was_searched_can_be_filled_again() -> None:
    """The buffers of a backup are used many times; a search must not keep hold of one."""
    buffer = bytearray(WORTH_MEMMEM)
    assert Block(buffer).find(NAME, 0, len(buffer)) == -1
    buffer[-len(NAME) :] = NAME
    assert Block(buffer).find(NAME, 0, len(buffer)) == len(buffer) - len(NAME)
    buffer += b"more"


def test_without_the_c_librarys_search_pythons_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_memmem", lambda: None)
    data = bytes(WORTH_MEMMEM) + NAME
    assert Block(data).find(NAME, 1, len(data)) == WORTH_MEMMEM


def test_this_c_library_has_such_a_search() -> None:
    """Where it has none the tests above compare Python with itself."""
    assert searching._memmem() is not None
