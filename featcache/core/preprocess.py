"""How one image becomes a backbone's input, as a cache's identity stores it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from featcache.errors import UsageError

MOST_PIXELS = 1 << 14  # a side of what enters a backbone; 3 GB of float32 for one image
INTERPOLATIONS = ("bilinear", "bicubic")


class Geometry(NamedTuple):
    """How images of one size are resized and cropped.

    Attributes:
        size: (height, width) to which they are resized.
        rows: The rows of it that the crop keeps.
        columns: Its columns likewise.
    """

    size: tuple[int, int]
    rows: slice
    columns: slice


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How one RGB image becomes the backbone's input; part of a cache's identity.

    Attributes:
        resize: Size the image is resized to: (height, width), or one number for the shorter side.
        crop: Side of the square cut from the centre afterwards, or None.
        interpolation: "bilinear" or "bicubic".
        mean: Subtracted per channel, on the 0..1 scale.
        std: Divided by per channel, on the 0..1 scale.
    """

    resize: int | tuple[int, int]
    crop: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def notebook(cls, image_size: int) -> Preprocess:
        """Describe Resize((s, s)) bilinear, ToTensor, Normalize(.5): the reference notebook's."""
        return cls(resize=(image_size, image_size))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preprocess:
        """Read it from an identity's JSON, where tuples are lists.

        Raises:
            TypeError: If that is something else.
            ValueError: If it cannot be carried out.
        """
        if not isinstance(stored, Mapping):
            raise TypeError(f"{stored!r} where a preprocessing was expected")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
        }
        sides, crop = fields.get("resize"), fields.get("crop")
        sides = sides if isinstance(sides, tuple) and len(sides) == 2 else (sides,)
        sides += () if crop is None else (crop,)
        factors = [fields[name] for name in ("mean", "std") if name in fields]
        are_good = (
            all(type(side) is int and side <= MOST_PIXELS for side in sides)
            and isinstance(fields.get("interpolation", ""), str)
            and all(isinstance(f, tuple) and len(f) == 3 for f in factors)
            and all(type(v) in (int, float) and math.isfinite(v) for f in factors for v in f)
        )
        if not are_good:
            raise TypeError(f"{stored!r} where a preprocessing was expected")
        preprocess = cls(**fields)
        preprocess.require_possible()
        return preprocess

    def require_possible(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            UsageError: Naming it.
        """
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"Interpolation {self.interpolation!r} is not supported; "
                f"expected one of {', '.join(INTERPOLATIONS)}."
            )
        resize, crop = self.resize, self.crop
        shorter = resize if isinstance(resize, int) else min(resize)
        if isinstance(resize, int) and crop is None:
            raise UsageError(f"Resizing the shorter side to {resize} needs a crop to one size.")
        if crop is not None and crop > shorter:
            raise UsageError(f"A crop of {crop} does not fit into images resized to {resize}.")
        if min(shorter, shorter if crop is None else crop) < 1:
            raise UsageError(
                f"Cannot resize to {resize} and crop to {crop}: both must be at least 1."
            )
        if min(self.std) <= 0:
            raise UsageError(f"The std {self.std} must be above 0 in every channel.")

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of what enters the backbone."""
        if self.crop is not None:
            return (self.crop, self.crop)
        assert isinstance(self.resize, tuple), "without a crop the resize names both sides"
        return self.resize

    @property
    def told(self) -> str:
        """Say it for people: "resize 256, crop 224, bicubic, mean 0.485 0.456 0.406, std ..."."""
        both = isinstance(self.resize, tuple)
        size = "x".join(map(str, self.resize)) if both else str(self.resize)  # type: ignore[arg-type]
        factors = [" ".join(f"{value:.4g}" for value in of) for of in (self.mean, self.std)]
        crop = "" if self.crop is None else f"crop {self.crop}, "
        return f"resize {size}, {crop}{self.interpolation}, mean {factors[0]}, std {factors[1]}"

    @property
    def after_resize(self) -> Preprocess:
        """What is left to do once images are resized and cropped: to normalise them."""
        return replace(self, resize=self.out_size, crop=None)

    def geometry(self, in_size: tuple[int, int]) -> Geometry:
        """Compute to what size images of `in_size`, (height, width), are resized, and the crop.

        Source: torchvision.transforms.functional, _compute_resized_output_size and center_crop.

        Raises:
            UsageError: If it cannot be carried out.
        """
        self.require_possible()
        if min(in_size) < 1:
            raise UsageError(f"Images of {in_size[0]} x {in_size[1]} pixels cannot be resized.")
        if isinstance(self.resize, int):
            short, long = sorted(in_size)
            longer = int(self.resize * long / short)
            is_tall = in_size[0] > in_size[1]
            size = (longer, self.resize) if is_tall else (self.resize, longer)
        else:
            size = self.resize
        height, width = self.out_size
        top = round((size[0] - height) / 2.0)
        left = round((size[1] - width) / 2.0)
        return Geometry(size, slice(top, top + height), slice(left, left + width))
