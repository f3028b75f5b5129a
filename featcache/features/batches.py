"""Batches by row number, without DataLoader workers: shuffled for training, else in order."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from featcache.errors import UsageError
from featcache.features.order import EpochOrder
from featcache.features.rows import FeatureRows

# One Lightning step costs 1 to 2 ms beside its optimiser steps; pixels take so long themselves that
# progress would come too rarely.
STEPS_PER_BATCH, STEPS_PER_BATCH_PIXELS = 64, 4
_EVAL_BATCH_SIZE = 1024
_EVAL_BATCH_VALUES = 1 << 24

FeatureBatch = tuple[Tensor, Tensor]


def require_one_process(what: str, n_processes: int) -> None:
    """Refuse a Trainer of several processes, each of which would do all of the work.

    Raises:
        UsageError: If there is more than one.
    """
    if n_processes > 1:
        raise UsageError(
            f"{what} works in one process, but the Trainer has {n_processes}, and each would do "
            f"all of the work. Nothing was started. Use Trainer(devices=1)."
        )


class SuperBatch:
    """The batches of several optimiser steps, which one `training_step` runs.

    No dataclass: Lightning would look inside and copy what it finds to the device.
    """

    def __init__(self, rows: FeatureRows, order: Tensor, *, batch_size: int) -> None:
        """Take (n,) int64 places, as of `EpochOrder.places`, `batch_size` of them for each step."""
        self.rows = rows
        self.order = order
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[FeatureBatch]:
        for part in self.order.split(self.batch_size):
            yield self.rows.pick(part)


class ShuffledBatches:
    """One epoch of training batches; a new order each epoch, the last batch is kept.

    Where rows have several views, one of each is drawn for the epoch.
    """

    def __init__(
        self, rows: FeatureRows, sampler: EpochOrder, *, batch_size: int, steps_per_batch: int
    ) -> None:
        """Yield (features, labels), or with `steps_per_batch` above 1 a SuperBatch of so many."""
        self.rows = rows
        self.sampler = sampler  # where Lightning looks for set_epoch
        self.batch_size = batch_size
        self.steps_per_batch = steps_per_batch

    def __len__(self) -> int:
        return -(-len(self.sampler.index) // (self.batch_size * self.steps_per_batch))

    @property
    def n_steps(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-len(self.sampler.index) // self.batch_size)

    def __iter__(self) -> Iterator[FeatureBatch | SuperBatch]:
        places = self.sampler.places(self.rows.n_views, len(self.rows.labels))
        order = places.to(self.rows.features.device)  # once, not every step
        for part in order.split(self.batch_size * self.steps_per_batch):
            if self.steps_per_batch == 1:
                yield self.rows.pick(part)
            else:
                yield SuperBatch(self.rows, part, batch_size=self.batch_size)


class OrderedBatches:
    """Rows in order, of one view, in batches as large as is quick: for validation and test."""

    def __init__(self, rows: FeatureRows, index: Tensor, *, view: int = 0) -> None:
        """Take the row numbers, (n,) int64, and another view than the plain one, if any."""
        self.rows = rows
        self.index = index
        self.view = view
        n_values = 1
        if rows.prepare is not None:  # pixels grow when they are resized
            n_values = 3 * rows.prepare.out_size[0] * rows.prepare.out_size[1]
        self.batch_size = max(1, min(_EVAL_BATCH_SIZE, _EVAL_BATCH_VALUES // n_values))

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[FeatureBatch]:
        for part in self.index.split(self.batch_size):
            yield self.rows.take(part, view=self.view)
