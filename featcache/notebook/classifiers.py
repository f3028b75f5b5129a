"""Where models have their classifier, so that it can be replaced; no torch."""

from __future__ import annotations

from featcache.core.backbone_kinds import is_timm, timm_name
from featcache.errors import UsageError

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


def require_whole_model(name: str) -> None:
    """Refuse a backbone that parity cannot build with a classifier.

    Raises:
        UsageError: If it is neither a torchvision model whose classifier stands right behind its
            features nor a model of timm's own list.
    """
    if not is_timm(name):
        known_classifier(name)
    elif timm_name(name).kind != "registry":
        raise UsageError(
            f"parity builds timm's models by their name in timm's own list, and {name} is from a "
            f"repository or a folder. Nothing was compared."
        )


def known_classifier(name: str) -> str:
    """Name the part of a torchvision model that is its classifier.

    Raises:
        UsageError: If that is not one module right behind the features.
    """
    for family, part in _CLASSIFIERS.items():
        if name.startswith(family):
            return part
    raise UsageError(
        f"parity knows where the classifier is in timm's models and in torchvision's "
        f"{', '.join(_CLASSIFIERS)}, not in {name}. Nothing was compared."
    )
