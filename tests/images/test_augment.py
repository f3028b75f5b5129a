"""Views of an image: drawn by its id alone, the same for ever, cut and mirrored as PIL does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from featcache.core.preprocess import Preprocess
from featcache.core.views import Views
from featcache.images import batches
from featcache.images.augment import PLAIN, Box, SplitViews, View, draw
from featcache.images.batches import Span, load_batches
from featcache.images.image_files import FolderImages
from featcache.images.splits import ArrayImages, Split

BOTH = Views(n=4)
PREPARATIONS = {
    "notebook": Preprocess.notebook(24),
    "of weights": Preprocess(resize=30, crop=24, interpolation="bicubic"),
}


def test_draws_are_the_same_for_ever() -> None:
    drawn = [draw(BOTH, "cat/1.png", number, (500, 375)) for number in (1, 2, 3)]

    assert drawn == [
        View(Box(8, 18, 363, 362), True),
        View(Box(99, 8, 474, 361), False),
        View(Box(27, 3, 430, 316), False),
    ]


@pytest.mark.parametrize("size", [(32, 32), (500, 375), (300, 380)])
def test_a_crop_is_inside_and_has_the_area_and_the_ratio_that_are_documented(
    size: tuple[int, int],
) -> None:
    width, height = size

    drawn = [draw(BOTH, str(i), 1, size) for i in range(1000)]

    boxes = np.array([view.box for view in drawn])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) == 0
    assert (right.max(), bottom.max()) == size
    w, h = right - left, bottom - top
    rounding = 1 / min(size)  # of a side to a whole pixel
    share, ratio = w * h / (width * height), w / h
    assert share.min() > 0.6 - 2 * rounding
    assert share.min() < 0.62
    assert 3 / 4 - 2 * rounding < ratio.min() < ratio.max() < 4 / 3 + 2 * rounding
    assert 0.45 < np.mean([view.is_mirrored for view in drawn]) < 0.55


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 9), Box(494, 0, 506, 9)),
        ((9, 1000), Box(0, 494, 9, 506)),
        ((1, 1), Box(0, 0, 1, 1)),
    ],
)
def test_of_an_image_too_long_for_such_a_crop_the_middle_is_taken(
    size: tuple[int, int], box: Box
) -> None:
    assert draw(BOTH, "0", 1, size).box == box


def test_a_view_depends_on_seed_id_and_number_and_on_nothing_else() -> None:
    size = (64, 48)
    first = draw(BOTH, "0", 1, size)

    assert draw(Views(n=9, of="all"), "0", 1, size) == first
    others = [
        draw(Views(n=4, seed=1), "0", 1, size),
        draw(BOTH, "1", 1, size),
        draw(BOTH, "0", 2, size),
    ]
    assert len({first, *others}) == 4


def test_crops_are_the_same_with_and_without_mirroring() -> None:
    size = (64, 48)
    for image_id in map(str, range(20)):
        both = draw(BOTH, image_id, 1, size)

        assert draw(Views(n=4, augment=("crop",)), image_id, 1, size) == View(both.box)
        assert draw(Views(n=4, augment=("flip",)), image_id, 1, size) == View(
            None, both.is_mirrored
        )


def torchvisions(image: Image.Image, view: View, preprocess: Preprocess) -> npt.NDArray[Any]:
    """The view by torchvision's own functions on the PIL image."""
    assert view.box is not None
    left, top, right, bottom = view.box
    mode = InterpolationMode(preprocess.interpolation)
    size = list(preprocess.out_size)
    cut = resized_crop(image, top, left, bottom - top, right - left, size, mode)
    return np.array(hflip(cut) if view.is_mirrored else cut)


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("where", ["in memory", "in files"])
@pytest.mark.parametrize("preprocess", PREPARATIONS.values(), ids=PREPARATIONS.keys())
def test_batches_of_views_are_pils_crop_and_resize(
    where: str, preprocess: Preprocess, n_workers: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 28, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    names = tuple(f"{i}.png" for i in range(5))
    images = ArrayImages(pixels) if where == "in memory" else FolderImages(str(tmp_path), names)
    split = Split("train", images, np.zeros(5, np.int64), names)
    views = SplitViews(BOTH, 3, names)
    spans = [Span(0, 2), Span(2, 4), Span(4, 5)]

    found = [*load_batches(split, spans, preprocess=preprocess, n_workers=n_workers, views=views)]

    assert [(b.span, b.view) for b in found] == [(s, v) for s in spans for v in range(3)]
    n_mirrored = 0
    for batch in found:
        for row, prepared in enumerate(batch.images, start=batch.span.start):
            view = views.view(row, batch.view, (28, 20))
            n_mirrored += view.is_mirrored
            image = Image.fromarray(pixels[row])
            if batch.view:
                assert np.array_equal(prepared, torchvisions(image, view, preprocess))
            else:
                assert view == PLAIN
                (height, width), rows, columns = preprocess.geometry((20, 28))
                kernel = Image.Resampling[preprocess.interpolation.upper()]
                whole = np.array(image.resize((width, height), kernel))
                assert np.array_equal(prepared, whole[rows, columns])
    assert 0 < n_mirrored < 10


def test_where_memory_is_short_views_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    split = Split("train", ArrayImages(pixels), np.zeros(4, np.int64), list("abcd"))
    preprocess, views = Preprocess.notebook(8), SplitViews(BOTH, 4, split.ids)

    def images(n_workers: int) -> list[tuple[int, bytes]]:
        found = load_batches(
            split, [Span(0, 4)], preprocess=preprocess, n_workers=n_workers, views=views
        )
        return [(batch.view, batch.images.tobytes()) for batch in found]

    at_once = images(0)
    monkeypatch.setattr(batches, "_MOST_BYTES", 3 * 4 * 8 * 8 * 3)

    assert [view for view, _ in at_once] == [0, 1, 2, 3]
    assert images(0) == at_once
    assert images(2) == at_once
