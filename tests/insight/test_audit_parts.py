"""The parts of an audit, each beside what it should be by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.insight.audit.candidates import find_candidates
from featcache.insight.audit.duplicates import Pairs, exact_pairs
from featcache.insight.audit.grey import GreyArray, are_alike, compared, least_correlation, to_grey
from featcache.insight.audit.keep_list import kept_rows
from featcache.insight.audit.outliers import deviations
from featcache.insight.audit.rows import AuditedRows
from tests.insight.test_nearest import CPU


def compared_pairs(grey: GreyArray, *pairs: tuple[int, int]) -> tuple[list[float], list[float]]:
    correlations, differences = compared(grey, np.array(pairs), on_portion=lambda *_: None)
    return correlations.tolist(), differences.tolist()


def smooth(seed: int, side: int = 32) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def test_grey_levels_are_those_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)

    grey = to_grey(pixels)

    expected = np.stack([np.array(Image.fromarray(image).convert("L")) for image in pixels])
    assert np.abs(grey.astype(int) - expected).max() <= 1


def test_an_image_correlates_with_itself_in_other_light_and_not_with_others() -> None:
    image, other = (np.array(smooth(seed)) for seed in (1, 2))
    grey = np.stack([image, image // 2 + 20, other, 255 - image])

    correlations, differences = compared_pairs(grey, (0, 0), (0, 1), (0, 2), (0, 3))

    assert correlations[:2] == pytest.approx([1, 1], abs=1e-2)
    assert max(correlations[2:]) < 0.5
    assert differences[0] == 0
    assert differences[1] == pytest.approx(np.abs(image - (image // 2 + 20.0)).mean(), rel=1e-5)


@pytest.mark.parametrize("corner", [(0, 0), (5, 0), (0, 5), (5, 5), (2, 3)])
def test_a_cut_of_an_image_correlates_with_it_in_either_order(corner: tuple[int, int]) -> None:
    image, (left, top) = smooth(1, side=100), corner
    cut = image.crop((left, top, left + 95, top + 95))
    small = [one.resize((32, 32), Image.Resampling.BILINEAR) for one in (image, cut)]

    correlations, _ = compared_pairs(np.stack([np.array(one) for one in small]), (0, 1), (1, 0))

    assert min(correlations) > 0.98


def test_images_that_share_a_slow_change_alone_are_not_alike() -> None:
    sky = np.linspace(220, 60, 32)[:, None].repeat(32, 1)
    rng = np.random.default_rng(0)
    grey = np.stack([sky, sky])
    for image in grey:
        at = rng.integers(4, 24, 2)
        image[at[0] : at[0] + 4, at[1] : at[1] + 6] = 0
    grey = grey.astype(np.uint8)

    [correlation], _ = compared_pairs(grey, (0, 1))

    assert np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1] > 0.75
    assert correlation < 0.3


def test_two_images_of_nearly_one_colour_are_alike() -> None:
    grey = np.full((3, 32, 32), 100, np.uint8)
    grey[1, ::2], grey[2] = 101, 110

    found = are_alike(*map(np.array, compared_pairs(grey, (0, 1), (0, 2))))

    assert found.tolist() == [True, False]


def test_dark_images_with_a_bright_spot_are_alike_only_where_the_spot_is_at_one_place() -> None:
    grey = np.zeros((3, 32, 32), np.uint8)
    grey[0, 5:7, 5:7] = grey[1, 24:26, 20:22] = grey[2, 5:7, 5:7] = 200
    grey[2, 20, 20] = 3

    correlations, differences = compared_pairs(grey, (0, 1), (0, 2))

    assert max(differences) < 2
    assert are_alike(np.array(correlations), np.array(differences)).tolist() == [False, True]


@pytest.mark.parametrize(("usual", "least"), [(0.2, 0.9), (0.6, 0.94), (0.9, 0.985), (0.999, 0.99)])
def test_where_all_images_are_much_alike_a_copy_has_to_stand_out(
    usual: float, least: float
) -> None:
    pairs = np.stack([np.arange(0, 200, 2), np.arange(1, 200, 2)], 1)
    correlations = np.full(100, usual, np.float32)
    correlations[:70] = 0.9999  # of these each is there twice

    assert least_correlation(correlations, pairs) == pytest.approx(least, abs=1e-4)


def test_without_a_pair_the_least_correlation_is_that_of_photographs() -> None:
    none = np.zeros(0, np.float32)

    assert least_correlation(none, np.zeros((0, 2), np.int64)) == 0.9


def test_digests_that_are_missing_are_not_equal() -> None:
    digests = np.zeros((5, 32), np.uint8)
    digests[1], digests[4] = 7, 7

    assert exact_pairs(digests).tolist() == [[1, 4]]
    assert exact_pairs(None).shape == (0, 2)


def test_each_image_has_candidates_in_train_and_in_its_own_split(cache: featcache.Cache) -> None:
    rows = AuditedRows.of_cache(cache)

    found = find_candidates(rows, device=CPU)

    features = np.concatenate([cache[s].features[cache[s].valid] for s in ("train", "test")])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    expected = set()
    for i in range(258):
        for start, stop in ((0, 198), (198, 258)) if i >= 198 else ((0, 198),):
            for j in start + np.argsort(-cosines[i, start:stop])[:10]:
                expected.add((min(i, j), max(i, j)))
    assert {*map(tuple, found.pairs.tolist())} == expected
    assert np.allclose(found.cosines, cosines[found.pairs[:, 0], found.pairs[:, 1]], atol=1e-5)
    nearest = np.sort(cosines[:198, :198])[:, -10:].mean(1)
    assert np.allclose(found.nearness[:198], nearest, atol=1e-5)
    asked = np.array([found.pairs[3], (0, 0)])
    assert found.cosines_of(asked)[0] == found.cosines[3]
    assert np.isnan(found.cosines_of(asked)[1])


def pairs_of(*pairs: tuple[int, int, str]) -> Pairs:
    numbers = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
    none = np.zeros(len(pairs), np.float32)
    return Pairs(numbers, np.array([pair[2] for pair in pairs], np.str_), none, none, none)


@pytest.mark.parametrize(
    ("pairs", "dropped"),
    [
        ([], []),
        ([(3, 5, "exact"), (3, 7, "exact")], [5, 7]),
        ([(3, 5, "exact"), (3, 200, "exact")], [3, 5]),  # the one of test stays
        ([(3, 200, "exact"), (3, 201, "exact")], [3, 201]),
        ([(3, 5, "near"), (5, 7, "near")], [5]),  # 3 and 7 are not alike
        ([(3, 5, "exact"), (3, 7, "near"), (7, 200, "near")], [5, 7]),
        ([(3, 5, "candidate")], []),
    ],
)
def test_of_alike_images_one_of_the_last_split_stays(
    cache: featcache.Cache, pairs: list[tuple[int, int, str]], dropped: list[int]
) -> None:
    rows = AuditedRows.of_cache(cache)  # 198 of train, 60 of test

    is_kept = kept_rows(pairs_of(*pairs), rows)

    assert np.flatnonzero(~is_kept).tolist() == dropped


def test_deviations_are_robust_and_of_each_class() -> None:
    nearness = np.array([0.9, 0.8, 0.7, 0.1, 0.5, 0.5, 0.4, np.nan], np.float32)
    classes = np.array([0, 0, 0, 0, 1, 1, 1, 1])

    found = deviations(nearness, classes)

    assert found[3] == pytest.approx((0.75 - 0.1) / (1.4826 * 0.1), rel=1e-4)
    assert found[7] == 0
    assert found[6] > 1000  # the others do not differ at all
