"""Where classes are unequal, the accuracy is that of the largest; the balanced one is of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

import featcache
from featcache.evaluation.metrics import are_unequal, balanced_accuracy
from featcache_cli.app import app
from tests.feature_caches import MakeCache, Rows, learnable_rows


def test_it_is_the_mean_recall_of_the_classes_that_have_images() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 0, 0, 2, 2, 1, 0, 3])

    found = balanced_accuracy(labels, predictions, 5)

    assert found == pytest.approx((4 / 6 + 1 / 2 + 1) / 3)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found == pytest.approx(balanced_accuracy_score(labels, predictions))


@pytest.mark.parametrize(
    ("counts", "unequal"),
    [([10, 10], False), ([15, 10], False), ([16, 10], True), ([10, 0, 10], False), ([], False)],
)
def test_classes_are_unequal_if_the_largest_is_half_as_large_again(
    counts: list[int], unequal: bool
) -> None:
    assert are_unequal(counts) == unequal


def test_an_evaluation_has_it_where_classes_are_unequal(
    make_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = learnable_rows(90, seed=2)
    kept = (rows.labels != 2) | (np.arange(90) % 9 == 2)
    ids = [rows.ids[i] for i in np.flatnonzero(kept)]
    unequal = Rows(rows.features[kept], rows.labels[kept], ids, {})
    splits = {"train": learnable_rows(200, seed=1), "test": unequal, "extra": rows}
    run = featcache.train_head(make_cache(splits=splits), lr=1e-2, max_epochs=5).path

    evaluation = featcache.evaluate(run)
    equal = featcache.evaluate(run, split="extra")
    shown = CliRunner().invoke(app, ["eval", str(run)])

    recalls = [c.recall for c in evaluation.classes]
    assert equal.balanced_acc is None
    assert evaluation.balanced_acc is not None
    assert evaluation.balanced_acc.value == pytest.approx(np.mean(recalls))
    assert evaluation.balanced_acc.low < evaluation.balanced_acc.value
    written = [json.loads((run / f"eval-{s}.json").read_text()) for s in ("test", "extra")]
    assert written[0]["balanced_acc"]["value"] == evaluation.balanced_acc.value
    assert written[1]["balanced_acc"] is None
    assert f"balanced_acc  {evaluation.balanced_acc.value:.4f}  95% interval " in shown.stdout
    assert "balanced_acc" not in CliRunner().invoke(app, ["eval", "--split", "extra"]).stdout
