"""Stage one: images through a frozen backbone into a cache."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.backbones.families import check_backbone_options, family_of
from featcache.config import ExtractSpec
from featcache.core.arguments import option_name, text
from featcache.core.backbone_names import backbone_name
from featcache.core.dataset_names import dataset_name
from featcache.core.reporting import NoteCallback, silent
from featcache.core.tolerances import TF32_ON_CPU
from featcache.errors import UsageError
from featcache.extraction.result import ExtractResult, result_of
from featcache.images.datasets import load_dataset
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.store import locked, open_cache, read_state

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan
    from featcache.extraction.progress import ProgressCallback

_OF_THE_IMAGES = (
    "dataset",
    "data_dir",
    "limit",
    "max_pixels",
    "exif_orientation",
    "skip_undecodable",
)


def extract(
    dataset: str | os.PathLike[str] = ExtractSpec.dataset,
    *,
    backbone: str = ExtractSpec.backbone,
    weights: str | os.PathLike[str] = ExtractSpec.weights,
    bn: str = ExtractSpec.bn,
    preprocess: str = ExtractSpec.preprocess,
    image_size: int = ExtractSpec.image_size,
    precision: str = ExtractSpec.precision,
    store_dtype: str = ExtractSpec.store_dtype,
    device: str = ExtractSpec.device,
    batch_size: int | None = ExtractSpec.batch_size,
    n_workers: int | None = ExtractSpec.n_workers,
    limit: int | None = ExtractSpec.limit,
    seed: int = ExtractSpec.seed,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    compile: str = ExtractSpec.compile,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    max_pixels: int = ExtractSpec.max_pixels,
    exif_orientation: str = ExtractSpec.exif_orientation,
    skip_undecodable: bool = ExtractSpec.skip_undecodable,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ExtractResult:
    """Run a dataset through a frozen backbone once and keep its features in one HDF5 file.

    `ExtractSpec` says what each argument means. The same call continues a partial file. If the
    cache is complete, it checks the images and the weights, and returns.

    Args:
        dataset: A name as in `ExtractSpec`, or the Path of a folder of images.
        on_progress: Called after each batch.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The path of the cache, and how it came to be.

    Raises:
        FeatcacheError: One of its children, each with the exit code it means on a terminal.

    Example:
        >>> import featcache
        >>> result = featcache.extract("digits", backbone="pixels", limit=64, cache_dir=tmp)
        >>> result.outcome, result.n_rows
        ('computed', 128)
    """
    spec = ExtractSpec(
        dataset=dataset_name(dataset),
        backbone=backbone,
        weights=text("--weights", weights),
        bn=bn,
        preprocess=preprocess,
        image_size=image_size,
        precision=precision,
        store_dtype=store_dtype,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        limit=limit,
        seed=seed,
        cache_dir=text("--cache-dir", cache_dir),
        data_dir=text("--data-dir", data_dir),
        compile=compile,
        mix_numerics=mix_numerics,
        max_pixels=max_pixels,
        exif_orientation=exif_orientation,
        skip_undecodable=skip_undecodable,
    )
    [result] = _extract([spec], on_progress or silent, on_note or silent)
    return result


def extract_all(
    specs: Sequence[ExtractSpec],
    *,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> tuple[ExtractResult, ...]:
    """Run a dataset through several backbones, each into a cache of its own, reading images once.

    Backbones whose images are prepared alike, in batches of one size, share a pass; others follow
    in a pass of their own. Each cache is byte for byte the one that `extract` makes.

    Args:
        specs: What each cache is to be; all of the same images, each backbone once.
        on_progress: Called after each batch.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        One for each, in their order. `seconds` is that of the whole call; reading and writing are
        counted in full for each cache of a pass.

    Raises:
        UsageError: If there is no backbone, one is named twice, "pixels" is among several, or they
            differ in their images.
        FeatcacheError: One of its children, as `extract` raises them.
    """
    names = [spec.backbone for spec in specs]
    for name in names:
        backbone_name(name)
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"--backbone names {', '.join(names) or 'no backbone'}; give one or more, each once."
        )
    without = next((name for name in names if not family_of(name).runs_network), None)
    if without is not None and len(names) > 1:
        raise UsageError(
            f"--backbone {without} runs no network, so it cannot be extracted together with other "
            f"backbones. Nothing was started. Extract it alone."
        )
    if len({tuple(getattr(spec, name) for name in _OF_THE_IMAGES) for spec in specs}) > 1:
        raise UsageError(
            f"All backbones of one call must have the same {', '.join(_OF_THE_IMAGES)}. Nothing "
            f"was started. Call it for each dataset."
        )
    return tuple(_extract(specs, on_progress or silent, on_note or silent))


def open_images(spec: ExtractSpec, *, on_note: NoteCallback) -> Dataset:
    """Refuse names that do not exist, then open the images; all that needs no torch.

    Raises:
        UsageError: For names that do not exist, and options that "pixels" has no use for.
        DatasetError: If the dataset is not there.
    """
    backbone_name(spec.backbone)
    check_backbone_options(spec.backbone, spec.weights, spec.image_size)
    if not family_of(spec.backbone).runs_network:
        _refuse_options_of_networks(spec)
    if (spec.precision, spec.device) == ("tf32", "cpu"):
        raise UsageError(TF32_ON_CPU)
    on_note(f"opening {spec.dataset}")
    rules = ImageRules(spec.max_pixels, spec.exif_orientation)
    dataset = load_dataset(spec.dataset, data_dir=spec.data_dir).following(rules)
    dataset = dataset.limited(spec.limit)
    for sentence in (*dataset.notes, dataset.summary):
        on_note(sentence)
    return dataset


def _refuse_options_of_networks(spec: ExtractSpec) -> None:
    """Refuse the options that "pixels" has no use for, since it runs no network."""
    for name in ("bn", "preprocess", "precision", "store_dtype", "compile"):
        value = getattr(spec, name)
        if value != getattr(ExtractSpec, name):
            raise UsageError(
                f"{option_name(name)} {value} needs a backbone, but the backbone 'pixels' "
                f"stores the images as they are. Nothing was started. Leave the option out."
            )


def _extract(
    specs: Sequence[ExtractSpec], on_progress: ProgressCallback, on_note: NoteCallback
) -> list[ExtractResult]:
    """Make the caches that are not there yet."""
    started = time.perf_counter()
    for spec in specs[1:]:
        check_backbone_options(spec.backbone, spec.weights, spec.image_size)
    dataset = open_images(specs[0], on_note=on_note)
    # They import torch, which takes seconds.
    from featcache.extraction.plan import make_plan
    from featcache.extraction.run import make_caches

    plans: list[Plan] = []
    for spec in specs:
        if len(specs) > 1:
            on_note(f"{spec.backbone}:")
        sha256 = plans[0].identity["dataset_sha256"] if plans else None
        plan = make_plan(
            spec, dataset, on_progress=on_progress, on_note=on_note, dataset_sha256=sha256
        )
        dataset = plan.dataset  # with the digest of each image
        plans.append(plan)
    missing = [plan for plan in plans if not _is_complete(plan)]
    for plan in missing:
        plan.backbone.require_published()
    with contextlib.ExitStack() as locks:
        for plan in missing:
            locks.enter_context(locked(plan.path))
        # Another process may have finished one meanwhile.
        missing = [plan for plan in missing if not _is_complete(plan)]
        how = make_caches(missing, on_progress=on_progress, on_note=on_note)
        made = {plan.path: one for plan, one in zip(missing, how, strict=True)}
    return [result_of(p, made.get(p.path), seconds=time.perf_counter() - started) for p in plans]


def _is_complete(plan: Plan) -> bool:
    """Tell whether the cache is there; refuse a file of another identity in its place."""
    if not (plan.path.exists() or plan.path.is_symlink()):
        return False
    from featcache.extraction.run import require_same_file

    open_cache(plan.path)  # refuses what is not complete
    require_same_file(plan.path, read_state(plan.path).manifest, plan)
    return True
