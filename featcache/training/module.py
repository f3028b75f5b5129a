"""The LightningModule of a head: cross-entropy, L1, Adam."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from featcache.config import HeadSpec, TrainSpec
from featcache.core.arguments import count
from featcache.core.stopping import stop_if_asked
from featcache.errors import CorruptError, NonFiniteError, UsageError
from featcache.features.batches import FeatureBatch, SuperBatch, require_one_process
from featcache.heads.figures import batch_means
from featcache.heads.history import EpochRow, history_from_json
from featcache.heads.mlp import build_head, l1_norm
from featcache.training.cuda_graphs import ReplayedStep, replayed_step
from featcache.training.lightning_steps import StepCount
from featcache.training.loss import TrainingLoss


class HeadModule(pl.LightningModule):
    """Trains a head on features, with the notebook's loss, optimiser and logged names.

    A training batch is (features, labels), one optimiser step, or a SuperBatch: many of them in
    one `training_step`, which leaves Lightning's own work per step out of the inner loop. The
    losses are the same.

    Each epoch gives the loggers one row: train_loss, val_loss and val_acc, means over their rows.
    An epoch that was not validated has no val_loss and val_acc.
    Callbacks see the same names; `trainer.test` adds test_loss and test_acc.

    Attributes:
        head: The layers, a plain Sequential.
        step_losses: The losses of the epoch's steps, on the device.
        history: The rows of all epochs; kept in checkpoints.

    Example:
        >>> module = HeadModule(n_features=960, n_classes=10, head=HeadSpec(reg="l2"))
        >>> module(torch.zeros(4, 960)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_classes: int,
        head: HeadSpec | None = None,
        lr: float = TrainSpec.lr,
        seed: int = TrainSpec.seed,
        loss: TrainingLoss | None = None,
        treatment: nn.Sequential | None = None,
    ) -> None:
        """Build the head with seeded initial weights.

        Args:
            n_features: D.
            n_classes: K.
            head: Its shape and regularisation; None is the notebook's plain head.
            lr: Learning rate of Adam.
            seed: Seeds the initial weights.
            loss: What training minimises beside the L1 penalty; None is the plain cross-entropy.
            treatment: Layers before the head that are not trained; None are none.
        """
        super().__init__()
        self.automatic_optimization = False
        self.spec = head or HeadSpec()
        asked = TrainSpec(lr=lr, seed=seed)
        self.lr = asked.lr
        self.loss = loss or TrainingLoss()
        layers = build_head(
            self.spec,
            n_features=count("n_features", n_features),
            n_classes=count("n_classes", n_classes),
            seed=asked.seed,
        )
        self.head = nn.Sequential(*treatment, *layers) if treatment else layers
        self.step_losses: list[Tensor] = []
        self.history: list[EpochRow] = []
        self._replayed: ReplayedStep | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits: (B, D) -> (B, K)."""
        logits: Tensor = self.head(features)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the notebook's Adam, fused: one pass over the weights."""
        return torch.optim.Adam(
            self.parameters(), lr=self.lr, weight_decay=self.spec.weight_decay or 0.0, fused=True
        )

    def configure_callbacks(self) -> list[pl.Callback]:
        """Refuse several processes: of all hooks, this one comes before they wait for another.

        Raises:
            UsageError: If the Trainer has more than one.
        """
        require_one_process("HeadModule", self.trainer.world_size)
        return []

    def on_fit_start(self) -> None:
        """Give the loggers of a resumed run the epochs before.

        Raises:
            UsageError: If the Trainer's precision is not the features' own.
        """
        if self.trainer.precision != "32-true":
            raise UsageError(
                f"HeadModule trains in float32, but the Trainer's precision is "
                f"{self.trainer.precision!r}. Nothing was started. Leave the option out."
            )
        for row in self.history:
            self._log_row(row)

    def on_train_epoch_start(self) -> None:
        """Begin the record of the epoch's losses, which stay on the device."""
        self.step_losses = []
        self._step_sizes: list[int] = []
        self._is_validated = False

    def on_validation_end(self) -> None:
        """Note that the epoch has figures of its own; the Trainer keeps those of earlier ones."""
        self._is_validated = True

    def on_train_start(self) -> None:
        """Let the steps of a SuperBatch be replayed, where that is asked for."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer), "there is one"
        self._replayed = replayed_step(optimizer, device=self.device)

    def teardown(self, stage: str) -> None:
        """Free what was recorded, which cannot be pickled either."""
        self._replayed = None

    def training_step(self, batch: FeatureBatch | SuperBatch, batch_idx: int) -> None:
        """Run the optimiser steps of a batch.

        Those of a SuperBatch are counted, but do not call `on_before_optimizer_step`.

        Raises:
            NonFiniteError: If a loss is NaN or infinite, naming the step.
        """
        first = len(self.step_losses)
        optimizer = self.optimizers(use_pl_optimizer=not isinstance(batch, SuperBatch))
        assert not isinstance(optimizer, list), "there is one"

        def step(features: Tensor, labels: Tensor) -> Tensor:
            stop_if_asked()
            self.head.zero_grad()
            loss = self._loss(features, labels)
            loss.backward()
            optimizer.step()
            return loss.detach()

        if isinstance(batch, SuperBatch):
            steps = StepCount(self.trainer)
            for features, labels in batch:
                with steps.step():
                    if self._replayed is None:
                        self._note_loss(step(features, labels), labels)
                    else:
                        self._note_loss(self._replayed(step, features, labels), labels)
        else:
            self._note_loss(step(*batch), batch[1])
        self._require_finite(first)

    def _note_loss(self, loss: Tensor, labels: Tensor) -> None:
        self.step_losses.append(loss)
        self._step_sizes.append(len(labels))

    def on_train_epoch_end(self) -> None:
        """Log the epoch: the mean loss of its steps, and its validation."""
        sizes = torch.tensor(self._step_sizes, dtype=torch.float64)
        losses = torch.stack(self.step_losses).double().cpu()
        train_loss = float((losses * sizes).sum() / sizes.sum())
        self.log("train_loss", train_loss, logger=False)
        validated = self.trainer.callback_metrics if self._is_validated else {}
        names = [name for name in ("val_loss", "val_acc") if name in validated]
        row = EpochRow(
            epoch=float(self.current_epoch + 1),
            train_loss=train_loss,
            step=float(self.global_step),
            **{name: float(validated[name]) for name in names},
        )
        self.history.append(row)
        self._log_row(row)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history."""
        checkpoint["history"] = [row.to_json() for row in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back.

        Raises:
            CorruptError: If it is none.
        """
        try:
            self.history = list(history_from_json(checkpoint["history"]))
        except (LookupError, ValueError) as err:
            raise CorruptError(f"The checkpoint is damaged: {err}. Nothing was trained.") from err

    def validation_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Log val_loss and val_acc."""
        self._evaluate("val", batch)

    def test_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Log test_loss and test_acc."""
        self._evaluate("test", batch)

    def _loss(self, features: Tensor, labels: Tensor) -> Tensor:
        loss = self.loss(self.head(features), labels)
        if self.spec.l1:
            loss = loss + self.spec.l1 * l1_norm(self.head.parameters())
        return loss

    def _evaluate(self, stage: str, batch: FeatureBatch) -> None:
        """Log loss and accuracy; Lightning weights them by their rows."""
        stop_if_asked()
        features, labels = batch
        loss, accuracy = batch_means(self(features), labels)
        figures: dict[str, Any] = {f"{stage}_loss": loss, f"{stage}_acc": accuracy}
        self.log_dict(figures, on_step=False, on_epoch=True, logger=False, batch_size=len(labels))

    def _log_row(self, row: EpochRow) -> None:
        figures = {name: value for name, value in row.items() if name != "step"}
        figures["epoch"] = int(row["epoch"])  # a whole number in metrics.csv
        for logger in self.loggers:
            logger.log_metrics(figures, step=int(row["step"]))

    def _require_finite(self, first: int) -> None:
        losses = torch.stack(self.step_losses[first:])
        if not bool(losses.isfinite().all()):
            step = first + int((~losses.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"The loss became {losses[step - first].item()} at step {step + 1} of epoch "
                f"{self.current_epoch + 1}."
            )
