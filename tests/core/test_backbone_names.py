from __future__ import annotations

import re

import pytest
from torchvision import models

from featcache.core import backbone_names
from featcache.errors import UnknownNameError, UsageError


@pytest.fixture(autouse=True)
def _read_again() -> None:
    backbone_names._published.cache_clear()


def test_the_names_in_torchvisions_sources_are_those_of_its_registry() -> None:
    names = backbone_names.backbone_names()

    assert names == ["pixels", *models.list_models(module=models)]
    in_sources, in_registry = backbone_names._in_sources(), backbone_names._in_registry()
    assert in_sources.keys() == in_registry.keys()
    for name, published in in_registry.items():
        assert in_sources[name].weights_class == published.weights_class
        assert list(in_sources[name].sizes) == list(published.sizes)


def test_without_sources_torchvision_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_names, "find_spec", lambda _: None)

    assert backbone_names.published_weights("vgg16", "IMAGENET1K_FEATURES") == "IMAGENET1K_FEATURES"


def test_sources_of_which_one_model_is_not_understood_are_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_but_vgg = backbone_names._MODEL.pattern.replace(r"def (", r"def (?!vgg)(")
    monkeypatch.setattr(backbone_names, "_MODEL", re.compile(all_but_vgg, re.MULTILINE))

    assert backbone_names._in_sources() == {}
    assert "vgg16" in backbone_names.backbone_names()


@pytest.mark.parametrize("names", ["vgg16,resnet18", "timm:a,timm:b", "vgg16,timm:a"])
def test_several_names_in_one_are_answered_with_how_to_give_several(names: str) -> None:
    with pytest.raises(UsageError, match="takes the option several times"):
        backbone_names.backbone_name(names)


@pytest.mark.parametrize("name", ["test_vit", "Test_ViT", "test_vit.r160_in1k"])
def test_a_name_that_timm_knows_is_answered_with_how_to_write_it(name: str) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")

    with pytest.raises(UnknownNameError, match=f"Did you mean 'timm:{name.lower()}'"):
        backbone_names.backbone_name(name)
