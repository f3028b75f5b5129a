"""Train a grid of heads in one pass over the features, and find the best setting honestly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from featcache.config import (
    MOST_SEEDS,
    RECIPES,
    REGULARISATIONS,
    ExtractSpec,
    HeadSpec,
    RunSpec,
    TrainSpec,
)
from featcache.core.arguments import count, device_name, one_of, option_name, place, several
from featcache.core.preload import preloading
from featcache.core.reporting import NoteCallback, silent
from featcache.errors import UsageError
from featcache.features.lookup import the_cache
from featcache.features.residence import fitting_window
from featcache.features.trainable import require_trainable
from featcache.store import Cache
from featcache.training.recipes import pick_recipe
from featcache.training.sweeps.grid import axes_of, heads_of
from featcache.training.sweeps.table import SweepResult
from featcache.training.train_head import by_hand

if TYPE_CHECKING:
    from featcache.training.sweeps.bank_trainer import SweepProgressCallback


def sweep(
    cache: Cache | str | os.PathLike[str] | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    recipe: str = RunSpec.recipe,
    hidden: Sequence[Sequence[int]] | int | None = None,
    reg: Sequence[str] | str = (HeadSpec.reg,),
    l1: Sequence[float] | float | None = None,
    weight_decay: Sequence[float] | float | None = None,
    dropout: Sequence[Sequence[float]] | float | None = None,
    lr: Sequence[float] | float | None = None,
    batch_size: int = TrainSpec.batch_size,
    max_epochs: int | None = None,
    patience: int | None = None,
    min_delta: float = TrainSpec.min_delta,
    val_fraction: float | None = TrainSpec.val_fraction,
    split_seed: int = TrainSpec.split_seed,
    select: str | None = None,
    seed: int = TrainSpec.seed,
    seeds: int = RunSpec.seeds,
    max_memory: int | None = RunSpec.max_memory,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: SweepProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> SweepResult:
    """Train a head for every setting and seed of a grid, side by side on the same batches.

    Each is the head that `train_head` trains with the same arguments and `order_seed=seed`, up to
    rounding, and a run folder like any other. Only the setting with the lowest mean val_loss is
    tested. Heads that exist are used; the same call continues a sweep that was stopped. One value
    alone stands for a sequence of one. The specs that `train_head` names say what the other
    arguments mean.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        dataset: Its dataset; None is "cifar10", or that of the only cache that fits.
        backbone: Its backbone; None is "vgg16", or that of the only cache that fits.
        recipe: As for `train_head`.
        hidden: Widths of the hidden layers, a sequence for each shape; None is the recipe's, as for
            `lr`, `max_epochs`, `patience` and `select`.
        l1: Factors of the L1 penalty, for each `reg` that has one.
        weight_decay: Adam's L2 factors, for each `reg` that has one.
        dropout: Probabilities after each hidden layer, for each `reg` that has them; each is cut,
            or its last one repeated, to the number of hidden layers.
        seed: The first seed of each setting, and the seed of the order of batches.
        seeds: Heads per setting, with seeds from `seed` on.
        max_memory: Bytes of features to keep in memory, as for `train_head`.
        on_progress: Called after every few steps.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UsageError: If arguments contradict each other, or leave no setting.
        NonFiniteError: If no setting has all its heads.
        InterruptedRunError: On Ctrl-C; heads are kept as of the last whole epoch.
        FeatcacheError: Those of `train_head`; a loss that is no number ends its head alone.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> grid = {"reg": ("none", "l2"), "lr": (1e-3, 1e-2), "max_epochs": 3}
        >>> best = featcache.sweep(cache.path, **grid, runs_dir=tmp / "runs").settings[0]
        >>> best.lr
        0.01
    """
    note = on_note or silent
    values = axes_of(l1=l1, weight_decay=weight_decay, dropout=dropout)
    given = axes_of(hidden=hidden, lr=lr)
    given |= by_hand(max_epochs=max_epochs, patience=patience, select=select)
    regs = several(lambda option, word: one_of(option, word, REGULARISATIONS), "--reg", reg)
    shapes, rates = given.get("hidden", (HeadSpec.hidden,)), given.get("lr", (TrainSpec.lr,))
    heads = list(heads_of(regs, shapes, values, on_note=note))
    base = TrainSpec(
        batch_size=batch_size,
        min_delta=min_delta,
        val_fraction=val_fraction,
        split_seed=split_seed,
        seed=seed,
        **by_hand(max_epochs=max_epochs, patience=patience, select=select),
    )
    recipe = one_of("--recipe", recipe, RECIPES)
    seeds = count("--seeds", seeds, most=MOST_SEEDS)
    device = device_name(device)
    runs_dir, cache_dir = place("--runs-dir", runs_dir), place("--cache-dir", cache_dir)
    settings = [(head, replace(base, lr=rate)) for head, rate in product(heads, rates)]
    if not settings:
        axes = {"reg": regs, "hidden": shapes, "lr": rates, **values}
        empty = [option_name(name) for name, axis in axes.items() if not axis] or ["--reg"]
        raise UsageError(f"The grid has no setting: {' and '.join(empty)} gives none.")
    opened = the_cache(cache, dataset=dataset, backbone=backbone, cache_dir=cache_dir, on_note=note)
    window = fitting_window(opened, base, max_memory)
    settings = [(head, replace(train, window_rows=window)) for head, train in settings]
    require_trainable(opened, val_fraction)
    taken = pick_recipe(recipe, opened, base)
    settings = list(dict.fromkeys(taken.completed(settings, given=given, on_note=note)))
    from featcache.core.device import pick_device
    from featcache.features.resident import load_sound

    chosen = pick_device(device)
    note(f"device {chosen.told}")
    with preloading("featcache.training.sweeps.grid_run"):
        resident = load_sound(opened, device=chosen.value, window_rows=window)
    from featcache.training.sweeps.grid_run import train_grid

    return train_grid(
        opened,
        resident,
        settings,
        recipe=taken,
        seeds=seeds,
        runs_dir=runs_dir,
        device=chosen,
        on_progress=on_progress or silent,
        on_note=note,
    )
