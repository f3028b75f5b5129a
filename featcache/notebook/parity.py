"""Parity: is training on a cache what training end to end is? Three levels, each measured."""

from __future__ import annotations

import functools
import os
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.families import check_backbone_options, family_of
from featcache.config import BN_MODES, ExtractSpec, HeadSpec, ParitySpec, TrainSpec
from featcache.core.arguments import option_name, text
from featcache.core.backbone_kinds import PRE_LOGITS
from featcache.core.backbone_names import PIXELS, backbone_name
from featcache.core.dataset_names import dataset_name
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.extraction.extract import extract
from featcache.features.lookup import the_cache
from featcache.images.datasets import load_dataset
from featcache.images.splits import Dataset
from featcache.notebook.classifiers import require_whole_model
from featcache.store import Cache, named_backbone, require_sound

if TYPE_CHECKING:
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


@starting(*ANY_START)
def parity(
    cache: str | os.PathLike[str] | None = None,
    *,
    dataset: str | Dataset | None = None,
    backbone: str | None = None,
    weights: str = ExtractSpec.weights,
    bn: str | None = None,
    preprocess: str | None = None,
    image_size: int | None = None,
    views: int | None = None,
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
    on_note: NoteCallback | None = None,
) -> ParityReport:
    """Compare training on a cache with training end to end, on the CPU.

    Takes a cache that is there, or extracts `limit` images of each split, and sets against it: PIL
    transforms per image, a DataLoader, the whole model of torchvision or timm with its classifier
    replaced, plain Lightning. Level 1 compares features, one image at a time. Level 2 starts both
    from one head with one order of batches, and compares the loss of every step and the predictions
    for the test images. Level 3 does so for several seeds, and compares the mean accuracies.

    Of a cache with several views of each image, both sides draw the same ones for each epoch.

    A backbone with adapted BatchNorm runs with the statistics of the cache on both sides. The other
    arguments are those of `featcache.config.ParitySpec`, `ExtractSpec`, `HeadSpec` and `TrainSpec`.

    Args:
        cache: Path or part of the name of a cache; None extracts one in fp32.
        dataset: As for `extract`; beside a cache, where its images are now.
        backbone: A torchvision backbone whose classifier stands right behind its features, or one
            of timm's; a cache says this and `bn`, `preprocess`, `image_size` and `views` itself.
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
    given = {"backbone": backbone, "bn": bn, "preprocess": preprocess, "image_size": image_size}
    given |= {"views": views}
    given = {name: value for name, value in given.items() if value is not None}
    if cache is not None:
        _refuse_beside_a_cache([*given, *(["as_notebook"] if as_notebook else [])])
    asked = ParitySpec(
        limit=limit, levels=levels, epochs=epochs, lr=lr, seeds=seeds, as_notebook=as_notebook
    )
    head = HeadSpec(reg=reg, hidden=hidden)
    train = TrainSpec(lr=asked.lr, batch_size=batch_size, seed=seed)
    options: dict[str, Any] = given
    spec = ExtractSpec(
        **options,
        dataset=_name_of(dataset),
        weights=text("--weights", weights),
        precision="fp32",
        limit=asked.limit,
        device="cpu",
        cache_dir=text("--cache-dir", cache_dir),
        data_dir=text("--data-dir", data_dir),
    )

    images = dataset if isinstance(dataset, Dataset) else spec.dataset

    def extracted(mode: str) -> Path:
        settings = {**asdict(replace(spec, bn=mode)), "dataset": images}
        return extract(**settings, on_progress=on_progress, on_note=on_note).path

    if cache is not None:
        path = _comparable_cache(cache, spec, asked, note)
    else:
        _require_comparable_images(images, spec, asked, note)
        path = extracted(spec.bn)
    # They import torch and Lightning, which takes seconds.
    from featcache.features.rows import bn_mode
    from featcache.heads.mlp import require_room
    from featcache.notebook.parity_checks import checks_of, compare_with_notebook
    from featcache.notebook.parity_sides import open_sides
    from featcache.notebook.parity_training import train_cached, train_end_to_end

    named = None if dataset is None else images
    open_cache_of = functools.partial(
        open_sides, dataset=named, spec=spec, head=head, train=train, asked=asked
    )
    sides = open_cache_of(path)
    if asked.as_notebook or {2, 3} & set(asked.levels):
        shape = {"n_features": sides.cache.n_features, "n_classes": len(sides.cache.class_names)}
        require_room(head, **shape, device="cpu")
    # Level 3's first training is level 2's, and one of those beside the notebook's.
    on_cache, end_to_end = functools.cache(train_cached), functools.cache(train_end_to_end)
    checks = checks_of(sides, asked, train.seed, on_cache=on_cache, end_to_end=end_to_end)
    own = bn_mode(sides.cache)
    both: list[Sides] = []
    if asked.as_notebook:
        both = [sides if mode == own else open_cache_of(extracted(mode)) for mode in BN_MODES]
    return ParityReport(
        cache=str(path),
        backbone=sides.cache.identity.backbone,
        bn=own,
        checks=tuple(checks),
        beside_notebook=tuple(compare_with_notebook(both, train.seed, on_cache=on_cache)),
    )


def _comparable_cache(
    cache: str | os.PathLike[str], spec: ExtractSpec, asked: ParitySpec, on_note: NoteCallback
) -> Path:
    """Find a cache that is there, and refuse one that cannot be compared."""
    opened = the_cache(
        cache, dataset=None, backbone=None, cache_dir=Path(spec.cache_dir), on_note=on_note
    ).cache
    backbone = named_backbone(opened.identity, opened.provenance)
    if "pool" in opened.identity and not _is_what_enters_timms_classifier(opened):
        raise UsageError(
            f"{opened.path} holds the layer {opened.identity['layer']} by the pooling "
            f"{opened.identity['pool']}, and parity compares what enters a model's own classifier. "
            f"Nothing was compared."
        )
    _require_comparable(backbone, opened.splits, asked)
    family_of(backbone).check_weights(backbone, spec.weights)
    require_sound(opened)
    return opened.path


def _is_what_enters_timms_classifier(cache: Cache) -> bool:
    """Tell whether a cache holds what one of timm's models gives of itself."""
    if cache.identity.get("library") != "timm" or cache.identity["layer"] != PRE_LOGITS:
        return False
    from featcache.backbones.timm_models import own_pooling

    name = named_backbone(cache.identity, cache.provenance)
    blank = family_of(name).blank(name, cache.identity.preprocess.out_size[0])
    is_own: bool = own_pooling(blank) == cache.identity["pool"]
    return is_own


def _name_of(dataset: str | Dataset | None) -> str:
    if isinstance(dataset, Dataset):
        return dataset.name
    return ExtractSpec.dataset if dataset is None else dataset_name(dataset)


def _require_comparable_images(
    dataset: str | Dataset, spec: ExtractSpec, asked: ParitySpec, on_note: NoteCallback
) -> None:
    """Refuse what cannot be compared before it is extracted."""
    backbone_name(spec.backbone)
    _require_backbone(spec.backbone)
    check_backbone_options(spec.backbone, spec.weights, spec.image_size)
    on_note(f"opening {spec.dataset}")
    images = load_dataset(dataset, data_dir=spec.data_dir)
    _require_comparable(spec.backbone, images.splits, asked)
    if asked.as_notebook:
        _require_drift(spec)


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
    require_whole_model(backbone)


def _require_comparable(backbone: str, splits: Container[str], asked: ParitySpec) -> None:
    _require_backbone(backbone)
    trains = asked.as_notebook or {2, 3} & set(asked.levels)
    if trains and "test" not in splits:
        raise UsageError(
            "The dataset has no split 'test' to compare predictions on. Nothing was started. "
            "--levels 1 compares features alone."
        )


def _require_drift(spec: ExtractSpec) -> None:
    from featcache.backbones.batchnorm import has_batch_norm

    family = family_of(spec.backbone)
    image_size = spec.image_size or family.usual_size(spec.backbone)
    if not has_batch_norm(family.blank(spec.backbone, image_size)):
        raise UsageError(
            f"--as-notebook leaves BatchNorm in training mode, but {spec.backbone} has none. "
            f"Nothing was started. Leave the option out: level 2 is the notebook's training."
        )
