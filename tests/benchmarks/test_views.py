"""A head of the first views of a cache is the head of a cache that has no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.features.resident import load_sound
from tests.benchmarks import views
from tests.benchmarks.resultfile import ResultFile
from tests.feature_caches import MakeCache, viewed_splits
from tests.store.conftest import Rows

TRAIN = TrainSpec(max_epochs=2, patience=0, batch_size=16, lr=1e-2)
HEAD = HeadSpec(hidden=(8,))


def test_a_head_of_the_first_views_is_that_of_a_cache_with_these_alone(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    whole = viewed_splits(4, of="all")
    cache = featcache.open_cache(make_cache(**whole))
    two = {**whole, "splits": {n: first_two(rows) for n, rows in whole["splits"].items()}}
    two["identity"] = {**two["identity"], "views": {**two["identity"]["views"], "n": 2}}
    smaller = featcache.open_cache(make_cache("cache/folder-toys/toy-22222222.h5", **two))
    resident = load_sound(cache, device="cpu", window_rows=None, draws_views=True)

    found = views.trained(cache, resident, HEAD, TRAIN, 2)

    run = featcache.train_head(
        smaller,
        hidden=(8,),
        batch_size=16,
        max_epochs=2,
        patience=0,
        lr=1e-2,
        select="last",
        runs_dir=tmp_path / "runs",
    ).runs[0]
    assert (found["test_loss"], found["val_loss"]) == (run.test_loss, run.val_loss)
    tta = featcache.evaluate(run.path, tta=True)
    assert np.isclose(found["tta_acc"], tta.acc.value)


def test_the_table_has_a_row_for_each_number_of_views(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    cache = featcache.open_cache(make_cache(**viewed_splits(4)))
    extracted = tmp_path / "extract.json"
    extracted.write_text('{"seconds": 860.0}')
    file = ResultFile(tmp_path / "views.json", {}, device="cpu")
    file.content["cost"] = views.costs(cache, [1, 4], extracted)
    for n in (1, 4):
        for seed in (0, 1):
            figures = dict.fromkeys(views.KEPT, 0.5 + n / 100 + seed / 1000)
            file.add({"views": n, "seed": seed, **figures, "wall_s": 2.0, "tta_acc": None})

    lines = views.page(file, [1, 4]).splitlines()

    assert lines[2].startswith("| 1 | 0.5105 ± 0.0007 (2) | - | 0.5105 |")
    assert lines[2].endswith("| 2.0 | 260 | 260 s | 12.5 kB |")
    assert lines[3].startswith("| 4 | 0.5405 ± 0.0007 (2) | +0.0300")
    assert lines[3].endswith("| 2.0 | 860 | 860 s | 41.3 kB |")


def first_two(rows: Rows) -> Rows:
    return Rows(rows.features[:, :2], rows.labels, rows.ids, rows.reasons)
