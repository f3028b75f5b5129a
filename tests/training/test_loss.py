"""What a head is trained with, where classes are unequal or labels are not quite sure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

import featcache
from featcache.config import TrainSpec
from featcache.errors import UsageError
from featcache.heads.head_file import load_head
from featcache.heads.run_files import read_run
from featcache.training.loss import TrainingLoss, balanced_weights
from featcache.training.train_result import TrainResult
from tests.feature_caches import MakeCache, Rows, learnable_rows

Train = Callable[..., TrainResult]


def unequal_rows(n: int, *, seed: int) -> Rows:
    """Rows of which two classes are rare: one in six, and one in thirty."""
    rows = learnable_rows(n, seed=seed)
    i = np.arange(n)
    kept = (rows.labels == 0) | ((rows.labels == 1) & (i % 6 == 1)) | (i % 30 == 2)
    ids = [rows.ids[j] for j in np.flatnonzero(kept)]
    return Rows(rows.features[kept], rows.labels[kept], ids, {})


def test_balanced_weights_are_those_of_scikit_learn_and_0_for_a_class_that_is_not_there() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 3, 3, 1])

    weights = balanced_weights(labels, 5)

    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy())
    assert weights[[0, 1, 3]].tolist() == pytest.approx(theirs.tolist())
    assert weights[[2, 4]].tolist() == [0, 0]
    assert float(weights[labels].mean()) == pytest.approx(1)


@pytest.mark.parametrize("batch", [slice(0, 4), slice(0, 2), slice(2, 4)])
def test_smoothed_and_weighted_rows_are_averaged_over_the_rows_of_a_batch(batch: slice) -> None:
    labels, logits = torch.tensor([0, 0, 0, 1]), torch.randn(4, 3)
    train = TrainSpec(class_weight="balanced", label_smoothing=0.3)

    loss = TrainingLoss.of(train, labels, n_classes=3)(logits[batch], labels[batch])

    target = 0.7 * torch.nn.functional.one_hot(labels, 3) + 0.1
    of_rows = -(target * logits.log_softmax(1)).sum(1)
    weights = torch.tensor([4 / 6, 4 / 6, 4 / 6, 4 / 2])
    torch.testing.assert_close(loss, (of_rows * weights)[batch].mean())


def test_without_either_it_is_the_plain_cross_entropy_to_the_bit() -> None:
    labels, logits = torch.randint(0, 3, (50,)), torch.randn(50, 3)

    loss = TrainingLoss.of(TrainSpec(), labels, n_classes=3)(logits, labels)

    assert torch.equal(loss, cross_entropy(logits, labels))


def test_balanced_classes_find_the_rare_ones(make_cache: MakeCache, tmp_path: Path) -> None:
    splits = {"train": unequal_rows(1200, seed=1), "test": learnable_rows(300, seed=2)}
    cache = make_cache(splits=splits)
    options = {"hidden": (), "lr": 1e-2, "max_epochs": 10, "patience": 0, "select": "last"}
    options["runs_dir"] = tmp_path / "runs"

    plain = featcache.train_head(cache, **options)
    balanced = featcache.train_head(cache, **options, class_weight="balanced")

    recalls = [featcache.evaluate(run.path).classes[2].recall for run in (plain, balanced)]
    assert recalls[1] > recalls[0] + 0.1


def test_validation_and_test_stay_the_plain_cross_entropy(train: Train) -> None:
    [run] = train(class_weight="balanced", label_smoothing=0.4).runs

    test, val = (featcache.evaluate(run.path, split=split) for split in ("test", "val"))

    assert run.test_loss == pytest.approx(test.loss.value)
    assert run.val_loss == pytest.approx(val.loss.value)


def test_only_what_is_not_at_its_default_has_a_word_in_a_head_and_in_its_name(
    train: Train,
) -> None:
    plain, weighted = train(max_epochs=1), train(max_epochs=1, class_weight="balanced")
    both = train(max_epochs=1, class_weight="balanced", label_smoothing=0.1)

    said = [
        json.loads((r.path / "head.json").read_text())["train"] for r in (plain, weighted, both)
    ]
    assert len({run.path for run in (plain, weighted, both)}) == 3
    assert [("class_weight" in one, "label_smoothing" in one) for one in said] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert load_head(both.path).train.label_smoothing == 0.1
    assert train(max_epochs=1, label_smoothing=0).path == plain.path
    settings = [run.settings for run in featcache.describe_runs(plain.path.parents[1])]
    assert settings[0]["class_weight"] == "none"
    assert settings[2]["label_smoothing"] == 0.1


def test_heads_of_a_sweep_are_trained_with_it_as_one_alone(
    cache: featcache.Cache, train: Train, tmp_path: Path
) -> None:
    options = {"class_weight": "balanced", "label_smoothing": 0.2, "patience": 0}
    alone = train(reg="dropout", dropout=0.3, **options)

    swept = featcache.sweep(
        cache,
        **options,
        reg="dropout",
        dropout=0.3,
        hidden=((8,),),
        batch_size=16,
        max_epochs=4,
        lr=(1e-2, 1e-3),
        runs_dir=tmp_path / "swept",
    )

    [path] = [run for s in swept.settings for run in s.runs if run.name == alone.path.name]
    ours, theirs = read_run(path).history, alone.runs[0].history
    for name in ("train_loss", "val_loss", "val_acc"):
        assert [row[name] for row in ours] == pytest.approx([r[name] for r in theirs], rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_smoothing_that_leaves_nothing_of_the_label_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"--label-smoothing is .*, but must be at least 0 "):
        TrainSpec(label_smoothing=share)
