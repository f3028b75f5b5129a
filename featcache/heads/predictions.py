"""What a head says of the rows of a cached split: logits and what follows from them, by blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.core.arguments import device_name
from featcache.core.preload import preloading
from featcache.core.reporting import NoteCallback
from featcache.features.lookup import settings_of
from featcache.features.trainable import labels_of, require_labelled
from featcache.heads.evaluated_split import require_views, split_of_own_images
from featcache.heads.head_file import load_head
from featcache.heads.other_images import OtherImages, other_images
from featcache.heads.own_cache import require_own_cache
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache, find_cache, open_cache, require_sound

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featcache.features.rows import FeatureRows
    from featcache.heads.logits import Answers


_BLOCK_VALUES = 2 << 20
_TRAIN_ROWS = 10_000  # enough for two digits of an accuracy, and soon done


@dataclass(frozen=True, eq=False)
class Outputs:
    """A head's answers for the rows of a split.

    Of the (N, K) probabilities only what is asked for is ever there: for 10,000 classes and as many
    images they are 800 MB. Kept is what enters the last layer, or what leaves it if that is less.

    Attributes:
        head: The head.
        run: Its folder.
        cache: The cache whose features it was given.
        split: The split.
        ids: N image ids.
        labels: (N,) the classes of the images.
        predictions: (N,) the most probable class of each row.
        confidences: (N,) the probability of that class.
        ranks: (N,) how many classes are more probable than the label's.
        losses: (N,) cross-entropy of each row.
        log_sums: (N,) logarithm of the sum of each row's exponentiated logits.
        trained_on: (M,) which of the training rows the head gets right: 10,000 of them, evenly
            spaced, or all; none if they are the split itself or a head's neighbours, or the cache
            is of other images.
        other: What the cache has of the head's classes, where it is of other images.
        n_views: Views of each image that the answers are the mean of; 1 is the plain one alone.
    """

    head: TrainedHead
    run: Path
    cache: Cache
    split: str
    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    log_sums: npt.NDArray[np.float64]
    trained_on: npt.NDArray[np.bool_]
    other: OtherImages | None
    n_views: int
    _logits: Answers

    @property
    def title(self) -> str:
        """By which its files are told from others: the split, as a rule."""
        of_images = "" if self.other is None else f"-{self.cache.path.stem}"
        return f"{self.split}{of_images}{'-tta' if self.n_views > 1 else ''}"

    def probabilities(
        self, rows: slice = slice(None), classes: slice = slice(None)
    ) -> npt.NDArray[np.float64]:
        """Compute the softmax of a block, (n, k)."""
        block = self._logits(rows, classes).astype(np.float64)
        block -= self.log_sums[rows, None]
        return np.exp(block, out=block)

    def row_blocks(self) -> Iterator[slice]:
        """Divide the rows so that the probabilities of a block are quickly there."""
        return _blocks(len(self.labels), len(self.head.class_names))

    def class_blocks(self) -> Iterator[slice]:
        """Divide the classes likewise."""
        return _blocks(len(self.head.class_names), len(self.labels))


def outputs_of(
    run: Path,
    *,
    split: str | None,
    cache: str | os.PathLike[str] | None,
    device: str,
    cache_dir: Path,
    on_note: NoteCallback,
    tta: bool = False,
    sound: Sequence[Path] = (),
) -> Outputs:
    """Run a head over the rows of a split, in the order of the cache.

    Args:
        run: Folder of the head.
        split: "test", "val", "train", or another split of the cache; None is "test", or "val" where
            there is no test split.
        cache: The cache to use; None is the one of the training, wherever below `cache_dir` it is.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache_dir: Folder of all caches.
        on_note: Told the cache, and which split is taken in the place of "test".
        tta: Take the mean of all views of each image, instead of the plain one.
        sound: Caches that were verified a moment ago.

    Raises:
        CacheMissingError: If there is no such cache.
        MismatchError: If its features are made otherwise than those that the head was trained on.
        CorruptError: If the head or the cache is damaged.
        UsageError: If there is no such split, the cache has no labels, or there is one view alone.
        DeviceError: If the device fails or has no memory left.
    """
    device = device_name(device)
    head = load_head(run)
    if cache is None:
        opened = require_own_cache(head, cache_dir)
    else:
        opened = open_cache(find_cache(Path(cache), cache_dir=cache_dir))
    require_labelled(opened)
    other = other_images(head, opened, cache_dir)
    on_note(f"cache {opened.path}: {settings_of(opened)}")
    if other is not None:
        split = other.split(split, on_note)
    else:
        split = split_of_own_images(head, opened, split, on_note)
    if tta:
        require_views(opened, split)
    own = opened if other is None else other.own
    if own is None and not head.has_layers:  # its neighbours are where it was trained
        own = require_own_cache(head, cache_dir)
    # torch takes seconds to import: what can be refused without it, is refused by now.
    with preloading("featcache.features.batches", "torchmetrics"):
        used = {c.path: c for c in (opened, own) if c is not None and c.path not in sound}
        for one in used.values():
            require_sound(one)
    return _run(head, run, opened, split, device, other, own or opened, tta)


def _run(
    head: TrainedHead,
    run: Path,
    cache: Cache,
    split: str,
    device: str,
    other: OtherImages | None,
    own: Cache,
    tta: bool,
) -> Outputs:
    """Run a head over a split of a cache that was verified, as was `own`, that of its training."""
    import torch

    from featcache.core.arithmetic import head_arithmetic
    from featcache.core.device import pick_device
    from featcache.core.failures import device_failures_named
    from featcache.features.residence import pick_residence
    from featcache.features.resident import load_where_it_fits
    from featcache.heads.answering import answering_module

    where = torch.device(pick_device(device).value)
    failures = device_failures_named(str(where), "Evaluation", kept=lambda: "Nothing was changed.")
    with head_arithmetic(str(where)), torch.inference_mode(), failures:
        source, index, all_labels = _asked_rows(head, cache, split, other)
        n_views = cache[source].n_views if tta else 1
        residence = pick_residence(cache, device=where, draws_views=tta)
        rows, _ = load_where_it_fits(
            cache, source, device=where, residence=residence, n_views=n_views
        )
        module = answering_module(head, own, device=where)
        logits = _answers(head, module, rows, index, n_views)
        labels = all_labels[index.numpy()]
        by_row = _by_row(logits, labels, n_classes=len(head.class_names))
        # Else a row finds itself; and accuracies of one view and of all are no pair.
        is_paired = split != "train" and other is None and head.has_layers and not tta
        trained_on = _right_of_training(head, module, cache, where) if is_paired else ()
    ids = cache[source].ids
    return Outputs(
        head=head,
        run=run,
        cache=cache,
        split=split,
        ids=[ids[i] for i in index.tolist()],
        labels=labels,
        **by_row,
        trained_on=np.array(trained_on, np.bool_),
        other=other,
        n_views=n_views,
        _logits=logits,
    )


def _asked_rows(
    head: TrainedHead, cache: Cache, split: str, other: OtherImages | None
) -> tuple[str, torch.Tensor, npt.NDArray[np.int64]]:
    """Find the rows that are asked for: their split, their numbers, and the labels of the split."""
    import torch

    if other is not None:
        return split, torch.from_numpy(other.rows(split)), other.labels(split)
    source, index = _rows_of(head, cache, split)
    return source, index, labels_of(cache, source)


def _right_of_training(
    head: TrainedHead, module: nn.Module, cache: Cache, device: torch.device
) -> npt.NDArray[np.bool_]:
    """Tell which of the training rows a head gets right, of some that are evenly spaced."""
    from featcache.features.batches import OrderedBatches
    from featcache.features.rows import load_rows
    from featcache.heads.figures import measure

    source, index = _rows_of(head, cache, "train")
    rows = load_rows(cache, source, device=device, residence="file")
    some = OrderedBatches(rows, index[:: -(-len(index) // _TRAIN_ROWS)])
    right: list[npt.NDArray[np.bool_]] = []
    measure(some, (module, lambda found, labels: right.append(_right(found, labels))))
    return np.concatenate(right)


def _answers(
    head: TrainedHead, module: nn.Module, rows: FeatureRows, index: torch.Tensor, n_views: int
) -> Answers:
    """Run the layers of a head over rows, or over several views of each, whose mean is taken."""
    from featcache.features.batches import OrderedBatches
    from featcache.heads.logits import Logits, MeanOfViews

    n_rows, n_classes = len(index), len(head.class_names)
    of_views = [
        Logits(
            module,
            OrderedBatches(rows, index, view=view),
            n_rows=n_rows,
            n_classes=n_classes,
            device=rows.device,
        )
        for view in range(n_views)
    ]
    if n_views == 1:
        return of_views[0]
    blocks = _blocks(n_rows, n_classes)
    return MeanOfViews(of_views, blocks=blocks, has_probabilities=head.is_calibrated)


def _right(logits: torch.Tensor, labels: torch.Tensor) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = (logits.argmax(1) == labels).cpu().numpy()
    return right


def _by_row(
    logits: Answers, labels: npt.NDArray[np.int64], *, n_classes: int
) -> dict[str, npt.NDArray[Any]]:
    """Compute what is one number a row."""
    predictions, ranks = np.empty_like(labels), np.empty_like(labels)
    confidences, losses, log_sums = (np.empty(len(labels)) for _ in range(3))
    for rows in _blocks(len(labels), n_classes):
        block = logits(rows).astype(np.float64)
        predictions[rows] = block.argmax(1)
        ranks[rows] = label_ranks(labels[rows], block)
        largest = block.max(1)
        own = np.take_along_axis(block, labels[rows, None], axis=1)[:, 0]
        block -= largest[:, None]
        log_sums[rows] = largest + np.log(np.exp(block, out=block).sum(1))
        confidences[rows] = np.exp(largest - log_sums[rows])
        losses[rows] = log_sums[rows] - own
    return {
        "predictions": predictions,
        "ranks": ranks,
        "confidences": confidences,
        "losses": losses,
        "log_sums": log_sums,
    }


def _blocks(n: int, n_values: int) -> Iterator[slice]:
    """Divide `n` rows of `n_values` numbers, or columns, into blocks of 16 MiB of float64."""
    step = max(1, _BLOCK_VALUES // n_values)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _rows_of(head: TrainedHead, cache: Cache, split: str) -> tuple[str, torch.Tensor]:
    """Find a split's rows: the name in the cache, and (n,) row numbers in ascending order."""
    from featcache.features.split import training_rows, valid_rows

    if split in ("train", "val"):
        train = head.train
        train_split, train_rows, val_split, val_rows = training_rows(
            cache,
            val_fraction=train.val_fraction,
            split_seed=train.split_seed,
            may_lack_validation=True,
        )
        source, rows = (train_split, train_rows) if split == "train" else (val_split, val_rows)
        return source, rows.sort().values
    return split, valid_rows(cache[split])


def label_ranks(labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Rank each row's label by its score among (N, K), (N,) from 0; ties go by class number."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_before = np.arange(scores.shape[1])[None] < labels[:, None]
    ranks: npt.NDArray[np.int64] = ((scores > own) | ((scores == own) & is_before)).sum(1)
    return ranks
