"""Train the head of one fold: that of `train_head` on these rows, but in memory alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from featcache.config import HeadSpec, TrainSpec
from featcache.core.stopping import stop_if_asked
from featcache.errors import NonFiniteError
from featcache.features.batches import OrderedBatches, ShuffledBatches, SuperBatch
from featcache.features.order import EpochOrder
from featcache.features.rows import FeatureRows
from featcache.heads.figures import SumsOfHeads, measure
from featcache.heads.mlp import build_head
from featcache.training.folds.divide import FoldRows
from featcache.training.folds.trained_fold import TrainedFold
from featcache.training.loss import TrainingLoss
from featcache.training.sweeps.entry import Entry
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState
from featcache.training.trainer import TrainProgress, TrainProgressCallback

_STEPS_PER_TOLD = 16


def train_fold(
    rows: FeatureRows,
    fold: FoldRows,
    name: str,
    *,
    head: HeadSpec,
    train: TrainSpec,
    n_features: int,
    n_classes: int,
    on_progress: TrainProgressCallback,
) -> TrainedFold:
    """Train a head on the rows of a fold.

    A bank of one head has the steps of a head that is trained alone, up to rounding, and needs
    neither a folder nor a Trainer.

    Args:
        rows: The features.
        fold: Which of them train and validate.
        name: Of the fold, for progress and errors: "2/5".
        head: Shape and regularisation.
        train: The training.
        n_features: D.
        n_classes: K.
        on_progress: Called after every few steps.

    Raises:
        NonFiniteError: If a loss is no number.
    """
    member = Member(name, head, train.lr, train.seed)
    entry = Entry(Path(), member, train)
    state = MemberState.initial(member, n_features=n_features, n_classes=n_classes)
    loss = TrainingLoss.of(train, rows.labels[fold.train.to(rows.device)], n_classes=n_classes)
    bank = HeadBank([member], [state], device=rows.device, loss=loss)
    order = EpochOrder(fold.train, seed=train.seed_of_order)
    batches = ShuffledBatches(rows, order, batch_size=train.batch_size, steps_per_batch=1)
    validation = OrderedBatches(rows, fold.val)
    tell = _teller(entry, batches.n_steps, on_progress)
    while not entry.is_done:
        epoch = len(entry.state.history)
        order.set_epoch(epoch)
        bank.set_epoch(epoch)
        losses, sizes = [], []
        for i, batch in enumerate(batches):
            assert not isinstance(batch, SuperBatch), "a bank takes one step a batch"
            stop_if_asked()
            losses.append(bank.step(*batch))
            sizes.append(len(batch[1]))
            if i % _STEPS_PER_TOLD == 0:
                tell(i + 1)
        sums = SumsOfHeads(1)
        measure(validation, (bank.logits, sums))
        entry.judge(torch.cat(losses).cpu(), torch.tensor(sizes), sums.figures[0])
        entry.keep_if_best(_parameters(bank))
    if entry.state.problem:
        raise NonFiniteError(
            f"Fold {name}: {entry.state.problem}. Use a lower --lr (it is {train.lr:g})."
        )
    best = min(entry.state.history, key=lambda row: row["val_loss"])
    kept = best if train.select == "best" else entry.state.history[-1]
    parameters = entry.state.best if train.select == "best" else _parameters(bank)
    assert parameters is not None, "its first epoch was the best so far"
    module = build_head(head, n_features=n_features, n_classes=n_classes, seed=0)
    module.load_state_dict(dict(zip(module.state_dict(), parameters, strict=True)))
    return TrainedFold(module.to(rows.device).eval(), len(entry.state.history), int(kept["epoch"]))


def _parameters(bank: HeadBank) -> list[Tensor]:
    [(_, state)] = bank.states()
    return list(state.parameters)


def _teller(
    entry: Entry, n_steps: int, on_progress: TrainProgressCallback
) -> Callable[[int], None]:
    """Make what tells the progress after a step of the epoch."""
    started, train = time.perf_counter(), entry.train

    def tell(n_of_epoch: int) -> None:
        history = entry.state.history
        n_done, n_total = len(history) * n_steps + n_of_epoch, train.max_epochs * n_steps
        on_progress(
            TrainProgress(
                seed=train.seed,
                epoch=len(history),
                max_epochs=train.max_epochs,
                n_done=n_done,
                n_total=n_total,
                left_s=(time.perf_counter() - started) / n_done * (n_total - n_done),
                figures=dict(history[-1]) if history else {},
                fold=entry.member.key,
            )
        )

    return tell
