from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import CorruptError, UnsafeFileError
from featcache.store import FilePlan, mend_structure, read_state, structure_repair, verify_cache
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from tests.store.conftest import MakeRecipe, Recipe

Places = Callable[[Path], list[int]]


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def in_manifest(path: Path) -> list[int]:
    length = len(read_state(path).manifest.to_bytes())
    return [MANIFEST_OFFSET + i for i in (0, 24, 40, HEADER_LENGTH - 1, HEADER_LENGTH, length - 1)]


def in_ledger(path: Path) -> list[int]:
    ledger = read_state(path).manifest.ledger
    return [ledger.offset + i for i in range(0, ledger.nbytes, 13)]


def in_skeleton(path: Path) -> list[int]:
    places = []
    for offset, nbytes in read_state(path).manifest.skeleton_extents():
        places += [offset, offset + nbytes // 2, offset + nbytes - 1]
    return places


@pytest.mark.parametrize("places", [in_manifest, in_ledger, in_skeleton])
@pytest.mark.parametrize("is_adapted", [False, True])
def test_one_bit_outside_the_rows_is_put_right(
    make_recipe: MakeRecipe, places: Places, is_adapted: bool
) -> None:
    statistics = np.arange(7, dtype=np.float32) if is_adapted else None
    path = make_recipe(statistics=statistics).build()
    sound = path.read_bytes()
    for n, byte in enumerate(places(path)):
        flip(path, byte, n % 8)
        assert path.read_bytes() != sound

        assert len(mend_structure(path)) == 1, byte
        assert path.read_bytes() == sound, byte


def test_a_class_name_that_a_flip_cuts_short_is_put_right(make_recipe: MakeRecipe) -> None:
    """A space becomes a NUL, where the manifest seems to end."""
    path = make_recipe(class_names=("big ant", "bee", "cow")).build()
    sound = path.read_bytes()
    flip(path, sound.index(b"big ant") + 3, 5)

    assert mend_structure(path) == ["a bit of the manifest"]
    assert path.read_bytes() == sound


def test_hdf5s_bytes_are_made_anew_whatever_is_wrong_with_them(recipe: Recipe) -> None:
    path = recipe.build()
    sound = path.read_bytes()
    manifest = read_state(path).manifest
    content, n_manifest = bytearray(sound), len(manifest.to_bytes())
    for offset, nbytes in manifest.skeleton_extents():
        for i in range(offset, offset + nbytes):
            if not MANIFEST_OFFSET <= i < MANIFEST_OFFSET + n_manifest:
                content[i] ^= 0xFF
    path.write_bytes(content)

    assert mend_structure(path) == ["HDF5's own bytes"]
    assert path.read_bytes() == sound
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_slot_beyond_mending_is_emptied_and_its_block_counts_as_not_written(
    recipe: Recipe,
) -> None:
    path = recipe.build()
    ledger = read_state(path).manifest.ledger
    content = bytearray(path.read_bytes())
    content[ledger.offset + 128 : ledger.offset + 160] = b"\xff" * 32
    path.write_bytes(content)

    assert mend_structure(path) == ["ledger slot 2, emptied"]
    assert verify_cache(path).damages[0].what == "its ledger slot is not as written"


def test_a_lost_first_slot_is_made_from_a_structure_that_is_as_it_should_be(
    recipe: Recipe,
) -> None:
    path = recipe.build()
    sound = path.read_bytes()
    ledger = read_state(path).manifest.ledger
    content = bytearray(sound)
    content[ledger.offset : ledger.offset + 64] = bytes(64)
    path.write_bytes(content)

    assert mend_structure(path) == ["HDF5's own bytes"]
    assert path.read_bytes() == sound


def test_a_sound_file_is_left_alone(recipe: Recipe) -> None:
    path = recipe.build()
    before = path.stat().st_mtime_ns

    assert mend_structure(path) == []
    assert path.stat().st_mtime_ns == before


def test_what_cannot_be_mended_is_refused_and_left_as_it_is(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.build()
    sound = path.read_bytes()
    zeroed = bytearray(sound)
    zeroed[MANIFEST_OFFSET : MANIFEST_OFFSET + 512] = bytes(512)
    for content in (bytes(zeroed), sound[:-1], sound + b"\0", b"", b"text"):
        path.write_bytes(content)

        with pytest.raises(CorruptError):
            mend_structure(path)
        assert path.read_bytes() == content
    with pytest.raises(UnsafeFileError):
        mend_structure(tmp_path)


def test_another_hdf5_changes_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes would be proved wrong by the digest, so they are not written."""
    path = recipe.build()
    offset, nbytes = next(iter(read_state(path).manifest.skeleton_extents()))
    flip(path, offset + nbytes // 2, 0)
    damaged = path.read_bytes()
    real = structure_repair.skeleton_parts

    def other(plan: FilePlan) -> tuple[Manifest, list[tuple[int, bytes]]]:
        manifest, parts = real(plan)
        return manifest, [*parts, (offset, b"another")]

    monkeypatch.setattr(structure_repair, "skeleton_parts", other)

    with pytest.raises(CorruptError, match="Nothing was changed"):
        mend_structure(path)
    assert path.read_bytes() == damaged
