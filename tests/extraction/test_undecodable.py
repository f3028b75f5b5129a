"""Images that this machine cannot decode: named, left out on demand, computed by repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import featcache
from featcache.errors import DeviceError, UsageError
from featcache.extraction.result import ExtractResult
from featcache.images import decode_process
from tests.extraction.interruptions import interrupt
from tests.paces import small_blocks

Extract = Callable[..., ExtractResult]
REASON = "not decoded here: more than 0.08 CPU seconds"


@pytest.fixture(autouse=True)
def _small_blocks() -> Iterator[None]:
    with small_blocks():
        yield


@pytest.fixture
def slow_image(image_folder: Path) -> Path:
    """One image of 25 million pixels; it takes a fifth of a second, the others a thousandth."""
    path = image_folder / "train" / "cat" / "100-slow.png"
    Image.new("L", (5000, 5000), 99).save(path, compress_level=1)
    return path


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which an image may take 80 ms; `undo` makes it an ordinary one.

    No image of a test takes the usual limit, which is no option.
    """
    with monkeypatch.context() as patch:
        patch.setattr(decode_process, "CPU_SECONDS_PER_IMAGE", 0.08)
        yield patch


def test_an_image_that_takes_too_long_stops_the_run_with_its_name(
    extract: Extract, slow_image: Path, hurry: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match=rf"^{slow_image} cannot be decoded on this machine"):
        extract(n_workers=2)
    hurry.undo()
    resumed = extract(n_workers=2)

    assert resumed.outcome == "resumed"
    assert not resumed.failures


def test_left_out_it_is_counted_and_computed_by_repair(
    extract: Extract, slow_image: Path, hurry: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes: list[str] = []

    result = extract(n_workers=2, skip_undecodable=True, on_note=notes.append)

    [failure] = result.failures
    assert (failure.id, failure.reason) == ("train/cat/100-slow.png", REASON)
    assert any("100-slow.png: a decoding process ended at it" in note for note in notes)
    assert [s.n_not_decoded for s in featcache.describe_cache(result.path).splits] == [1, 0]
    with pytest.raises(DeviceError, match=r"100-slow\.png"):
        featcache.repair_cache(result.path, n_workers=2)
    assert featcache.repair_cache(result.path, n_workers=2, skip_undecodable=True).was_sound
    hurry.undo()
    report = featcache.repair_cache(result.path, n_workers=2)

    assert (report.n_rows_computed, report.n_not_decoded) == (64, 0)
    fresh = extract(cache_dir=tmp_path / "fresh")
    assert result.path.read_bytes() == fresh.path.read_bytes()
    assert featcache.repair_cache(result.path, n_workers=2).was_sound


def test_a_partial_file_with_such_a_row_goes_on(
    extract: Extract, slow_image: Path, hurry: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The row is in the first block, whose first batch is computed again to compare."""
    slow_image.rename(slow_image.with_name("000-slow.png"))
    options = {"n_workers": 2, "skip_undecodable": True}
    interrupt(extract, 4, **options)
    interrupt(extract, 2, **options)
    hurry.undo()

    interrupt(extract, 2, **options)  # this machine can decode it, and the row stays marked
    resumed = extract(n_workers=2)

    assert not resumed.failures
    fresh = extract(cache_dir=tmp_path / "fresh")
    assert resumed.path.read_bytes() == fresh.path.read_bytes()


def test_statistics_are_not_adapted_without_an_image_that_only_this_machine_lacks(
    extract: Extract, slow_image: Path, hurry: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match=r"100-slow\.png cannot be decoded"):
        extract(n_workers=2, skip_undecodable=True, bn="adapted")


def test_more_pixels_than_allowed_are_another_identity_only_if_asked(
    extract: Extract, slow_image: Path
) -> None:
    usual, same = extract(), extract(max_pixels=178_956_970)
    fewer = extract(max_pixels=1000)

    assert same.path == usual.path
    assert "max_pixels" not in featcache.open_cache(usual.path).identity
    assert featcache.open_cache(fewer.path).identity["max_pixels"] == 1000
    [failure] = fewer.failures
    assert failure.reason == "decompression bomb: 25000000 pixels"
    sound = fewer.path.read_bytes()
    with fewer.path.open("r+b") as file:
        file.seek(-9000, 2)
        file.write(b"\x01" * 16)
    featcache.repair_cache(fewer.path, n_workers=0)
    assert fewer.path.read_bytes() == sound


def test_a_line_of_pixels_that_grows_beyond_measure_is_no_row(
    extract: Extract, image_folder: Path
) -> None:
    """Its shorter side is resized to 256 pixels, its longer one to 256 times what it was."""
    Image.new("L", (1_000_000, 1)).save(image_folder / "train" / "cat" / "line.png")

    result = extract(preprocess="weights", image_size=32)

    [failure] = result.failures
    assert failure.reason.startswith("too long and narrow: 1000000 x 1 pixels")


def test_rules_for_files_are_refused_where_images_are_arrays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-pixels 9 is for image files.*digits"):
        featcache.extract("digits", backbone="pixels", max_pixels=9, cache_dir=tmp_path)
    with pytest.raises(UsageError, match="--exif-orientation apply is for image files"):
        featcache.extract("digits", backbone="pixels", exif_orientation="apply", cache_dir=tmp_path)
