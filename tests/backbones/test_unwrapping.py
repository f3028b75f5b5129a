from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from featcache.backbones.load import LoadedBackbone, load_backbone
from featcache.errors import UnsafeFileError, WeightsError

NAME = "mobilenet_v3_small"
State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.get_model(NAME)


@pytest.fixture(scope="module")
def plain(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> LoadedBackbone:
    path = tmp_path_factory.mktemp("plain") / "plain.pth"
    torch.save(model.state_dict(), path)
    return load_backbone(NAME, weights=str(path), image_size=32)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedBackbone]:
    def make(content: Any, part: str = "") -> LoadedBackbone:
        torch.save(content, tmp_path / "w.pth")
        return load_backbone(NAME, weights=f"{tmp_path / 'w.pth'}{part}", image_size=32)

    return make


def other(state: State) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


def named(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def data_parallel_features(model: nn.Module) -> dict[str, Tensor]:
    """As torchvision's old VGG recipes did: the features alone in parallel."""
    state = model.state_dict()
    return {n.replace("features.", "features.module.", 1): t for n, t in state.items()}


def lightning(model: nn.Module) -> dict[str, Any]:
    state = named("model.", model.state_dict()) | {"loss.weight": torch.ones(10)}
    return {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}


def reference_training(model: nn.Module) -> dict[str, Any]:
    """What torchvision's references/classification/train.py saves."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, output_dir="out", model_ema=True),
        "model_ema": AveragedModel(model).state_dict(),
    }


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda m: nn.DataParallel(m).state_dict(), "stripped 'module.'"),
        (data_parallel_features, "stripped 'module.'"),
        (lambda m: named("_orig_mod.", m.state_dict()), "stripped '_orig_mod.'"),
        (
            lambda m: named("module._orig_mod.", m.state_dict()),
            "stripped '_orig_mod.', 'module.'",
        ),
        (lambda m: {"model_state_dict": m.state_dict()}, "stripped 'model_state_dict'"),
        (lambda m: {"state_dict": m.state_dict(), "epoch": 1}, "stripped 'state_dict'"),
        (lambda m: named("net.backbone.", m.state_dict()), "stripped 'net.backbone.'"),
        (lambda m: m.features.state_dict(), ""),
        (
            lambda m: AveragedModel(m).state_dict(),
            "stripped 'module.'; left out n_averaged",
        ),
        (lightning, "stripped 'state_dict', 'model.'; left out loss.weight"),
        (lambda m: m.state_dict() | {"criterion.weight": torch.ones(9)}, "left out criterion"),
    ],
)
def test_what_is_wrapped_gives_the_tensors_of_the_plain_file(
    load: Callable[..., LoadedBackbone],
    model: nn.Module,
    plain: LoadedBackbone,
    wrap: Any,
    told: str,
) -> None:
    loaded = load(wrap(model))

    assert loaded.weights_sha256 == plain.weights_sha256
    assert loaded.note.startswith(told)
    assert bool(loaded.note) == bool(told)


def test_a_training_checkpoint_of_torchvision_gives_its_model_and_tells_of_the_averaged_one(
    load: Callable[..., LoadedBackbone], model: nn.Module, plain: LoadedBackbone
) -> None:
    loaded = load(reference_training(model))

    assert loaded.weights_sha256 == plain.weights_sha256
    assert loaded.note == "stripped 'model'; the file also holds the backbone in model_ema"


@pytest.mark.parametrize("part", ["#model_ema", "#ema.state_dict", "#state_dict"])
def test_another_part_is_taken_where_it_is_asked_for(
    load: Callable[..., LoadedBackbone], model: nn.Module, plain: LoadedBackbone, part: str
) -> None:
    averaged = other(model.state_dict())
    content = {"model": model.state_dict(), "model_ema": averaged, "ema": {"state_dict": averaged}}

    loaded = load(content, part)

    assert loaded.weights_sha256 == load(averaged).weights_sha256 != plain.weights_sha256
    assert loaded.weights == f"w.pth{part}"


def test_names_of_one_dict_are_parts_too(
    load: Callable[..., LoadedBackbone], model: nn.Module, plain: LoadedBackbone
) -> None:
    state = named("model.", model.state_dict()) | named("teacher.", other(model.state_dict()))

    usual, teacher = load({"state_dict": state}), load({"state_dict": state}, "#teacher")

    assert usual.weights_sha256 == plain.weights_sha256
    assert usual.note.endswith("also holds the backbone in state_dict.teacher")
    assert teacher.weights_sha256 != plain.weights_sha256


def test_a_file_whose_name_has_the_mark_is_a_file(
    tmp_path: Path, model: nn.Module, plain: LoadedBackbone
) -> None:
    torch.save(model.state_dict(), tmp_path / "w#1.pth")

    loaded = load_backbone(NAME, weights=str(tmp_path / "w#1.pth"), image_size=32)

    assert loaded.weights_sha256 == plain.weights_sha256


def test_several_of_which_none_is_the_usual_one_are_refused(
    load: Callable[..., LoadedBackbone], model: nn.Module
) -> None:
    state = named("student.", model.state_dict()) | named("teacher.", other(model.state_dict()))

    with pytest.raises(WeightsError, match=r"in student, teacher\..*--weights FILE#student"):
        load(state)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(
    load: Callable[..., LoadedBackbone], model: nn.Module
) -> None:
    with pytest.raises(WeightsError, match=r"has no part 'ema'\. .* It has: .*model_state_dict"):
        load({"model_state_dict": model.state_dict()}, "#ema")


def test_what_does_not_fit_names_the_wrapper_that_was_found(
    load: Callable[..., LoadedBackbone],
) -> None:
    state = models.get_model("mobilenet_v3_large").state_dict()

    with pytest.raises(WeightsError, match=r"stripped 'state_dict', 'model\.'\) does not fit"):
        load({"state_dict": named("model.", state)})


def test_a_class_that_is_not_known_is_refused_beside_one_that_is(
    load: Callable[..., LoadedBackbone], model: nn.Module
) -> None:
    content = reference_training(model) | {"extra": nn.ReLU()}

    with pytest.raises(UnsafeFileError, match="would run code"):
        load(content)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
