"""Which cache is meant: one by its name, one of a dataset and a backbone, or the only one there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from featcache.config import NOTEBOOK_SIZE, ExtractSpec
from featcache.core.arguments import text
from featcache.core.backbone_kinds import backbone_slug, written_name
from featcache.core.backbone_names import backbone_name
from featcache.core.dataset_names import IMPORTED_PREFIX, dataset_name
from featcache.core.identity import differing_fields
from featcache.core.paths import expanded, native
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.errors import CacheMissingError, DatasetError, MismatchError, UsageError, counted
from featcache.features.listing import is_made_from, listing_difference, n_differing_rows
from featcache.images.datasets import dataset_slug, is_there, load_dataset, path_in
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.store import (
    Cache,
    CacheSummary,
    caches_in,
    command_of,
    extract_command,
    find_cache,
    list_caches,
    open_cache,
    read_state,
)

_IMAGES = "dataset_sha256"


class Found(NamedTuple):
    """The cache that is meant.

    Attributes:
        cache: It, open.
        remarks: What must be known of it beside the figures of a head that is trained on it.
    """

    cache: Cache
    remarks: tuple[str, ...] = ()


class _Misfit(NamedTuple):
    """A cache in the folder of a listing of other rows, and their first difference."""

    cache: Cache
    listing: Dataset
    difference: str


def the_cache(
    cache: Cache | str | os.PathLike[str] | None,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    cache_dir: Path,
    on_note: NoteCallback,
) -> Found:
    """Open a cache by its name, or find it by its dataset and backbone, and tell which it is.

    The cache of the user's own images is one that holds the splits, ids, labels and class names of
    their listing; no image is read, which is told. Of several, the one that was made from the named
    path is meant, then the one of all images with frozen BatchNorm.
    Where neither dataset nor backbone is given and their defaults have no cache, the only complete
    cache is taken; where one of the two is given, the only one that fits.

    Args:
        cache: A cache, its path, or part of its name; None finds it.
        dataset: Its dataset; None is the default, or what the only cache is of.
        backbone: Its backbone, likewise.
        cache_dir: Folder of all caches.
        on_note: Told the cache and what is not a default in it.

    Raises:
        CacheMissingError: If there is none, with the command that makes it.
        DatasetError: If the named folder is not there.
        MismatchError: If the caches in its place are of another folder.
        UsageError: If a cache is named beside its dataset or backbone, or several fit.
    """
    if cache is not None and (dataset is not None or backbone is not None):
        raise UsageError(
            "--cache names the cache, so --dataset and --backbone have no use beside it. Nothing "
            "was started. Leave them out, or leave --cache out."
        )
    if cache is None:
        dataset = None if dataset is None else dataset_name(dataset)
        backbone = None if backbone is None else written_name(text("--backbone", backbone))
        found = _found(dataset, backbone, expanded(cache_dir), on_note)
    elif isinstance(cache, Cache):
        found = Found(cache)
    else:
        found = Found(open_cache(find_cache(text("--cache", cache), cache_dir=cache_dir)))
    on_note(f"cache {found.cache.path}: {settings_of(found.cache)}")
    return found


def settings_of(cache: Cache) -> str:
    """Say in one phrase how big a cache is, its weights, and what is not a default in it."""
    identity, provenance = cache.identity, cache.provenance
    parts = [f"{counted(sum(map(len, cache.splits.values())), 'row')}"]
    if provenance.limit is not None:
        parts.append(f"limit {counted(provenance.limit, 'image')} of each split")
    if provenance.weights != "none":
        parts.append(f"weights {provenance.weights}")
    if "pool" in identity:
        parts.append(f"layer {identity['layer']}, pooling {identity['pool']}")
    if "preprocess" in identity:
        preprocess = identity.preprocess
        size = preprocess.out_size[0]
        if size != NOTEBOOK_SIZE:
            parts.append(f"image size {size} px")
        if preprocess != Preprocess.notebook(size):
            parts.append("preprocessing of the weights")
    if "bn" in identity and identity.bn != ExtractSpec.bn:
        parts.append("BatchNorm adapted")
    if identity.views.n > 1:
        parts.append(identity.views.told)
    for name, value in ImageRules.of(identity).identity().items():
        parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _found(
    dataset: str | None, backbone: str | None, cache_dir: Path, on_note: NoteCallback
) -> Found:
    """Find the cache of a dataset and a backbone, each None where it was not given."""
    of_dataset = ExtractSpec.dataset if dataset is None else dataset
    typed = ExtractSpec.backbone if backbone is None else backbone
    of_backbone = backbone_slug(typed)
    backbone = None if backbone is None else of_backbone
    folder = cache_dir / dataset_slug(of_dataset)
    own = caches_in(folder)
    fitting, misfits = _by_listing(of_dataset, [c for c in own if c.state == "complete"])
    meant = [c.path for c in fitting if c.backbone == of_backbone]
    if meant:
        return _told(_usual_one(meant, of_backbone, folder, of_dataset), of_dataset, on_note)
    options = {"dataset": of_dataset, "backbone": typed, "cache_dir": cache_dir}
    if others := _others(dataset, backbone, fitting, cache_dir):
        if len(others) == 1:
            on_note(
                f"the only cache that fits is taken, {others[0]}: there is none of {of_backbone} "
                f"in {folder}"
            )
            return _told(open_cache(others[0]), of_dataset, on_note)
        raise UsageError(
            f"{len(others)} caches could be meant: {', '.join(map(str, others))}. Nothing was "
            f"started. Say which: --cache, or its name after `audit` or `probe`. There is none of "
            f"{of_backbone} in {folder}; to make it: {extract_command(options)}"
        )
    _refuse_misfits(
        [m for m in misfits if backbone in (None, m.cache.identity.backbone)], of_dataset
    )
    backbone_name(typed)
    unfinished = [c for c in own if c.backbone == of_backbone]
    told = "".join(
        f" {c.path} is {c.state}: {c.n_rows_done} of {counted(c.n_rows, 'row')}."
        for c in unfinished
    )
    command = extract_command(options)
    if unfinished:
        path = unfinished[0].path
        begun = read_state(path).manifest
        command = command_of(path, begun.identity, begun.provenance, dataset=of_dataset)
    raise CacheMissingError(
        f"There is no complete cache of {of_backbone} in {folder}.{told} Make it with: {command}"
    )


def _told(cache: Cache, dataset: str, on_note: NoteCallback) -> Found:
    """Tell that a cache was found by the names of images alone, and what looks at the images."""
    if path_in(dataset) is None or path_in(cache.provenance.dataset) is None:
        return Found(cache)
    command = command_of(cache.path, cache.identity, cache.provenance, dataset=dataset)
    if is_made_from(cache, dataset):
        on_note(
            f"the cache was found by the names of the images; the images themselves were not read. "
            f"To check them: {command}"
        )
        return Found(cache)
    remark = (
        f"The images of {dataset} were not read; the cache was made from those of "
        f"{native(cache.provenance.dataset)}. To check that they are the same: {command}"
    )
    on_note(remark)
    return Found(cache, (remark,))


def _by_listing(
    dataset: str, complete: Sequence[CacheSummary]
) -> tuple[list[CacheSummary], list[_Misfit]]:
    """Part a dataset's caches into those of its rows and those of others.

    Only a name with a path in it can mean other images than those that a cache was made from.
    """
    if path_in(dataset) is None or (not complete and is_there(dataset)):
        return list(complete), []
    try:
        listing = load_dataset(dataset, data_dir=ExtractSpec.data_dir)
    except DatasetError as err:
        raise DatasetError(
            f"{err} A cache is found by the listing of its images. To go on without the images, "
            f"name the cache with --cache."
        ) from err
    fitting, misfits = [], []
    for summary in complete:
        cache = open_cache(summary.path)
        if difference := listing_difference(listing, cache):
            misfits.append(_Misfit(cache, listing, difference))
        else:
            fitting.append(summary)
    return fitting, misfits


def _refuse_misfits(misfits: Sequence[_Misfit], dataset: str) -> None:
    """Refuse caches of another folder of that name, with what the nearest of them differs in.

    Raises:
        MismatchError: If there is any.
    """
    if not misfits:
        return
    cache, _, difference = min(misfits, key=lambda m: n_differing_rows(m.listing, m.cache))
    nearest = f", the nearest of {len(misfits)} caches there," if len(misfits) > 1 else ""
    command = command_of(cache.path, cache.identity, cache.provenance, dataset=dataset)
    raise MismatchError(
        f"{cache.path}{nearest} is not of {path_in(dataset)!r}: {difference}. Nothing was started. "
        f"Name it with --cache to take it as it is, or make the one that fits with: {command}"
    )


def _others(
    dataset: str | None, backbone: str | None, fitting: Sequence[CacheSummary], cache_dir: Path
) -> list[Path]:
    """List the complete caches that could be meant by what was given, where the defaults are not.

    Args:
        dataset: As it was given.
        backbone: As it was given.
        fitting: The complete caches of that dataset, or of the default one.
        cache_dir: Folder of all caches.
    """
    if dataset is not None and backbone is not None:
        return []
    if dataset is not None:  # features that were imported under its name are not of its images
        own = [
            c.path
            for c in fitting
            if c.dataset.startswith(IMPORTED_PREFIX) == dataset.startswith(IMPORTED_PREFIX)
        ]
        return [path for path in own if is_made_from(open_cache(path), dataset)] or own
    complete = [c for c in list_caches(cache_dir) if c.state == "complete"]
    return [c.path for c in complete if backbone in (None, c.backbone)]


def _usual_one(paths: Sequence[Path], backbone: str, folder: Path, dataset: str) -> Cache:
    """Take the cache of all images with frozen BatchNorm, if that is one.

    Of caches of several folders with one name, those of the named folder go first. Where there are
    none of that, none of the others is more meant than another.

    Args:
        paths: The caches that fit.
        backbone: Their backbone.
        folder: Their folder.
        dataset: The named dataset.

    Raises:
        UsageError: If it is not, with what they differ in.
    """
    caches = [open_cache(path) for path in paths]
    own = [cache for cache in caches if is_made_from(cache, dataset)]
    are_of_one_folder = bool(own) or len({cache.provenance.dataset for cache in caches}) == 1
    caches = own or caches
    usual = [
        cache
        for cache in caches
        if cache.provenance.limit is None
        and cache.identity.get("bn") == ExtractSpec.bn
        and cache.identity.views.n == 1
    ]
    if len(caches) == 1:
        return caches[0]
    if len(usual) == 1 and are_of_one_folder:
        return usual[0]
    lines = _compared(caches, with_folder=path_in(dataset) is not None)
    way_out = ""
    if len({cache.identity.get(_IMAGES) for cache in caches}) > 1:
        first = caches[0]
        command = command_of(first.path, first.identity, first.provenance, dataset=dataset)
        way_out = (
            f" To see which holds the images of today, run the command that made the first, and it "
            f"names the one: {command}"
        )
    raise UsageError(
        f"{len(caches)} caches of {backbone} are in {folder}: {', '.join(lines)}. Nothing was "
        f"started. Say which: --cache, or its name after `audit` or `probe`.{way_out}"
    )


def _compared(caches: Sequence[Cache], *, with_folder: bool) -> list[str]:
    """Say of each cache what it holds, and in what it differs from the first."""
    first, lines = caches[0].identity, []
    for cache in caches:
        said = [f"{counted(sum(map(len, cache.splits.values())), 'row')}"]
        if with_folder:
            said.append(f"made from {native(cache.provenance.dataset)}")
        said.append(f"written {_written(cache.path)}")
        identity = cache.identity.to_json()
        if identity.get(_IMAGES) != first.get(_IMAGES):
            said.append("made from other images than the first")
            identity[_IMAGES] = first.get(_IMAGES)
        said += [f"{field} as in the first" for field in differing_fields(identity, first)]
        lines.append(f"{cache.path} ({'; '.join(said)})")
    return lines


def _written(path: Path) -> str:
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
