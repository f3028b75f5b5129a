"""What a run is made of, as frozen dataclasses: every default, once; canonical JSON; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.errors import UsageError, nearest

FORMAT_VERSION = 1

BN_MODES = ("frozen", "adapted")
PREPROCESS_KINDS = ("notebook", "weights")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
STORE_DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class ExtractSpec:
    """Everything that `extract` can be asked for.

    Attributes:
        dataset: "cifar10", "cifar100", "digits", "folder:PATH" or "torchvision:NAME".
        backbone: A torchvision classification model, or "pixels".
        weights: "DEFAULT", a torchvision weights name, a path to a state dict, or "random".
        bn: "frozen" (the weights' running statistics) or "adapted" (re-estimated on the training
            images, then frozen).
        preprocess: "notebook" (resize to a square, mean and std 0.5) or "weights" (the transform
            that belongs to the weights).
        image_size: Side of the square that enters the trunk, in pixels.
        precision: Arithmetic of the trunk; "auto" is fp32 on a CPU and tf32 on CUDA, where there
            are tensor cores for it.
        store_dtype: Type of the stored features.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images in one forward pass; None means by free memory.
        n_workers: Decoding processes for image files; None means one a core, at most 8.
        limit: Take this many images of each split, evenly spaced; None means all.
        seed: Seeds `weights="random"`.
        cache_dir: Folder of all caches.
        data_dir: Folder of downloaded datasets.
        mix_numerics: Go on with a partial file whose rows were made by another numeric class.
    """

    dataset: str = "cifar10"
    backbone: str = "vgg16"
    weights: str = "DEFAULT"
    bn: str = "frozen"
    preprocess: str = "notebook"
    image_size: int = 224
    precision: str = "auto"
    store_dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    n_workers: int | None = None
    limit: int | None = None
    seed: int = 0
    cache_dir: str = "cache"
    data_dir: str = "data"
    mix_numerics: bool = False

    def __post_init__(self) -> None:
        _one_of("--bn", self.bn, BN_MODES)
        _one_of("--preprocess", self.preprocess, PREPROCESS_KINDS)
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--store-dtype", self.store_dtype, STORE_DTYPES)
        _at_least("--image-size", self.image_size, 1)
        _at_least("--batch-size", self.batch_size, 1)
        _at_least("--n-workers", self.n_workers, 0)
        _at_least("--limit", self.limit, 1)
        _at_least("--seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How one RGB image becomes the trunk's input; part of a cache's identity.

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

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of what enters the trunk."""
        if self.crop is not None:
            return (self.crop, self.crop)
        assert isinstance(self.resize, tuple), "without a crop the resize names both sides"
        return self.resize


def canonical_json(value: Any) -> str:
    """Write JSON in the one form that is hashed: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash an identity: the SHA-256 of its canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def differing_fields(found: Any, wanted: Any, *, prefix: str = "") -> list[str]:
    """List where two nested JSON values differ, as "field: found X, wanted Y" lines."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        lines: list[str] = []
        for key in sorted({*found, *wanted}):
            name = f"{prefix}.{key}" if prefix else str(key)
            lines += differing_fields(found.get(key), wanted.get(key), prefix=name)
        return lines
    if canonical_json(found) == canonical_json(wanted):
        return []
    return [f"{prefix}: found {_short(found)}, wanted {_short(wanted)}"]


def _short(value: Any) -> str:
    text = canonical_json(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:13] + '..."' if is_digest else text


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = nearest(value, allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"{option} is {value!r}, but must be one of {', '.join(allowed)}.{hint}")


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} is {value}, but must be at least {least}.")
