"""timm's weights as a listing: what its registry says of them; few are built, and those empty."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from featcache.backbones.measure import cost
from featcache.backbones.timm_models import build_network, own_pooling
from featcache.backbones.timm_weights import find_model, weights_here
from featcache.core.backbone_kinds import TIMM, timm_name
from featcache.core.timm_names import unknown_timm_name
from featcache.errors import UsageError

# timm's registry knows neither features nor pooling: the model says them, built without memory for
# its weights, in about 0.3 s. All 1,826 would take minutes.
MOST_MEASURED = 40


@dataclass(frozen=True)
class TimmInfo:
    """Published weights of timm's.

    Attributes:
        name: As --backbone takes it.
        image_size: Side of the images that they were made for, in pixels; "288x384" where they are
            no squares.
        licence: Of the weights; "unknown" where timm does not know it.
        is_here: Whether the file is on this machine.
        n_features: Numbers per image; None where it was not measured.
        pooling: The model's own, in the words of --pool where it is of tokens; None likewise.
    """

    name: str
    image_size: str
    licence: str
    is_here: bool
    n_features: int | None = None
    pooling: str | None = None


def timm_names(part: str) -> list[str]:
    """List the weights whose name contains what stands behind `timm:`.

    Raises:
        UnknownNameError: If there are none.
    """
    from timm.models import list_pretrained

    wanted = timm_name(part).rest
    fitting = [f"{TIMM}{name}" for name in list_pretrained() if wanted in name]
    if not fitting:
        raise unknown_timm_name(part)
    return fitting


def timm_rows(part: str) -> Iterator[TimmInfo]:
    """Describe the weights whose name contains what stands behind `timm:`, one after the other.

    Features and pooling are measured of up to 40, on torch's meta device; of more they are None.

    Raises:
        UnknownNameError: If there are none.
    """
    return _described(timm_names(part))  # no generator: an unknown part is told at the call


def _described(names: Sequence[str]) -> Iterator[TimmInfo]:
    for name in names:
        model = find_model(name)
        _, height, width = model.data["input_size"]
        n_features, pooling = None, None
        if len(names) <= MOST_MEASURED and height == width:
            n_features, pooling = _measured(model.architecture, height)
        yield TimmInfo(
            name=name,
            image_size=str(height) if height == width else f"{height}x{width}",
            licence=model.published.license or "unknown",
            is_here=weights_here(model) is not None,
            n_features=n_features,
            pooling=pooling,
        )


@functools.cache
def _measured(architecture: str, image_size: int) -> tuple[int | None, str | None]:
    try:
        model = find_model(f"{TIMM}{architecture}")
        network = build_network(model, image_size=image_size, meta=True)
    except UsageError:
        return None, None
    return cost(network, image_size).n_features, own_pooling(network)
