"""Rows of two images that never change: they tell whether a backbone is still the same function.

A digest sees the weights of a backbone, and not its code: a release of a library may compute
something else by the same weights, and so does an edited function. So every cache of a network
keeps the features of these images. They are computed again before rows are added or taken.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featcache.backbones.batchnorm import load_batch_norm_statistics
from featcache.backbones.family import LIBRARIES, LoadedBackbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.plain_torch import plain_torch
from featcache.core.tolerances import REFERENCE_TOLERANCE
from featcache.errors import MismatchError
from featcache.extraction.job import Job, library_versions, provenance_of
from featcache.extraction.plan import N_REFERENCE
from featcache.store import Cache, CacheWriter, read_reference, read_trunk_statistics

_LIBRARIES = ("featcache", "pillow", *LIBRARIES, "torch", "torchvision")

Rows = npt.NDArray[np.float32]


def reference_images(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Make the images, (2, H, W, 3), by integer arithmetic: the same on every machine, for ever.

    The first is smooth, the second has no two neighbours alike.

    Args:
        size: (height, width).
    """
    rows, columns, channels = np.indices((*size, 3), dtype=np.uint32)
    smooth = (3 * rows + 2 * columns + 85 * channels) % 511
    smooth = np.minimum(smooth, 510 - smooth)
    # Multiplied by 2^32 / golden ratio, whose upper bits spread (Knuth, volume 3, section 6.4).
    mixed = ((rows * 4096 + columns) * 3 + channels) * np.uint32(2654435769)
    return np.stack([smooth, mixed >> np.uint32(24)]).astype(np.uint8)


def reference_rows(runner: BackboneRunner) -> Rows:
    """Compute the features of the images, (2, D), by the module itself and by no engine.

    Raises:
        DeviceError: If the device fails.
    """
    return runner.eager_features(reference_images(runner.out_size))


def compare_reference(job: Job, writer: CacheWriter) -> None:
    """Refuse to add rows to a file that another function began; raises `require_same_function`'s.

    A file of version 1 has no reference rows, and one that was just made has none yet.
    """
    stored = writer.read_reference()
    if job.runner is not None and stored is not None:
        require_same_function(
            writer.file,
            stored,
            reference_rows(job.runner),
            precision=job.plan.precision,
            then=writer.manifest.provenance,
            now=provenance_of(job.plan),
        )


def complete_reference(job: Job, writer: CacheWriter) -> None:
    """Write the reference rows of a file that has a place for them and lacks them."""
    is_missing = writer.manifest.reference is not None and writer.read_reference() is None
    if job.runner is not None and is_missing:
        writer.write_reference(reference_rows(job.runner), job.numerics)


def is_of_other_versions(cache: Cache) -> bool:
    """Tell whether a cache was made with another torch or torchvision than those here."""
    now = library_versions()
    return any(cache.provenance.get(name) != now[name] for name in ("torch", "torchvision"))


@plain_torch()
def require_its_function(
    cache: Cache, backbone: LoadedBackbone, *, device: str, precision: str
) -> None:
    """Refuse a complete cache that another function made; raises `require_same_function`'s.

    Args:
        cache: The cache. It may have no reference rows; then there is nothing to compare.
        backbone: It gets the running statistics that the cache has.
        device: Where to run it, "cpu" or "cuda:N".
        precision: In which to run it.
    """
    stored = read_reference(cache.path)
    if stored is None or backbone.module is None:
        return
    statistics = read_trunk_statistics(cache.path)
    if statistics:
        tensors = {name: torch.from_numpy(values.copy()) for name, values in statistics.items()}
        load_batch_norm_statistics(backbone.module, tensors)
    runner = BackboneRunner(
        backbone.module,
        preprocess=cache.identity.preprocess,
        device=device,
        precision=precision,
        batch_size=N_REFERENCE,
    )
    require_same_function(
        cache.path,
        stored,
        reference_rows(runner),
        precision=cache.identity["precision"],
        then=cache.provenance,
        now={**backbone.told, **library_versions()},
    )


def require_same_function(
    path: Path,
    stored: Rows,
    fresh: Rows,
    *,
    precision: str,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
) -> None:
    """Refuse a backbone that is no longer the function that made a cache.

    Args:
        path: The cache.
        stored: Its reference rows.
        fresh: Those that the backbone gives now.
        precision: That of the cache.
        then: What its provenance says of versions.
        now: The same of today.

    Raises:
        MismatchError: With the difference, and the versions then and now.
    """
    tolerance = REFERENCE_TOLERANCE[precision]
    difference = rows_difference(stored, fresh)
    if difference <= tolerance:
        return
    quoted = shlex.quote(str(path))
    raise MismatchError(
        f"{path} was made by a backbone that computes something else now, from the same weights: "
        f"its reference rows differ by {difference:.2g} of their largest feature, expected at most "
        f"{tolerance:g}. {versions_told(then, now)} Nothing was changed. Go back to what made "
        f"them, or make the cache anew: remove it (featcache cache rm {quoted}) and run extract "
        f"again."
    )


def rows_difference(stored: Rows, fresh: Rows) -> float:
    """Give the largest difference, in units of the largest stored feature.

    It is infinite where one of both is no number. Features of these images may overflow in fp16
    where those of photographs do not: what is no number on both sides is equal.
    """
    if stored.shape != fresh.shape:
        return float("inf")
    is_number = np.isfinite(stored)
    if not np.array_equal(is_number, np.isfinite(fresh)):
        return float("inf")
    numbers = stored[is_number].astype(np.float64)
    largest = np.abs(numbers).max(initial=0.0)
    difference = np.abs(fresh[is_number] - numbers).max(initial=0.0)
    if not largest:
        return float("inf") if difference else 0.0
    return float(difference / largest)


def versions_told(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which versions are others, or that none is."""
    if others := other_versions(then, now):
        return others
    same = ", ".join(f"{name} {now[name]}" for name in _LIBRARIES if name in now)
    return f"The versions are the same ({same}), so the backbone's own code was changed."


def other_versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which versions of libraries are others now, in a sentence; empty if none is."""
    said = [
        f"{name} was {then.get(name, 'not there')} then and is {now.get(name, 'not there')} now"
        for name in _LIBRARIES
        if then.get(name) != now.get(name)
    ]
    return f"{'; '.join(said)}." if said else ""
