"""Which cache is meant: one by its name, one of a dataset and a backbone, or the only one there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.arguments import text
from featcache.core.backbone_names import backbone_name
from featcache.core.dataset_names import IMPORTED_PREFIX, dataset_name
from featcache.core.identity import differing_fields
from featcache.core.paths import expanded
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.errors import CacheMissingError, DatasetError, MismatchError, UsageError
from featcache.images.datasets import dataset_slug, is_there, load_dataset, path_in
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.store import (
    Cache,
    CacheSummary,
    caches_in,
    find_cache,
    list_caches,
    open_cache,
    read_state,
)

_IMAGES = "dataset_sha256"


def the_cache(
    cache: Cache | str | os.PathLike[str] | None,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    cache_dir: Path,
    on_note: NoteCallback,
) -> Cache:
    """Open a cache by its name, or find it by its dataset and backbone, and tell which it is.

    The cache of the user's own images is one that holds the splits, ids, labels and class names of
    their listing; no image is read, which is told. Of several, the one of all images with frozen
    BatchNorm is meant.
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
        backbone = None if backbone is None else text("--backbone", backbone).lower()
        opened = open_cache(_found(dataset, backbone, expanded(cache_dir), on_note))
    elif isinstance(cache, Cache):
        opened = cache
    else:
        opened = open_cache(find_cache(text("--cache", cache), cache_dir=cache_dir))
    on_note(f"cache {opened.path}: {settings_of(opened)}")
    return opened


def settings_of(cache: Cache) -> str:
    """Say in one phrase how big a cache is, its weights, and what is not a default in it."""
    identity, provenance = cache.identity, cache.provenance
    parts = [f"{sum(len(split) for split in cache.splits.values())} rows"]
    if provenance.limit is not None:
        parts.append(f"limit {provenance.limit} images of each split")
    if provenance.weights != "none":
        parts.append(f"weights {provenance.weights}")
    if "preprocess" in identity:
        preprocess = identity.preprocess
        size = preprocess.out_size[0]
        if size != ExtractSpec.image_size:
            parts.append(f"image size {size} px")
        if preprocess != Preprocess.notebook(size):
            parts.append("preprocessing of the weights")
    if "bn" in identity and identity.bn != ExtractSpec.bn:
        parts.append("BatchNorm adapted")
    for name, value in ImageRules.of(identity).identity().items():
        parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def listing_difference(listing: Dataset, cache: Cache) -> str:
    """Say where a dataset's listing and a cache first differ; empty if they are of the same rows.

    Compared are splits, ids, labels and class names, after the limit that the cache was made with.
    """
    if listing.class_names != cache.class_names:
        return _first_difference("class", listing.class_names, cache.class_names)
    if list(listing.splits) != list(cache.splits):
        there, here = ", ".join(listing.splits), ", ".join(cache.splits)
        return f"the splits are {there} there, and {here} in the cache"
    for name, split in listing.limited(cache.provenance.limit).splits.items():
        ids, kept = list(split.ids), list(cache[name].ids)
        if ids != kept:
            return _first_difference(f"{name} row", ids, kept)
        wrong = (split.labels != cache[name].labels).nonzero()[0]
        if len(wrong):
            return f"{name} row {wrong[0]} ({ids[wrong[0]]!r}) has another label in the cache"
    return ""


def _first_difference(what: str, there: Sequence[str], here: Sequence[str]) -> str:
    pairs = zip(there, here, strict=False)
    i = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(there), len(here)))
    shown, kept = (repr(names[i]) if i < len(names) else "missing" for names in (there, here))
    counts = f" ({len(there)} there, {len(here)} in the cache)" if len(there) != len(here) else ""
    return f"{what} {i} is {shown} there, and {kept} in the cache{counts}"


def _found(
    dataset: str | None, backbone: str | None, cache_dir: Path, on_note: NoteCallback
) -> Path:
    """Find the cache of a dataset and a backbone, each None where it was not given."""
    of_dataset = ExtractSpec.dataset if dataset is None else dataset
    of_backbone = ExtractSpec.backbone if backbone is None else backbone
    folder = cache_dir / dataset_slug(of_dataset)
    own = caches_in(folder)
    fitting, misfits = _by_listing(of_dataset, [c for c in own if c.state == "complete"])
    meant = [c.path for c in fitting if c.backbone == of_backbone]
    command = _extract_command(of_dataset, of_backbone, cache_dir)
    if meant:
        found = _usual_one(meant, of_backbone, folder, command)
        _tell_what_was_compared(of_dataset, command, on_note)
        return found
    where = f"There is no complete cache of {of_backbone} in {folder}"
    if others := _others(dataset, backbone, fitting, cache_dir):
        if len(others) == 1:
            on_note(f"{where}; the only cache that fits is taken")
            if dataset is not None:
                taken = next(c.backbone for c in fitting if c.path == others[0])
                checks = _extract_command(dataset, taken, cache_dir)
                _tell_what_was_compared(dataset, checks, on_note)
            return others[0]
        raise UsageError(
            f"{where}, but {len(others)} others could be meant: {', '.join(map(str, others))}. "
            f"Nothing was started. Say which with --cache, or make it with: {command}"
        )
    for summary, difference in misfits:
        if backbone in (None, summary.backbone):
            raise MismatchError(
                f"{summary.path} is not of {path_in(of_dataset)!r}: {difference}. "
                f"Nothing was started. Name it with --cache to take it as it is, or make the one "
                f"that fits with: {command}"
            )
    backbone_name(of_backbone)
    unfinished = "".join(
        f" {c.path} is {c.state}: {c.n_rows_done} of {c.n_rows} rows."
        for c in own
        if c.backbone == of_backbone
    )
    raise CacheMissingError(f"{where}.{unfinished} Make it with: {command}")


def _tell_what_was_compared(dataset: str, command: str, on_note: NoteCallback) -> None:
    """Tell that a cache was found by the names of images alone, and what looks at them."""
    if path_in(dataset) is not None:
        on_note(
            f"the cache was found by the names of the images; the images themselves were not read. "
            f"To check them, with the options that the cache was made with: {command}"
        )


def _by_listing(
    dataset: str, complete: Sequence[CacheSummary]
) -> tuple[list[CacheSummary], list[tuple[CacheSummary, str]]]:
    """Part a dataset's caches into those of its rows and those of others, with the difference.

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
    differences = [(c, listing_difference(listing, open_cache(c.path))) for c in complete]
    return [c for c, what in differences if not what], [
        (c, what) for c, what in differences if what
    ]


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
            c
            for c in fitting
            if c.dataset.startswith(IMPORTED_PREFIX) == dataset.startswith(IMPORTED_PREFIX)
        ]
        return [c.path for c in own]
    complete = [c for c in list_caches(cache_dir) if c.state == "complete"]
    return [c.path for c in complete if backbone in (None, c.backbone)]


def _usual_one(paths: Sequence[Path], backbone: str, folder: Path, command: str) -> Path:
    """Take the cache of all images with frozen BatchNorm, if that is one.

    Args:
        paths: The caches that fit.
        backbone: Their backbone.
        folder: Their folder.
        command: The command that reads the images and takes the cache that holds them.

    Raises:
        UsageError: If it is not, with what they differ in.
    """
    if len(paths) == 1:
        return paths[0]
    states = {path: read_state(path) for path in paths}
    usual = [
        path
        for path, state in states.items()
        if state.manifest.provenance.limit is None
        and state.manifest.identity.get("bn") == ExtractSpec.bn
    ]
    if len(usual) == 1:
        return usual[0]
    first = states[paths[0]].manifest.identity
    lines, way_out = [], ""
    for path, state in states.items():
        said = [f"{state.n_rows} rows", f"written {_written(path)}"]
        identity = state.manifest.identity.to_json()
        if identity.get(_IMAGES) != first.get(_IMAGES):
            said.append("made from other images than the first")
            identity[_IMAGES] = first.get(_IMAGES)
            way_out = (
                f" To see which holds the images of today, run this with the options that they "
                f"were made with, and it names the one: {command}"
            )
        said += [f"{field} as in the first" for field in differing_fields(identity, first)]
        lines.append(f"{path} ({'; '.join(said)})")
    raise UsageError(
        f"{len(paths)} caches of {backbone} are in {folder}: {', '.join(lines)}. Nothing was "
        f"started. Say which with --cache.{way_out}"
    )


def _written(path: Path) -> str:
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _extract_command(dataset: str, backbone: str, cache_dir: Path) -> str:
    command = ["featcache", "extract", "--dataset", dataset, "--backbone", backbone]
    if str(cache_dir) != ExtractSpec.cache_dir:
        command += ["--cache-dir", str(cache_dir)]
    return shlex.join(command)
