"""No mode and no default of torch's that the user has set reaches a feature, a head or a figure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import featcache
from featcache.core.plain_torch import plain_torch


@contextlib.contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def another_device() -> Iterator[None]:
    torch.set_default_device("meta")  # in the place of a GPU: nothing on it can be read
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES: dict[str, Callable[[], Any]] = {
    "float64": float64,
    "another device": another_device,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


def answers(folder: Path) -> dict[str, Any]:
    """Extract, train, sweep and evaluate; what must come out is the same everywhere."""
    cache = featcache.extract(
        "digits",
        backbone="mobilenet_v3_small",
        weights="random",
        image_size=32,
        limit=60,
        cache_dir=folder,
    ).path
    options = {"hidden": (8,), "batch_size": 16, "lr": 1e-2, "max_epochs": 2}
    dropout = {"reg": "dropout", "dropout": (0.4,)}
    run = featcache.train_head(cache, runs_dir=folder / "runs", **options, **dropout).runs[0]
    grid = options | {"hidden": ((8,),), "lr": (1e-3, 1e-2)}
    swept = featcache.sweep(cache, runs_dir=folder / "sweep", **grid)
    figures = featcache.evaluate(run.path, cache_dir=folder, draws=10)
    return {
        "cache": cache.read_bytes(),
        "history": run.history,
        "sweep": [setting.val_loss for setting in swept.settings],
        "figures": (figures.acc, figures.loss, figures.auroc, figures.calibration_error),
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answers(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_everything_is_the_same_under_what_the_user_has_set(
    state: Callable[[], Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    with state():
        found = answers(tmp_path)

    assert found == expected


def test_the_users_own_modes_are_there_again_afterwards() -> None:
    with float64(), another_device(), torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        with plain_torch():
            inside = (torch.ones(1).dtype, torch.ones(1).device.type, torch.is_grad_enabled())
        after = (torch.ones(1).dtype, torch.ones(1).device.type, torch.is_grad_enabled())
        assert torch.is_autocast_enabled("cpu")

    assert inside == (torch.float32, "cpu", True)
    assert after == (torch.float64, "meta", False)
