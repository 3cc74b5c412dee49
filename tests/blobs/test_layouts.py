from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB.blob import BushyLayout, LawnLayout, auto_layout_select

from zodbvault.blobs.layouts import (
    bushy_path,
    byte_of_bushy_folder,
    key_of_bushy,
    key_of_lawn,
    lawn_path,
    oid_of_lawn_folder,
    path_for,
    read_layout,
    tid_of_file,
)
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path

keys = st.one_of(
    st.binary(min_size=16, max_size=16),
    # Small numbers, whose names are short.
    st.builds(
        lambda oid, tid: oid.to_bytes(8, "big") + tid.to_bytes(8, "big"), st.integers(0, 70000), st.integers(0, 70000)
    ),
)


@given(keys)
def test_paths_are_those_that_zodb_gives_its_blobs(key: bytes) -> None:
    assert bushy_path(key) == BushyLayout().getBlobFilePath(key[:8], key[8:])
    assert lawn_path(key) == LawnLayout().getBlobFilePath(key[:8], key[8:])
    assert path_for("bushy", key) == bushy_path(key)
    assert path_for("lawn", key) == lawn_path(key)


@given(keys)
def test_a_path_gives_its_key_back(key: bytes) -> None:
    assert key_of_bushy(bushy_path(key)) == key
    assert key_of_lawn(lawn_path(key)) == key
    folder, _, name = lawn_path(key).partition("/")
    assert oid_of_lawn_folder(folder) == key[:8]
    assert tid_of_file(name) == key[8:]


@given(st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=7, max_size=7)), unique=True))
def test_the_order_of_keys_is_that_of_bushy_paths(parts: list[tuple[bytes, bytes]]) -> None:
    # tids of our days all have 8 bytes without leading zeros
    found = [oid + b"\x03" + tid for oid, tid in parts]
    assert [bushy_path(key) for key in sorted(found)] == sorted(bushy_path(key) for key in found)


KEY = bytes(7) + b"\x1c" + bytes.fromhex("03e8a1b2c3d4e5f6")
BUSHY = bushy_path(KEY)
LAWN = lawn_path(KEY)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/" + BUSHY,
        BUSHY + "/",
        "../" + BUSHY,
        BUSHY.replace("/0x1c", "/0x1C"),
        BUSHY.replace("/0x1c", "/0x01c"),
        BUSHY.replace("/0x1c", "/0x1"),
        BUSHY.replace("/0x1c", "/../0x1c"),
        BUSHY.replace("/0x1c", "//0x1c"),
        BUSHY.replace("/0x1c", "/1c"),
        BUSHY.replace("/0x1c", "/0x1c/0x00"),
        BUSHY.replace("/0x1c", "/0x 1"),
        BUSHY.replace("0x03e8", "0x0003e8"),
        BUSHY.replace("0x03e8", "0x3e8"),
        BUSHY.replace("0x03e8", "0x03E8"),
        BUSHY.replace("0x03e8", "03e8"),
        BUSHY.replace(".blob", ".blob\n"),
        BUSHY.replace(".blob", ".Blob"),
        BUSHY.replace(".blob", ""),
        BUSHY.replace("0x03e8", "0x\u0660\u0663e8"),
        LAWN,
        "0x00/" * 8 + ".blob",
        "0x00/" * 8 + "0x.blob",
        "tmp/x.blob",
        ".layout",
    ],
)
def test_only_the_exact_bushy_path_is_a_blobs(path: str) -> None:
    assert key_of_bushy(BUSHY) == KEY
    assert key_of_bushy(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/" + LAWN,
        "./" + LAWN,
        LAWN.replace("0x1c/", "0x001c/"),
        LAWN.replace("0x1c/", "0x1C/"),
        LAWN.replace("0x1c/", "1c/"),
        LAWN.replace("0x1c/", "0x/"),
        LAWN.replace("0x1c/", "0x1c/0x1c/"),
        LAWN.replace("0x1c/", "0x" + "11" * 9 + "/"),
        LAWN.replace("0x03e8", "0x" + "11" * 8),
        BUSHY,
    ],
)
def test_only_the_exact_lawn_path_is_a_blobs(path: str) -> None:
    assert key_of_lawn(LAWN) == KEY
    assert key_of_lawn(path) is None


@pytest.mark.parametrize(
    "name", ["", "0x", "0x0", "0x1", "0x1G", "0x1C", "1c00", "0x011", "0 1c", "0x 1", "tmp", "x01c"]
)
def test_other_folders_are_no_bytes_of_an_oid(name: str) -> None:
    assert byte_of_bushy_folder("0x1c") == b"\x1c"
    assert byte_of_bushy_folder(name) is None


@pytest.mark.parametrize("name", ["", "0x", "0x1", "0x001c", "1c", "0x1C", "tmp", "0x" + "1" * 18, "lost+found"])
def test_other_folders_are_no_oids_of_a_lawn(name: str) -> None:
    assert oid_of_lawn_folder("0x1c") == bytes(7) + b"\x1c"
    assert oid_of_lawn_folder("0x00") == bytes(8)
    assert oid_of_lawn_folder(name) is None


@pytest.mark.parametrize(
    "fill",
    [[], [".hidden"], ["tmp"], ["lost+found"], [".hidden", "0x01"]],
    ids=lambda names: "+".join(names) or "empty",
)
def test_a_folder_without_marker_has_the_layout_that_zodb_would_choose(tmp_path: Path, fill: list[str]) -> None:
    for name in fill:
        (tmp_path / name).mkdir()
    assert read_layout(tmp_path) == auto_layout_select(str(tmp_path))


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_the_marker_says_the_layout(tmp_path: Path, layout: str) -> None:
    (tmp_path / ".layout").write_text(layout + "\n")
    assert read_layout(tmp_path) == layout == auto_layout_select(str(tmp_path))


def test_a_missing_folder_is_bushy_as_zodb_makes_it(tmp_path: Path) -> None:
    assert read_layout(tmp_path / "none") == "bushy"


@pytest.mark.parametrize(("word", "said"), [("zeocache", "server"), ("wood", "wood"), ("", "''"), ("x" * 500, "x")])
def test_other_markers_are_refused(tmp_path: Path, word: str, said: str) -> None:
    (tmp_path / ".layout").write_text(word)
    with pytest.raises(ZodbvaultError) as caught:
        read_layout(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_marker_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".layout").mkdir()
    with pytest.raises(ZodbvaultError, match="layout"):
        read_layout(tmp_path)
