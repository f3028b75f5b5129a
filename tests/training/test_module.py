from __future__ import annotations

import logging
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import featcache
from featcache.config import HeadSpec
from featcache.errors import NonFiniteError, UsageError
from featcache.features.datamodule import FeatureDataModule
from featcache.heads.figures import MeansOfBatches, measure
from featcache.heads.mlp import l1_norm
from featcache.training.module import HeadModule
from tests.feature_caches import CLASS_NAMES, N_FEATURES

# Lightning 2.6.6 calls what torch 2.14 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def own_trainer(*, max_epochs: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        **options,
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def module(**options: object) -> HeadModule:
    return HeadModule(
        n_features=N_FEATURES,
        n_classes=len(CLASS_NAMES),
        head=HeadSpec(hidden=(8,), **options),  # type: ignore[arg-type]
        lr=1e-2,
    )


@pytest.mark.parametrize("reg", ["none", "l1l2"])
def test_many_steps_in_one_are_the_same_to_the_bit(cache: featcache.Cache, reg: str) -> None:
    results = {}
    for n_steps in (1, 4, 64):
        trained = module(reg=reg)
        trainer = own_trainer(max_epochs=2)
        trainer.fit(trained, FeatureDataModule(cache, batch_size=16, steps_per_batch=n_steps))
        results[n_steps] = (
            torch.stack(trained.step_losses).tolist(),
            trained.history,
            trainer.global_step,
            [p.tolist() for p in trained.parameters()],
        )

    assert results[1] == results[4] == results[64]
    assert results[64][2] == 20


def test_it_learns_what_a_bare_loop_with_plain_adam_learns(
    cache: featcache.Cache,
) -> None:
    trained = module(reg="l1l2")
    bare = module(reg="l1l2").head
    batches = FeatureDataModule(cache, batch_size=16)
    batches.setup()
    adam = torch.optim.Adam(bare.parameters(), lr=1e-2, weight_decay=1e-4)
    losses = []
    for features, labels in batches.train_dataloader():
        penalty = 1e-5 * sum(torch.norm(p, 1) for p in bare.parameters())
        loss = nn.functional.cross_entropy(bare(features), labels) + penalty
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())

    trainer = own_trainer(max_epochs=1)
    trainer.fit(trained, FeatureDataModule(cache, batch_size=16, steps_per_batch=64))

    assert torch.stack(trained.step_losses).tolist() == pytest.approx(losses, rel=1e-5)
    for own, other in zip(trained.parameters(), bare.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)


def test_both_work_in_a_users_own_trainer_with_his_own_module(
    cache: featcache.Cache,
) -> None:
    class Own(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(N_FEATURES, 3)

        def training_step(
            self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int
        ) -> torch.Tensor:
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
            self.log("own", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = own_trainer(max_epochs=3)
    trainer.fit(Own(), FeatureDataModule(cache, batch_size=16))

    assert trainer.global_step == 30
    assert trainer.callback_metrics["own"] < 0.9


def test_a_loss_that_is_no_number_names_its_step(cache: featcache.Cache) -> None:
    broken = module()
    batches = FeatureDataModule(cache, batch_size=16, steps_per_batch=4)
    batches.setup()
    batches._loaded["train"].features[batches.sampler.order()[16 * 5]] = float("nan")

    trainer = own_trainer(max_epochs=1)
    with pytest.raises(NonFiniteError) as err:
        trainer.fit(broken, batches)

    assert str(err.value) == "The loss became nan at step 6 of epoch 1."


def test_the_penalty_is_in_the_training_loss_only() -> None:
    plain, penalised = module(), module(reg="l1", l1=0.5)
    features, labels = torch.ones(4, N_FEATURES), torch.zeros(4, dtype=torch.int64)

    difference = penalised._loss(features, labels) - plain._loss(features, labels)

    assert difference.item() == pytest.approx(0.5 * l1_norm(plain.parameters()).item())


def test_a_trainer_of_another_precision_is_refused(cache: featcache.Cache) -> None:
    trainer = own_trainer(max_epochs=1, precision="bf16-mixed")

    with pytest.raises(UsageError, match="trains in float32, but the Trainer's precision is 'bf16"):
        trainer.fit(module(), FeatureDataModule(cache))


def test_several_processes_are_refused_before_one_waits_for_another(
    cache: featcache.Cache,
) -> None:
    two = own_trainer(max_epochs=1, devices=2)
    head, batches = module(), FeatureDataModule(cache)
    head.trainer = batches.trainer = two

    for what, hook in (
        ("HeadModule", head.configure_callbacks),
        ("FeatureDataModule", batches.setup),
    ):
        with pytest.raises(UsageError) as err:
            hook()
        assert str(err.value) == (
            f"{what} works in one process, but the Trainer has 2, and each would do all of the "
            f"work. Nothing was started. Use Trainer(devices=1)."
        )


def test_an_epoch_that_was_not_validated_has_no_validation_loss(cache: featcache.Cache) -> None:
    trained = module()

    own_trainer(max_epochs=5, check_val_every_n_epoch=2).fit(
        trained, FeatureDataModule(cache, batch_size=16)
    )

    assert ["val_loss" in row for row in trained.history] == [False, True, False, True, False]
    assert all(("val_acc" in row) == ("val_loss" in row) for row in trained.history)


def test_a_sanity_check_before_training_is_no_validation_of_the_first_epoch(
    cache: featcache.Cache,
) -> None:
    trained = module()

    own_trainer(max_epochs=1, check_val_every_n_epoch=2, num_sanity_val_steps=1).fit(
        trained, FeatureDataModule(cache, batch_size=16)
    )

    assert "val_loss" not in trained.history[0]


def test_a_run_is_tested_with_the_bits_of_lightnings_own_test(cache: featcache.Cache) -> None:
    trained, batches = module(), FeatureDataModule(cache)
    batches.load("test", torch.device("cpu"))
    rows = batches.test_dataloader()
    rows.batch_size, own = 7, MeansOfBatches()

    trainer = own_trainer(max_epochs=1)
    trainer.test(trained, rows, verbose=False)
    measure(rows, (trained.head.eval(), own))

    theirs = {name: float(figure) for name, figure in trainer.callback_metrics.items()}
    assert theirs == {"test_loss": own.figures.loss, "test_acc": own.figures.acc}


def test_batches_follow_the_device_of_the_next_trainer(cache: featcache.Cache) -> None:
    batches = FeatureDataModule(cache, batch_size=16)
    here, elsewhere = torch.device("cpu"), torch.device("meta")

    batches.load("test", here)
    first = batches.test_dataloader().rows
    batches.load("test", here)
    same = batches.test_dataloader().rows
    batches.load("test", elsewhere)
    features, labels = next(iter(batches.test_dataloader()))

    assert same is first
    assert (features.device, labels.device) == (elsewhere, elsewhere)
