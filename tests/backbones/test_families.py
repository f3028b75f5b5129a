from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featcache.backbones.describe import describe_backbone
from featcache.backbones.families import FAMILIES, check_backbone_options, family_of
from featcache.core.backbone_names import backbone_names
from featcache.errors import UnknownNameError, UsageError

OWN = "torch.nn:Flatten"  # a function without arguments that gives a module


def test_the_names_that_the_options_take_are_those_of_the_families() -> None:
    of_families = [name for family in FAMILIES for name in family.names()]

    assert of_families == backbone_names()
    assert len(set(of_families)) == len(of_families)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_builds_is_what_it_describes(family) -> None:
    name = next(
        name for name in ("pixels", "squeezenet1_1", "timm:test_vit", OWN) if family.owns(name)
    )
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    weights = "random" if family.runs_network else "none"
    weights = "DEFAULT" if name == OWN else weights

    described = family.describe(name, 64)
    built = family.build(name, weights=weights, seed=0, image_size=64, check_file=True)

    assert described == describe_backbone(name, 64)
    assert built.n_features == described.n_features
    assert (built.module is not None) == family.runs_network
    assert set(described.weights) >= {entry.name for entry in family.weights(name)}


def test_names_and_options_are_looked_at_without_torch() -> None:
    code = (
        "import sys; from featcache.backbones.families import family_of;"
        "from featcache.backbones.families import check_backbone_options as check;"
        "check('vgg16', 'DEFAULT', 224); check('pixels', 'DEFAULT', 8);"
        "family_of('timm:resnet18').check_size('timm:resnet18', 'random', None);"
        "sys.exit('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)

    assert done.returncode == 0


def test_weights_of_a_backbone_without_any_are_refused() -> None:
    with pytest.raises(UsageError, match="'pixels' has no weights, but --weights is 'random'"):
        check_backbone_options("pixels", "random", 224)


def test_a_backbone_of_no_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'vgg61'.*'vgg16'"):
        family_of("vgg61")
