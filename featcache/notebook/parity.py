"""Parity: is training on a cache what training end to end is? Three levels, each measured."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.families import check_backbone_options, family_of
from featcache.config import BN_MODES, ExtractSpec, HeadSpec, ParitySpec, TrainSpec
from featcache.core.arguments import count, option_name, text, whole_numbers
from featcache.core.backbone_names import PIXELS, backbone_name
from featcache.core.dataset_names import dataset_name
from featcache.core.reporting import silent
from featcache.errors import MismatchError, UsageError
from featcache.extraction.extract import extract
from featcache.extraction.whereabouts import dataset_of
from featcache.features.lookup import listing_difference, the_cache
from featcache.images.datasets import load_dataset
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.notebook.classifiers import require_known_classifier
from featcache.store import (
    Cache,
    open_cache,
    read_state,
    read_trunk_statistics,
    require_fields,
    require_sound,
)

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.extraction.progress import ProgressCallback
    from featcache.notebook.parity_checks import NotebookComparison, ParityCheck
    from featcache.notebook.parity_training import Sides


@dataclass(frozen=True)
class ParityReport:
    """What `parity` found.

    Attributes:
        cache: The cache.
        backbone: Its backbone.
        bn: "frozen" or "adapted": both sides ran in this mode.
        checks: The figures of all levels.
        beside_notebook: Where the notebook's own mode lands beside a frozen and an adapted cache,
            if that was asked for.
    """

    cache: str
    backbone: str
    bn: str
    checks: Sequence[ParityCheck]
    beside_notebook: Sequence[NotebookComparison] = ()

    @property
    def holds(self) -> bool:
        """Whether all figures are within their tolerances."""
        return all(check.holds for check in self.checks)


def parity(
    cache: str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    backbone: str | None = None,
    weights: str = ExtractSpec.weights,
    bn: str | None = None,
    preprocess: str | None = None,
    image_size: int | None = None,
    limit: int = ParitySpec.limit,
    levels: tuple[int, ...] = ParitySpec.levels,
    epochs: int = ParitySpec.epochs,
    hidden: tuple[int, ...] = HeadSpec.hidden,
    reg: str = HeadSpec.reg,
    lr: float = ParitySpec.lr,
    batch_size: int = TrainSpec.batch_size,
    seed: int = TrainSpec.seed,
    seeds: int = ParitySpec.seeds,
    as_notebook: bool = ParitySpec.as_notebook,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    on_progress: ProgressCallback | None = None,
    on_note: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compare training on a cache with training end to end, on the CPU.

    Takes a cache that is there, or extracts `limit` images of each split, and sets against it: PIL
    transforms per image, a DataLoader, the whole torchvision model with its classifier replaced,
    plain Lightning. Level 1 compares features, one image at a time. Level 2 starts both from one
    head with one order of batches, and compares the loss of every step and the predictions for
    the test images. Level 3 does so for several seeds, and compares the mean accuracies.

    A backbone with adapted BatchNorm runs with the statistics of the cache on both sides. The other
    arguments are those of `featcache.config.ParitySpec`, `ExtractSpec`, `HeadSpec` and `TrainSpec`.

    Args:
        cache: Path or part of the name of a cache; None extracts one in fp32.
        dataset: As for `extract`; beside a cache, where its images are now.
        backbone: A torchvision backbone whose classifier stands right behind its features; a cache
            says this and `bn`, `preprocess` and `image_size` itself.
        weights: As for `extract`; they must be those of the cache.
        lr: Higher than the notebook's by default, so that a few steps show a difference.
        as_notebook: Also train as the notebook does, with the backbone in training mode, and tell
            how far that lands from a frozen and from an adapted cache.
        on_progress: Called after each batch of the extraction.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UsageError: If there is nothing to compare: no backbone, no test images, unknown levels.
        MismatchError: If images or weights are not those of the cache.
    """
    note = on_note or silent
    asked = {"backbone": backbone, "bn": bn, "preprocess": preprocess, "image_size": image_size}
    asked = {name: value for name, value in asked.items() if value is not None}
    if cache is not None:
        _refuse_beside_a_cache([*asked, *(["as_notebook"] if as_notebook else [])])
    levels = whole_numbers("--levels", levels)
    if not levels or set(levels) - {1, 2, 3}:
        raise UsageError(f"--levels is {','.join(map(str, levels))}, but must be of 1, 2, 3.")
    epochs, seeds = count("--epochs", epochs), count("--seeds", seeds)
    head = HeadSpec(reg=reg, hidden=hidden)
    train = TrainSpec(lr=lr, batch_size=batch_size, seed=seed)
    seed = train.seed
    options: dict[str, Any] = asked
    spec = ExtractSpec(
        **options,
        dataset=ExtractSpec.dataset if dataset is None else dataset_name(dataset),
        weights=text("--weights", weights),
        precision="fp32",
        limit=limit,
        device="cpu",
        cache_dir=text("--cache-dir", cache_dir),
        data_dir=text("--data-dir", data_dir),
    )
    named = None if dataset is None else spec.dataset
    n_images = count("--limit", limit)
    trains = as_notebook or bool({2, 3} & set(levels))

    def extracted(mode: str) -> Path:
        settings = asdict(replace(spec, bn=mode))
        return extract(**settings, on_progress=on_progress, on_note=on_note).path

    def sides_of(path: Path) -> Sides:
        from featcache.features.rows import preprocess_of
        from featcache.notebook.parity_training import Sides

        opened = open_cache(path)
        return Sides(
            cache=opened,
            dataset=_images(opened, named, data_dir=spec.data_dir),
            backbone=_backbone_state(opened, weights=spec.weights),
            preprocess=preprocess_of(opened),
            head=head,
            lr=train.lr,
            batch_size=train.batch_size,
            epochs=epochs,
            limit=n_images,
        )

    if cache is not None:
        opened = the_cache(
            cache,
            dataset=None,
            backbone=None,
            cache_dir=Path(spec.cache_dir),
            on_note=note,
        )
        path = opened.path
        _require_comparable(opened.identity.backbone, opened.splits, trains=trains)
        of_cache = opened.identity.backbone
        family_of(of_cache).check_weights(of_cache, spec.weights)
        require_sound(opened)
    else:
        backbone_name(spec.backbone)
        _require_backbone(spec.backbone)
        check_backbone_options(spec.backbone, spec.weights, spec.image_size)
        note(f"opening {spec.dataset}")
        images = load_dataset(spec.dataset, data_dir=spec.data_dir)
        _require_comparable(spec.backbone, images.splits, trains=trains)
        if as_notebook:
            _require_drift(spec)
        path = extracted(spec.bn)
    # They import torch and Lightning, which takes seconds.
    from featcache.features.rows import bn_mode
    from featcache.notebook.parity_checks import (
        compare_features,
        compare_results,
        compare_trajectory,
        compare_with_notebook,
    )
    from featcache.notebook.parity_training import train_cached, train_end_to_end

    sides = sides_of(path)
    # Level 3's first training is level 2's, and one of those beside the notebook's.
    on_cache = functools.cache(train_cached)
    end_to_end = functools.cache(train_end_to_end)
    checks: list[ParityCheck] = []
    if 1 in levels:
        checks += compare_features(sides)
    if 2 in levels:
        checks += compare_trajectory(sides, on_cache(sides, seed), end_to_end(sides, seed))
    if 3 in levels:
        of_all = range(seed, seed + seeds)
        trainings = [(on_cache(sides, s), end_to_end(sides, s)) for s in of_all]
        checks.append(compare_results(sides, trainings))
    beside_notebook: tuple[NotebookComparison, ...] = ()
    if as_notebook:
        own = bn_mode(sides.cache)
        modes = {mode: sides if mode == own else sides_of(extracted(mode)) for mode in BN_MODES}
        notebook = train_end_to_end(modes["frozen"], seed, backbone_trains=True)
        beside_notebook = tuple(
            compare_with_notebook(s, on_cache(s, seed), notebook) for s in modes.values()
        )
    return ParityReport(
        cache=str(path),
        backbone=sides.cache.identity.backbone,
        bn=bn_mode(sides.cache),
        checks=tuple(checks),
        beside_notebook=beside_notebook,
    )


def _refuse_beside_a_cache(names: Sequence[str]) -> None:
    if names:
        options = ", ".join(f"{option_name(name)}" for name in names)
        raise UsageError(
            f"--cache names a cache that is there, so {options} cannot be said beside it. Nothing "
            f"was started. Without --cache, parity extracts what it needs."
        )


def _require_backbone(backbone: str) -> None:
    if backbone == PIXELS:
        raise UsageError("The backbone 'pixels' runs no network, so there is nothing to compare.")
    require_known_classifier(backbone)


def _require_comparable(backbone: str, splits: Container[str], *, trains: bool) -> None:
    _require_backbone(backbone)
    if trains and "test" not in splits:
        raise UsageError(
            "The dataset has no split 'test' to compare predictions on. Nothing was started. "
            "--levels 1 compares features alone."
        )


def _require_drift(spec: ExtractSpec) -> None:
    from featcache.backbones.batchnorm import has_batch_norm
    from featcache.backbones.torchvision_models import build_backbone

    if not has_batch_norm(build_backbone(spec.backbone, image_size=spec.image_size, meta=True)):
        raise UsageError(
            f"--as-notebook leaves BatchNorm in training mode, but {spec.backbone} has none. "
            f"Nothing was started. Leave the option out: level 2 is the notebook's training."
        )


def _images(cache: Cache, dataset: str | None, *, data_dir: str) -> Dataset:
    """Load the images that a cache was made from."""
    require_fields(cache.path, {**cache.identity, **cache.provenance}, "dataset_sha256", "limit")
    name = dataset or dataset_of(cache.path, read_state(cache.path).manifest)
    listing = load_dataset(name, data_dir=data_dir)
    images = listing.following(ImageRules.of(cache.identity)).limited(cache.provenance.limit)
    digest, images = images.identified()
    if digest != cache.identity["dataset_sha256"]:
        difference = listing_difference(listing, cache) or "the bytes of its images differ"
        raise MismatchError(
            f"{cache.path.name} was made from other images than those of {name} (dataset_sha256 "
            f"differs): {difference}. Nothing was compared. Say where its images are with "
            f"--dataset, or leave --cache out: parity then extracts what it needs."
        )
    return images


def _backbone_state(cache: Cache, *, weights: str) -> dict[str, Tensor]:
    """Load the backbone's weights, with the cache's running statistics where it adapted them."""
    import torch

    from featcache.backbones.load import load_backbone
    from featcache.features.rows import preprocess_of

    image_size = preprocess_of(cache).out_size[0]
    said = {**cache.identity, **cache.provenance}
    require_fields(cache.path, said, "weights", "weights_sha256")
    made_with = cache.provenance.weights
    if made_with.startswith("random") and weights == ExtractSpec.weights:
        weights = "random"  # no other are meant, and nothing needs to be fetched to refuse them
    backbone = load_backbone(cache.identity.backbone, weights=weights, image_size=image_size)
    if backbone.weights_sha256 != cache.identity["weights_sha256"]:
        raise MismatchError(
            f"{cache.path.name} was made with the weights {made_with}, not with "
            f"{backbone.weights} (weights_sha256 differs). Nothing was compared. Name its weights "
            f"with --weights."
        )
    assert backbone.module is not None, "pixels were refused before"
    state = dict(backbone.module.state_dict())
    for name, values in read_trunk_statistics(cache.path).items():
        state[name] = torch.from_numpy(values.copy()).to(state[name].dtype)
    return state
