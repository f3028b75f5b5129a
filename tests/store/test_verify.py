import errno
import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import CacheMissingError, CorruptError, MismatchError, UsageError
from featcache.store import CacheWriter, Damage, open_cache, read_state, verify_cache
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.verify import require_sound
from tests.store.conftest import MakeRecipe, Recipe, random_rows


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def damages_by_byte(manifest: Manifest) -> dict[int, tuple[str, int, int]]:
    """Which (split, first row, last row) the damage of a byte should name; others are refused."""
    places: dict[int, tuple[str, int, int]] = {}
    for block in manifest.blocks():
        slot = manifest.ledger.offset + 64 * block.slot
        for offset, nbytes in [*manifest.block_extents(block), (slot, 64)]:
            wanted = (block.split, block.start, block.stop - 1)
            places |= dict.fromkeys(range(offset, offset + nbytes), wanted)
    if manifest.statistics is not None:
        extent = manifest.statistics.extent
        slot = manifest.ledger.offset + 64
        for offset, nbytes in [(extent.offset, extent.nbytes), (slot, 64)]:
            places |= dict.fromkeys(range(offset, offset + nbytes), ("trunk", 0, 0))
    return places


def test_a_sound_cache_is_sound_with_all_rows_checked(built: Path) -> None:
    report = verify_cache(built)

    assert report.is_sound
    assert report.path == built
    assert (report.n_rows_checked, report.n_rows) == (13, 13)
    assert (report.n_blocks_checked, report.n_blocks, report.n_missing) == (4, 4, 0)


@pytest.mark.parametrize("offset", [0, MANIFEST_OFFSET + HEADER_LENGTH + 1])
def test_the_command_that_mends_is_quoted_for_a_shell(built: Path, offset: int) -> None:
    path = built.rename(built.with_name("a cache's name.h5"))
    overwrite(path, offset, b"\xff")

    with pytest.raises(CorruptError) as caught:
        verify_cache(path)

    command = str(caught.value).partition("Mend it with: ")[2]
    assert shlex.split(command) == ["featcache", "cache", "repair", str(path)]


def test_damaged_rows_are_mended_by_a_command_quoted_for_a_shell(built: Path) -> None:
    path = built.rename(built.with_name("a cache's name.h5"))
    manifest = read_state(path).manifest
    overwrite(path, next(iter(damages_by_byte(manifest))), b"\xff\xff\xff\xff")

    with pytest.raises(CorruptError) as caught:
        require_sound(open_cache(path))

    see, mend = str(caught.value).partition("See all with: ")[2].split(". Mend it with: ")
    assert shlex.split(see) == ["featcache", "cache", "verify", str(path)]
    assert shlex.split(mend) == ["featcache", "cache", "repair", str(path)]


def test_a_flipped_bit_anywhere_is_found_and_named(make_recipe: MakeRecipe) -> None:
    rows = {"train": random_rows(3, 2, reasons={1: "cut"}), "test": random_rows(1, 2)}
    statistics = np.array([1, 2], np.float32)
    path = make_recipe(splits=rows, rows_per_block=2, statistics=statistics).build()
    wanted = damages_by_byte(read_state(path).manifest)
    content = path.read_bytes()
    offsets = [i for i, byte in enumerate(content) if byte or i in wanted or i % 16 == 0]
    assert len(offsets) > 2000

    for offset in offsets:
        overwrite(path, offset, bytes([content[offset] ^ 1 << offset % 8]))
        try:
            report = verify_cache(path)
        except (CorruptError, MismatchError):
            assert offset not in wanted, offset
        else:
            found = [(d.split, d.first_row, d.last_row) for d in report.damages]
            assert found == [wanted[offset]], offset
        overwrite(path, offset, content[offset : offset + 1])

    assert verify_cache(path).is_sound


@pytest.mark.parametrize("n_cut", [1, 2, 15, 100, 1000, 4000, 6000])
def test_a_cut_file_is_refused(built: Path, n_cut: int) -> None:
    os.truncate(built, built.stat().st_size - n_cut)

    with pytest.raises(CorruptError, match="bytes, but its manifest says"):
        verify_cache(built)


def test_a_file_cut_at_any_256th_byte_is_refused(built: Path) -> None:
    size = built.stat().st_size

    for end in range(size - 256, -1, -256):
        os.truncate(built, end)
        with pytest.raises(CorruptError):
            verify_cache(built)


@pytest.mark.parametrize("n_more", [1, 4096])
def test_an_extended_file_is_refused(built: Path, n_more: int) -> None:
    with built.open("ab") as file:
        file.write(bytes(n_more))

    with pytest.raises(CorruptError, match="it was cut or extended"):
        verify_cache(built)


def test_every_zeroed_page_is_found(make_recipe: MakeRecipe) -> None:
    splits = {"train": random_rows(200, 64, reasons={150: "cut"})}
    path = make_recipe(splits=splits, rows_per_block=2).build()
    content = path.read_bytes()

    for start in range(0, len(content), 4096):
        page = content[start : start + 4096]
        if not any(page):
            continue
        overwrite(path, start, bytes(len(page)))
        try:
            is_sound = verify_cache(path).is_sound
        except CorruptError:
            is_sound = False
        assert not is_sound, start
        overwrite(path, start, page)

    assert verify_cache(path).is_sound


def test_a_zeroed_page_of_the_ledger_names_its_blocks(make_recipe: MakeRecipe) -> None:
    splits = {"train": random_rows(200, 2)}
    path = make_recipe(splits=splits, rows_per_block=2).build()
    ledger = read_state(path).manifest.ledger
    overwrite(path, ledger.offset + 4096, bytes(ledger.nbytes - 4096))

    report = verify_cache(path)

    assert report.n_missing == 0
    assert [d.first_row for d in report.damages] == list(range(2 * 63, 200, 2))


def test_two_swapped_blocks_are_both_found(built: Path) -> None:
    extent = read_state(built).manifest.splits["train"].columns["features"]
    (first, nbytes), (second, _) = extent.rows(0, 4), extent.rows(4, 8)
    content = built.read_bytes()
    overwrite(built, first, content[second : second + nbytes])
    overwrite(built, second, content[first : first + nbytes])

    report = verify_cache(built)

    assert [(d.block, d.first_row, d.last_row) for d in report.damages] == [(0, 0, 3), (1, 4, 7)]


def test_two_blocks_swapped_with_their_slots_are_both_found(built: Path) -> None:
    ledger = read_state(built).manifest.ledger
    content = built.read_bytes()
    first, second = ledger.offset + 64, ledger.offset + 128
    overwrite(built, first, content[second : second + 64])
    overwrite(built, second, content[first : first + 64])

    report = verify_cache(built)

    assert [d.block for d in report.damages] == [0, 1]


def test_a_damage_says_where_it_is_and_what_it_is(built: Path) -> None:
    extent = read_state(built).manifest.splits["test"].columns["features"]
    overwrite(built, extent.offset, b"\xff\xff\xff\xff")

    report = verify_cache(built)

    assert report.damages == (Damage("test", 3, 0, 2, "the SHA-256 of its rows is not as written"),)
    assert not report.is_sound


def test_a_damaged_slot_is_told_from_damaged_rows(built: Path) -> None:
    ledger = read_state(built).manifest.ledger
    overwrite(built, ledger.offset + 64 + 20, b"\xff\xff\xff")

    report = verify_cache(built)

    assert report.damages == (Damage("train", 0, 0, 3, "its ledger slot is not as written"),)
    assert (report.n_blocks_checked, report.n_missing) == (3, 0)


def test_rows_that_the_disk_cannot_read_cost_their_block_only(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = read_state(built).manifest.splits["train"].columns["features"].rows(4, 5)[0]
    pread = os.pread

    def read(fd: int, nbytes: int, offset: int) -> bytes:
        if offset <= bad < offset + nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", read)

    report = verify_cache(built)

    assert report.damages == (
        Damage("train", 1, 4, 7, "its rows cannot be read (Input/output error)"),
    )


def test_a_partial_file_is_checked_as_far_as_it_is_written(recipe: Recipe) -> None:
    with recipe.create() as writer:
        recipe.write(writer, writer.pending()[:1])

    report = verify_cache(recipe.partial)

    assert report.is_sound
    assert (report.n_blocks_checked, report.n_missing, report.n_rows_checked) == (1, 3, 4)


def test_a_partial_file_without_rows_has_nothing_to_check(recipe: Recipe) -> None:
    recipe.create().close()

    report = verify_cache(recipe.partial)

    assert (report.n_blocks_checked, report.n_missing) == (0, 4)


def test_a_repaired_block_is_sound_again(recipe: Recipe) -> None:
    with recipe.create() as writer:
        recipe.write(writer, writer.pending())
        victim = writer.acknowledged()[0]
        offset = writer.manifest.splits["train"].columns["features"].offset
    overwrite(recipe.partial, offset, b"\xff")
    assert not verify_cache(recipe.partial).is_sound

    with CacheWriter.resume(recipe.path, recipe.rows()) as writer:
        assert writer.recheck() == [victim]
        recipe.write(writer, [victim])

    assert verify_cache(recipe.partial).is_sound


def test_a_subset_checks_its_share_of_the_blocks(make_recipe: MakeRecipe) -> None:
    path = make_recipe(splits={"train": random_rows(80, 2)}).build()

    report = verify_cache(path, subset=0.25)

    assert (report.n_blocks_checked, report.n_rows_checked, report.n_rows) == (5, 20, 80)


def test_the_smallest_subset_is_one_block(built: Path) -> None:
    report = verify_cache(built, subset=1e-9)

    assert report.n_blocks_checked == 1


def test_subsets_drawn_often_enough_reach_every_block(built: Path) -> None:
    extent = read_state(built).manifest.splits["train"].columns["features"]
    overwrite(built, extent.offset, b"\xff")

    reports = [verify_cache(built, subset=0.25) for _ in range(200)]  # 1 in 10^25 to miss it

    assert not all(report.is_sound for report in reports)


@pytest.mark.parametrize("subset", [0, -0.1, 1.01, float("nan")])
def test_a_subset_that_is_no_share_is_a_usage_error(built: Path, subset: float) -> None:
    with pytest.raises(UsageError, match=r"--subset is .*, but must be above 0 and at most 1"):
        verify_cache(built, subset=subset)


def test_progress_counts_the_blocks(built: Path) -> None:
    seen: list[tuple[int, int]] = []

    verify_cache(built, on_progress=lambda i, n: seen.append((i, n)))

    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_verifying_nothing_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match=r"nowhere\.h5"):
        verify_cache(tmp_path / "nowhere.h5")


def test_verifying_changes_nothing(built: Path) -> None:
    before = (built.read_bytes(), built.stat().st_mtime_ns)

    verify_cache(built)

    assert (built.read_bytes(), built.stat().st_mtime_ns) == before
    assert [p.name for p in built.parent.iterdir()] == [built.name]
