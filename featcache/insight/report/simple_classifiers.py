"""What a head should beat: the largest class, class means and nearest neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from featcache.config import EvaluateSpec
from featcache.core.reporting import silent
from featcache.evaluation.metrics import Estimate, bootstrap
from featcache.insight.probe_cache import Classifier, answers_of
from featcache.insight.probe_result import MAJORITY
from featcache.insight.probe_rows import ANY_ROWS, choose_rows
from featcache.insight.report.cache_facts import SimpleClassifier, SimpleClassifiers
from featcache.store import Cache

_SOLVERS = ("ncm", "knn")
# 256 MB of float32: all of CIFAR-10's training images by MobileNetV2, 2,674 by VGG16.
_MOST_VALUES = 1 << 26


def simple_classifiers(
    cache: Cache, *, figures: EvaluateSpec, device: torch.device
) -> SimpleClassifiers:
    """Fit the simplest classifiers, as `probe` does, on as many images as fit into 256 MB.

    Args:
        cache: The cache, which was verified.
        figures: How intervals are drawn.
        device: Where to compute.

    Raises:
        UsageError: If there are no labels, one class alone, or too few images.
    """
    most = max(ANY_ROWS, _MOST_VALUES // cache.n_features)
    rows = choose_rows([cache], max_rows=most, seed=figures.seed, on_note=silent)
    answers = answers_of(
        cache, rows, per_class=(), tries=0, seed=figures.seed, device=device, solvers=_SOLVERS
    )
    labels = rows.test.labels.numpy()
    each = []
    for one in map(Classifier, (MAJORITY, *_SOLVERS)):
        acc = _mean_of(answers.predictions[one] == labels, figures)
        setting = answers.settings.get(one, "")
        each.append(SimpleClassifier(one.solver, setting, acc.value, acc.low, acc.high))
    return SimpleClassifiers(
        split=rows.tested_as,
        n_fitted=len(rows.train.rows),
        n_train=len(rows.all_train.rows),
        n_test=len(labels),
        each=tuple(each),
        draws=figures.draws,
        seed=figures.seed,
    )


def _mean_of(right: npt.NDArray[np.bool_], figures: EvaluateSpec) -> Estimate:
    return bootstrap(
        lambda drawn: float(right[drawn].mean()),
        len(right),
        n_draws=figures.draws,
        seed=figures.seed,
    )
