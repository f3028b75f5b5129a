"""The names that `--backbone` and `--weights` take, known without importing torch.

torchvision makes its list while it is imported, which takes seconds. Its source files hold the same
list, so it is read from them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from featcache.core.backbone_kinds import TIMM, is_own, is_timm, timm_name, written_name
from featcache.core.paths import file_and_part
from featcache.core.timm_names import check_timm_name, is_known_to_timm
from featcache.errors import UnknownNameError, UsageError

PIXELS = "pixels"
DEFAULT = "DEFAULT"
RANDOM = "random"
LISTING = "featcache backbones"

_PATH_ENDINGS = frozenset({".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl", ".tar", ".th"})

_MODEL = re.compile(
    r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(\s*\*,\s*weights: (?:Optional\[)?(\w+)",
    re.MULTILINE,
)
_WEIGHTS_CLASS = re.compile(r"^class (\w+)\(WeightsEnum\):\n((?:(?: .*)?\n)*)", re.MULTILINE)
_MEMBER = re.compile(r"^    (\w+) = Weights\(", re.MULTILINE)
_SIDE = re.compile(r'"min_size": \((\d+)')
_FIRST = re.compile(r"^    DEFAULT = (\w+)", re.MULTILINE)


class _Published(NamedTuple):
    """What torchvision publishes of a model.

    Attributes:
        weights_class: The name of its weights' class.
        sizes: As `sizes_of_weights` gives them.
    """

    weights_class: str
    sizes: Mapping[str, int | None]


def backbone_names() -> list[str]:
    """List "pixels" and every torchvision classification model."""
    return [PIXELS, *torchvision_names()]


def torchvision_names() -> list[str]:
    """List torchvision's classification models."""
    return sorted(_published())


def backbone_name(name: str) -> str:
    """Take the name of a backbone, in any case.

    Raises:
        UnknownNameError: If it is not in the list, with the nearest three.
        UsageError: If it names several.
    """
    is_folder = is_timm(name) and timm_name(name).kind == "local-dir"
    if "," in name and not is_folder and not is_own(name):
        raise UsageError(
            f"--backbone is {name!r}, but must be one backbone. Nothing was started. extract takes "
            f"the option several times (--backbone vgg16 --backbone resnet18); other commands take "
            f"one backbone a call."
        )
    if is_timm(name):
        check_timm_name(written_name(name))
        return written_name(name)
    if is_own(name):
        return name
    known = backbone_names()
    if name.lower() not in known:
        if is_known_to_timm(name):
            known = [f"{TIMM}{name.lower()}"]
        raise UnknownNameError("backbone", name, known, listing=LISTING)
    return name.lower()


def published_weights(backbone: str, weights: str) -> str | None:
    """Find which of torchvision's weights are meant.

    Args:
        backbone: A torchvision classification model.
        weights: "DEFAULT", "IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1", "random" or a path.

    Returns:
        "DEFAULT" or a name like "IMAGENET1K_V1"; None for "random" and for a path.

    Raises:
        UnknownNameError: If it is none of these.
    """
    if weights.lower() == RANDOM:
        return None
    own_class, sizes = _published()[backbone]
    names = tuple(sizes)
    owner, _, name = weights.rpartition(".")
    if owner.lower() in ("", own_class.lower()) and name.upper() in (DEFAULT, *names):
        return name.upper()
    if is_path(weights):
        return None
    raise UnknownNameError(
        f"weights of {backbone}:",
        weights,
        [DEFAULT, *names, RANDOM],
        listing=f"{LISTING} (here: {', '.join([DEFAULT, *names])}, {RANDOM}, or a PATH)",
    )


def weights_names(backbone: str) -> tuple[str, ...]:
    """List torchvision's weights of a model, its default first; none for other names."""
    published = _published().get(backbone)
    return tuple(published.sizes) if published else ()


def sizes_of_weights(backbone: str) -> Mapping[str, int | None]:
    """Map torchvision's weights of a model, its default first, to the smallest side they take.

    In pixels; None where torchvision's sources do not name it beside them.
    """
    return _published()[backbone].sizes


def is_path(weights: str) -> bool:
    """Tell a path from a name: by a separator, a file's usual ending, or being there."""
    if "://" not in weights:
        weights, _ = file_and_part(weights)
    has_separator = "/" in weights or os.sep in weights
    is_there = bool(weights) and Path(weights).exists()
    return has_separator or is_there or Path(weights).suffix in _PATH_ENDINGS


@functools.cache
def _published() -> Mapping[str, _Published]:
    """Map each classification model to its weights."""
    return _in_sources() or _in_registry()


def _in_sources() -> dict[str, _Published]:
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    sources = sorted(Path(folders[0], "models").glob("*.py")) if folders else []
    texts = [source.read_text(encoding="utf-8") for source in sources]
    members = {
        name: _default_first(_sizes_in(body), "".join(_FIRST.findall(body)))
        for text in texts
        for name, body in _WEIGHTS_CLASS.findall(text)
    }
    models = {model: weights for text in texts for model, weights in _MODEL.findall(text)}
    is_all = len(models) == sum(text.count("\n@register_model(") for text in texts)
    if not is_all or not members.keys() >= {*models.values()}:
        return {}
    return {model: _Published(weights, members[weights]) for model, weights in models.items()}


def _in_registry() -> dict[str, _Published]:
    """Ask torchvision itself, where its sources are not there or are written in another way."""
    from torchvision import models

    classes = {name: models.get_model_weights(name) for name in models.list_models(module=models)}
    return {
        name: _Published(
            weights.__name__,
            _default_first({w.name: w.meta["min_size"][0] for w in weights}, weights.DEFAULT.name),
        )
        for name, weights in classes.items()
    }


def _sizes_in(body: str) -> dict[str, int | None]:
    """Read the names of weights, and their smallest sides, from the body of their class."""
    _, *parts = _MEMBER.split(body)
    found = {name: _SIDE.search(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}
    return {name: int(side[1]) if side else None for name, side in found.items()}


def _default_first(sizes: Mapping[str, int | None], default: str) -> dict[str, int | None]:
    return {name: sizes[name] for name in sorted(sizes, key=lambda name: name != default)}
