"""Verify a cache and load it in one reading of the file, before what trains on it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.reporting import Choice
from featcache.features.residence import pick_residence, residence_after, views_to_load
from featcache.features.rows import (
    FeatureRows,
    load_rows,
    read_rows,
    require_usable_rows,
    resident_rows,
    room_for,
    rows_to_fill,
)
from featcache.store import Cache, require_sound

_SPLITS = ("train", "val", "test")  # those that stage two uses; others are only verified


@dataclass(frozen=True, eq=False)
class Resident:
    """A cache that was verified, with what is loaded of it.

    Attributes:
        device: Where batches come out.
        residence: Where the features stay, as `pick_residence` says; None if they come in windows.
        rows: By split; empty where rows stay in the file.
        draws_views: Whether all views of the training rows are needed, or the plain ones alone.
    """

    device: torch.device
    residence: Choice[str] | None
    rows: Mapping[str, FeatureRows]
    draws_views: bool = False


def load_sound(
    cache: Cache,
    *,
    device: str,
    window_rows: int | None,
    draws_views: bool = False,
    stays: Choice[str] | None = None,
) -> Resident:
    """Verify a cache whole, and load what is trained and tested on where it fits.

    In memory each block is read once, into its place, and digested from there.

    Args:
        cache: The cache.
        device: "cpu" or "cuda:N".
        window_rows: Rows of a window; then the file is only verified.
        draws_views: Whether to load all views of the training rows, or the plain ones alone.
        stays: Where the features stay; None chooses.

    Raises:
        CorruptError: If the cache is damaged, or cannot be trained on.
        DeviceError: If the device fails.
    """
    where = torch.device(device)
    residence: Choice[str] | None = None
    features: dict[str, Tensor] = {}
    failures = device_failures_named(device, "Training", kept=lambda: "Nothing was changed.")
    with head_arithmetic(device), failures:
        if window_rows is None:
            residence = stays or pick_residence(cache, device=where, draws_views=draws_views)
            residence, features = _read(cache, where, residence, draws_views)
        else:
            require_sound(cache)
        require_usable_rows(cache)
        rows = {
            split: resident_rows(cache, split, tensor, device=where)
            for split, tensor in features.items()
        }
    return Resident(where, residence, rows, draws_views)


def _read(
    cache: Cache, device: torch.device, residence: Choice[str], draws_views: bool
) -> tuple[Choice[str], dict[str, Tensor]]:
    """Verify every block, and keep the features in `residence` or in the next that has room."""
    loaded = () if residence.value == "file" else [s for s in _SPLITS if s in cache.splits]
    try:
        features = {
            split: room_for(
                cache[split],
                device=device,
                residence=residence.value,
                n_views=views_to_load(cache, split, draws_views=draws_views),
            )
            for split in loaded
        }
        _fill(cache, features, residence=residence.value)
    except (RuntimeError, MemoryError) as err:
        next_best = residence_after(err, cache, residence, draws_views=draws_views)
    else:
        return residence, features
    return _read(cache, device, next_best, draws_views)


def _fill(cache: Cache, features: Mapping[str, Tensor], *, residence: str) -> None:
    """Verify every block and read the features: in one reading to memory, in two to a GPU.

    One reading to a GPU would copy from several threads at once, which no GPU has run yet. Plain
    views are read again, too: a block's digest is of all its views.
    """
    n_views = {split: len(t) // len(cache[split]) for split, t in features.items()}
    whole = {
        split: tensor if n_views[split] == 1 else tensor.unflatten(0, (-1, n_views[split]))
        for split, tensor in features.items()
        if residence != "gpu" and n_views[split] == cache[split].n_views
    }
    require_sound(cache, into={split: partial(rows_to_fill, t) for split, t in whole.items()})
    for split, tensor in features.items():
        if split not in whole:
            read_rows(cache[split], 0, len(tensor), tensor, n_views=n_views[split])


def load_where_it_fits(
    cache: Cache, split: str, *, device: torch.device, residence: Choice[str], n_views: int = 1
) -> tuple[FeatureRows, Choice[str]]:
    """Make one split ready, in its residence or, where that has no room any more, in the next one.

    Memory that was free when the residence was chosen may be another process's by now.

    Returns:
        The split, and where it stays.

    Raises:
        CorruptError: If a label names no class.
    """
    try:
        rows = load_rows(cache, split, device=device, residence=residence.value, n_views=n_views)
    except (RuntimeError, MemoryError) as err:
        next_best = residence_after(err, cache, residence, draws_views=n_views > 1)
    else:
        return rows, residence
    return load_where_it_fits(cache, split, device=device, residence=next_best, n_views=n_views)
