"""Small caches of features that a head can learn, written as `extract` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.store import FilePlan, Provenance
from featcache.training.train_result import TrainResult
from tests.store.conftest import Recipe, Rows

N_FEATURES, CLASS_NAMES = 12, ("ant", "bee", "cow")
IDENTITY = {"backbone": "toy", "bn": "frozen", "dataset_sha256": "0" * 64}


@dataclass
class FeatureRecipe(Recipe):
    """A cache that says which dataset it is of."""

    provenance: Mapping[str, Any] = field(default_factory=lambda: {"dataset": "folder:toys"})

    def plan(self) -> FilePlan:
        return replace(super().plan(), provenance=Provenance.from_json(self.provenance))


def learnable_rows(n: int, *, seed: int, unreadable: tuple[int, ...] = ()) -> Rows:
    """Make N rows around one centre per class, which overlap a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % 3
    centres = np.random.default_rng(99).standard_normal((3, N_FEATURES))
    features = (centres[labels] + rng.standard_normal((n, N_FEATURES))).astype("<f4")
    return Rows(features, labels, [f"{i}" for i in range(n)], dict.fromkeys(unreadable, "broken"))


def viewed_rows(rows: Rows, n_views: int) -> Rows:
    """Give each row other views, which lie near it."""
    rng = np.random.default_rng(n_views)
    plain = rows.features[:, None]
    others = plain + 0.3 * rng.standard_normal((len(plain), n_views - 1, plain.shape[2]))
    return replace(rows, features=np.concatenate([plain, others], axis=1).astype("<f4"))


def viewed_splits(n_views: int, *, of: str = "train") -> dict[str, Any]:
    """What `make_cache` makes a cache of several views by: the default rows, with others."""
    views = {"n": n_views, "augment": ["flip", "crop"], "of": of, "seed": 0}
    train, test = learnable_rows(200, seed=1, unreadable=(5, 70)), learnable_rows(60, seed=2)
    splits = {
        "train": viewed_rows(train, n_views),
        "test": viewed_rows(test, n_views) if of == "all" else test,
    }
    return {"identity": {**IDENTITY, "views": views}, "splits": splits}


MakeCache = Callable[..., Path]


@pytest.fixture
def make_cache(tmp_path: Path) -> MakeCache:
    """Write a cache: by default 200 rows to train, two of them unreadable, and 60 to test."""

    def make(name: str = "cache/folder-toys/toy-00000000.h5", **options: Any) -> Path:
        options.setdefault("identity", IDENTITY)
        options.setdefault("class_names", CLASS_NAMES)
        options.setdefault(
            "splits",
            {
                "train": learnable_rows(200, seed=1, unreadable=(5, 70)),
                "test": learnable_rows(60, seed=2),
            },
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return FeatureRecipe(path, rows_per_block=64, **options).build()

    return make


@pytest.fixture
def cache(make_cache: MakeCache) -> featcache.Cache:
    """The default cache."""
    return featcache.open_cache(make_cache())


@pytest.fixture
def train(cache: featcache.Cache, tmp_path: Path) -> Callable[..., TrainResult]:
    """`featcache.train_head` on the default cache: 10 steps of 16 rows an epoch, quick to learn."""
    return partial(
        featcache.train_head,
        cache,
        hidden=(8,),
        batch_size=16,
        max_epochs=4,
        lr=1e-2,
        runs_dir=tmp_path / "runs",
    )
