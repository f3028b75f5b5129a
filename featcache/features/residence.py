"""Where features stay and in which order their rows come: what `--max-memory` and the machine say.

The order is chosen first, before torch is there: all rows, or windows of so many. It decides what
a head learns, so windows stand in the identity of a run (`window_rows`); all rows have no word
there. Where rows stay decides nothing but the time.

Here is only the choice. `resident` loads the rows that stay in memory, and `windows` reads the
others from the file. `datamodule` keeps both while a head trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.config import TrainSpec
from featcache.core.reporting import Choice
from featcache.errors import UsageError, counted
from featcache.store import Cache, human_bytes

if TYPE_CHECKING:
    import torch

    from featcache.core.memory import FreeMemory
    from featcache.features.order import EpochOrder

_FEWEST_BATCHES = 16
_RESERVED_BYTES = 1_000_000_000


def fitting_window(cache: Cache, train: TrainSpec, max_memory: int | None) -> int | None:
    """Choose how many training rows are shuffled together, so that they fit; None is all of them.

    Args:
        cache: The cache.
        train: How the head is trained.
        max_memory: Bytes for features; None is what is free.

    Raises:
        UsageError: If there is room for fewer than 16 batches.
    """
    if max_memory is None or "train" not in cache.splits:
        return None
    if _n_bytes(cache, draws_views=True) <= max_memory:
        return None
    split = cache["train"]
    row_bytes = split.views.nbytes // max(1, len(split))
    n_rows = max_memory // row_bytes
    fewest = _FEWEST_BATCHES * train.batch_size
    if n_rows < fewest:
        needed_kb = -(-fewest * row_bytes // 1000)
        raise UsageError(
            f"--max-memory has room for {counted(n_rows, 'row')} of {human_bytes(row_bytes)}, but "
            f"at least {_FEWEST_BATCHES} batches must fit for a useful shuffle. Nothing was "
            f"started. Give at least {needed_kb}kB, or a smaller --batch-size."
        )
    return int(n_rows)


def is_too_large(cache: Cache, max_memory: int) -> bool:
    """Tell whether the features of a cache, of the plain views, need more than so many bytes."""
    return _n_bytes(cache) > max_memory


def views_to_load(cache: Cache, split: str, *, draws_views: bool) -> int:
    """Tell how many views of a split's rows are loaded: all that are drawn, else the plain one."""
    return cache[split].n_views if draws_views and split == "train" else 1


def pick_residence(
    cache: Cache,
    *,
    device: torch.device,
    order: EpochOrder | None = None,
    draws_views: bool = False,
    n_processes: int = 1,
) -> Choice[str]:
    """Choose where the features stay while heads are trained: "gpu", "memory" or "file".

    Args:
        cache: The cache.
        device: Where the head is trained.
        order: The order of the training rows; windows stay in the file. None is all rows.
        draws_views: Whether all views of the training rows are needed, or the plain ones alone.
        n_processes: How many keep them at once; each of those on a GPU has its own.
    """
    if order is not None and order.window_rows is not None:
        windows = f"{counted(order.n_windows, 'window')} of {counted(order.window_rows, 'row')}"
        return Choice("file", f"{windows}, shuffled within each, as asked for")
    nbytes = _n_bytes(cache, draws_views=draws_views)
    needed = human_bytes(nbytes)
    if device.type == "cuda":
        free, kind = _free(str(device))
        if nbytes <= free:
            return Choice("gpu", f"{needed} of features, {human_bytes(free)} of {kind} are free")
    free, kind = _free("cpu")
    each = f" in each of {n_processes} processes" if n_processes > 1 else ""
    if nbytes * n_processes <= free:
        return Choice(
            "memory", f"{needed} of features{each}, {human_bytes(free)} of {kind} are free"
        )
    return Choice(
        "file",
        f"the features need {needed}{each}, but {human_bytes(free)} of {kind} are free: rows "
        f"are read from the file as they are needed, which is slower",
    )


def residence_after(
    err: RuntimeError | MemoryError,
    cache: Cache,
    residence: Choice[str],
    *,
    draws_views: bool = False,
) -> Choice[str]:
    """Choose where features stay that had no room; raises what says anything else."""
    import torch

    from featcache.core.failures import is_out_of_memory

    if residence.value == "file" or not is_out_of_memory(err):
        raise err
    next_best = Choice("file", "")
    if residence.value == "gpu":
        cpu = torch.device("cpu")
        next_best = pick_residence(cache, device=cpu, draws_views=draws_views)
    why = f"{residence.value} has no room for them any more: another process took it meanwhile"
    return Choice(next_best.value, why)


def _n_bytes(cache: Cache, *, draws_views: bool = False) -> int:
    return sum(
        int(split.features.nbytes) * views_to_load(cache, name, draws_views=draws_views)
        for name, split in cache.splits.items()
    )


def _free(device: str) -> FreeMemory:
    from featcache.core.memory import FreeMemory, free_memory

    free, kind = free_memory(device)
    return FreeMemory(max(0, free - _RESERVED_BYTES), kind)
