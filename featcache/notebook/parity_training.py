"""The two trainings that parity compares: on the cache, and end to end, from one head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from featcache.config import HeadSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.plain_torch import plain_torch
from featcache.core.preprocess import Preprocess
from featcache.core.random_state import seeded
from featcache.features.batches import STEPS_PER_BATCH, ShuffledBatches
from featcache.features.order import EpochOrder
from featcache.features.rows import load_rows
from featcache.features.split import valid_rows
from featcache.heads.mlp import build_head
from featcache.images.augment import SplitViews
from featcache.images.splits import Dataset
from featcache.notebook.active_units import ActiveUnits
from featcache.notebook.end_to_end import ImageRows, WholeModel, whole_model
from featcache.store import Cache, CacheSplit, named_backbone
from featcache.training.module import HeadModule
from featcache.training.trainer import EpochSeed, quiet_lightning

_CPU = torch.device("cpu")


class Trained(NamedTuple):
    """What a training leaves.

    Attributes:
        losses: The loss of every step, float64.
        logits: (N, K), of the test rows.
        active: Which hidden units were on, step by step.
    """

    losses: Tensor
    logits: Tensor
    active: ActiveUnits


@dataclass(frozen=True, eq=False)
class Sides:
    """What both sides share: images and the cache made of them, weights, rows, head, settings.

    Of each split, `limit` rows at most take part, evenly spaced.
    """

    cache: Cache
    dataset: Dataset
    backbone: Mapping[str, Tensor]
    preprocess: Preprocess
    head: HeadSpec
    lr: float
    batch_size: int
    epochs: int
    limit: int

    @property
    def train_rows(self) -> Tensor:
        """Numbers of the training rows, of images that could be read."""
        return spaced(valid_rows(self.cache["train"]), self.limit)

    @property
    def test_rows(self) -> Tensor:
        """Numbers of the test rows, of images that could be read."""
        return spaced(valid_rows(self.cache["test"]), self.limit)

    @property
    def test_labels(self) -> Tensor:
        """The dataset's own labels of the test rows."""
        return torch.from_numpy(self.dataset.splits["test"].labels)[self.test_rows]

    def views(self, split: str) -> SplitViews:
        """The views that the cache has of a split's images."""
        n_views = self.cache[split].n_views
        return SplitViews(self.cache.identity.views, n_views, self.dataset.splits[split].ids)

    def new_head(self, seed: int) -> nn.Sequential:
        """Build the head that both sides start from."""
        return build_head(
            self.head,
            n_features=self.cache.n_features,
            n_classes=len(self.cache.class_names),
            seed=seed,
        )

    def whole_model(self, head: nn.Module) -> nn.Module:
        """Build the model whose backbone made the cache, with a head where its classifier was."""
        arguments = self.cache.identity.get("architecture", {}).get("arguments", {})
        return whole_model(
            named_backbone(self.cache.identity, self.cache.provenance),
            self.backbone,
            head,
            fixed_size=arguments.get("img_size"),
        )


class _Places:
    """The order in which a DataLoader takes rows, with a view of each, drawn for every epoch."""

    def __init__(self, order: EpochOrder, views: SplitViews) -> None:
        self.order = order
        self.views = views

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.places(self.views.n, len(self.views.ids)).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)


def spaced(rows: Tensor, n: int) -> Tensor:
    """Take `n` of the rows, or all if there are fewer, evenly spaced."""
    return rows[torch.linspace(0, len(rows) - 1, min(n, len(rows)), dtype=torch.float64).long()]


@plain_torch()
def train_cached(sides: Sides, seed: int) -> Trained:
    """Train on the cache; the losses of all steps, and the logits of the test rows."""
    batches = ShuffledBatches(
        load_rows(
            sides.cache,
            "train",
            device=_CPU,
            residence=_residence(sides.cache["train"], sides.train_rows),
            n_views=sides.views("train").n,
        ),
        EpochOrder(sides.train_rows, seed=seed),
        batch_size=sides.batch_size,
        steps_per_batch=STEPS_PER_BATCH,
    )
    module = HeadModule(
        n_features=sides.cache.n_features,
        n_classes=len(sides.cache.class_names),
        head=sides.head,
        lr=sides.lr,
        seed=seed,
    )
    active = ActiveUnits(module.head)
    losses: list[Tensor] = []

    class Collect(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            losses.extend(module.step_losses)

    _fit(module, batches, sides, seed, callbacks=[Collect()])
    residence = _residence(sides.cache["test"], sides.test_rows)
    test = load_rows(sides.cache, "test", device=_CPU, residence=residence)
    with head_arithmetic("cpu"), torch.inference_mode():
        logits = module.eval()(test.take(sides.test_rows)[0])
    return Trained(torch.stack(losses).double(), logits, active)


@plain_torch()
def train_end_to_end(sides: Sides, seed: int, *, backbone_trains: bool = False) -> Trained:
    """Train with the backbone in the loop; in evaluation mode unless `backbone_trains`."""
    head = sides.new_head(seed)
    active = ActiveUnits(head)
    model = sides.whole_model(head)
    module = WholeModel(
        model, head, sides.head, lr=sides.lr, backbone_trains=backbone_trains
    ).train()
    split = sides.dataset.splits["train"]
    views = sides.views("train")
    images = ImageRows(split, range(len(split) * views.n), sides.preprocess, views)
    order = _Places(EpochOrder(sides.train_rows, seed=seed), views)
    # A generator of its own: the loader must not draw from dropout's.
    batches = DataLoader(images, sides.batch_size, sampler=order, generator=torch.Generator())
    _fit(module, batches, sides, seed, callbacks=[])
    images = ImageRows(sides.dataset.splits["test"], sides.test_rows.tolist(), sides.preprocess)
    with head_arithmetic("cpu"):
        logits = module.logits(images, sides.batch_size)
    return Trained(torch.stack(module.losses).double(), logits, active)


def _residence(split: CacheSplit, rows: Tensor) -> str:
    """Keep all rows in memory; read a part of them from the file, which may be far larger."""
    return "memory" if len(rows) == int(split.valid.sum()) else "file"


def _fit(
    module: pl.LightningModule,
    batches: ShuffledBatches | DataLoader[tuple[Tensor, int]],
    sides: Sides,
    seed: int,
    *,
    callbacks: list[Callback],
) -> None:
    with quiet_lightning(), head_arithmetic("cpu"), seeded(seed):
        trainer = pl.Trainer(
            max_epochs=sides.epochs,
            accelerator="cpu",
            callbacks=[EpochSeed(seed), *callbacks],
            plugins=[LightningEnvironment()],  # one process, also inside of a job of SLURM
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module, batches)
