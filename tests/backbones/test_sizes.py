from __future__ import annotations

from pathlib import Path

import pytest

from featcache.backbones import sizes
from featcache.backbones.describe import describe_backbone
from featcache.backbones.families import check_backbone_options
from featcache.backbones.torchvision_weights import list_pretrained
from featcache.core import backbone_names
from featcache.errors import UsageError, WeightsError

SMALLEST = sizes._SMALLEST
FAMILIES = [name for name in backbone_names.backbone_names() if name.startswith(tuple(SMALLEST))]
TRANSFORMERS = [name for name in backbone_names.backbone_names() if name.startswith("vit_")]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_sizes_in_torchvisions_sources_are_those_of_its_registry(name: str) -> None:
    known = sizes._exact_sizes(name)

    assert list(known.items()) == [(entry.name, entry.min_size) for entry in list_pretrained(name)]


def test_without_sources_torchvision_itself_is_asked_for_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone_names, "find_spec", lambda _: None)
    backbone_names._published.cache_clear()

    with pytest.raises(UsageError, match="takes images of 224 or 384 px exactly"):
        check_backbone_options("vit_b_16", "random", 96)

    backbone_names._published.cache_clear()


@pytest.mark.parametrize("family", SMALLEST)
def test_the_smallest_size_is_what_the_backbone_itself_says(family: str) -> None:
    name = next(name for name in FAMILIES if name.startswith(family))
    smallest, _ = SMALLEST[family]

    with pytest.raises(UsageError) as known:
        check_backbone_options(name, "random", smallest - 1)
    with pytest.raises(UsageError) as measured:
        describe_backbone(name, smallest - 1)

    assert str(known.value) == str(measured.value)
    assert describe_backbone(name, smallest).n_features > 0


@pytest.mark.parametrize(
    ("name", "weights", "size", "message"),
    [
        ("vit_b_16", "random", 96, "takes images of 224 or 384 px exactly"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 224, "SWAG_E2E_V1 of vit_b_16 take .* of 384 px"),
        ("vit_h_14", "DEFAULT", 224, "SWAG_E2E_V1 of vit_h_14 take images of 518 px exactly"),
    ],
)
def test_a_size_that_weights_were_not_made_for_is_refused(
    name: str, weights: str, size: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_backbone_options(name, weights, size)


def test_a_part_of_a_file_is_no_part_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"something")

    check_backbone_options("vgg16", f"{tmp_path}/weights.pth#model_ema", 224)

    with pytest.raises(WeightsError, match=r"no file of weights at .*weight\.pth\. Did you mean"):
        check_backbone_options("vgg16", f"{tmp_path}/weight.pth#model_ema", 224)
