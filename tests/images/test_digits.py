"""scikit-learn's digits."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from featcache.errors import DatasetError
from featcache.images.datasets import load_dataset
from featcache.images.splits import ArrayImages


def test_digits_are_the_first_1437_and_the_last_360_rows(tmp_path: Path) -> None:
    dataset = load_dataset("digits", data_dir=tmp_path)

    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (len(train), len(test)) == (1437, 360)
    assert list(test.ids) == [str(i) for i in range(1437, 1797)]
    assert dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(test.labels, load_digits().target[1437:])


def test_sixteen_grey_levels_fill_the_byte_in_three_equal_channels(tmp_path: Path) -> None:
    images = load_dataset("digits", data_dir=tmp_path).splits["train"].images

    assert isinstance(images, ArrayImages)
    assert images.pixels.shape == (1437, 8, 8, 3)
    levels = load_digits().images[:1437]
    expected = [[[round(v * 255 / 16) for v in line] for line in image] for image in levels]
    for channel in range(3):
        np.testing.assert_array_equal(images.pixels[..., channel], expected)


def test_without_scikit_learn_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        load_dataset("digits", data_dir=tmp_path)


def test_a_limit_spreads_over_the_split_and_changes_the_digest(tmp_path: Path) -> None:
    dataset = load_dataset("digits", data_dir=tmp_path)
    calls: list[tuple[int, int]] = []

    few = dataset.limited(10)

    assert [len(split) for split in few.splits.values()] == [10, 10]
    assert list(few.splits["train"].ids)[:3] == ["0", "143", "287"]
    digest = few.identified(on_progress=lambda done, total: calls.append((done, total))).sha256
    assert digest != dataset.digest()
    assert calls[-1] == (20, 20)


def test_one_changed_label_or_pixel_changes_the_digest(tmp_path: Path) -> None:
    before = load_dataset("digits", data_dir=tmp_path).digest()
    relabelled = load_dataset("digits", data_dir=tmp_path)
    repainted = load_dataset("digits", data_dir=tmp_path)

    relabelled.splits["test"].labels[-1] ^= 1
    repainted.splits["test"].images.pixels[-1, -1, -1, -1] ^= 1

    assert len({before, relabelled.digest(), repainted.digest()}) == 3
    assert before == load_dataset("digits", data_dir=tmp_path).digest()
