"""Where torchvision's models have their classifier; no torch."""

from __future__ import annotations

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
