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

from featcache.core.paths import file_and_part
from featcache.errors import UnknownNameError, UsageError

PIXELS = "pixels"
DEFAULT = "DEFAULT"
RANDOM = "random"
LISTING = "featcache backbones"

_PATH_ENDINGS = frozenset({".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl", ".tar", ".th"})
# Families whose classifier stands right behind the features, and what torchvision calls it.
_CLASSIFIERS = {
    "alexnet": "classifier",
    "densenet": "classifier",
    "efficientnet": "classifier",
    "mnasnet": "classifier",
    "mobilenet": "classifier",
    "regnet": "fc",
    "resnet": "fc",
    "resnext": "fc",
    "shufflenet": "fc",
    "vgg": "classifier",
    "wide_resnet": "fc",
}

_MODEL = re.compile(
    r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(\s*\*,\s*weights: (?:Optional\[)?(\w+)",
    re.MULTILINE,
)
_WEIGHTS_CLASS = re.compile(r"^class (\w+)\(WeightsEnum\):\n((?:(?: .*)?\n)*)", re.MULTILINE)
_MEMBER = re.compile(r"^    (\w+) = Weights\(", re.MULTILINE)
_FIRST = re.compile(r"^    DEFAULT = (\w+)", re.MULTILINE)


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
    """
    known = backbone_names()
    if name.lower() not in known:
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
    own_class, names = _published()[backbone]
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
    return _published().get(backbone, ("", ()))[1]


def is_path(weights: str) -> bool:
    """Tell a path from a name: by a separator, a file's usual ending, or being there."""
    if "://" not in weights:
        weights, _ = file_and_part(weights)
    has_separator = "/" in weights or os.sep in weights
    is_there = bool(weights) and Path(weights).exists()
    return has_separator or is_there or Path(weights).suffix in _PATH_ENDINGS


def require_known_classifier(name: str) -> str:
    """Name the part of a torchvision model that is its classifier.

    Raises:
        UsageError: If that is not one module right behind the features.
    """
    for family, part in _CLASSIFIERS.items():
        if name.startswith(family):
            return part
    raise UsageError(
        f"parity knows where the classifier is in {', '.join(_CLASSIFIERS)} only, not in {name}. "
        f"Nothing was compared."
    )


@functools.cache
def _published() -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """Map each classification model to the class and the names of its weights."""
    return _in_sources() or _in_registry()


def _in_sources() -> dict[str, tuple[str, tuple[str, ...]]]:
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    sources = sorted(Path(folders[0], "models").glob("*.py")) if folders else []
    texts = [source.read_text(encoding="utf-8") for source in sources]
    members = {
        name: _default_first(_MEMBER.findall(body), "".join(_FIRST.findall(body)))
        for text in texts
        for name, body in _WEIGHTS_CLASS.findall(text)
    }
    models = {model: weights for text in texts for model, weights in _MODEL.findall(text)}
    is_all = len(models) == sum(text.count("\n@register_model(") for text in texts)
    if not is_all or not members.keys() >= {*models.values()}:
        return {}
    return {model: (weights, members[weights]) for model, weights in models.items()}


def _in_registry() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Ask torchvision itself, where its sources are not there or are written in another way."""
    from torchvision import models

    classes = {name: models.get_model_weights(name) for name in models.list_models(module=models)}
    return {
        name: (weights.__name__, _default_first([w.name for w in weights], weights.DEFAULT.name))
        for name, weights in classes.items()
    }


def _default_first(names: list[str], default: str) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name != default))
