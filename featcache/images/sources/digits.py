"""scikit-learn's handwritten digits: 1,797 small images that need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from featcache.errors import DatasetError
from featcache.images.sources.source import DatasetInfo, Source
from featcache.images.splits import ArrayImages, Dataset, Split

N_TRAIN = 1437
_NAME = "digits"


class Digits(Source):
    """The dataset `digits`."""

    names = (_NAME,)

    def slug(self, name: str) -> str:
        """Name the folder of its caches and runs."""
        return _NAME

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe it; it is present where scikit-learn is installed."""
        return [
            DatasetInfo(
                name=_NAME,
                n_classes=10,
                splits=("train", "test"),
                image_size="8x8",
                source="scikit-learn",
                present=None
                if data_dir is None
                else importlib.util.find_spec("sklearn") is not None,
            )
        ]

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read the 1,797 images of 8x8 pixels: the first 1,437 rows are "train", the others "test".

        Grey levels 0..16 become round(255 * level / 16) in all three channels. An id is the row's
        index among the 1,797.

        Raises:
            DatasetError: If scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as err:
            raise DatasetError(
                "Dataset 'digits' comes with scikit-learn, which is not installed here. "
                "Install it with: pip install scikit-learn"
            ) from err
        bunch = load_digits()
        grey = np.rint(np.asarray(bunch.images) * 255 / 16).astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=-1)
        labels = np.asarray(bunch.target, dtype=np.int64)
        rows = {"train": range(N_TRAIN), "test": range(N_TRAIN, len(labels))}
        splits = {
            split: Split(split, ArrayImages(pixels[r]), labels[r], [str(i) for i in r])
            for split, r in rows.items()
        }
        return Dataset(name, _NAME, tuple(str(k) for k in range(10)), splits)
