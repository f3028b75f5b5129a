"""Heads trained by the library's own code on rows that are altered as they are taken.

What would another extraction have given: features times a factor, features stored as float16, fewer
images? A second cache of VGG16's features is 6 GB, so the rows stay as they are, resident once, and
each batch is altered on its way to the head. Each head is held to it: it must have taken as many
altered rows as it took rows at all, and its test_loss must be that of altered rows that were read
from the file apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import featcache.features.datamodule
from featcache.config import HeadSpec, TrainSpec
from featcache.core.reporting import silent
from featcache.features.resident import load_sound
from featcache.features.rows import FeatureRows
from featcache.features.split import training_rows, valid_rows
from featcache.features.trainable import labels_of
from featcache.heads.head_file import load_head
from featcache.heads.run_files import HeadRun
from featcache.store import Cache
from featcache.training.run import HeadJob

Alter = Callable[[Tensor], Tensor]
_TOLERANCE = 1e-4  # of a test_loss, between two ways to add up
_ROWS_PER_READ = 1024


class AlteredRows(FeatureRows):
    """A split whose batches come out altered.

    Attributes:
        n_taken: Rows that were taken so far.
    """

    def __init__(self, rows: FeatureRows, alter: Alter) -> None:
        super().__init__(rows.features, rows.labels, rows.device, rows.prepare, rows.n_views)
        self.rows = rows
        self.alter = alter
        self.n_taken = 0

    def pick(self, places: Tensor) -> tuple[Tensor, Tensor]:
        features, labels = self.rows.pick(places)
        self.n_taken += len(places)
        return self.alter(features), labels


class AlteredTraining:
    """Trains heads of one cache, whose rows are read and verified once."""

    def __init__(self, cache: Cache, *, device: str) -> None:
        self.cache = cache
        self.device = device
        self._resident = load_sound(cache, device=device, window_rows=None)
        assert self._resident.rows, "the features must fit into memory"

    def figures(
        self, head: HeadSpec, train: TrainSpec, *, alter: Alter, share: float = 1.0
    ) -> dict[str, Any]:
        """Train and test one head as `train_head` does, on altered rows.

        Args:
            head: Its shape and regularisation.
            train: Its training; its seed also draws the share.
            alter: Takes (B, D) float32 and gives the same shape.
            share: Of the rows that train and of those that validate, how many are used; a larger
                share of one seed holds the smaller ones.

        Returns:
            What its result.json holds but the history, and how many rows it trained on.
        """
        altered = {name: AlteredRows(rows, alter) for name, rows in self._resident.rows.items()}
        n_rows: list[int] = []

        def divided(cache: Cache, **options: Any) -> tuple[str, Tensor, str, Tensor]:
            train_split, rows, val_split, val_rows = training_rows(cache, **options)
            rows, val_rows = (_drawn(r, share, seed=train.seed) for r in (rows, val_rows))
            n_rows[:] = [len(rows), len(val_rows)]
            return train_split, rows, val_split, val_rows

        with (
            TemporaryDirectory() as folder,
            patch.object(featcache.features.datamodule, "training_rows", divided),
        ):
            job = HeadJob(
                self.cache,
                head,
                replace(self._resident, rows=altered),
                runs_dir=Path(folder),
                resume=False,
                on_progress=silent,
                on_note=silent,
            )
            run = job.run(train)
            n_taken = sum(rows.n_taken for rows in altered.values())
            self._require_altered(run, alter, n_rows=n_rows, n_taken=n_taken)
        kept = ("test_acc", "test_loss", "val_acc", "val_loss", "n_epochs", "best_epoch", "seconds")
        return {name: getattr(run, name) for name in kept} | {"n_train": n_rows[0]}

    def _require_altered(
        self, run: HeadRun, alter: Alter, *, n_rows: list[int], n_taken: int
    ) -> None:
        n_expected = run.n_epochs * sum(n_rows) + len(valid_rows(self.cache["test"]))
        assert n_taken == n_expected, f"{n_taken} altered rows were taken, not {n_expected}"
        head = load_head(run.path)
        of_run = [head.split[name]["n_rows"] for name in ("train", "val")]
        assert of_run == n_rows, f"the head says {of_run} rows, but {n_rows} were drawn"
        loss = self._test_loss(head.module(), alter)
        assert run.test_loss is not None, "the cache has a split to test on"
        assert math.isclose(loss, run.test_loss, rel_tol=_TOLERANCE), (
            f"test_loss is {run.test_loss}, but {loss} on altered rows"
        )

    def _test_loss(self, module: torch.nn.Module, alter: Alter) -> float:
        """Compute the test_loss from rows of the file, past all that is wrapped."""
        split = self.cache["test"]
        module.to(self.device)
        loss, n = 0.0, 0
        for start in range(0, len(split), _ROWS_PER_READ):
            stop = min(start + _ROWS_PER_READ, len(split))
            is_valid = torch.from_numpy(split.valid[start:stop])
            features = torch.from_numpy(split.read(start, stop)).float()[is_valid]
            labels = torch.from_numpy(labels_of(self.cache, "test")[start:stop])[is_valid]
            with torch.inference_mode():
                logits = module(alter(features.to(self.device)))
                loss += float(cross_entropy(logits, labels.to(self.device), reduction="sum"))
            n += len(labels)
        return loss / n


def _drawn(rows: Tensor, share: float, *, seed: int) -> Tensor:
    """Draw a share of rows, one at least, in their order."""
    n = max(1, round(share * len(rows)))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:n].sort().values]
