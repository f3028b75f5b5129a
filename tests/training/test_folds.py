"""Cross-validation: heads that are those of train_head, each tested on what it did not see."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.reporting import silent
from featcache.errors import NonFiniteError, UsageError
from featcache.evaluation.metrics import SHARES, MeanEstimate
from featcache.features.rows import load_rows
from featcache.training.folds.divide import divide
from featcache.training.folds.fold_head import train_fold
from featcache.training.folds.pool import JoinedRows
from featcache.training.train_result import TrainResult
from tests.feature_caches import MakeCache, Rows, learnable_rows

Train = Callable[..., TrainResult]
CPU = torch.device("cpu")


def labels_of_sizes(*sizes: int) -> torch.Tensor:
    return torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])


def test_each_row_is_tested_once_and_classes_are_dealt_out_evenly() -> None:
    labels = labels_of_sizes(40, 13, 7)

    folds = divide(labels, n_folds=5, val_fraction=0.25, seed=1)

    assert torch.cat([fold.test for fold in folds]).sort().values.tolist() == list(range(60))
    for fold in folds:
        parts = torch.cat([fold.train, fold.val, fold.test])
        assert parts.sort().values.tolist() == list(range(60))
        assert (len(fold.test), len(fold.val)) == (12, 12)
        assert torch.bincount(labels[fold.test], minlength=3)[0] == 8
    for k in range(3):
        counts = [int((labels[fold.test] == k).sum()) for fold in folds]
        assert max(counts) - min(counts) <= 1
    again, other = (divide(labels, n_folds=5, val_fraction=0.25, seed=s) for s in (1, 2))
    assert all(torch.equal(a.test, b.test) for a, b in zip(again, folds, strict=True))
    assert not all(torch.equal(a.test, b.test) for a, b in zip(other, folds, strict=True))


@pytest.mark.parametrize(
    ("sizes", "n_folds", "lack"),
    [
        ((6, 6), 20, "no row to test"),
        ((3, 2), 5, "no row to validate"),
        ((30, 1), 2, "fewer than two classes to learn"),
    ],
)
def test_too_few_rows_are_refused(sizes: tuple[int, ...], n_folds: int, lack: str) -> None:
    with pytest.raises(UsageError, match=rf"--folds is {n_folds}, but .* are too few .*{lack}"):
        divide(labels_of_sizes(*sizes), n_folds=n_folds, val_fraction=0.2, seed=0)


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_head_of_a_fold_is_the_one_that_is_trained_on_its_rows(
    cache: featcache.Cache, train: Train, make_cache: MakeCache, tmp_path: Path, select: str
) -> None:
    options = {"reg": "dropout", "dropout": 0.3, "select": select, "max_epochs": 6, "lr": 3e-2}
    options |= {"class_weight": "balanced", "patience": 3}
    found = train(folds=3, **options).folds

    assert found is not None
    usable = np.flatnonzero(cache["train"].valid)
    features, labels = cache["train"].features[:], cache["train"].labels
    assert labels is not None
    parts = divide(torch.from_numpy(labels[usable]), n_folds=3, val_fraction=0.2, seed=42)
    for fold, rows in zip(found.folds, parts, strict=True):
        splits = {
            name: Rows(features[usable[own]], labels[usable[own]], [f"{i}" for i in own], {})
            for name, own in vars(rows).items()
        }
        alone = featcache.train_head(
            make_cache(f"{fold.acc}-{fold.loss}.h5", splits=splits),
            hidden=(8,),
            batch_size=16,
            runs_dir=tmp_path / f"alone-{len(rows.test)}-{int(rows.test[0])}",
            **options,
        ).runs[0]
        assert (fold.n_train, fold.n_val, fold.n_test) == tuple(map(len, vars(rows).values()))
        assert (fold.n_epochs, fold.kept_epoch) == (alone.n_epochs, alone.kept_epoch)
        assert fold.acc == pytest.approx(alone.test_acc)
        assert fold.loss == pytest.approx(alone.test_loss, rel=1e-5)


@pytest.mark.parametrize("solver", ["logreg", "knn", "ncm", "ridge", "lda"])
def test_the_head_of_a_fold_is_the_one_that_a_solver_fits_to_its_rows(
    cache: featcache.Cache, make_cache: MakeCache, tmp_path: Path, solver: str
) -> None:
    options = {"solver": solver, "folds": 3, "runs_dir": tmp_path / "runs"}
    result, again = featcache.train_head(cache, **options), featcache.train_head(cache, **options)

    found = result.folds
    assert found is not None
    assert again.folds is not None
    assert (again.folds.outcome, again.folds.folds) == ("reused", found.folds)
    assert found.file == result.path.with_name(f"{result.path.name}-folds-3.json")
    usable = np.flatnonzero(cache["train"].valid)
    features, labels = cache["train"].features[:], cache["train"].labels
    assert labels is not None
    rows = divide(torch.from_numpy(labels[usable]), n_folds=3, val_fraction=0.2, seed=42)[1]
    splits = {
        name: Rows(features[usable[own]], labels[usable[own]], [f"{i}" for i in own], {})
        for name, own in vars(rows).items()
    }
    path = make_cache("second.h5", splits=splits)
    alone = featcache.train_head(path, solver=solver, runs_dir=tmp_path / "alone").runs[0]
    assert found.folds[1].acc == pytest.approx(alone.test_acc)
    assert found.folds[1].loss == pytest.approx(alone.test_loss, rel=1e-5)
    assert found.folds[1].n_epochs == 0
    chosen = {name: alone.found[name] for name in ("C", "k", "alpha") if name in alone.found}
    assert found.folds[1].setting == "".join(f"{n} {value:.4g}" for n, value in chosen.items())


def test_scores_without_validation_rows_have_no_loss_in_folds_either(
    cache: featcache.Cache, tmp_path: Path
) -> None:
    options = {"solver": "ncm", "val_fraction": 0, "folds": 3}

    found = featcache.train_head(cache, **options, runs_dir=tmp_path / "runs").folds

    assert found is not None
    assert found.loss is None
    assert [(fold.loss, fold.n_val) for fold in found.folds] == [(None, 0)] * 3
    assert found.acc.mean > 0.7


def test_mean_and_interval_are_those_of_student(train: Train) -> None:
    found = train(folds=4).folds

    assert found is not None
    accs = [fold.acc for fold in found.folds]
    reach = 3.182446 * statistics.stdev(accs) / math.sqrt(4)  # t(3, 0.975), of any table
    assert found.acc.mean == pytest.approx(statistics.fmean(accs))
    assert (found.acc.low, found.acc.high) == pytest.approx(
        (found.acc.mean - reach, found.acc.mean + reach)
    )
    assert found.balanced_acc is None  # all classes have as many images
    assert MeanEstimate.of([0.5], SHARES) == MeanEstimate(0.5, None, None, None, 1)


def test_an_interval_of_two_folds_is_told(train: Train) -> None:
    assert train(folds=2, max_epochs=1).remarks[-1] == (
        "The intervals are of 2 folds: of so few they are wide. --folds 5 or more says more."
    )


def test_folds_are_kept_beside_the_run_and_used_again(train: Train) -> None:
    alone = train()

    first, again = train(folds=3), train(folds=3)

    assert first.folds is not None
    assert again.folds is not None
    assert [r.runs[0].outcome for r in (alone, first, again)] == ["trained", "reused", "reused"]
    assert (first.folds.outcome, again.folds.outcome) == ("computed", "reused")
    assert first.folds.file == first.path.with_name(f"{first.path.name}-folds-3.json")
    assert again.folds.folds == first.folds.folds
    assert again.folds.acc == first.folds.acc
    assert featcache.list_runs(first.path.parents[1]) == [first.path]
    assert alone.folds is None


@pytest.mark.parametrize("content", ["", "{}", "[" * 10_000, '{"folds": [{}], "seconds": 1}'])
def test_folds_that_cannot_be_read_are_computed_again(train: Train, content: str) -> None:
    first = train(folds=2, max_epochs=1)
    assert first.folds is not None
    first.folds.file.write_text(content)

    again = train(folds=2, max_epochs=1)

    assert again.folds is not None
    assert (again.folds.outcome, again.folds.folds) == ("computed", first.folds.folds)
    assert json.loads(first.folds.file.read_text())["acc"]["mean"] == first.folds.acc.mean


def test_rows_of_an_own_validation_split_belong_to_the_folds(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    splits = {
        "train": learnable_rows(60, seed=1, unreadable=(7,)),
        "val": learnable_rows(30, seed=2),
    }
    cache = featcache.open_cache(make_cache(splits=splits))
    notes: list[str] = []

    result = featcache.train_head(
        cache, hidden=(), max_epochs=2, folds=40, runs_dir=tmp_path / "runs", on_note=notes.append
    )

    assert result.folds is not None
    assert sum(fold.n_test for fold in result.folds.folds) == 89
    assert any(
        note.startswith("3 classes with fewer images than there are folds") for note in notes
    )


def test_rows_of_two_splits_are_taken_in_the_order_of_their_numbers(
    make_cache: MakeCache,
) -> None:
    splits = {"train": learnable_rows(20, seed=1), "val": learnable_rows(10, seed=2)}
    cache = featcache.open_cache(make_cache(splits=splits))
    rows = torch.tensor([25, 3, 29, 0, 20, 19, 3])

    for residence in ("memory", "file"):
        parts = [load_rows(cache, s, device=CPU, residence=residence) for s in ("train", "val")]
        features, labels = JoinedRows(parts).take(rows)

        whole = torch.from_numpy(np.concatenate([cache[s].features[:] for s in ("train", "val")]))
        assert torch.equal(features, whole[rows])
        assert labels.tolist() == [int(i % 20 % 3) for i in rows]


def test_a_fold_whose_loss_is_no_number_is_named(cache: featcache.Cache) -> None:
    rows = load_rows(cache, "train", device=CPU, residence="memory")
    rows.features[3] = float("nan")
    fold = divide(rows.labels, n_folds=5, val_fraction=0.2, seed=0)[1]
    fold.train[0] = 3

    with pytest.raises(NonFiniteError, match=r"^Fold 2/5: the loss became nan at step \d+\. Use a"):
        train_fold(
            rows,
            fold,
            "2/5",
            head=HeadSpec(hidden=()),
            train=TrainSpec(patience=0),
            n_features=12,
            n_classes=3,
            on_progress=silent,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds is 1, but must be at least 2"),
        ({"folds": 5, "seeds": 2}, "--folds 5 is of one seed, but --seeds is 2"),
        ({"folds": 5, "max_memory": 11_000, "batch_size": 2}, "--folds is for sets that fit into"),
    ],
)
def test_folds_that_make_no_sense_are_refused(
    train: Train, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(**options)
