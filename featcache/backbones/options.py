"""What --weights and --image-size can be for a backbone, refused before torch is imported.

A backbone that is not here is asked itself, on torch's meta device, when it is built.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from featcache.core.backbone_names import PIXELS, RANDOM, check_weights_name, published_weights
from featcache.core.paths import expanded, file_and_part
from featcache.errors import UnsafeFileError, UsageError, WeightsError, nearest

# Families that take every side from the first on, in pixels, and the one that they are made for
# (tests/test_backboneoptions.py measures it). Families that are not here take any, or have windows
# (maxvit, swin): those are asked themselves.
_SMALLEST: Mapping[str, tuple[int, int]] = {
    "alexnet": (63, 224),
    "convnext": (32, 224),
    "densenet": (29, 224),
    "googlenet": (15, 224),
    "inception_v3": (75, 299),
    "squeezenet1_0": (21, 224),
    "squeezenet1_1": (17, 224),
    "vgg": (32, 224),
}

_SIZE_OF_WEIGHTS = re.compile(r'^    (\w+) = Weights\((?:.|\n)*?"min_size": \((\d+)', re.MULTILINE)


def check_backbone_options(backbone: str, weights: str, image_size: int) -> None:
    """Refuse weights that are not there and a size that the backbone does not take.

    Args:
        backbone: A torchvision classification model, or "pixels".
        weights: As typed.
        image_size: Side of the backbone's input, in pixels.

    Raises:
        UsageError: If the size cannot be.
        FeatcacheError: Those of `check_weights`.
    """
    check_weights(backbone, weights)
    if sizes := _exact_sizes(backbone):
        published = published_weights(backbone, weights)
        require_exact_size(backbone, image_size, sizes, weights=published)
    for family, (smallest, made_for) in _SMALLEST.items():
        if backbone.startswith(family) and image_size < smallest:
            raise too_small(backbone, image_size, smallest=smallest, made_for=made_for)


def check_weights(backbone: str, weights: str) -> None:
    """Refuse weights that a backbone does not have, and a path at which there is no file.

    Raises:
        UnknownNameError: If the model has no weights of that name.
        UsageError: If "pixels" is given weights.
        WeightsError: If there is no file at the path, or it is empty.
        UnsafeFileError: If something else than a file is there.
    """
    check_weights_name(backbone, weights)
    is_named = backbone == PIXELS or weights.lower() == RANDOM
    if not is_named and published_weights(backbone, weights) is None:
        existing_weights_file(weights if "://" in weights else file_and_part(weights)[0])


def existing_weights_file(path: str | Path) -> Path:
    """Find a file of weights.

    Raises:
        WeightsError: If there is none, or it is empty.
        UnsafeFileError: If something else than a file is there.
    """
    if "://" in str(path):
        raise WeightsError(
            f"--weights {path} is a URL; featcache loads weights only from torchvision's list or "
            f"from a file. Download it, check its digest, then give --weights PATH."
        )
    path = expanded(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights. Name the file in it.")
    if path.exists() and not path.is_file():
        raise UnsafeFileError(
            f"{path} is a FIFO, socket or device, not a file of weights. Nothing was read from it."
            f" Give --weights the PATH of a regular file."
        )
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, names)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise WeightsError(f"There is no file of weights at {path.absolute()}.{hint}")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes). Delete it and copy it again.")
    return path


def require_exact_size(
    backbone: str, image_size: int, sizes: Mapping[str, int], *, weights: str | None
) -> None:
    """Refuse a size that a vision transformer, or its published weights, was not made for.

    Args:
        backbone: A vision transformer.
        image_size: Side of its input, in pixels.
        sizes: That of each of its published weights, the default ones first.
        weights: Their name, or "DEFAULT"; None for others.

    Raises:
        UsageError: With the size to use.
    """
    known = sorted(set(sizes.values()))
    if image_size not in known:
        raise UsageError(
            f"The backbone {backbone} takes images of {' or '.join(map(str, known))} px exactly "
            f"(its position embedding has one size), not of {image_size} px. Nothing was started. "
            f"Use --image-size {known[0]}."
        )
    if weights is None:
        return
    name = weights if weights in sizes else next(iter(sizes))
    if image_size != sizes[name]:
        raise UsageError(
            f"Weights {name} of {backbone} take images of {sizes[name]} px exactly, not of "
            f"{image_size} px. Nothing was started. Use --image-size {sizes[name]}, or other "
            f"weights: featcache backbones lists them."
        )


def too_small(backbone: str, image_size: int, *, smallest: int, made_for: int) -> UsageError:
    """Say which sizes a backbone takes."""
    return UsageError(
        f"The backbone {backbone} cannot take images of {image_size} px: the smallest it takes is "
        f"{smallest} px, and it is made for {made_for} px. Nothing was started. Use "
        f"--image-size {smallest if image_size < smallest else made_for}."
    )


@functools.cache
def _exact_sizes(backbone: str) -> Mapping[str, int]:
    """Read from torchvision's sources for which size each of a vision transformer's weights is.

    Empty for other models, and where the sources are not there.
    """
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    source = Path(folders[0], "models", "vision_transformer.py") if folders else None
    if not backbone.startswith("vit_") or source is None or not source.is_file():
        return {}
    own_class = f"class {backbone}_weights(".lower()
    text = source.read_text(encoding="utf-8")
    classes = re.split(r"^(?=class )", text, flags=re.MULTILINE)
    body = next((c for c in classes if c.lower().startswith(own_class)), "").partition("\n\n\n")[0]
    sizes = {name: int(size) for name, size in _SIZE_OF_WEIGHTS.findall(body)}
    default = re.search(r"^    DEFAULT = (\w+)", body, re.MULTILINE)
    if default is None or default[1] not in sizes:
        return {}
    return {default[1]: sizes[default[1]], **sizes}
