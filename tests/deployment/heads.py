"""Heads with weights of chance: what tests of an answer need, without a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.features.rows import n_inputs
from featcache.heads.head_file import TrainedHead, load_head, save_head
from featcache.heads.mlp import build_head
from featcache.heads.run_files import head_of
from featcache.store import open_cache


def save_random_head(cache: featcache.Cache | Path, run: Path, *, seed: int = 0) -> TrainedHead:
    """Write the folder of a run whose head was never trained."""
    cache = cache if isinstance(cache, featcache.Cache) else open_cache(cache)
    spec = HeadSpec(hidden=(8,))
    module = build_head(
        spec, n_features=n_inputs(cache), n_classes=len(cache.class_names), seed=seed
    )
    _spread(module, next(iter(cache.splits.values())).features[:])
    head = head_of(
        cache,
        spec,
        TrainSpec(),
        module.state_dict(),
        rows={"train": ("train", 2), "val": ("train", 1)},
        n_epochs=1,
        device="cpu",
    )
    run.mkdir(parents=True)
    save_head(run, head)
    return load_head(run)


def _spread(module: nn.Sequential, features: np.ndarray) -> None:
    """Let the head see standardised features: those of a random backbone are all nearly alike."""
    first, *_, last = module.children()
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    if features.dtype == np.uint8:
        return
    rows = torch.from_numpy(features.astype(np.float64))
    scale = 5 / rows.std(0).clamp(min=float(rows.std(0).mean()) * 1e-2 + 1e-30)
    with torch.no_grad():
        weight = first.weight.double() * scale
        first.bias.copy_(-(weight @ rows.mean(0)))
        first.weight.copy_(weight)
        last.weight.mul_(2)
