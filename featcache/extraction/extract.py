"""Stage one: images through a frozen backbone into a cache."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featcache.backbones.families import family_of
from featcache.backbones.own import Backbone, given_backbone
from featcache.config import ExtractSpec
from featcache.core.arguments import text
from featcache.core.backbone_names import backbone_name
from featcache.core.dataset_names import dataset_name
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.extraction.expected_file import require_same_file
from featcache.extraction.opening import check_names, identified, open_images, rules_of
from featcache.extraction.recall import Recalled, recall, remember
from featcache.extraction.result import ExtractResult, result_of, reused
from featcache.images.datasets import files_digest
from featcache.images.splits import Dataset
from featcache.images.stat_index import KnownFiles
from featcache.store import locked, open_cache, read_state

if TYPE_CHECKING:
    from torch import nn

    from featcache.extraction.plan import Plan
    from featcache.extraction.progress import ProgressCallback
    from featcache.extraction.run import Made


class Making(Protocol):
    """Makes planned caches, as `make_caches` does."""

    def __call__(
        self, plans: Sequence[Plan], *, on_progress: ProgressCallback, on_note: NoteCallback
    ) -> list[Made]:
        """Compute what is missing of each; the caller holds the locks."""
        ...


_OF_THE_IMAGES = (
    "dataset",
    "data_dir",
    "limit",
    "max_pixels",
    "exif_orientation",
    "skip_undecodable",
    "rehash",
)


@starting(*ANY_START)
def extract(
    dataset: str | os.PathLike[str] | Dataset = ExtractSpec.dataset,
    *,
    backbone: str | Backbone | nn.Module = ExtractSpec.backbone,
    weights: str | os.PathLike[str] = ExtractSpec.weights,
    layer: str | None = ExtractSpec.layer,
    pool: str = ExtractSpec.pool,
    bn: str = ExtractSpec.bn,
    preprocess: str = ExtractSpec.preprocess,
    image_size: int | None = ExtractSpec.image_size,
    precision: str = ExtractSpec.precision,
    store_dtype: str = ExtractSpec.store_dtype,
    device: str = ExtractSpec.device,
    batch_size: int | None = ExtractSpec.batch_size,
    n_workers: int | None = ExtractSpec.n_workers,
    limit: int | None = ExtractSpec.limit,
    path_column: str | None = ExtractSpec.path_column,
    label_column: str | None = ExtractSpec.label_column,
    views: int = ExtractSpec.views,
    augment: Sequence[str] | str = ExtractSpec.augment,
    views_of: str = ExtractSpec.views_of,
    seed: int = ExtractSpec.seed,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    compile: str = ExtractSpec.compile,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    max_pixels: int = ExtractSpec.max_pixels,
    exif_orientation: str = ExtractSpec.exif_orientation,
    skip_undecodable: bool = ExtractSpec.skip_undecodable,
    rehash: bool = ExtractSpec.rehash,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ExtractResult:
    """Run a dataset through a frozen backbone once and keep its features in one HDF5 file.

    `ExtractSpec` says what each argument means. The same call continues a partial file. If the
    cache is complete, it checks the images and the weights, and returns.

    Args:
        dataset: A name as in `ExtractSpec`, the Path of a folder of images, a list or an archive,
            or what `featcache.make_dataset` makes of arrays and torch Datasets.
        backbone: A name, or a network of one's own: a `featcache.Backbone` or a module.
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
    given = dataset if isinstance(dataset, Dataset) else None
    make_spec = partial(
        ExtractSpec,
        dataset=dataset.name if isinstance(dataset, Dataset) else dataset_name(dataset),
        weights=text("--weights", weights),
        layer=layer,
        pool=pool,
        bn=bn,
        preprocess=preprocess,
        image_size=image_size,
        precision=precision,
        store_dtype=store_dtype,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        limit=limit,
        path_column=path_column,
        label_column=label_column,
        views=views,
        augment=augment,  # type: ignore[arg-type]  # brought to its type there
        views_of=views_of,
        seed=seed,
        cache_dir=text("--cache-dir", cache_dir),
        data_dir=text("--data-dir", data_dir),
        compile=compile,
        mix_numerics=mix_numerics,
        max_pixels=max_pixels,
        exif_orientation=exif_orientation,
        skip_undecodable=skip_undecodable,
        rehash=rehash,
    )
    with given_backbone(backbone) as name:
        spec = make_spec(backbone=name)
        [result] = find_or_make([spec], on_progress or silent, on_note or silent, given)
    return result


@starting(*ANY_START)
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
    return tuple(find_or_make(specs, on_progress or silent, on_note or silent))


def find_or_make(
    specs: Sequence[ExtractSpec],
    on_progress: ProgressCallback,
    on_note: NoteCallback,
    given: Dataset | None = None,
    making: Making | None = None,
) -> list[ExtractResult]:
    """Find the caches, or make those that are not there yet.

    Args:
        specs: What each is to be; all of the same images.
        on_progress: Called after each batch.
        on_note: Told each choice.
        given: The images, where they are not found by their name.
        making: Makes those that are not there; None is `make_caches`.
    """
    started = time.perf_counter()
    for spec in specs:
        check_names(spec)
    known = KnownFiles(rehash=specs[0].rehash, on_note=on_note)
    files = _files_digest(specs[0], known, given)
    is_given = given is not None
    recalled = [recall(spec, known, is_given=is_given) for spec in specs]
    dataset, sha256 = None, None
    if files is None and all(recalled):
        images = open_images(specs[0], on_note=on_note, given=given)
        sha256, dataset = identified(
            images, specs[0], known, on_progress=on_progress, on_note=on_note
        )
    found = _found_again(specs, recalled, files or sha256, known)
    if found is not None:
        on_note("images, weights and versions are those of the cache (--rehash reads all files)")
        seconds = time.perf_counter() - started
        return [reused(path, choices, seconds=seconds) for path, choices in found]
    dataset = dataset or open_images(specs[0], on_note=on_note, given=given)
    plans, made = _make(
        specs, dataset, sha256, known, making, on_progress=on_progress, on_note=on_note
    )
    if files == _files_digest(specs[0], known, given):
        for plan in plans:
            remember(plan, files or plan.identity["dataset_sha256"], known, is_given=is_given)
        known.save()
    return [result_of(p, made.get(p.path), seconds=time.perf_counter() - started) for p in plans]


def _files_digest(spec: ExtractSpec, known: KnownFiles, given: Dataset | None) -> str | None:
    """Hash the files that a name stands for; a dataset that is given need not hold all of them."""
    if given is not None:
        return None
    return files_digest(spec.dataset, data_dir=spec.data_dir, rules=rules_of(spec), known=known)


def _found_again(
    specs: Sequence[ExtractSpec],
    recalled: Sequence[Recalled | None],
    images: str | None,
    known: KnownFiles,
) -> list[tuple[Path, Mapping[str, str]]] | None:
    """Find the caches that these commands came to before; None unless all are there."""
    found = []
    for spec, one in zip(specs, recalled, strict=True):
        path = None if one is None or images is None else one.finds(spec, images, known)
        if one is None or path is None:
            return None
        found.append((path, one.choices))
    known.save()
    return found


def _make(
    specs: Sequence[ExtractSpec],
    dataset: Dataset,
    sha256: str | None,
    known: KnownFiles,
    making: Making | None,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> tuple[list[Plan], dict[Path, Made]]:
    """Plan the caches, and make those that are not there yet."""
    # They import torch, which takes seconds.
    from featcache.extraction.plan import make_plan
    from featcache.extraction.run import make_caches

    plans: list[Plan] = []
    for spec in specs:
        if len(specs) > 1:
            on_note(f"{spec.backbone}:")
        plan = make_plan(
            spec,
            dataset,
            on_progress=on_progress,
            on_note=on_note,
            dataset_sha256=sha256,
            known=known,
        )
        # with the digest of each image
        dataset, sha256 = plan.dataset, plan.identity["dataset_sha256"]
        plans.append(plan)
    missing = [plan for plan in plans if not _is_complete(plan)]
    # Rows that exist were made with these weights, since the identity has their digest.
    for plan in plans:
        plan.backbone.require_published(None if plan in missing else known)
    with contextlib.ExitStack() as locks:
        for plan in missing:
            locks.enter_context(locked(plan.path))
        # Another process may have finished one meanwhile.
        missing = [plan for plan in missing if not _is_complete(plan)]
        with known.trusted():
            make = making or make_caches
            how = make(missing, on_progress=on_progress, on_note=on_note)
    return plans, {plan.path: one for plan, one in zip(missing, how, strict=True)}


def _is_complete(plan: Plan) -> bool:
    """Tell whether the cache is there; refuse a file of another identity in its place."""
    if not (plan.path.exists() or plan.path.is_symlink()):
        return False
    cache = open_cache(plan.path)  # refuses what is not complete
    require_same_file(plan.path, read_state(plan.path).manifest, plan)
    from featcache.extraction.reference_rows import is_of_other_versions, require_its_function

    if not family_of(plan.spec.backbone).is_known_by_files or is_of_other_versions(cache):
        require_its_function(cache, plan.backbone, device=plan.device, precision=plan.precision)
    return True
