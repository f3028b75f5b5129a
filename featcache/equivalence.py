"""Parity: is training on a cache what training end to end is? Three levels, each measured."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featcache.backbones import load_backbone
from featcache.datasets import load_dataset
from featcache.endtoend import ImageRows, require_known_classifier, whole_model
from featcache.errors import UsageError
from featcache.extraction import extract
from featcache.features import preprocess_of, valid_rows
from featcache.metrics import Spread
from featcache.pipeline import ProgressCallback
from featcache.sides import Sides, Trained, train_cached, train_end_to_end
from featcache.specs import ExtractSpec, HeadSpec, TrainSpec
from featcache.store import Cache, open_cache, read_trunk_statistics
from featcache.trunks import PIXELS

FEATURE_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-4
AGREEMENT = 0.999
_N_FEATURES_CHECKED = 64


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
class ParityReport:
    """What `parity` found.

    Attributes:
        cache: The cache.
        backbone: Its trunk.
        bn: "frozen" or "adapted": both sides ran in this mode.
        checks: The figures of all levels.
    """

    cache: str
    backbone: str
    bn: str
    checks: Sequence[ParityCheck]

    @property
    def holds(self) -> bool:
        """Whether all figures are within their tolerances."""
        return all(check.holds for check in self.checks)


def parity(
    dataset: str = ExtractSpec.dataset,
    *,
    backbone: str = ExtractSpec.backbone,
    weights: str = ExtractSpec.weights,
    bn: str = ExtractSpec.bn,
    preprocess: str = ExtractSpec.preprocess,
    image_size: int = ExtractSpec.image_size,
    limit: int = 512,
    levels: tuple[int, ...] = (1, 2),
    epochs: int = 2,
    reg: str = HeadSpec.reg,
    hidden: tuple[int, ...] = HeadSpec.hidden,
    lr: float = 1e-3,
    batch_size: int = TrainSpec.batch_size,
    seed: int = TrainSpec.seed,
    seeds: int = 5,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    on_progress: ProgressCallback | None = None,
    on_note: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compare training on a cache with training end to end, on the CPU.

    Extracts `limit` images of each split (or reuses that cache), and sets against it: PIL
    transforms per image, a DataLoader, the whole torchvision model with its classifier replaced,
    plain Lightning. Level 1 compares features, one image at a time. Level 2 starts both from one
    head with one order of batches, and compares the loss of every step and the predictions for
    the test images. Level 3 does so for several seeds, and compares the mean accuracies.

    A trunk with adapted BatchNorm runs with the statistics of the cache on both sides.

    Args:
        dataset: As for `extract`.
        backbone: A torchvision trunk whose classifier stands right behind its features.
        weights: As for `extract`.
        bn: "frozen" or "adapted".
        preprocess: "notebook" or "weights".
        image_size: Side of the trunk's input, in pixels.
        limit: Images of each split, evenly spaced.
        levels: Which levels to measure.
        epochs: Epochs of each training.
        reg: Regularisation of the head.
        hidden: Widths of its hidden layers.
        lr: Learning rate; higher than the notebook's, so that a few steps show a difference.
        batch_size: Rows in one step.
        seed: Seeds initial weights, order of batches and dropout.
        seeds: Trainings of level 3.
        cache_dir: Folder of all caches.
        data_dir: Folder of downloaded datasets.
        on_progress: Called after each batch of the extraction.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UsageError: If there is nothing to compare: no trunk, no test images, unknown levels.
    """
    if backbone == PIXELS:
        raise UsageError("The backbone 'pixels' has no trunk, so there is nothing to compare.")
    if not levels or set(levels) - {1, 2, 3}:
        raise UsageError(f"--levels is {','.join(map(str, levels))}, but must be of 1, 2, 3.")
    if epochs < 1 or seeds < 1:
        raise UsageError(f"--epochs is {epochs} and --seeds {seeds}, but both must be at least 1.")
    spec = HeadSpec(reg=reg, hidden=hidden)
    TrainSpec(lr=lr, batch_size=batch_size, seed=seed)
    require_known_classifier(backbone)
    images = load_dataset(dataset, data_dir=os.fspath(data_dir)).limited(limit)
    if set(levels) & {2, 3} and "test" not in images.splits:
        raise UsageError(f"{dataset} has no split 'test' to compare predictions on.")
    path = extract(
        dataset,
        backbone=backbone,
        weights=weights,
        bn=bn,
        preprocess=preprocess,
        image_size=image_size,
        precision="fp32",
        limit=limit,
        device="cpu",
        cache_dir=cache_dir,
        data_dir=data_dir,
        on_progress=on_progress,
        on_note=on_note,
    ).path
    cache = open_cache(path)
    sides = Sides(
        cache=cache,
        dataset=images,
        trunk=_trunk_state(cache, weights=weights, image_size=image_size),
        preprocess=preprocess_of(cache),
        head=spec,
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
    )
    # Level 3's first training is level 2's.
    train = functools.cache(lambda s: (train_cached(sides, s), train_end_to_end(sides, s)))
    checks: list[ParityCheck] = []
    if 1 in levels:
        checks += _compare_features(sides)
    if 2 in levels:
        checks += _compare_trajectory(sides, *train(seed))
    if 3 in levels:
        checks.append(_compare_results(sides, [train(seed + i) for i in range(seeds)]))
    return ParityReport(str(path), backbone, bn, tuple(checks))


def _trunk_state(cache: Cache, *, weights: str, image_size: int) -> dict[str, Tensor]:
    """Load the trunk's weights, with the running statistics of the cache where it adapted them."""
    backbone = load_backbone(cache.identity["backbone"], weights=weights, image_size=image_size)
    assert backbone.module is not None, "pixels were refused before"
    state = dict(backbone.module.state_dict())
    for name, values in read_trunk_statistics(cache.path).items():
        state[name] = torch.from_numpy(values.copy()).to(state[name].dtype)
    return state


def _compare_features(sides: Sides) -> list[ParityCheck]:
    """Level 1: rows against fresh forwards, one image at a time."""
    model = whole_model(sides.cache.identity["backbone"], sides.trunk, nn.Identity())
    largest = difference = 0.0
    cosine = 1.0
    n_rows = n_labels = 0
    for name, split in sides.cache.splits.items():
        n_labels += int((split.labels != sides.dataset.splits[name].labels).sum())
        rows = valid_rows(split)
        rows = rows[torch.linspace(0, len(rows) - 1, min(_N_FEATURES_CHECKED, len(rows))).long()]
        images = ImageRows(sides.dataset.splits[name], rows.tolist(), sides.preprocess)
        for i, row in enumerate(rows.tolist()):
            with torch.inference_mode():
                fresh = model(images[i][0][None])[0].double().numpy()
            cached = split.features[row].astype(np.float64)
            largest = max(largest, float(np.abs(fresh).max()))
            difference = max(difference, float(np.abs(fresh - cached).max()))
            norms = np.linalg.norm(fresh) * np.linalg.norm(cached)
            cosine = min(cosine, float(fresh @ cached / norms) if norms else 0.0)
            n_rows += 1
    detail = f"{n_rows} images, one at a time; least cosine {cosine:.9f}"
    relative = difference / largest if largest else float("nan")
    return [
        ParityCheck(
            1, "largest difference / largest feature", relative, FEATURE_TOLERANCE, False, detail
        ),
        ParityCheck(1, "labels that differ", n_labels, 0, False, "all rows of all splits"),
    ]


def _compare_trajectory(sides: Sides, cached: Trained, end_to_end: Trained) -> list[ParityCheck]:
    """Level 2: one initial head, one order of batches; every loss, and the predictions."""
    cached_losses, cached_logits = cached
    losses, logits = end_to_end
    relative = float(((cached_losses - losses).abs() / losses.abs()).max())
    predicted = logits.argmax(1)
    agreement = float((cached_logits.argmax(1) == predicted).double().mean())
    cached_loss, loss = (
        nn.functional.cross_entropy(side.double(), sides.test_labels).item()
        for side in (cached_logits, logits)
    )
    n_train = len(sides.train_rows)
    return [
        ParityCheck(
            2,
            "largest relative difference of a step's loss",
            relative,
            LOSS_TOLERANCE,
            False,
            f"{len(losses)} steps over {n_train} images; last losses {cached_losses[-1]:.6f} "
            f"and {losses[-1]:.6f}",
        ),
        ParityCheck(
            2,
            "share of equal predictions",
            agreement,
            AGREEMENT,
            True,
            f"{len(predicted)} test images, {len(predicted.unique())} classes predicted",
        ),
        ParityCheck(
            2,
            "relative difference of test_loss",
            abs(cached_loss - loss) / loss,
            LOSS_TOLERANCE,
            False,
            f"{cached_loss:.6f} and {loss:.6f}",
        ),
    ]


def _compare_results(sides: Sides, trainings: Sequence[tuple[Trained, Trained]]) -> ParityCheck:
    """Level 3: the accuracies of several seeds."""
    spreads = {}
    for side, trained in zip(("cached", "end to end"), zip(*trainings, strict=True), strict=True):
        right = [logits.argmax(1) == sides.test_labels for _, logits in trained]
        spreads[side] = Spread.of([float(r.double().mean()) for r in right])
    told = ", ".join(
        f"{side} {s.mean:.4f} (sd {s.sd or 0:.4f}, {s.low:.4f} to {s.high:.4f})"
        for side, s in spreads.items()
    )
    difference = abs(spreads["cached"].mean - spreads["end to end"].mean)
    return ParityCheck(
        3,
        "difference of mean test_acc",
        difference,
        1 - AGREEMENT,
        False,
        f"{told}, n {len(trainings)}",
    )
