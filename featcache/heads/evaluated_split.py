"""Which split of a cache a head is evaluated on, and what of it cannot be; no torch."""

from __future__ import annotations

from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache


def split_of_own_images(
    head: TrainedHead, cache: Cache, asked: str | None, on_note: NoteCallback
) -> str:
    """Settle the split of a cache of the images that trained a head.

    Args:
        head: The head.
        cache: The cache.
        asked: None is "test", or "val" where there is no test split.
        on_note: Told which split is taken in the place of "test".

    Raises:
        UsageError: If there is no such split, or its figures would be too good.
    """
    split = asked or _usual_split(cache, on_note)
    split = split if split in cache.splits else split.lower()
    _require_split(cache, split)
    if split == "val":
        _require_validation(head)
    if split == "train":
        _require_layers(head)
    return split


def _usual_split(cache: Cache, on_note: NoteCallback) -> str:
    if "test" in cache.splits:
        return "test"
    on_note(
        f"{cache.path.name} has no split 'test': the figures are of 'val', by which training was "
        f"watched, and may be too good"
    )
    return "val"


def _require_split(cache: Cache, split: str) -> None:
    """Refuse a split that is not there, or has no image; "train" and "val" are divided later."""
    if split in ("train", "val"):
        return
    if split not in cache.splits:
        known = dict.fromkeys(["train", "val", *cache.splits])
        raise UsageError(
            f"--split is {split!r}, but {cache.path.name} has only {', '.join(known)}. Nothing was "
            f"evaluated."
        )
    if not cache[split].valid.any():
        raise UsageError(f"No image of split {split!r} could be read. Nothing was evaluated.")


def require_views(cache: Cache, split: str) -> None:
    """Refuse to average over the views of images that have one."""
    source = split if split in cache.splits else "train"  # of which "val" may be a part
    if cache[source].n_views == 1:
        raise UsageError(
            f"--tta averages all views of each image, but {cache.path.name} has one of those in "
            f"split {source!r}. Nothing was evaluated. Extract a cache with --views 4 --views-of "
            f"all, and name it with --cache; the head may stay as it is."
        )


def _require_validation(head: TrainedHead) -> None:
    """Refuse validation rows that a head was fitted to, and those that there were none of."""
    if head.is_refitted:
        raise UsageError(
            f"{head.path} was fitted to its validation rows too, after they had chosen: figures of "
            f"them would be too good. Nothing was evaluated. Those from before stand in its "
            f"result.json; --no-refit trains a head that can be evaluated on val."
        )
    if head.train.val_fraction == 0:
        raise UsageError(
            f"{head.path} was trained with --val-fraction 0, so that it has no validation rows. "
            f"Nothing was evaluated. Use --split test or train."
        )


def _require_layers(head: TrainedHead) -> None:
    """Refuse the training rows of a head that looks for neighbours among them."""
    if not head.has_layers:
        raise UsageError(
            f"{head.path} takes its neighbours from the training rows: each of them would be its "
            f"own nearest, and the figures too good. Nothing was evaluated. Use --split test or "
            f"val."
        )
