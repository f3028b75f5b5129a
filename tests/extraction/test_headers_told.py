"""What a run tells of its images' headers, and keeps; photos turned upright; HEIC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.config import ExtractSpec
from featcache.core.reporting import silent
from featcache.errors import DatasetError
from featcache.extraction.opening import open_images
from featcache.extraction.plan import make_plan
from featcache.extraction.result import ExtractResult
from featcache.extraction.run import make_caches
from featcache.images import image_names
from featcache.images.datasets import load_dataset
from featcache.images.decode import FORMAT_OF
from featcache.store import read_state
from tests.extraction.test_repair import damage

Extract = Callable[..., ExtractResult]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six images: two of phones on their side, one of 16 bits."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split in ("train", "test"):
        for i in range(6):
            path = root / split / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(path)
    exif = Image.Exif()
    exif[274] = 6
    for i in (8, 9):
        image = Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8))
        image.save(root / "train" / "cat" / f"{i}.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (20, 16), np.uint16)).save(root / "test/dog/deep.png")
    return root


@pytest.fixture
def extract(photos: Path, tmp_path: Path) -> Extract:
    def extracted(**options: object) -> ExtractResult:
        asked = {"backbone": "pixels", "image_size": 16, "n_workers": 0}
        return featcache.extract(
            f"folder:{photos}", cache_dir=tmp_path / "cache", **asked | options
        )

    return extracted


def test_clipped_and_turned_images_are_told_and_kept_in_provenance(extract: Extract) -> None:
    notes: list[str] = []

    path = extract(on_note=notes.append).path

    assert any(
        note.startswith("grey images with more than 8 bits a channel: 1. As in")
        and note.endswith("To avoid this, convert them to 8 bits.")
        for note in notes
    )
    assert any(
        note.startswith("2 images not upright") and "--exif-orientation apply" in note
        for note in notes
    )
    provenance = featcache.describe_cache(path).provenance
    assert (provenance["clipped_images"], provenance["exif_turned_images"]) == (1, 2)
    assert "exif_orientation" not in featcache.open_cache(path).identity


def test_a_cache_that_counted_nothing_says_so(
    extract: Extract, photos: Path, tmp_path: Path
) -> None:
    """As those of 0.1 do, which are reused and repaired as they are."""
    spec = ExtractSpec(
        dataset=f"folder:{photos}",
        backbone="pixels",
        image_size=16,
        n_workers=0,
        cache_dir=str(tmp_path / "cache"),
    )
    images = open_images(spec, on_note=silent)
    plan = make_plan(spec, images, on_progress=silent, on_note=silent)
    uncounted = replace(plan, dataset=replace(plan.dataset, told={}))
    make_caches([uncounted], on_progress=silent, on_note=silent)
    path = plan.path
    sound = path.read_bytes()
    assert "clipped_images" not in read_state(path).manifest.provenance
    assert featcache.describe_cache(path).provenance["clipped_images"] == "unknown"

    assert extract().outcome == "reused"
    damage(path, "train", 0)
    featcache.repair_cache(path, n_workers=0)

    assert path.read_bytes() == sound
    digits = featcache.extract("digits", backbone="pixels", limit=4, cache_dir=tmp_path).path
    assert "clipped_images" not in featcache.describe_cache(digits).provenance


def test_photos_are_turned_where_that_is_asked_for_in_a_cache_of_their_own(
    extract: Extract,
) -> None:
    notes: list[str] = []
    usual = extract().path

    turned = extract(exif_orientation="apply", on_note=notes.append).path

    assert turned != usual
    assert featcache.open_cache(turned).identity["exif_orientation"] == "apply"
    assert any(note.startswith("2 images turned upright") for note in notes)
    one, other = (featcache.open_cache(path)["train"] for path in (usual, turned))
    differing = {
        one.ids[i] for i in range(len(one)) if (one.features[i] != other.features[i]).any()
    }
    assert differing == {"train/cat/8.jpg", "train/cat/9.jpg"}
    sound = turned.read_bytes()
    for row in range(len(one)):
        damage(turned, "train", row)
    featcache.repair_cache(turned, n_workers=0)
    assert turned.read_bytes() == sound


def test_parity_turns_photos_as_its_cache_does(photos: Path, tmp_path: Path) -> None:
    path = featcache.extract(
        f"folder:{photos}",
        backbone="mobilenet_v3_small",
        weights="random",
        image_size=32,
        exif_orientation="apply",
        n_workers=0,
        cache_dir=tmp_path / "cache",
    ).path

    report = featcache.parity(path, levels=(1,))

    assert report.holds


def test_heic_files_are_named_with_the_way_to_read_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the extra heif is not installed; here it may be.
    monkeypatch.setattr(image_names, "image_extensions", lambda: tuple(FORMAT_OF))
    for name in ("train/cat/a.HEIC", "train/dog/b.heif", "test/cat/c.heic"):
        (photos / name).write_bytes(b"ftypheic")

    dataset = load_dataset(f"folder:{photos}", data_dir="data")

    assert "3 HEIC files left out: install featcache[heif]." in dataset.notes
    assert not any("without an image extension" in note for note in dataset.notes)
    for path in photos.rglob("*.[pj][np]g"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DatasetError, match=r"HEIC files left out: install featcache\[heif\]"):
        load_dataset(f"folder:{photos}", data_dir="data")


def test_heic_files_are_rows_with_the_extra_whose_version_is_in_the_numeric_class(
    extract: Extract, photos: Path, tmp_path: Path
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    Image.init()  # saving an image brings all formats
    formats = set(Image.OPEN)
    before = extract().path
    image = Image.new("RGB", (64, 64), (200, 10, 60))
    heif = pillow_heif.from_pillow(image)
    heif.save(photos / "train" / "cat" / "a.heic", quality=100)
    image.save(photos / "train" / "dog" / "b.heic", format="PNG")
    (photos / "train" / "dog" / "c.jpg").write_bytes((photos / "train/cat/a.heic").read_bytes())

    result = extract()

    [failure] = result.failures
    assert (failure.id, failure.reason) == ("train/dog/c.jpg", "not an image")
    train = featcache.open_cache(result.path)["train"]
    for name in ("train/cat/a.heic", "train/dog/b.heic"):
        row = train.features[list(train.ids).index(name)].astype(int)
        assert np.abs(row - (200, 10, 60)).max() <= 3
    assert read_state(result.path).manifest.numerics["pillow_heif"] == pillow_heif.__version__
    assert "pillow_heif" not in read_state(before).manifest.numerics
    assert set(Image.OPEN) == formats
    few = extract(max_pixels=64 * 64 - 1)
    reasons = {failure.id: failure.reason for failure in few.failures}
    assert reasons["train/cat/a.heic"] == "decompression bomb: 4096 pixels"
