"""What a result does not say by itself: that a head has learnt nothing, or not yet all it could."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from featcache.config import VAL_FRACTION, TrainSpec
from featcache.errors import clipped
from featcache.evaluation.metrics import Estimate
from featcache.evaluation.remarks import majority_remark, wilson_interval
from featcache.features.trainable import labels_of
from featcache.heads.head_file import load_head
from featcache.heads.run_files import HeadRun
from featcache.store import Cache
from featcache.training.recipes import Recipe


def remarks_on(
    runs: Sequence[HeadRun], cache: Cache, train: TrainSpec, *, recipe: Recipe | None
) -> tuple[str, ...]:
    """Say which runs are no better than the majority class, and which might learn more.

    Args:
        runs: Runs of one training, which differ in their seed.
        cache: What they were trained on.
        train: That training.
        recipe: Where its values come from; None of a solver without epochs.

    Returns:
        Sentences; none if there is nothing to say.
    """
    remarks = []
    for run in runs:
        which = f"seed {run.seed}: " if len(runs) > 1 else ""
        remarks += [which + remark for remark in _remarks(run, cache, train, recipe)]
    return tuple(remarks)


def reused(runs: Sequence[HeadRun]) -> Iterator[str]:
    """Say where runs that were there were trained, and with which torch: not all machines agree."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.outcome == "reused":
            made = load_head(run.path).versions
            where = f"trained on {made.get('device', 'cpu')} with torch {made.get('torch')}"
            counts[where] = counts.get(where, 0) + 1
    for where, n in counts.items():
        yield f"{f'{n} runs ' if n > 1 else ''}reused, {clipped(where)}"


def _remarks(run: HeadRun, cache: Cache, train: TrainSpec, recipe: Recipe | None) -> Iterator[str]:
    figure, acc, split = "val_acc", run.val_acc, "val" if "val" in cache.splits else "train"
    if run.test_acc is not None:
        figure, acc, split = "test_acc", run.test_acc, "test"
    if acc is None:
        return
    rows = cache[split]
    labels = labels_of(cache, split)[rows.valid]
    n = len(labels)
    if split == "train":  # a share of it was left for validation
        n = math.floor(n * (VAL_FRACTION if train.val_fraction is None else train.val_fraction))
    classes, counts = np.unique(labels, return_counts=True)
    shares = dict(zip(classes.tolist(), (counts / counts.sum()).tolist(), strict=True))
    estimate = Estimate(acc, *wilson_interval(acc, n))
    if remark := majority_remark(figure, estimate, n, shares, cache.class_names):
        yield remark + (
            " Try --recipe general, or a higher --lr." if recipe and recipe.systems else ""
        )
    if recipe is None:
        return
    if not recipe.systems and run.best_epoch == run.n_epochs and not run.stopped_early:
        yield (
            f"The last epoch, {run.n_epochs}, was still the best by val_loss: the head may learn "
            f"more with --max-epochs {2 * run.n_epochs}."
        )
