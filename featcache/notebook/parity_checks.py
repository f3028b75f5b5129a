"""The figures of parity, level by level, each with its tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from featcache.config import ParitySpec
from featcache.core.plain_torch import plain_torch
from featcache.core.tolerances import feature_tolerance
from featcache.errors import counted
from featcache.evaluation.metrics import Spread
from featcache.features.rows import bn_mode
from featcache.features.split import valid_rows
from featcache.notebook.end_to_end import ImageRows
from featcache.notebook.parity_training import Sides, Trained, spaced, train_end_to_end

# What rounding leaves in the losses, predictions and accuracies of heads, where both sides compute
# in fp32. Where the cache is less exact, so are they: see `_allowed`.
LOSS_TOLERANCE = 1e-4
_MAY_DISAGREE = 0.001  # of the predictions
_ACCURACY_TOLERANCE = 0.001
_N_FEATURES_CHECKED = 64

Training = Callable[[Sides, int], Trained]


@dataclass(frozen=True)
class ParityCheck:
    """One figure of parity.

    Attributes:
        level: 1 features, 2 trajectory, 3 results.
        what: What was measured.
        figure: Its value.
        tolerance: What it may be at most, or at least where `at_least`.
        at_least: Whether the figure must not be below the tolerance.
        detail: How it was measured, and what else was seen.
    """

    level: int
    what: str
    figure: float
    tolerance: float
    at_least: bool
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the figure is within its tolerance; NaN is not."""
        if self.at_least:
            return self.figure >= self.tolerance
        return self.figure <= self.tolerance


@dataclass(frozen=True)
class NotebookComparison:
    """Where training with the backbone in training mode, as the notebook's, lands beside a cache.

    Attributes:
        bn: BatchNorm mode of the cache: "frozen" or "adapted".
        loss_difference: Largest relative difference of a step's loss.
        agreement: Share of the test images whose predictions are equal.
        test_acc: Of the head trained on the cache.
        test_loss: Its mean cross-entropy.
        notebook_test_acc: Of the head trained as the notebook does; its backbone has the running
            statistics to which they drifted.
        notebook_test_loss: Its mean cross-entropy.
    """

    bn: str
    loss_difference: float
    agreement: float
    test_acc: float
    test_loss: float
    notebook_test_acc: float
    notebook_test_loss: float


def checks_of(
    sides: Sides, asked: ParitySpec, seed: int, *, on_cache: Training, end_to_end: Training
) -> list[ParityCheck]:
    """Measure the levels that are asked for.

    Args:
        sides: What is compared.
        asked: The levels, and the trainings of level 3.
        seed: Of the first training.
        on_cache: Trains on the cache, by the seed; called again, it gives what it gave.
        end_to_end: Trains end to end, likewise.
    """
    checks: list[ParityCheck] = []
    if 1 in asked.levels:
        checks += compare_features(sides)
    if 2 in asked.levels:
        checks += compare_trajectory(sides, on_cache(sides, seed), end_to_end(sides, seed))
    if 3 in asked.levels:
        of_all = range(seed, seed + asked.seeds)
        trainings = [(on_cache(sides, s), end_to_end(sides, s)) for s in of_all]
        checks.append(compare_results(sides, trainings))
    return checks


@plain_torch()
def compare_features(sides: Sides) -> list[ParityCheck]:
    """Level 1: rows against fresh forwards, one image at a time; of several views, by turns."""
    model = sides.whole_model(nn.Identity())
    largest, differences, cosines = [], [], []
    n_labels = 0
    for name, split in sides.cache.splits.items():
        if split.labels is not None:
            n_labels += int((split.labels != sides.dataset.splits[name].labels).sum())
        rows = spaced(valid_rows(split), _N_FEATURES_CHECKED)
        views = sides.views(name)
        places = [row * views.n + i % views.n for i, row in enumerate(rows.tolist())]
        images = ImageRows(sides.dataset.splits[name], places, sides.preprocess, views)
        for i, place in enumerate(places):
            with torch.inference_mode():
                fresh = model(images[i][0][None])[0].double().numpy()
            cached = split.read_views(place, place + 1)[0].astype(np.float64)
            largest.append(np.abs(fresh).max())
            differences.append(np.abs(fresh - cached).max())
            norms = np.linalg.norm(fresh) * np.linalg.norm(cached)
            cosines.append(fresh @ cached / norms if norms else 0.0)
    # NaN goes through numpy's max and min, not through Python's.
    detail = (
        f"{counted(len(largest), 'image')}, one at a time, in fp32 against {_exactness(sides)}; "
        f"least cosine {np.min(cosines):.9f}"
    )
    relative = float(np.max(differences) / np.max(largest)) if np.any(largest) else float("nan")
    return [
        ParityCheck(
            1, "largest difference / largest feature", relative, _allowed(sides, 0.0), False, detail
        ),
        ParityCheck(1, "labels that differ", n_labels, 0, False, "all rows of all splits"),
    ]


@plain_torch()
def compare_trajectory(sides: Sides, cached: Trained, end_to_end: Trained) -> list[ParityCheck]:
    """Level 2: one initial head, one order of batches; every loss, and the predictions."""
    losses, predicted = end_to_end.losses, end_to_end.logits.argmax(1)
    cached_loss, loss = _test_loss(sides, cached), _test_loss(sides, end_to_end)
    n_train = len(sides.train_rows)
    return [
        ParityCheck(
            2,
            "largest relative difference of a step's loss",
            _loss_difference(cached, end_to_end),
            _allowed(sides, LOSS_TOLERANCE),
            False,
            f"{counted(len(losses), 'step')} over {counted(n_train, 'image')}; last losses "
            f"{cached.losses[-1]:.6f} and {losses[-1]:.6f}{_parting(cached, end_to_end)}",
        ),
        ParityCheck(
            2,
            "share of equal predictions",
            _agreement(cached, end_to_end),
            1 - _allowed(sides, _MAY_DISAGREE),
            True,
            f"{counted(len(predicted), 'test image')}, {counted(len(predicted.unique()), 'class')} "
            f"predicted",
        ),
        ParityCheck(
            2,
            "relative difference of test_loss",
            abs(cached_loss - loss) / loss,
            _allowed(sides, LOSS_TOLERANCE),
            False,
            f"{cached_loss:.6f} and {loss:.6f}",
        ),
    ]


@plain_torch()
def compare_results(sides: Sides, trainings: Sequence[tuple[Trained, Trained]]) -> ParityCheck:
    """Level 3: the accuracies of several seeds."""
    spreads = {}
    for side, trained in zip(("cached", "end to end"), zip(*trainings, strict=True), strict=True):
        spreads[side] = Spread.of([_test_acc(sides, one) for one in trained])
    told = ", ".join(
        f"{side} {s.mean:.4f}"
        + ("" if s.sd is None else f" (sd {s.sd:.4f}, {s.low:.4f} to {s.high:.4f})")
        for side, s in spreads.items()
    )
    difference = abs(spreads["cached"].mean - spreads["end to end"].mean)
    return ParityCheck(
        3,
        "difference of mean test_acc",
        difference,
        _allowed(sides, _ACCURACY_TOLERANCE),
        False,
        f"{told}, n {len(trainings)}",
    )


def compare_with_notebook(
    modes: Sequence[Sides], seed: int, *, on_cache: Training
) -> list[NotebookComparison]:
    """Set a training as the notebook does beside one on each cache; nothing here must hold.

    Args:
        modes: A cache with frozen BatchNorm, and others.
        seed: Of the training.
        on_cache: Trains on the cache, by the seed.
    """
    if not modes:
        return []
    notebook = train_end_to_end(modes[0], seed, backbone_trains=True)
    return [_beside(sides, on_cache(sides, seed), notebook) for sides in modes]


def _beside(sides: Sides, cached: Trained, notebook: Trained) -> NotebookComparison:
    return NotebookComparison(
        bn=bn_mode(sides.cache),
        loss_difference=_loss_difference(cached, notebook),
        agreement=_agreement(cached, notebook),
        test_acc=_test_acc(sides, cached),
        test_loss=_test_loss(sides, cached),
        notebook_test_acc=_test_acc(sides, notebook),
        notebook_test_loss=_test_loss(sides, notebook),
    )


def _exactness(sides: Sides) -> str:
    return f"{sides.cache.identity['precision']} stored as {sides.cache.identity['store_dtype']}"


def _allowed(sides: Sides, of_rounding: float) -> float:
    """Allow at least what the cache's own precision does to its features."""
    identity = sides.cache.identity
    return max(of_rounding, feature_tolerance(identity["precision"], identity["store_dtype"]))


def _loss_difference(cached: Trained, other: Trained, *, n_steps: int | None = None) -> float:
    ours, theirs = cached.losses[:n_steps], other.losses[:n_steps]
    return float(((ours - theirs).abs() / theirs.abs()).max())


def _parting(cached: Trained, other: Trained) -> str:
    """Say where the two part by more than rounding, as `active_units` explains."""
    step = cached.active.first_difference(other.active)
    if step is None:
        return ""
    until = _loss_difference(cached, other, n_steps=step)
    return (
        f"; at step {step} a hidden unit is on for an image on one side only, and until then the "
        f"losses differ by {until:.1e}"
    )


def _agreement(cached: Trained, other: Trained) -> float:
    return float((cached.logits.argmax(1) == other.logits.argmax(1)).double().mean())


def _test_acc(sides: Sides, trained: Trained) -> float:
    return float((trained.logits.argmax(1) == sides.test_labels).double().mean())


def _test_loss(sides: Sides, trained: Trained) -> float:
    return nn.functional.cross_entropy(trained.logits.double(), sides.test_labels).item()
