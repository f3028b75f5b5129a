"""A head on code of one's own leaves as a graph, or as tensors for who names that code again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import UsageError
from tests.deployment.heads_of_digits import digits

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")


def backbone() -> featcache.Backbone:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()).eval()
    return featcache.Backbone(module, featcache.Preprocess.notebook(8), "means")


def test_tensors_of_own_code_are_loaded_only_by_who_names_it(tmp_path: Path) -> None:
    cache = featcache.extract("digits", backbone=backbone(), limit=100, cache_dir=tmp_path / "c")
    run = featcache.train_head(cache.path, hidden=(), max_epochs=1, runs_dir=tmp_path / "runs").path
    options = {"backbone": backbone(), "format": "safetensors", "cache_dir": tmp_path / "c"}
    path = tmp_path / "x.safetensors"

    with pytest.raises(UsageError, match="cannot build python:means, which has to be named again"):
        featcache.export(run, out=path, **options)
    featcache.export(run, out=path, unchecked=True, **options)
    with pytest.raises(UsageError, match=r"code or a folder of its maker's\. Nothing was run"):
        featcache.load_exported(path)
    network = featcache.load_exported(path, backbone=backbone())

    images = torch.from_numpy(digits()[:7])
    inputs = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    wanted = featcache.load_head(run).module()(backbone().module(inputs)).softmax(1)
    np.testing.assert_allclose(network(images), wanted.detach(), rtol=0, atol=1e-6)
