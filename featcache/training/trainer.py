"""The Lightning Trainer of a head: what it keeps on disk, what it tells, how it stops."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from featcache.config import TrainSpec
from featcache.core.process_wide import errors_alone, warnings_ignored
from featcache.core.random_state import seed_generators
from featcache.core.stopping import stop_if_asked
from featcache.errors import NonFiniteError
from featcache.features.batches import ShuffledBatches
from featcache.features.order import stream_seed
from featcache.store import replace_file
from featcache.training.module import HeadModule
from featcache.training.patience import Patience

LAST = "last.ckpt"
_ERRORS_ALONE = errors_alone("pytorch_lightning", "lightning_fabric")


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        seed: The run's seed.
        epoch: Epochs that are done.
        max_epochs: Epochs at most.
        n_done: Steps of all epochs that are done.
        n_total: Steps of all epochs.
        left_s: Seconds left, if it is not stopped early.
        figures: The last epoch's train_loss, val_loss and val_acc.
        fold: Which fold of how many, like "2/5"; empty for a run.
    """

    seed: int
    epoch: int
    max_epochs: int
    n_done: int
    n_total: int
    left_s: float
    figures: dict[str, float]
    fold: str = ""


TrainProgressCallback = Callable[[TrainProgress], None]


def make_trainer(
    folder: Path,
    train: TrainSpec,
    *,
    device: str,
    has_dropout: bool,
    on_progress: TrainProgressCallback,
) -> pl.Trainer:
    """Make the Trainer of one run, which logs and checkpoints into `folder`."""
    assert train.patience is not None, "settled before"
    callbacks: list[Callback] = [
        *([EpochSeed(train.seed)] if has_dropout else []),
        _Watch(train, on_progress),
        Timer(verbose=False),
        ModelCheckpoint(
            folder,
            LAST.removesuffix(".ckpt"),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if train.patience:
        callbacks.append(StopEarly(Patience(train.patience, train.min_delta)))
    if train.select == "best":
        callbacks.append(KeepBest())
    loggers: list[Logger] = [CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    on_cuda = device != "cpu"
    return pl.Trainer(
        max_epochs=train.max_epochs,
        accelerator="cuda" if on_cuda else "cpu",
        devices=[int(device.partition(":")[2] or 0)] if on_cuda else 1,
        callbacks=callbacks,
        logger=loggers,
        # The environment is named, because Lightning would take that of SLURM where it finds one.
        plugins=[_WholeFileIO(), LightningEnvironment()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notices about itself out of the conversation."""
    with _ERRORS_ALONE(), warnings_ignored(module=r"pytorch_lightning|lightning_fabric"):
        yield


@contextlib.contextmanager
def interrupts_raised() -> Iterator[None]:
    """Raise the KeyboardInterrupt that Lightning turns into an exit of the whole process.

    Lightning also ignores SIGINT from then on; the handler is put back. Of one that is not Python's
    nothing is known (None), so that Python's own stands in for it. In another thread than the main
    one Lightning fails to ignore it (ValueError).
    """
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (SystemExit, ValueError) as err:
        if isinstance(err.__context__, KeyboardInterrupt):
            raise err.__context__ from None
        stop_if_asked()  # Lightning may have met SIGTERM before our loops did
        raise
    finally:
        if in_main and signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)


class _WholeFileIO(TorchCheckpointIO):
    """Checkpoints that are there whole, or as they were before."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        replace_file(Path(path), lambda file: torch.save(checkpoint, file))


class StopEarly(Callback):
    """Stops when a patience is over; so does a run that is resumed after its last epoch.

    Its state in a checkpoint is that of Lightning's EarlyStopping, which stood here before: runs
    that were stopped then go on.
    """

    state_key = "_Patience{'monitor': 'val_loss', 'mode': 'min'}"

    def __init__(self, patience: Patience) -> None:
        self.patience = patience

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop a run at once that had stopped."""
        trainer.should_stop = self.patience.is_over

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the epoch's val_loss."""
        self.patience = self.patience.after(float(trainer.callback_metrics["val_loss"]))
        trainer.should_stop = trainer.should_stop or self.patience.is_over

    def state_dict(self) -> dict[str, Any]:
        """Give the checkpoint what is kept."""
        return {"best_score": self.patience.waited_from, "wait_count": self.patience.n_waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.patience = replace(
            self.patience,
            waited_from=float(state_dict["best_score"]),
            n_waited=int(state_dict["wait_count"]),
        )


class KeepBest(Callback):
    """Keeps the weights of the epoch with the lowest val_loss, in the checkpoint too.

    ModelCheckpoint forgets which was best when the folder has moved.

    Attributes:
        val_loss: Of that epoch.
        epoch: Its number, from 1.
        state: The head's weights; None before the first epoch.
    """

    def __init__(self) -> None:
        self.val_loss = math.inf
        self.epoch = 0
        self.state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        assert isinstance(pl_module, HeadModule), "it is used with no other"
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.val_loss:
            self.val_loss, self.epoch = loss, trainer.current_epoch + 1
            self.state = {n: t.cpu().clone() for n, t in pl_module.head.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Give the checkpoint what is kept."""
        return {"val_loss": self.val_loss, "epoch": self.epoch, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.val_loss, self.epoch = float(state_dict["val_loss"]), int(state_dict["epoch"])
        kept = state_dict["state"]
        self.state = None if kept is None else {str(name): kept[name] for name in kept}


class EpochSeed(Callback):
    """Seeds dropout by epoch, so that a resumed run draws what it would have drawn."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the default generators for this epoch, those that `seeded` puts back."""
        seed = stream_seed("dropout", self.seed, trainer.current_epoch)
        seed_generators(seed, device=str(pl_module.device))


class _Watch(Callback):
    """Tells the progress, and stops when a loss is no number any more."""

    def __init__(self, train: TrainSpec, on_progress: TrainProgressCallback) -> None:
        self.train = train
        self.on_progress = on_progress
        self.started_s = 0.0
        self.n_before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started_s = time.perf_counter()
        self.n_before = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, HeadModule), "it is used with no other"
        batches = trainer.train_dataloader
        assert isinstance(batches, ShuffledBatches), "no others are trained on"
        n_done = trainer.global_step
        n_total = self.train.max_epochs * batches.n_steps
        seconds = time.perf_counter() - self.started_s
        self.on_progress(
            TrainProgress(
                seed=self.train.seed,
                epoch=trainer.current_epoch,
                max_epochs=self.train.max_epochs,
                n_done=n_done,
                n_total=n_total,
                left_s=seconds / (n_done - self.n_before) * (n_total - n_done),
                figures=dict(pl_module.history[-1]) if pl_module.history else {},
            )
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"The validation loss became {loss} after epoch {trainer.current_epoch + 1}."
            )
