"""The backbone of a head is built again, and refused where it is another function."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featcache
from featcache.backbones.load import load_backbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.random_state import seeded
from featcache.deployment.backbone import RebuiltBackbone, precision_on, rebuild_backbone
from featcache.deployment.named_backbone import name_backbone
from featcache.errors import CacheMissingError, MismatchError, UsageError, WeightsError
from featcache.heads.backbone_record import BackboneRecord
from featcache.store import Provenance
from tests.conftest import SMALL_BACKBONE
from tests.deployment.conftest import Extract
from tests.deployment.heads import save_random_head

OWN = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))
    def forward(self, batch):
        return batch.flatten(1)[:, :6] + self.shift
def make():
    return Own({shift})
"""


class Twice(nn.Module):
    """The weights of `Once`, another function."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        with seeded(0):
            self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.factor * self.conv(batch).mean((2, 3))


def features_by(backbone: RebuiltBackbone, images: np.ndarray) -> np.ndarray:
    assert backbone.module is not None
    runner = BackboneRunner(
        backbone.module,
        preprocess=backbone.preprocess,
        device="cpu",
        precision=backbone.precision,
        batch_size=4,
    )
    return runner.features(images)


def test_the_backbone_gives_the_rows_of_the_cache(of_digits: Extract, tmp_path: Path) -> None:
    path = of_digits(image_size=32).path
    head = save_random_head(path, tmp_path / "run")
    images = (
        featcache.load_dataset("digits", data_dir="data")
        .limited(8)
        .splits["test"]
        .images.pixels[:4]
    )
    notes: list[str] = []

    rebuilt = rebuild_backbone(head, cache_dir=tmp_path / "cache", on_note=notes.append)

    rows = featcache.open_cache(path)["test"].features[:4]
    assert features_by(rebuilt, images).tobytes() == rows.tobytes()
    assert rebuilt.is_compared
    assert (rebuilt.precision, rebuilt.store_dtype) == ("fp32", "float32")
    assert notes == [f"backbone {SMALL_BACKBONE} with the weights random"]


def test_adapted_statistics_travel_with_the_head(of_digits: Extract, tmp_path: Path) -> None:
    path = of_digits(bn="adapted").path
    head = save_random_head(path, tmp_path / "run")
    rows = featcache.open_cache(path)["test"].features[:4]
    shutil.rmtree(tmp_path / "cache")
    images = (
        featcache.load_dataset("digits", data_dir="data")
        .limited(8)
        .splits["test"]
        .images.pixels[:4]
    )

    rebuilt = rebuild_backbone(head)

    assert rebuilt.is_compared
    assert features_by(rebuilt, images).tobytes() == rows.tobytes()


def test_an_older_head_takes_adapted_statistics_from_its_cache_and_asks_for_that(
    of_digits: Extract, tmp_path: Path
) -> None:
    path = of_digits(bn="adapted").path
    head = replace(save_random_head(path, tmp_path / "run"), record=None)
    moved = tmp_path / "moved" / "digits" / path.name
    moved.parent.mkdir(parents=True)
    shutil.move(path, moved)

    with pytest.raises(CacheMissingError, match=r"kept the adapted BatchNorm .*--cache-dir"):
        rebuild_backbone(head, cache_dir=tmp_path / "cache")

    assert rebuild_backbone(head, cache_dir=tmp_path / "moved").is_compared


def test_of_an_older_head_without_its_cache_only_the_weights_are_compared(
    of_digits: Extract, tmp_path: Path
) -> None:
    head = replace(save_random_head(of_digits().path, tmp_path / "run"), record=None)
    shutil.rmtree(tmp_path / "cache")
    notes: list[str] = []

    rebuilt = rebuild_backbone(head, weights="random", on_note=notes.append)

    assert not rebuilt.is_compared
    assert notes[-1].startswith("the weights are those of the features; nothing was kept")


def test_pixels_have_no_network(of_digits: Extract, tmp_path: Path) -> None:
    path = of_digits(
        backbone="pixels", weights="DEFAULT", image_size=8, batch_size=None, compile="auto"
    ).path

    rebuilt = rebuild_backbone(save_random_head(path, tmp_path / "run"))

    assert rebuilt.module is None
    assert rebuilt.preprocess.out_size == (8, 8)
    assert rebuilt.store_dtype == "uint8"


@pytest.fixture
def of_a_file(of_digits: Extract, tmp_path: Path) -> Path:
    """A run whose backbone was filled from a file; the file lies in weights/."""
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "w.pth"
    other = load_backbone(SMALL_BACKBONE, weights="random", seed=5, image_size=32).module
    assert other is not None
    torch.save(other.state_dict(), file)
    path = of_digits(weights=str(file)).path
    save_random_head(path, tmp_path / "run")
    return tmp_path / "run"


def test_the_file_of_the_weights_is_found_where_it_was_typed(of_a_file: Path) -> None:
    rebuilt = rebuild_backbone(featcache.load_head(of_a_file))

    assert rebuilt.loaded.weights == "w.pth"


def test_weights_that_are_gone_are_asked_for_and_found_where_they_moved(
    of_a_file: Path, tmp_path: Path
) -> None:
    head = featcache.load_head(of_a_file)
    moved = shutil.move(tmp_path / "weights" / "w.pth", tmp_path / "elsewhere.pth")

    with pytest.raises(WeightsError, match=r"was filled from the file .*--weights FILE"):
        rebuild_backbone(head)

    assert rebuild_backbone(head, weights=moved).is_compared


def test_other_weights_are_refused(of_a_file: Path) -> None:
    head = featcache.load_head(of_a_file)

    with pytest.raises(MismatchError, match=r"is not the backbone that made the features.*sha256"):
        rebuild_backbone(head, weights="random")


def test_code_of_ones_own_is_run_only_where_it_is_named(
    of_digits: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ownnet.py").write_text(OWN.format(shift=0.0))
    name = "ownnet:make"
    path = of_digits(backbone=name, weights="DEFAULT").path
    head = save_random_head(path, tmp_path / "run")

    with pytest.raises(UsageError, match=r"'ownnet:make', which is its maker's own code.*Nothing"):
        rebuild_backbone(head)
    assert rebuild_backbone(head, backbone=name).is_compared


def test_a_head_does_not_choose_what_is_downloaded_from_the_hub(
    of_digits: Extract, tmp_path: Path
) -> None:
    head = save_random_head(of_digits().path, tmp_path / "run")
    name = "timm:hf-hub:Acme/Nice-ViT@v1"
    identity = {**head.cache_identity, "backbone": "hub-Acme-Nice-ViT", "library": "timm"}
    record = BackboneRecord(Provenance({"dataset": "digits", "backbone": name}))
    strange = replace(head, cache_identity=identity, record=record)

    with pytest.raises(
        UsageError,
        match=rf"Nothing was downloaded\. If you trust it, name it: --backbone {name}",
    ):
        name_backbone(strange)
    assert name_backbone(strange, backbone=name).name == name


def test_another_network_under_the_same_name_is_refused(of_digits: Extract, tmp_path: Path) -> None:
    once = featcache.Backbone(Twice(1.0), name="net")
    path = of_digits(backbone=once, weights="DEFAULT").path
    head = save_random_head(path, tmp_path / "run")
    with seeded(1):
        other = featcache.Backbone(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), name="net")
        other.module(torch.zeros(1, 3, 32, 32))

    with pytest.raises(MismatchError, match="weights_sha256: found"):
        rebuild_backbone(head, backbone=featcache.Backbone(other.module.eval(), name="net"))
    with pytest.raises(MismatchError, match=r"computes something else now.*versions are the same"):
        rebuild_backbone(head, backbone=featcache.Backbone(Twice(), name="net"))


def test_another_backbone_cannot_be_named(of_digits: Extract, tmp_path: Path) -> None:
    head = save_random_head(of_digits().path, tmp_path / "run")

    with pytest.raises(MismatchError, match=r"features of mobilenet_v3_small, but .* is resnet18"):
        rebuild_backbone(head, backbone="resnet18")


def test_a_model_of_timm_is_found_by_its_name(of_digits: Extract, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    made = of_digits(backbone="timm:test_vit", image_size=None)
    head = save_random_head(made.path, tmp_path / "run")

    rebuilt = rebuild_backbone(head)

    assert rebuilt.loaded.name == "timm:test_vit"
    assert rebuilt.is_compared


def test_features_of_a_layer_are_taken_again(of_digits: Extract, tmp_path: Path) -> None:
    made = of_digits(layer="features.3", pool="max")
    head = save_random_head(made.path, tmp_path / "run")

    rebuilt = rebuild_backbone(head)

    assert rebuilt.loaded.layer == "features.3"
    assert rebuilt.is_compared


def test_imported_features_have_no_backbone(tmp_path: Path) -> None:
    features = np.random.default_rng(0).random((12, 5), dtype=np.float32)
    np.savez(tmp_path / "clip.npz", features=features, labels=np.arange(12) % 2)
    path = featcache.import_features(
        tmp_path / "clip.npz",
        features="features",
        labels="labels",
        name="clip",
        cache_dir=tmp_path / "cache",
    ).path

    with pytest.raises(UsageError, match="trained on features that were imported"):
        rebuild_backbone(save_random_head(path, tmp_path / "run"))


def test_tf32_becomes_fp32_on_a_cpu() -> None:
    choice = precision_on("cpu", "tf32")

    assert choice.value == "fp32"
    assert "a CPU has no TF32" in choice.why
