"""The user's own networks: what is taken, what is refused, and when code runs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featcache
from featcache.backbones.families import check_backbone_options
from featcache.backbones.own import Own
from featcache.core.random_state import seeded
from featcache.errors import UnknownNameError, UsageError
from featcache.extraction.result import ExtractResult

Extract = Callable[..., ExtractResult]


class Small(nn.Module):
    """(B, 3, s, s) -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.conv(batch).mean((2, 3))


class Nan(Small):
    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) * float("nan")


class Maps(Small):
    def forward(self, batch: Tensor) -> Tensor:
        return self.conv(batch)


class Several(Small):
    def forward(self, batch: Tensor) -> Any:
        return super().forward(batch), batch


class Centred(Small):
    """Looks at the other images of the batch."""

    def forward(self, batch: Tensor) -> Tensor:
        rows = super().forward(batch)
        return rows - rows.mean(0)


class Random(Small):
    def forward(self, batch: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(batch), training=True)


class Counting(Small):
    """Its BatchNorm is left in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(super().forward(batch)) if len(batch) > 1 else super().forward(batch)


class LeftBehind(Small):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.ones(4)

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + self.shift


_SHIFT = torch.ones(4)


class LeftElsewhere(Small):
    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + _SHIFT


class Whole(Small):
    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch).long()


class Uncopied(Small):
    def __init__(self) -> None:
        super().__init__()
        self.ids = (i for i in itertools.count())


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        (Nan, "it gives NaN or infinite features"),
        (Maps, r"it gives \(3, 4, 6, 6\) float32 for 3 images"),
        (Several, "it gives a tuple"),
        (Centred, "an image alone gives other features than among 3"),
        (Random, "it gives other features of the same images each time"),
        (Counting, r"a forward pass changes norm\.running_mean.*module\.eval\(\)"),
        (LeftBehind, r"shift is a tensor that \.to\(device\) does not move.*register_buffer"),
        (LeftElsewhere, r"it uses a tensor that \.to\(device\) does not move"),
        (Whole, r"it gives \(3, 4\) int64 for 3 images"),
        (Uncopied, "it cannot be copied"),
    ],
)
def test_a_module_that_breaks_the_contract_is_refused_before_anything_is_written(
    extract: Extract, tmp_path: Path, kind: type[Small], refusal: str
) -> None:
    with pytest.raises(UsageError, match=refusal):
        extract(backbone=kind(), weights="DEFAULT", image_size=8, limit=4)

    assert list(tmp_path.glob("cache/*/*.h5*")) == []


def test_a_module_that_fails_is_refused_with_what_it_said(extract: Extract) -> None:
    with pytest.raises(UsageError, match=r"it fails on \(3, 3, 2, 2\).*Kernel size"):
        extract(backbone=Small(), weights="DEFAULT", image_size=2, limit=4)


def test_what_is_no_module_is_refused(extract: Extract) -> None:
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module or a featcache\.Backbone"):
        extract(backbone=lambda batch: batch, weights="DEFAULT")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"weights": "random"}, "brings its own weights, but --weights is 'random'"),
        ({"layer": "conv"}, "--layer and --pool are for torchvision's and timm's backbones"),
    ],
)
def test_options_of_other_backbones_are_refused(
    extract: Extract, options: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(UsageError, match=refusal):
        extract(**{"backbone": Small(), "weights": "DEFAULT", "image_size": 8, **options})


def test_a_module_of_python_makes_a_cache_and_stays_as_it_was(extract: Extract) -> None:
    own = Small()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    make = partial(extract, weights="DEFAULT", image_size=8, limit=4)

    result = make(backbone=featcache.Backbone(own, name="My net"))
    again = make(backbone=featcache.Backbone(Small(), name="My net"))

    cache = featcache.open_cache(result.path)
    assert result.path.name.startswith("own-My_net-")
    assert again.outcome == "reused"
    assert cache.provenance["backbone"] == "python:My net"
    assert all(p.requires_grad and p.is_contiguous() for p in own.parameters())
    assert all(torch.equal(t, before[n]) for n, t in own.state_dict().items())
    assert own.conv._forward_hooks == {}


class Shifted(Small):
    """Adds a number that its state dict leaves out."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + self.shift


def test_two_modules_that_differ_in_a_buffer_outside_the_state_dict_have_two_caches(
    extract: Extract,
) -> None:
    make = partial(extract, weights="DEFAULT", image_size=8, limit=4)

    first, second = make(backbone=Shifted(0.0)), make(backbone=Shifted(1.0))

    assert first.path != second.path
    assert second.outcome == "computed"
    rows = [featcache.open_cache(one.path)["test"].features[:] for one in (first, second)]
    assert np.allclose(rows[1] - rows[0], 1, atol=1e-5)


def test_its_own_preprocessing_decides_the_size(extract: Extract) -> None:
    preprocess = featcache.Preprocess(resize=12, crop=10, interpolation="bicubic")
    backbone = featcache.Backbone(Small(), preprocess=preprocess)
    make = partial(extract, backbone=backbone, weights="DEFAULT", limit=4)

    result = make(image_size=None)

    assert featcache.open_cache(result.path).identity.preprocess == preprocess
    with pytest.raises(UsageError, match=r"gives 10 x 10 px, but --image-size is 8"):
        make(image_size=8)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's in the working directory."""
    folder = tmp_path / "here"
    (folder / "mynets").mkdir(parents=True)
    (folder / "mynets" / "__init__.py").write_text("")
    (folder / "mynets" / "towers.py").write_text(
        "import torch\n"
        "def means():\n"
        "    return torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()).eval()\n"
        "def number():\n"
        "    return 7\n"
        "def broken():\n"
        "    raise OSError('no such weights')\n"
    )
    monkeypatch.chdir(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynets"]:
        del sys.modules[name]


def test_a_function_is_called_because_it_was_typed_never_because_a_file_says_so(
    package: Path, extract: Extract
) -> None:
    name = "mynets.towers:means"
    result = extract(backbone=name, weights="DEFAULT", image_size=8, limit=4)
    cache = featcache.open_cache(result.path)
    before = result.path.read_bytes()
    damaged = bytearray(before)
    damaged[before.index(cache["test"].features[0].tobytes())] ^= 1
    result.path.write_bytes(damaged)
    for loaded in [n for n in sys.modules if n.startswith("mynets")]:
        del sys.modules[loaded]

    with pytest.raises(UsageError, match=r"its maker's own code.*name it: --backbone"):
        featcache.repair_cache(result.path)

    assert "mynets.towers" not in sys.modules
    assert featcache.repair_cache(result.path, backbone=name).n_rows_computed > 0
    assert result.path.read_bytes() == before
    assert result.path.name.startswith("own-means-")
    assert str(package) not in sys.path


def test_features_are_those_of_the_function(package: Path, extract: Extract) -> None:
    result = extract(
        backbone="mynets.towers:means", weights="DEFAULT", image_size=8, limit=4, compile="never"
    )

    assert result.n_features == 3 * 2 * 2
    rows = featcache.open_cache(result.path)["test"].features[:]
    assert rows.shape == (4, 12)
    assert np.abs(rows).max() <= 1


@pytest.mark.parametrize(
    ("name", "error", "refusal"),
    [
        ("mynets.towers:mean", UnknownNameError, r"function of mynets\.towers 'mean'.*'means'"),
        ("mynets.towers:number", UsageError, r"number\(\) is 7, but must be a torch\.nn\.Module"),
        ("mynets.towers:broken", UsageError, r"broken\(\) failed \(OSError: no such weights\)"),
        ("mynets.castles:means", UsageError, r"mynets\.castles cannot be imported"),
    ],
)
def test_a_function_that_gives_no_module_is_refused(
    package: Path, name: str, error: type[Exception], refusal: str
) -> None:
    with pytest.raises(error, match=refusal):
        Own().usual_size(name)


def test_a_package_that_is_not_there_is_refused_without_torch(package: Path) -> None:
    with pytest.raises(UsageError, match=r"names the package 'nonets', which is neither installed"):
        check_backbone_options("nonets.a:b", "DEFAULT", None)
