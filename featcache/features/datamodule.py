"""A cache as training, validation and test batches: the LightningDataModule.

It keeps the features in memory while a head trains. `residence` chose where, and `resident` loaded
them. When a head is only tested, `heads/predictions.py` holds the rows.
"""

from __future__ import annotations

import os

import pytorch_lightning as pl
import torch

from featcache.config import TrainSpec
from featcache.core.arguments import count, place
from featcache.core.reporting import Choice, NoteCallback, silent
from featcache.errors import UsageError
from featcache.features.batches import OrderedBatches, ShuffledBatches, require_one_process
from featcache.features.order import EpochOrder
from featcache.features.residence import pick_residence, views_to_load
from featcache.features.resident import Resident, load_where_it_fits
from featcache.features.rows import FeatureRows, preprocessor_of, require_labels
from featcache.features.split import training_rows, valid_rows
from featcache.features.trainable import labels_of
from featcache.features.windows import WindowedRows
from featcache.store import Cache, open_cache


class FeatureDataModule(pl.LightningDataModule):
    """A cache as training, validation and test batches for any LightningModule.

    Batches are (B, D) float32 features and (B,) int64 labels, already on the trainer's device. Of a
    cache with several views of each training image, a training batch has one of each, drawn anew
    for every epoch; all other batches have the plain one.

    Example:
        >>> import featcache
        >>> path = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp).path
        >>> batches = FeatureDataModule(path, batch_size=32)
        >>> batches.setup("fit")
        >>> features, labels = next(iter(batches.train_dataloader()))
        >>> features.shape, labels.shape
        (torch.Size([32, 192]), torch.Size([32]))
    """

    def __init__(
        self,
        cache: Cache | str | os.PathLike[str],
        *,
        batch_size: int = TrainSpec.batch_size,
        val_fraction: float | None = TrainSpec.val_fraction,
        split_seed: int = TrainSpec.split_seed,
        seed: int = TrainSpec.seed,
        window_rows: int | None = TrainSpec.window_rows,
        steps_per_batch: int = 1,
        on_note: NoteCallback | None = None,
    ) -> None:
        """Choose the rows; the features are loaded by `setup`.

        Args:
            cache: A cache, or its path.
            batch_size: Rows in one training step.
            val_fraction: Share of the training rows kept for validation; None is 0.2, or the
                cache's own split "val".
            split_seed: Seeds the choice of those rows.
            seed: Seeds the order of the batches.
            window_rows: Keep only so many training rows in memory, and shuffle within them.
            steps_per_batch: With more than 1, training batches are SuperBatches of so many steps,
                for `HeadModule`.
            on_note: Called with a sentence where features go elsewhere than was chosen.

        Raises:
            UsageError: If there is nothing to train or to validate on.
        """
        super().__init__()
        asked = TrainSpec(
            batch_size=batch_size,
            val_fraction=val_fraction,
            split_seed=split_seed,
            seed=seed,
            window_rows=window_rows,
        )
        self.cache = cache if isinstance(cache, Cache) else open_cache(place("cache", cache))
        self.batch_size = asked.batch_size
        self.steps_per_batch = count("steps_per_batch", steps_per_batch)
        self.train_split, self.train_rows, self.val_split, self.val_rows = training_rows(
            self.cache, val_fraction=asked.val_fraction, split_seed=asked.split_seed
        )
        self.window_rows = asked.window_rows
        if self.window_rows is not None:
            self.val_rows = self.val_rows.sort().values  # one reading of the file
        self.sampler = EpochOrder(self.train_rows, seed=asked.seed, window_rows=self.window_rows)
        self.on_note = on_note or silent
        self.residence: Choice[str] | None = None
        self._loaded: dict[str, FeatureRows] = {}
        self._device: torch.device | None = None

    def choose_residence(self, device: torch.device) -> Choice[str]:
        """Choose where the features stay, once for each device; for another, all is loaded anew."""
        if device != self._device:
            self._device, self.residence, self._loaded = device, None, {}
        if self.residence is None:
            self.residence = pick_residence(
                self.cache, device=device, order=self.sampler, draws_views=True
            )
        return self.residence

    def hold(self, resident: Resident) -> None:
        """Take rows of the cache that were verified and loaded already."""
        self._device, self.residence = resident.device, resident.residence
        self._loaded = dict(resident.rows)

    def setup(self, stage: str = "fit") -> None:
        """Load what `stage` needs, on the trainer's device; once.

        Raises:
            UsageError: If the Trainer has several processes.
        """
        device = torch.device("cpu")
        if self.trainer is not None:
            require_one_process("FeatureDataModule", self.trainer.world_size)
            device = self.trainer.strategy.root_device
        for split in {"test"} if stage == "test" else {self.train_split, self.val_split}:
            self.load(split, device)

    def load(self, split: str, device: torch.device) -> None:
        """Load a split, once for each device.

        Raises:
            UsageError: If the cache has none of that name.
        """
        residence = self.choose_residence(device)
        if split in self._loaded:
            return
        if split not in self.cache.splits:
            raise UsageError(
                f"{self.cache.path.name} has no split {split!r}, only "
                f"{', '.join(self.cache.splits)}."
            )
        n_views = views_to_load(self.cache, split, draws_views=split == self.train_split)
        if self.window_rows is not None and split == self.train_split:
            require_labels(self.cache, split)
            self._loaded[split] = WindowedRows(
                self.cache[split],
                torch.from_numpy(labels_of(self.cache, split)).to(device),
                n=self.window_rows,
                device=device,
                prepare=preprocessor_of(self.cache, split, device),
                n_views=n_views,
            )
            return
        rows, found = load_where_it_fits(
            self.cache, split, device=device, residence=residence, n_views=n_views
        )
        self._loaded[split] = rows
        if found is not residence:
            self.residence = found
            self.on_note(f"features stay in {found.told}")

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        assert self._device is not None, "the residence was chosen"
        return self._device

    def rows_of(self, split: str) -> FeatureRows:
        """Give a split, which is loaded if it is not yet."""
        self.load(split, self.device)
        return self._loaded[split]

    @property
    def n_rows(self) -> dict[str, tuple[str, int]]:
        """The split, and how many of its rows, that train and that validate."""
        return {
            "train": (self.train_split, len(self.train_rows)),
            "val": (self.val_split, len(self.val_rows)),
        }

    @property
    def train_labels(self) -> torch.Tensor:
        """The labels of the training rows, (N,) int64 in memory."""
        return torch.from_numpy(labels_of(self.cache, self.train_split))[self.train_rows]

    def train_dataloader(self) -> ShuffledBatches:
        """Make the shuffled training batches."""
        return ShuffledBatches(
            self._loaded[self.train_split],
            self.sampler,
            batch_size=self.batch_size,
            steps_per_batch=self.steps_per_batch,
        )

    def val_dataloader(self) -> OrderedBatches:
        """Make the validation batches, in order."""
        return OrderedBatches(self._loaded[self.val_split], self.val_rows)

    def test_dataloader(self) -> OrderedBatches:
        """Make the batches of the split "test", in order, without unreadable images."""
        return OrderedBatches(self._loaded["test"], valid_rows(self.cache["test"]))
