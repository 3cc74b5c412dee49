"""The folders of some blobs and their dumpdirs, against a plain computation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.blobs.dumpdirs import FolderList
from zodbvault.blobs.layouts import path_for

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.blobs.layouts import Layout

numbers = st.sampled_from([0, 1, 2, 255, 256, 65536, 2**40, 2**64 - 1])
blobs = st.dictionaries(st.tuples(numbers, numbers), st.booleans(), max_size=12)


def expected(layout: Layout, found: dict[bytes, bool], marker: bytes) -> dict[str, bytes]:
    """Each folder with its dumpdir, as walking a tree of these files would give them; names in the order of bytes."""
    children: dict[str, dict[bytes, bytes]] = {"": {b".layout": marker} if marker else {}}
    for key, is_new in found.items():
        folder, name = os.path.split(path_for(layout, key))
        children.setdefault(folder, {})[name.encode()] = b"Y" if is_new else b"N"
        while folder:
            folder, name = os.path.split(folder)
            children.setdefault(folder, {})[name.encode()] = b"D"
    return {
        folder: b"".join(letter + name + b"\0" for name, letter in sorted(names.items())) + b"\0"
        for folder, names in children.items()
    }


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
@given(blobs=blobs, marker=st.sampled_from([b"", b"Y", b"N"]))
def test_each_folder_and_what_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout, blobs: dict[tuple[int, int], bool], marker: bytes
) -> None:
    scratch: Path = tmp_path_factory.getbasetemp()
    found = {oid.to_bytes(8, "big") + tid.to_bytes(8, "big"): new for (oid, tid), new in blobs.items()}
    with FolderList(layout, scratch) as folders:
        for key in sorted(found):
            folders.add(key, is_new=found[key])
        told = []
        for folder in folders.folders(marker):
            text = folder.dumpdir.read()
            assert len(text) == folder.size
            told.append((folder.path, text))
    assert dict(told) == expected(layout, found, marker)
    # Each folder stands before those in it.
    for number, (path, _) in enumerate(told):
        assert number == 0 if not path else os.path.dirname(path) in {earlier for earlier, _ in told[:number]}
