"""The cache that heads are trained on: found and judged without torch, then verified and loaded."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.config import RunSpec, TrainSpec
from featcache.core.preload import preloading
from featcache.core.reporting import Choice, NoteCallback
from featcache.features.lookup import Found, the_cache
from featcache.features.residence import fitting_window
from featcache.features.trainable import require_trainable
from featcache.store import Cache
from featcache.training.recipes import Recipe, pick_recipe

if TYPE_CHECKING:
    from featcache.features.resident import Resident


def open_to_train(
    cache: Cache | str | os.PathLike[str] | None,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    asked: RunSpec,
    train: TrainSpec,
    on_note: NoteCallback,
) -> tuple[Found, TrainSpec, Recipe]:
    """Find and judge the cache; choose the order of its rows and the recipe.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        dataset: Its dataset, or None.
        backbone: Its backbone, or None.
        asked: Where to look, how much memory to use, and the recipe.
        train: The training, as far as it was given.
        on_note: Told which cache it is.

    Returns:
        The cache with its remarks; the training in the order of rows that fits; the recipe for all
        that was not given.
    """
    found = the_cache(
        cache,
        dataset=dataset,
        backbone=backbone,
        cache_dir=Path(asked.cache_dir),
        on_note=on_note,
    )
    require_trainable(found.cache, train.val_fraction)
    window = fitting_window(found.cache, train, asked.max_memory)
    train = replace(train, window_rows=window)
    return found, train, pick_recipe(asked.recipe, found.cache, train)


def load_to_train(
    cache: Cache,
    *,
    device: str,
    window_rows: int | None,
    trainer: str,
    draws_views: bool = False,
    on_note: NoteCallback,
) -> tuple[Choice[str], Resident]:
    """Choose the device; verify and load the cache while the module of the trainer is imported.

    Lightning, which the trainer imports, takes longer to import than torch. Heads that are trained
    in epochs draw views, where there are several of each image; all others take the plain ones.

    Returns:
        The device with the reason, and what was loaded.
    """
    from featcache.core.device import pick_device
    from featcache.features.resident import load_sound

    chosen = pick_device(device)
    on_note(f"device {chosen.told}")
    with preloading(trainer):
        resident = load_sound(
            cache, device=chosen.value, window_rows=window_rows, draws_views=draws_views
        )
    return chosen, resident
