from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.config import HeadSpec, SolverSpec
from featcache.errors import CorruptError, UsageError
from featcache.heads.description import require_weights
from featcache.heads.head_file import load_head, save_head
from featcache.heads.mlp import build_head
from featcache.heads.trained_head import TrainedHead
from featcache.heads.treatment import Standardise, folded
from featcache.training.train_result import TrainResult

FEATURES = torch.randn(7, 12, generator=torch.Generator().manual_seed(3)) * 5 + 2


@pytest.fixture
def run(train: Callable[..., TrainResult]) -> Path:
    return train(max_epochs=1).path


def standardised(hidden: tuple[int, ...] = (8,)) -> nn.Sequential:
    """A head with a treatment that does something."""
    head = build_head(
        HeadSpec(hidden=hidden), n_features=12, n_classes=3, seed=0, features="standard"
    )
    first = head[0]
    assert isinstance(first, Standardise)
    first.mean.copy_(FEATURES.mean(0))
    first.scale.copy_(FEATURES.std(0))
    return head.eval()


def with_treatment(head: TrainedHead, features: str) -> TrainedHead:
    module = standardised()
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if features == "l2":
        state = {name: array for name, array in state.items() if name[:3] not in ("0.m", "0.s")}
    return replace(head, solver=SolverSpec(features=features), arrays=state)


def test_a_treatment_stands_before_the_first_layer_and_comes_back_with_the_head(run: Path) -> None:
    save_head(run, with_treatment(load_head(run), "standard"))

    head = load_head(run)

    kinds = [type(layer).__name__ for layer in head.module()]
    assert kinds == ["Standardise", "Linear", "ReLU", "Linear"]
    assert torch.equal(head.module()(FEATURES), standardised()(FEATURES))
    assert json.loads((run / "head.json").read_text())["solver"] == {
        "solver": "mlp",
        "features": "standard",
    }


def test_rows_of_length_1_enter_a_head_of_l2(run: Path) -> None:
    save_head(run, with_treatment(load_head(run), "l2"))

    module = load_head(run).module()

    assert torch.equal(module(FEATURES), module(FEATURES / FEATURES.norm(dim=1, keepdim=True)))
    assert module(torch.zeros(1, 12)).isfinite().all()


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_standardising_folds_into_the_first_linear_layer(hidden: tuple[int, ...]) -> None:
    head = standardised(hidden)

    plain = folded(head)

    assert [type(layer) for layer in plain] == [type(layer) for layer in head][1:]
    torch.testing.assert_close(plain(FEATURES), head(FEATURES), rtol=1e-5, atol=1e-6)


def test_a_head_without_standardising_is_folded_as_it_is(run: Path) -> None:
    module = load_head(run).module()

    assert folded(module) is module


def test_a_head_that_lacks_the_tensors_of_its_treatment_is_refused(run: Path) -> None:
    head = replace(load_head(run), solver=SolverSpec(features="standard"))

    with pytest.raises(ValueError, match=r"tensors \(4\) are not those of its layers"):
        require_weights(head)


def test_a_head_of_neighbours_has_no_layers(run: Path) -> None:
    head = replace(load_head(run), solver=SolverSpec(solver="knn"), arrays={}, found={"k": 10})
    save_head(run, head)

    loaded = load_head(run)

    assert (loaded.arrays, loaded.found) == ({}, {"k": 10})
    with pytest.raises(UsageError, match=r"has no layers: its answers are votes of the rows of"):
        loaded.module()


def test_what_a_solver_found_is_numbers(run: Path) -> None:
    save_head(run, replace(load_head(run), found={"C": "many"}))

    with pytest.raises(CorruptError, match="where a number was expected"):
        load_head(run)


def test_a_linear_head_says_its_solver_and_no_training_of_adams(run: Path) -> None:
    head = load_head(run)
    weight = np.zeros((3, 12), np.float32)
    arrays = {"1.weight": weight, "1.bias": np.zeros(3, np.float32)}
    linear = replace(
        head,
        spec=HeadSpec(hidden=()),
        solver=SolverSpec(solver="ncm"),
        found={"temperature": None},
        arrays=arrays,
    )
    save_head(run, linear)

    loaded = load_head(run)

    assert loaded.solver == SolverSpec(solver="ncm")
    assert not loaded.is_calibrated
    said = json.loads((run / "head.json").read_text())
    assert said["train"] == {"val_fraction": None, "split_seed": 42}
    assert [type(layer).__name__ for layer in loaded.module()] == ["UnitLength", "Linear"]
    assert isinstance(featcache.load_head(run), TrainedHead)
