"""timm's published transforms as numbers, bit-equal to timm's own, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from featcache.core.preprocess import INTERPOLATIONS, Preprocess
from featcache.errors import UsageError

_DEFAULT_CROP_PCT = 0.875  # timm.data.constants; of a configuration that names none
_CENTRED = ("center", None)


def published_size(name: str, data: Mapping[str, Any]) -> int:
    """Give the side of the images that weights were made for.

    Args:
        name: The backbone, for messages.
        data: timm's data configuration: input_size, crop_pct, crop_mode, interpolation, mean, std.

    Raises:
        UsageError: If they are not square, or not of three channels.
    """
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise UsageError(
            f"{name} takes images of {channels} x {height} x {width}, but featcache gives squares "
            f"in RGB. Nothing was started. Say --image-size SIDE and --preprocess notebook, if the "
            f"model takes a square."
        )
    return int(height)


def published_preprocess(name: str, data: Mapping[str, Any], image_size: int) -> Preprocess:
    """Describe timm's own evaluation transform, at any image size.

    Source: timm.data.transforms_factory.transforms_imagenet_eval. The resize is rounded down.

    Args:
        name: The backbone, for messages.
        data: As for `published_size`.
        image_size: The crop in pixels; the resize before it keeps its ratio to the crop.

    Raises:
        UsageError: If it crops, pads or resamples in a way that `Preprocess` has no numbers for.
    """
    published_size(name, data)
    crop_pct = data["crop_pct"] or _DEFAULT_CROP_PCT
    crop_mode, interpolation = data["crop_mode"], data["interpolation"]
    side = math.floor(image_size / crop_pct)
    reason = ""
    if crop_mode == "border":
        reason = "fills borders (crop_mode border)"
    elif crop_mode not in (*_CENTRED, "squash"):
        reason = f"crops in a way of its own (crop_mode {crop_mode})"
    elif side < image_size:
        reason = f"pads images resized to {side} to {image_size} px (crop_pct {crop_pct})"
    elif interpolation not in INTERPOLATIONS:
        reason = f"resamples by {interpolation}"
    if reason:
        raise UsageError(
            f"The transform published with {name} {reason}, which featcache cannot do bit for bit. "
            f"Nothing was started. Use --preprocess notebook, or prepare the images yourself."
        )
    is_squashed = crop_mode == "squash"
    return Preprocess(
        resize=(side, side) if is_squashed else side,
        crop=None if is_squashed and side == image_size else image_size,
        interpolation=interpolation,
        mean=_triple(data["mean"]),
        std=_triple(data["std"]),
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
